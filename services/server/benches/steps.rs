//! How long the single steps of a post take: `cargo bench -p tertulia-server --bench steps`.

#![expect(clippy::expect_used, reason = "what cannot be set up cannot be measured")]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use tertulia_protocol::codec::{classic_message, decode_classic, decode_extended, encode, extended_message};
use tertulia_protocol::{Dialect, GroupName, LineBuffer, UserName, classic, extended};
use tertulia_server::auth::{self, Auth};
use tertulia_server::log::{self, memory::Memory};
use tertulia_server::shard::map::shard_of;
use tertulia_server::shard::request::Posts;
use tertulia_server::shard::{
    self, Batch, Bounds, ConnectionId, Event, Inbox, JoinFrom, NewPost, Record, Request, Session, Shards, Subscription,
};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

/// 128 bytes that need no escape.
const PLAIN: &str = "The quick brown fox jumps over the lazy dog, and the lazy dog does not mind. The quick brown fox jumps over it again. 0123456789";
/// As long, with quotes and a line end that must be escaped.
const ESCAPED: &str = "The \"quick\" brown fox jumps over the lazy dog,\nand the lazy dog does not mind. The quick brown fox jumps over it again. 01234567";

const TEXTS: [&str; 2] = [PLAIN, ESCAPED];

fn post(message: &str) -> Vec<u8> {
    let post = classic::FromClient::Post { group_name: "Dogs".into(), message: message.into() };
    let mut line = Vec::new();
    encode(&post, &mut line);
    line
}

#[divan::bench(args = TEXTS)]
fn decode_a_classic_post(bencher: Bencher<'_, '_>, message: &str) {
    let line = post(message);
    let line = &line[..line.len() - 1];
    bencher.counter(BytesCount::new(line.len())).bench(|| drop(black_box(decode_classic(black_box(line)))));
}

#[divan::bench(args = TEXTS)]
fn decode_an_extended_post(bencher: Bencher<'_, '_>, message: &str) {
    let line = post(message);
    let line = &line[..line.len() - 1];
    bencher.counter(BytesCount::new(line.len())).bench(|| drop(black_box(decode_extended(black_box(line)))));
}

#[divan::bench]
fn cut_64_lines(bencher: Bencher<'_, '_>) {
    let lines = post(PLAIN).repeat(64);
    let mut buffer = LineBuffer::new();
    bencher.counter(ItemsCount::new(64usize)).bench_local(|| {
        buffer.extend(&lines);
        while let Ok(Some(line)) = buffer.next_line(1 << 16) {
            black_box(line);
        }
    });
}

#[divan::bench(args = TEXTS)]
fn encode_a_classic_message(bencher: Bencher<'_, '_>, message: &str) {
    let mut out = Vec::with_capacity(1024);
    bencher.counter(BytesCount::of_str(message)).bench_local(|| {
        out.clear();
        classic_message(black_box("Dogs"), black_box(message), &mut out);
    });
}

#[divan::bench(args = TEXTS)]
fn encode_an_extended_message(bencher: Bencher<'_, '_>, message: &str) {
    let mut out = Vec::with_capacity(1024);
    let (group_name, sender) = ("Dogs".into(), "ada".into());
    let message = extended::Message {
        group_name,
        message: message.into(),
        seq: 12_345,
        sender,
        at: 1_764_000_000_000,
        id: None,
        removed: false,
        removes: None,
    };
    bencher.counter(BytesCount::of_str(&message.message)).bench_local(|| {
        out.clear();
        extended_message(black_box(&message), &mut out);
    });
}

#[divan::bench]
fn shard_of_a_group(bencher: Bencher<'_, '_>) {
    let group = GroupName::new("a group with a name of middle size").expect("a good name");
    bencher.bench(|| shard_of(black_box(&group), 1_024));
}

/// Owners over the `memory` engine, and the thread that they run on.
struct World {
    runtime: Runtime,
    shards: Shards,
    group: GroupName,
    session: Arc<Session>,
}

impl World {
    /// With `members` in the group.
    fn new(members: u64) -> (Self, Vec<Subscription>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let log = Arc::new(Memory::new(&log::Config::default(), 1));
        let bounds = Bounds { members_per_group: 10_000, groups: 10, ..Bounds::default() };
        let config = shard::Config { count: 1, ..shard::Config::default() };
        let shards = runtime.block_on(async { Shards::start(config, bounds, log, "local".to_owned()) });
        let group = GroupName::new("Dogs").expect("a good name");
        let world = Self { runtime, shards, group, session: session(0) };
        let subscriptions = (1..=members).map(|number| world.join(&session(number))).collect();
        (world, subscriptions)
    }

