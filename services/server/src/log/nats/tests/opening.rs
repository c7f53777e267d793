//! What is told when the log cannot be opened, and the ways to log in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nkeys::KeyPair;

use super::{Config, ELECTIONS, EVERYTHING, Nats, PATIENCE, SHARDS, Servers, config, open, well};
use crate::log::conformance::batch;
use crate::log::nats::bucket;
use crate::log::{Log, Retention};

async fn refusal(config: &Config, retention: &Retention, shards: u16) -> String {
    match Nats::open(config, &retention.clone().into(), shards, "a").await {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_differs_is_named_with_what_differs_and_what_to_do() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, prefix: "chat-1".to_owned(), ..config(&servers.urls()) };
    open(&config).await.close().await;
    open(&config).await.close().await;

    let fewer = Retention { messages: 100, ..EVERYTHING };
    assert_eq!(
        refusal(&config, &fewer, SHARDS).await,
        "stream 'chat-1-log-0' has max_msgs_per_subject (log.retention.messages) = -1, and this configuration wants 164: \
         set nats.update_streams to have it changed, or configure what is there"
    );
    let text = refusal(&config, &EVERYTHING, 32).await;
    assert!(text.contains("has tertulia.shards = 16, and this configuration wants 32: it is fixed"), "{text}");
    let text = refusal(&Config { storage: super::super::Storage::Memory, ..config.clone() }, &EVERYTHING, SHARDS).await;
    assert!(text.contains("has storage = file, and this configuration wants memory: JetStream cannot"), "{text}");

    let changing = Config { update_streams: true, ..config.clone() };
    Nats::open(&changing, &fewer.clone().into(), SHARDS, "a").await.unwrap().close().await;
    Nats::open(&config, &fewer.clone().into(), SHARDS, "a").await.unwrap().close().await;
    let text = refusal(&changing, &fewer, 32).await;
    assert!(text.contains("tertulia.shards"), "what is fixed is not changed: {text}");

    let three = Config { replicas: 3, prefix: "three".to_owned(), ..config.clone() };
    let text = refusal(&three, &EVERYTHING, SHARDS).await;
    assert!(text.contains("cannot make stream 'three-log-0'") && text.contains("nats.replicas"), "{text}");
}

/// As where all is started at once, and the servers of NATS come one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_still_forming_is_waited_for() {
    let mut servers = Servers::start_first_of(3).await;
    let alone = async_nats::connect(servers.url(0)).await.unwrap();
    let jetstream = async_nats::jetstream::new(alone);
    let refused = async || jetstream.query_account().await.unwrap_err().to_string();
    let not_yet = "temporarily unavailable";
    let alone = async {
        while !refused().await.contains(not_yet) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, alone).await.expect("the first server says that it waits for the others");

    let config = Config { replicas: 3, prefix: "early".to_owned(), ..config(&servers.urls()) };
    let opening = {
        let config = config.clone();
        tokio::spawn(async move { Nats::open(&config, &EVERYTHING.into(), SHARDS, "a").await })
    };
    // So long that it has been refused as well: it takes a few milliseconds to come that far.
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let text = refused().await;
        assert!(text.contains(not_yet), "{text}");
    }
    assert!(!opening.is_finished(), "it gave up: {:?}", opening.await.unwrap().err());

    servers.revive(1);
    servers.revive(2);
    // Elections can take longer than a start waits for them; then the node is started again.
    let revived = tokio::time::Instant::now();
    let mut opened = opening.await.unwrap();
    let log = loop {
        match opened {
            Ok(log) => break log,
            Err(error) => assert!(revived.elapsed() < ELECTIONS, "{error}"),
        }
        opened = Nats::open(&config, &EVERYTHING.into(), SHARDS, "a").await;
    };
    log.take_over(0).await.unwrap();
    log.append(0, vec![batch("Dogs", 1, 1, 3)]).await.unwrap();
    log.close().await;
}

