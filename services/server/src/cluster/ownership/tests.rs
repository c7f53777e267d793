//! A node that takes shards in a real NATS, beside one that is in the list and does nothing but what the test does for it.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tertulia_protocol::GroupName;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::cluster::Cluster;
use crate::cluster::bucket::Bucket;
use crate::log::Retention;
use crate::log::config::Nats as NatsConfig;
use crate::log::nats::tests::server::{PATIENCE, Servers};
use crate::shard::Bounds;
use crate::shard::map::shard_of;

const SHARDS: u16 = 64;

fn settings(servers: &Servers) -> NatsConfig {
    NatsConfig { urls: servers.urls(), streams: 1, ..NatsConfig::default() }
}

/// A node that keeps its entry in the list until it is dropped.
struct Listed {
    _keeping: AbortOnDropHandle<()>,
}

impl Listed {
    async fn enter(settings: &NatsConfig, config: &Config, name: &str) -> Self {
        let client = async_nats::connect(&settings.urls).await.unwrap();
        let bucket = Bucket::open(client, settings, config).await.unwrap();
        let membership = Arc::new(Membership::new(config.clone(), bucket, name, name));
        membership.enter().await.unwrap();
        let keeping = tokio::spawn(membership.keep(CancellationToken::new()));
        Self { _keeping: AbortOnDropHandle::new(keeping) }
    }
}

/// A node that takes its shards.
async fn start(settings: &NatsConfig, config: &Config, name: &str) -> (Cluster, Shards) {
    let nats = Nats::open(settings, &Retention::default().into(), SHARDS, name).await.unwrap();
    let cluster = Cluster::join(config, &nats, settings, name).await.unwrap();
    let shard = crate::shard::Config { count: SHARDS, ..crate::shard::Config::default() };
    let shards = Shards::start_among(shard, Bounds::default(), Arc::new(nats), name.to_owned(), cluster.among());
    cluster.start(&shards).await;
    (cluster, shards)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_shards_are_taken_without_its_answer_is_asked_to_give_up_each() {
    let servers = Servers::start(1, "").await;
    let settings = settings(&servers);
    // Far longer than all takes without waiting for the other node: it is asked for the first shards only, and noted to be silent.
    let config = Config { handover: Duration::from_secs(2), lease: Duration::from_secs(30), ..Config::default() };
    let _other = Listed::enter(&settings, &config, "other").await;
    let client = async_nats::connect(&settings.urls).await.unwrap();
    let mut questions = client.subscribe(format!("{}.node.other", settings.prefix)).await.unwrap();
    client.flush().await.unwrap();
    let (_cluster, shards) = start(&settings, &config, "one").await;
    let map = shards.map();
    let mut missing: BTreeSet<u16> = (0..SHARDS).filter(|shard| map.owner(*shard) == Some("one")).collect();
    assert!(missing.len() > 16 && missing.iter().all(|shard| shards.is_owned(*shard)), "{missing:?}");
    let asked = async {
        while !missing.is_empty() {
            let question = serde_json::from_slice(&questions.next().await.unwrap().payload).unwrap();
            if let Question::Release { shard, .. } = question {
                missing.remove(&shard);
            }
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    assert!(asked.is_ok(), "it is not asked to give up {missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_a_node_tells_of_after_it_has_gone_are_forgotten() {
    let servers = Servers::start(1, "").await;
    let settings = settings(&servers);
    let config = Config { lease: Duration::from_secs(3), ..Config::default() };
    let other = Listed::enter(&settings, &config, "other").await;
    let (_cluster, shards) = start(&settings, &config, "one").await;
    let map = shards.map();
    let mut names = (0..).map(|number| GroupName::new(&format!("G{number}")).unwrap());
    let group = names.find(|name| map.owner(shard_of(name, SHARDS)) == Some("one")).unwrap();

    let client = async_nats::connect(&settings.urls).await.unwrap();
    let ask = async |number: u64, reign: u64| -> Value {
        let person = json!({"id": number, "user": "bob", "address": "127.0.0.1"});
        let join = json!({"do": "join", "group": group, "person": person, "from": "Now"});
        let frame = json!({"version": 1, "needs": 1, "content": {
            "node": "other", "instance": "other", "number": number, "reign": reign, "items": [join]}});
        let subject = format!("{}.shard.{}", settings.prefix, shard_of(&group, SHARDS));
        let answer = client.request(subject, serde_json::to_vec(&frame).unwrap().into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()["content"].take()
    };
    let until_members = async |count: u64, what: &str| {
        let counted = async {
            while shards.directory().get(group.as_str()).map_or(0, |status| status.members()) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.expect(what);
    };
    let reign = ask(0, 0).await["reign"].as_u64().unwrap();
    let joined = ask(1, reign).await;
    assert_eq!(joined["outcomes"][0]["was"], "joined", "{joined}");
    until_members(1, "it is a member").await;
    drop(other);
    until_members(0, "its node is gone").await;
    // What that asked comes only now.
    let joined = ask(2, reign).await;
    assert_eq!(joined["outcomes"][0]["was"], "joined", "{joined}");
    until_members(1, "it is a member").await;
    until_members(0, "its node has been gone for long").await;
}