    fn join(&self, session: &Arc<Session>) -> Subscription {
        let (group, member) = (self.group.clone(), Arc::clone(session));
        self.send(Request::Join { group, session: member, from: JoinFrom::Now });
        match self.answer(&session.inbox) {
            Event::Joined(joined) => joined.subscription,
            other => panic!("{other:?}"),
        }
    }

    fn send(&self, request: Request) {
        assert!(self.shards.try_send(0, request).is_ok(), "the queue has room");
    }

    fn answer(&self, inbox: &Inbox) -> Event {
        let mut events = self.runtime.block_on(std::future::poll_fn(|cx| inbox.poll_take(cx)));
        events.pop_front().expect("an answer")
    }

    fn posts(&self, count: usize) -> Request {
        let post = || NewPost { group: self.group.clone(), message: PLAIN.into(), id: None, trace: None, weight: None };
        let posts = std::iter::repeat_with(post).take(count).collect();
        Request::Post(Posts { session: Arc::clone(&self.session), posts, received: Instant::now(), in_doubt: false })
    }
}

fn session(number: u64) -> Arc<Session> {
    let user = UserName::new(&format!("user-{number}")).expect("a good name");
    let (id, address) = (ConnectionId(number), IpAddr::from([127, 0, 0, 1]));
    Arc::new(Session { id, user, address, inbox: Arc::default(), home: None, wants_places: true })
}

/// From the request to the acknowledgement, with nobody in the group.
#[divan::bench(args = [1, 64])]
fn owner_stores_posts(bencher: Bencher<'_, '_>, count: usize) {
    let (world, members) = World::new(1);
    drop(members);
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        world.send(world.posts(count));
        black_box(world.answer(&world.session.inbox));
    });
}

/// One delivery, from the request until the last member has its lines.
#[divan::bench(args = [2, 10, 1_000])]
fn members_drain_a_broadcast(bencher: Bencher<'_, '_>, members: u64) {
    let (world, mut subscriptions) = World::new(members);
    bencher.counter(ItemsCount::new(members)).bench_local(|| {
        world.send(world.posts(1));
        black_box(world.answer(&world.session.inbox));
        for subscription in &mut subscriptions {
            let delivery = subscription.try_recv().expect("a delivery");
            black_box(delivery.lines(Dialect::Classic, lines).clone());
        }
    });
}

fn lines(batch: &Batch) -> Bytes {
    let mut out = Vec::with_capacity(256);
    for Record { message, .. } in &batch.records {
        classic_message(batch.group.as_str(), message, &mut out);
    }
    out.into()
}

/// A new pair of keys: the public one in PEM, and what signs.
fn pair(
    kind: &'static rcgen::SignatureAlgorithm,
    signs: fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>,
) -> (String, EncodingKey) {
    let pair = rcgen::KeyPair::generate_for(kind).expect("a pair of keys");
    (pair.public_key_pem(), signs(pair.serialize_pem().as_bytes()).expect("a key that signs"))
}

/// Who decides, and a good token of an issuer with a key for that algorithm; one of RSA has 2,048 bits.
fn issued(algorithm: Algorithm) -> (Auth, String) {
    let (keys, signs) = match algorithm {
        Algorithm::ES256 => pair(&rcgen::PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_pem),
        Algorithm::EdDSA => pair(&rcgen::PKCS_ED25519, EncodingKey::from_ed_pem),
        Algorithm::RS256 => pair(&rcgen::PKCS_RSA_SHA256, EncodingKey::from_rsa_pem),
        _ => {
            let secret = EncodingKey::from_secret(&[7; 32]).expect("a secret");
            let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&secret, algorithm).expect("a key");
            (serde_json::to_string(&jwk).expect("JSON"), secret)
        }
    };
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("keys");
    std::fs::write(&file, keys).expect("a file of keys");
    let auth = Auth::new(&auth::Config { keys_file: Some(file), ..auth::Config::default() }).expect("good keys");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    let rights = serde_json::json!({"read": ["Lobby"], "read_prefixes": ["team-7/"], "post_prefixes": ["team-7/"]});
    let claims =
        serde_json::json!({"sub": "ada", "exp": (now + Duration::from_secs(86_400)).as_secs(), "tertulia": rights});
    let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &signs).expect("a token");
    (auth, token)
}

/// What it takes to decide who a client is that shows a token, with which rights.
#[divan::bench(args = [Algorithm::HS256, Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256])]
fn decide_by_a_token(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let (auth, token) = issued(algorithm);
    let hello = extended::Hello { version: 1, token: Some((&token).into()), ..extended::Hello::default() };
    bencher.bench(|| auth.decide(black_box(&hello)).expect("a good token"));
}
