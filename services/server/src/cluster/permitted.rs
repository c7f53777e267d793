//! Nodes whose user at NATS may do what docs/cluster.md says that it must be allowed, and nothing else.

use std::future::poll_fn;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use futures_util::StreamExt;
use tertulia_protocol::{GroupName, UserName};

use super::*;
use crate::log::nats::tests::server::{PATIENCE, Servers};
use crate::log::notes::{Note, Notes};
use crate::log::{Log, Retention, now_ms};
use crate::shard::map::shard_of;
use crate::shard::request::Posts;
use crate::shard::{Bounds, ConnectionId, Event, Hold, JoinFrom, NewPost, Request, Session, Target};

const SHARDS: u16 = 16;
const HOUR: Duration = Duration::from_secs(3_600);
/// Several MiB of notes together, more than NATS sends to one who follows and confirms nothing of it.
const NOTES: usize = 1_500;
const NOTE_BYTES: usize = 4_000;

/// The list of the page, as NATS is configured with it.
fn documented(prefix: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cluster.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, list) = page.split_once("its user may publish to and subscribe on").expect("the page has the list");
    let (list, _) = list.split_once(". Credentials").expect("the list has an end");
    let subjects: Vec<String> = list
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|subject| format!("\"{}\"", subject.replace("<prefix>", prefix)))
        .collect();
    assert!(subjects.len() > 4, "{subjects:?}");
    let subjects = subjects.join(", ");
    format!("publish: {{ allow: [{subjects}] }}, subscribe: {{ allow: [{subjects}] }}")
}

async fn node(settings: &NatsConfig, name: &str) -> (Cluster, Shards) {
    let nats = Nats::open(settings, &Retention::default().into(), SHARDS, name).await.unwrap();
    let config = Config::default();
    let cluster = Cluster::join(&config, &nats, settings, name).await.unwrap();
    let shard = crate::shard::Config { count: SHARDS, ..crate::shard::Config::default() };
    let shards = Shards::start_among(shard, Bounds::default(), Arc::new(nats), name.to_owned(), cluster.among());
    shards.begin_holds().await.expect("all notes are read");
    cluster.start(&shards).await;
    (cluster, shards)
}

async fn keep_many(notes: &Arc<dyn Notes>, round: &str) {
    let text = "x".repeat(NOTE_BYTES);
    let keeping = (0..NOTES).map(|number| {
        let target = Target::User(UserName::new(&format!("{round}-{number}")).unwrap());
        let key = serde_json::to_string(&(None::<GroupName>, Some(target))).unwrap();
        notes.keep(Note { key, text: text.clone(), until: now_ms() + 3_600_000 })
    });
    let kept: Vec<_> = futures_util::stream::iter(keeping).buffer_unordered(64).collect().await;
    assert!(kept.iter().all(Result::is_ok), "{:?}", kept.iter().find(|kept| kept.is_err()));
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}

async fn next_event(session: &Session) -> Event {
    let events = poll_fn(|cx| session.inbox.poll_take(cx));
    tokio::time::timeout(PATIENCE, events).await.expect("no event").pop_front().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_says_that_a_user_must_be_allowed_is_enough() {
    let allowed = documented(&NatsConfig::default().prefix);
    let users =
        format!("authorization {{ users: [{{ user: ada, password: enchantress, permissions: {{ {allowed} }} }}] }}");
    let servers = Servers::start(1, &users).await;
    let directory = tempfile::tempdir().unwrap();
    let password_file = directory.path().join("password");
    std::fs::write(&password_file, "enchantress").unwrap();
    let settings = NatsConfig {
        urls: servers.urls(),
        streams: 2,
        user: "ada".to_owned(),
        password_file: Some(password_file),
        ..NatsConfig::default()
    };

    // Notes that are there when nodes start, and notes that come while they run.
    let first = Nats::open(&settings, &Retention::default().into(), SHARDS, "first").await.unwrap();
    let notes = first.notes().unwrap();
    keep_many(&notes, "before").await;
    let (_one, here) = node(&settings, "one").await;
    let (_two, there) = node(&settings, "two").await;
    assert_eq!((here.holds().len(), there.holds().len()), (NOTES, NOTES));
    keep_many(&notes, "since").await;
    until("both nodes have heard of all holds", || [&here, &there].iter().all(|node| node.holds().len() == 2 * NOTES))
        .await;

    // Both know each other, and what is posted at one is stored and delivered at the other.
    until("each has its shards", || {
        let owners = (0..SHARDS).map(|shard| (here.is_owned(shard), there.is_owned(shard)));
        let owners: Vec<_> = owners.collect();
        owners.iter().all(|(one, two)| one != two)
            && owners.iter().any(|(one, _)| *one)
            && owners.iter().any(|(_, two)| *two)
    })
    .await;
    let group = (0..).map(|number| GroupName::new(&format!("G{number}")).unwrap());
    let mut group = group.filter(|group| there.is_owned(shard_of(group, SHARDS)));
    let group = group.next().unwrap();
    let session = Arc::new(Session {
        id: ConnectionId(1),
        user: UserName::new("bob").unwrap(),
        address: IpAddr::from([127, 0, 0, 1]),
        inbox: Arc::default(),
        home: None,
        wants_places: true,
    });
    let (shard, from) = (shard_of(&group, SHARDS), JoinFrom::Now);
    let join = Request::Join { group: group.clone(), session: Arc::clone(&session), from };
    assert!(here.send(shard, join).await);
    let Event::Joined(mut joined) = next_event(&session).await else { panic!("it did not join") };
    let post = NewPost { group: group.clone(), message: "hello".into(), id: None, trace: None, weight: None };
    let session_ = Arc::clone(&session);
    let posts = Posts { session: session_, posts: vec![post], received: Instant::now(), in_doubt: false };
    assert!(here.send(shard, Request::Post(posts)).await);
    let delivery = tokio::time::timeout(PATIENCE, joined.subscription.recv()).await.unwrap().unwrap();
    assert_eq!(&*delivery.batch.records[0].message, "hello");
    let Event::Posted(acks) = next_event(&session).await else { panic!("it is not told") };
    assert_eq!(acks[0].outcome.as_ref().unwrap().seq, 1);

    // And whom a moderator holds at one is held at the other.
    let hold = Hold::new(None, Some(Target::User(session.user.clone())), HOUR);
    here.holds().keep(hold).await.unwrap();
    until("the other node knows the hold", || there.holds().check(&group, &session).is_err()).await;
    first.close().await;
}