/// A list of nodes that one server has is gone with it, whatever the streams are kept by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_kept_by_as_many_servers_as_the_streams() {
    let servers = Servers::start(3, "").await;
    let one = Config { placement_tags: "disk:fast".to_owned(), ..config(&servers.urls()) };
    let client = async_nats::connect(servers.url(0)).await.unwrap();
    let context = async_nats::jetstream::new(client.clone());
    let hour = Duration::from_secs(3_600);
    let ensure = async |config: &Config, name: &str| {
        bucket::ensure(&client, config, name, "a bucket", hour).await.unwrap();
        let stream = context.get_stream(format!("KV_{name}")).await.unwrap();
        let config = &stream.cached_info().config;
        assert!(config.allow_message_ttl, "what else it is stays");
        (config.num_replicas, config.placement.as_ref().map(|placement| placement.tags.join(",")).unwrap())
    };
    let kept = |replicas: usize, tags: &str| (replicas, tags.to_owned());
    let three = Config { replicas: 3, ..one.clone() };
    let moved = Config { placement_tags: "zone:1".to_owned(), ..one.clone() };
    let changing = |config: &Config| Config { update_streams: true, ..config.clone() };
    for (name, next, there) in [("more", &three, kept(3, "disk:fast")), ("moved", &moved, kept(1, "zone:1"))] {
        assert_eq!(ensure(&one, name).await, kept(1, "disk:fast"));
        assert_eq!(ensure(next, name).await, kept(1, "disk:fast"), "nobody allowed it to be changed");
        assert_eq!(ensure(&changing(next), name).await, there);
        assert_eq!(ensure(&changing(next), name).await, there);
    }
    // What NATS cannot do is no reason not to start.
    let five = Config { replicas: 5, ..one.clone() };
    assert_eq!(ensure(&changing(&five), "more").await, kept(3, "disk:fast"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_with_prefixes_of_their_own_share_one_nats() {
    let servers = Servers::start(1, "").await;
    for (prefix, epoch) in [("one", 1), ("other", 2)] {
        let log = open(&Config { prefix: prefix.to_owned(), ..config(&servers.urls()) }).await;
        log.take_over(0).await.unwrap();
        log.append(0, vec![batch("Dogs", epoch, 1, 3)]).await.unwrap();
        assert_eq!(log.stats().groups, 1);
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_cannot_be_used_are_told_apart() {
    let nobody = Config { timeout: Duration::from_millis(500), ..config("nats://127.0.0.1:1") };
    let text = refusal(&nobody, &EVERYTHING, SHARDS).await;
    assert!(text.starts_with("cannot connect to NATS at nats://127.0.0.1:1") && text.contains("nats.urls"), "{text}");
    for urls in ["", " , ", "nats://[::1", "chat://x:1"] {
        let text = refusal(&config(urls), &EVERYTHING, SHARDS).await;
        assert!(text.contains("nats.urls") || text.contains("nats://"), "{urls}: {text}");
    }
    let plain = Servers::start(1, "accounts { A { users: [{ user: a, password: a }] } }\nno_auth_user: a").await;
    let text = refusal(&config(&plain.urls()), &EVERYTHING, SHARDS).await;
    assert!(text.contains("has no JetStream for this account"), "{text}");
}

fn file(directory: &Path, name: &str, text: &str) -> Option<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    Some(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_logs_in_with_a_password_a_token_or_an_nkey() {
    let directory = tempfile::tempdir().unwrap();
    let keep = |name, text| file(directory.path(), name, text);

    let servers = Servers::start(1, "authorization { user: ada, password: enchantress }").await;
    let nobody = config(&servers.urls());
    let text = refusal(&nobody, &EVERYTHING, SHARDS).await;
    assert!(text.contains("nats.user and nats.password_file"), "{text}");
    let half = Config { user: "ada".to_owned(), ..nobody.clone() };
    let text = refusal(&half, &EVERYTHING, SHARDS).await;
    assert_eq!(text, "nats.user is set and nats.password_file is not: set both or none");
    let absent = Config { password_file: Some(directory.path().join("absent")), ..half.clone() };
    let text = refusal(&absent, &EVERYTHING, SHARDS).await;
    assert!(text.starts_with("nats.password_file: cannot read "), "{text}");
    let both = Config { token_file: keep("token", "x"), ..half.clone() };
    let text = refusal(&both, &EVERYTHING, SHARDS).await;
    assert!(text.starts_with("nats.user and nats.token_file are both set"), "{text}");
    let ada = Config { password_file: keep("password", "enchantress\n"), ..half };
    open(&ada).await.close().await;

    let servers = Servers::start(1, "authorization { token: open-sesame }").await;
    let token = Config { token_file: keep("token", "open-sesame\n"), ..config(&servers.urls()) };
    open(&token).await.close().await;

    let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let servers = Servers::start(1, &format!("authorization {{ users: [{{ nkey: {public} }}] }}")).await;
    let nkey = Config { nkey_file: keep("seed", seed), ..config(&servers.urls()) };
    open(&nkey).await.close().await;
}

/// As `nsc` and whoever else makes them: three texts in URL-safe base64, of which the last signs the others.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, nats: serde_json::Value) -> String {
    let header = base64(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let claims = serde_json::json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject, "name": name, "nats": nats,
    });
    let signed = format!("{header}.{}", base64(claims.to_string().as_bytes()));
    format!("{signed}.{}", base64(&issuer.sign(signed.as_bytes()).unwrap()))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |three: &[u8]| {
        let [one, two, three_] = [0, 1, 2].map(|place| u32::from(three.get(place).copied().unwrap_or(0)));
        let bits = one << 16 | two << 8 | three_;
        (0..=three.len()).map(|digit| char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_logs_in_with_a_credentials_file() {
    let [operator, account, user] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user()];
    // JetStream needs one.
    let system = KeyPair::new_account();
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = serde_json::json!({"type": "account", "version": 2, "limits": limits});
    let of_user = serde_json::json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let of_operator = serde_json::json!({"type": "operator", "version": 2});
    let of_system = serde_json::json!({"type": "account", "version": 2});
    let [operator_jwt, system_jwt, account_jwt, user_jwt] = [
        jwt(&operator, &operator.public_key(), "O", of_operator),
        jwt(&operator, &system.public_key(), "S", of_system),
        jwt(&operator, &account.public_key(), "A", of_account),
        jwt(&account, &user.public_key(), "U", of_user),
    ];
    let [of_a, of_s] = [account.public_key(), system.public_key()];
    let trust = format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nsystem_account: {of_s}\n\
         resolver_preload: {{ {of_a}: {account_jwt}, {of_s}: {system_jwt} }}"
    );
    let servers = Servers::start(1, &trust).await;
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let directory = tempfile::tempdir().unwrap();
    let creds = Config { creds_file: file(directory.path(), "creds", &text), ..config(&servers.urls()) };
    open(&creds).await.close().await;
    let half = Config { creds_file: file(directory.path(), "half", &user_jwt), ..config(&servers.urls()) };
    let said = refusal(&half, &EVERYTHING, SHARDS).await;
    assert!(said.contains("it does not hold a JWT and the seed of a key"), "{said}");
}

/// A secret is replaced at the servers and in the file, and the log goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_counts_from_the_next_connection_on() {
    let mut servers = Servers::start(1, "authorization { user: ada, password: enchantress }").await;
    let directory = tempfile::tempdir().unwrap();
    let password_file = file(directory.path(), "password", "enchantress");
    let log = open(&Config { user: "ada".to_owned(), password_file, ..config(&servers.urls()) }).await;
    servers.kill(0);
    servers.reconfigure(0, "enchantress", "countess");
    servers.revive(0);
    // Until then it is refused.
    let refused = async {
        while log.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the connection is not lost");
    file(directory.path(), "password", "countess");
    well(&log).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_checked_on_both_sides() {
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/log/nats/tests/tls");
    let pem = |name: &str| tls.join(name);
    let block = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        pem("server.pem").display(),
        pem("server-key.pem").display(),
        pem("ca.pem").display()
    );
    let servers = Servers::start(1, &block).await;
    let trusting = Config { tls_ca_file: Some(pem("ca.pem")), tls_required: true, ..config(&servers.urls()) };
    let text = refusal(&trusting, &EVERYTHING, SHARDS).await;
    assert!(text.contains("cannot connect"), "the server wants a certificate of ours: {text}");
    let known = Config {
        tls_cert_file: Some(pem("client.pem")),
        tls_key_file: Some(pem("client-key.pem")),
        ..trusting.clone()
    };
    open(&known).await.close().await;
    let text = refusal(&Config { tls_key_file: None, ..known.clone() }, &EVERYTHING, SHARDS).await;
    assert_eq!(text, "nats.tls_cert_file is set and nats.tls_key_file is not: set both or none");
    let wary = Config { tls_ca_file: Some(pem("client.pem")), ..known };
    let text = refusal(&wary, &EVERYTHING, SHARDS).await;
    assert!(text.contains("nats.tls_ca_file"), "{text}");

    let servers = Servers::start(1, "").await;
    let text = refusal(&Config { urls: servers.urls(), ..trusting }, &EVERYTHING, SHARDS).await;
    assert!(text.contains("nats.tls_required"), "a server without TLS: {text}");
}
