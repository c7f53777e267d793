//! Nodes of an older build are replaced by this one, one at a time, and one goes back, with clients on all of them who talk all the time.
//!
//! `make test-upgrade FROM=REF` builds the older one. Where there is none, this build stands on both sides, and says so: then no more is
//! shown than that nodes can be replaced.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::builds;
use harness::cluster::Cluster;
use harness::deadline::PATIENCE;
use harness::{Build, Client, Event, ServerOptions, check};
use serde_json::json;

use crate::talker::{Places, Talk, observer};
use crate::{latency, machine};

const NODES: usize = 3;
/// How long it is talked between two nodes that are replaced.
const TALK: Duration = Duration::from_millis(1_000);
/// How much longer an answer may take where an older build is on the other side.
const OLDER_LATENCY: Duration = Duration::from_secs(5);
/// Groups that each step looks at, of which each node has some.
const LOOKED_AT: usize = 4;
/// Who is on each node, by its place.
const USERS: [&str; NODES] = ["ada", "bob", "cyd"];

#[tokio::test(flavor = "multi_thread")]
async fn this_build_replaces_an_older_one_node_by_node_and_one_goes_back_under_load() -> Result<()> {
    let _machine = machine().await;
    builds::announce();
    let mut cluster = Cluster::start(NODES, 1, ServerOptions::new().build(Build::Older)).await?;
    let groups: Vec<String> = (0..12).map(|number| format!("upgrade-{number}")).collect();
    let places: Places = Arc::new(Mutex::new((0..NODES).map(|place| Some(cluster.chat(place))).collect()));
    let connector = cluster.connector(0);
    let (talk, control) = (Talk::start(3 * NODES, &places, &connector, &groups), latency::Control::start()?);
    let mut looks = vec![Look::at(&cluster, 0).await?];
    tokio::time::sleep(TALK).await;
    let terminated = Instant::now();
    let steps = [(0, Build::This), (1, Build::This), (2, Build::This), (1, Build::Older)];
    for (step, (place, build)) in (1..).zip(steps) {
        let replaced = async {
            replace(&mut cluster, &places, place, build).await?;
            for before in &looks {
                before.still_holds(&cluster).await.context("what was before")?;
            }
            looks.push(Look::at(&cluster, step).await?);
            anyhow::Ok(())
        };
        replaced.await.with_context(|| format!("step {step}: node {place} becomes {build}"))?;
        tokio::time::sleep(TALK).await;
    }
    let observer = observer(&connector.at(cluster.chat(1)), &groups).await?;
    let (verdict, slow) = talk.conclude(observer, &groups).await?;
    println!("{:?}", verdict.facts);
    // Where an older build waits for too long itself, this one cannot help it.
    let bound = if builds::are_two() { OLDER_LATENCY } else { latency::LATENCY };
    latency::assert_short(slow, terminated, bound, control)
}

/// The node in a place leaves as planned, and one of that build comes in its stead.
async fn replace(cluster: &mut Cluster, places: &Places, place: usize, build: Build) -> Result<()> {
    let set = |address| places.lock().unwrap_or_else(PoisonError::into_inner)[place] = address;
    cluster.nodes[place].terminate()?;
    ensure!(cluster.nodes[place].wait(PATIENCE).await?.success());
    set(None);
    cluster.nodes[place].set_build(build);
    cluster.nodes[place].restart().await?;
    ensure!(cluster.nodes[place].program()? == build.server()?.canonicalize()?);
    cluster.agreed(NODES).await?;
    set(Some(cluster.chat(place)));
    Ok(())
}

/// What was done in some groups at one step, by clients and moderators on all nodes.
struct Look {
    step: usize,
    groups: Vec<String>,
}

impl Look {
    /// Members of all nodes, a post from each, somebody who is kicked by way of another node: each node tells the same of it.
    async fn at(cluster: &Cluster, step: usize) -> Result<Self> {
        let groups: Vec<String> = (0..LOOKED_AT).map(|number| format!("look-{step}-{number}")).collect();
        let mut clients = Vec::new();
        for (place, user) in USERS.iter().enumerate() {
            clients.push(cluster.connector(0).at(cluster.chat(place)).extended(user).await?);
        }
        let mut logs = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            for client in &mut clients {
                client.join(group).await?;
            }
            for (client, user) in clients.iter_mut().zip(USERS) {
                client.post(group, &format!("{user} is here"), &format!("{user} {group}")).await?;
            }
            for client in &mut clients {
                ensure!(members(client, group).await? == USERS, "members of {group}");
            }
            let (kicked, by) = (number % NODES, (number / NODES + number + 1) % NODES);
            let kick = json!({"group_name": group, "user": USERS[kicked], "reason": "enough", "hold_seconds": 600});
            ensure!(cluster.nodes[by].admin("KickMember", kick).await?["kicked"] == 1, "{group}");
            let left = clients[kicked].reader.until("Left", |event| match event {
                Event::Left(left) => Some(left.clone()),
                _ => None,
            });
            ensure!(left.await?.detail.as_deref() == Some("enough"), "{group}");
            for place in (0..NODES).filter(|place| *place != kicked) {
                let stay: Vec<&str> = USERS.into_iter().filter(|user| *user != USERS[kicked]).collect();
                ensure!(members(&mut clients[place], group).await? == stay, "members of {group}, of {place}");
                let listed = cluster.nodes[place].admin("ListMembers", json!({"group_name": group})).await?;
                ensure!(texts(&listed["members"], "user") == stay, "{listed}");
                logs.push(clients[place].read_log(group).await?);
            }
        }
        let recordings: Vec<_> = clients.into_iter().map(Client::settled).collect();
        check(&recordings, &logs).assert_clean();
        let look = Self { step, groups };
        look.still_holds(cluster).await?;
        Ok(look)
    }

    /// Whether every node tells the groups, lets nobody in who was kicked, and has all messages for the others.
    async fn still_holds(&self, cluster: &Cluster) -> Result<()> {
        let prefix = format!("look-{}-", self.step);
        for (place, node) in cluster.nodes.iter().enumerate() {
            let listed = node.admin("ListGroups", json!({"prefix": prefix, "page_size": 100})).await?;
            ensure!(texts(&listed["groups"], "name") == self.groups, "{place}: {listed}");
            for (number, group) in self.groups.iter().enumerate() {
                let kicked = number % NODES;
                let connector = cluster.connector(0).at(node.chat());
                let mut client = connector.extended(USERS[kicked]).await?;
                let refused = client.join(group).await.err().map(|error| error.to_string()).unwrap_or_default();
                ensure!(refused.contains("Kicked"), "{group}: {place} lets {} in: {refused:?}", USERS[kicked]);
                let mut other = connector.extended(USERS[(kicked + 1) % NODES]).await?;
                let log = other.read_log(group).await?;
                let texts: Vec<&str> = log.messages.iter().map(|message| &*message.text).collect();
                ensure!(texts == USERS.map(|user| format!("{user} is here")), "{group}: {place} has {texts:?}");
            }
        }
        Ok(())
    }
}

/// Who is in a group, as the client's node says.
async fn members(client: &mut Client, group: &str) -> Result<Vec<String>> {
    client.send_json(&json!({"Members": {"group_name": group}})).await?;
    let users = client.reader.until("Members", |event| match event {
        Event::Members(it) => Some(it.users.iter().map(ToString::to_string).collect()),
        _ => None,
    });
    users.await
}

/// A field of each in a list that the admin API gave.
fn texts(list: &serde_json::Value, field: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|it| it[field].as_str().map(str::to_owned)).collect()
}
