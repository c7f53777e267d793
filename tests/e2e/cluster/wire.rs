//! The wire protocol on several nodes: what clients of one see of those of another.

use anyhow::{Context, Result, ensure};
use harness::cluster::Cluster;
use harness::irc::Conversation;
use harness::recording::Event;
use harness::stage::hold;
use harness::{Connector, ServerOptions, check};
use serde_json::{Value, json};

use crate::machine;

/// Groups enough that each node owns some of them.
fn groups() -> Vec<String> {
    (0..9).map(|number| format!("group-{number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_one_server() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    classic_clients_see_the_same_bytes_on_every_node(&cluster).await?;
    lists_are_of_all_nodes(&cluster).await?;
    an_extended_client_resumes_on_another_node(&cluster).await?;
    moderators_reach_everybody_from_any_node(&cluster).await?;
    connections_of_all_nodes_are_listed_and_ended_from_any(&cluster).await?;
    the_map_is_the_same_everywhere(&mut cluster).await
}

/// What the book's client sends and sees, whoever owns the group.
async fn classic_clients_see_the_same_bytes_on_every_node(cluster: &Cluster) -> Result<()> {
    for group in groups() {
        let mut first = cluster.connector(0).raw().await?;
        let mut second = cluster.connector(1).raw().await?;
        let join = format!("{{\"Join\":{{\"group_name\":\"{group}\"}}}}\n");
        let post = format!("{{\"Post\":{{\"group_name\":\"{group}\",\"message\":\"Samoyeds rock!\"}}}}\n");
        let message = format!("{{\"Message\":{{\"group_name\":\"{group}\",\"message\":\"Samoyeds rock!\"}}}}");
        second.send(format!("{join}{post}").as_bytes()).await?;
        second.expect(&message).await.context("the poster sees its message")?;
        first.send(format!("{join}{post}").as_bytes()).await?;
        first.expect(&message).await?;
        second.expect(&message).await.context("both see the second")?;
        // One may post without having joined, and what was sent before the end is finished.
        let mut third = cluster.connector(2).raw().await?;
        third.send(post.as_bytes()).await?;
        third.send(b"{\"Post\":{\"group_name\":\"nobody's\",\"message\":\"x\"}}\n").await?;
        third.expect("{\"Error\":\"Group 'nobody's' does not exist\"}").await?;
        first.expect(&message).await?;
        second.expect(&message).await.context("both see the third")?;
    }
    Ok(())
}

async fn lists_are_of_all_nodes(cluster: &Cluster) -> Result<()> {
    let mut members = Vec::new();
    for (place, user) in [(0, "ada"), (1, "bob"), (2, "cyd")] {
        let mut client = cluster.connector(place).extended(user).await?;
        client.join("group-3").await?;
        members.push(client);
    }
    for client in &mut members {
        client.send_json(&json!({"Members": {"group_name": "group-3"}})).await?;
        let users = client.reader.until("Members", |event| match event {
            Event::Members(it) => Some(it.users.clone()),
            _ => None,
        });
        ensure!(users.await? == ["ada", "bob", "cyd"]);
        client.send_json(&json!({"Groups": {"prefix": "group-"}})).await?;
        let listed = client.reader.until("Groups", |event| match event {
            Event::Groups(it) => Some(it.groups.iter().map(|it| (it.group.to_string(), it.members, it.head)).collect()),
            _ => None,
        });
        let listed: Vec<(String, u64, u64)> = listed.await?;
        let wanted: Vec<_> = groups().into_iter().map(|name| (name, 3)).collect();
        ensure!(listed.iter().map(|(name, _, head)| (name.clone(), *head)).collect::<Vec<_>>() == wanted, "{listed:?}");
        ensure!(listed[3].1 == 3, "{listed:?}");
    }
    Ok(())
}

async fn an_extended_client_resumes_on_another_node(cluster: &Cluster) -> Result<()> {
    let mut recordings = Vec::new();
    let mut logs = Vec::new();
    let origin = cluster.connector(0);
    for group in (0..6).map(|number| format!("resume-{number}")) {
        let mut ada = origin.extended("ada").await?;
        let mut bob = origin.at(cluster.chat(1)).extended("bob").await?;
        ada.join(&group).await?;
        bob.join(&group).await?;
        bob.post(&group, "one", "1").await?;
        ada.reader.until_text(&group, "one").await?;
        let (seq, epoch) = ada.resume_point(&group).context("ada was in the group")?;
        recordings.push(ada.cut());
        for number in 2..50 {
            bob.post(&group, &format!("number {number}"), &number.to_string()).await?;
        }
        let mut again = origin.at(cluster.chat(2)).extended("ada").await?;
        let joined = again.join_from(&group, Some(seq), None, Some(epoch)).await?;
        ensure!(joined.recovered && joined.epoch == epoch && joined.head == 49, "{joined:?}");
        bob.post(&group, "the end", "50").await?;
        again.reader.until_text(&group, "the end").await?;
        // The same id again, on another node: the answer is the first one.
        let mut twin = origin.at(cluster.chat(0)).extended("bob").await?;
        ensure!(twin.post(&group, "number 7", "7").await?.seq == 7);
        bob.reader.until_text(&group, "the end").await?;
        logs.push(again.read_log(&group).await?);
        recordings.extend([again.settled(), bob.settled(), twin.settled()]);
    }
    let verdict = check(&recordings, &logs);
    verdict.assert_clean();
    ensure!(verdict.facts.acknowledged == 6 * 51, "{verdict}");
    Ok(())
}

async fn moderators_reach_everybody_from_any_node(cluster: &Cluster) -> Result<()> {
    for number in 0..4 {
        let group = format!("moderated-{number}");
        let mut members = Vec::new();
        for (place, user) in [(0, "ada"), (1, "bob"), (2, "cyd")] {
            let mut client = cluster.connector(place).extended(user).await?;
            client.join(&group).await?;
            members.push(client);
        }
        let (asked, other) = (number % 3, (number + 1) % 3);
        let announce = json!({"group_name": group, "message": "be kind"});
        ensure!(cluster.nodes[asked].admin("Announce", announce).await?["seq"] == "1");
        for client in &mut members {
            client.reader.until_text(&group, "be kind").await?;
        }
        for node in &cluster.nodes {
            // Each knows how far those are that are connected elsewhere, and what they speak.
            let listed = node.admin("ListMembers", json!({"group_name": group})).await?;
            let members = listed["members"].as_array().cloned().unwrap_or_default();
            let served = |member: &Value| {
                let state = (&member["state"], &member["dialect"], &member["deliveredSeq"]);
                state == (&json!("MEMBER_STATE_LIVE"), &json!("DIALECT_EXTENDED"), &json!("1"))
                    && member["lag"].is_null()
            };
            ensure!(members.len() == 3 && members.iter().all(served), "{listed}");
        }
        let kick = json!({"group_name": group, "user": "bob", "reason": "enough", "hold_seconds": 60});
        ensure!(cluster.nodes[other].admin("KickMember", kick).await?["kicked"] == 1);
        let left = members[1].reader.until("Left", |event| match event {
            Event::Left(left) => Some(left.clone()),
            _ => None,
        });
        ensure!(left.await?.detail.as_deref() == Some("enough"));
        let refused = members[1].join(&group).await.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(refused.contains("Kicked"), "{refused}");
        let listed = cluster.nodes[asked].admin("ListMembers", json!({"group_name": group})).await?;
        let users: Vec<&str> =
            listed["members"].as_array().into_iter().flatten().filter_map(|it| it["user"].as_str()).collect();
        ensure!(users == ["ada", "cyd"], "{listed}");
        members[0].post(&group, "after", "1").await?;
        members[2].reader.until_text(&group, "after").await?;
        let purged = cluster.nodes[other].admin("PurgeHistory", json!({"group_name": group, "through_seq": 1})).await?;
        ensure!(purged["removedMessages"] == "1", "{purged}");
        let group_now = cluster.nodes[asked].admin("GetGroup", json!({"group_name": group})).await?;
        ensure!(group_now["group"]["head"] == "2" && group_now["group"]["firstSeq"] == "2", "{group_now}");
        ensure!(group_now["group"]["members"] == 2, "{group_now}");
        let deleted = cluster.nodes[asked].admin("DeleteGroup", json!({"group_name": group})).await?;
        ensure!(deleted["removedMembers"] == 2, "{deleted}");
        for client in [0, 2] {
            let left = members[client].reader.until("Left", |event| matches!(event, Event::Left(_)).then_some(()));
            left.await?;
        }
    }
    Ok(())
}

async fn connections_of_all_nodes_are_listed_and_ended_from_any(cluster: &Cluster) -> Result<()> {
    let mut clients = Vec::new();
    for place in [0, 1, 2, 0, 1, 2] {
        clients.push(cluster.connector(place).extended("eve").await?);
    }
    let mut nodes = Vec::new();
    let mut token = String::new();
    // A page of a token that leads back would never be the last.
    for page in 1.. {
        ensure!(page <= clients.len(), "there is no end of pages: {nodes:?}");
        let asked = json!({"user": "eve", "page_size": 4, "page_token": token});
        let listed = cluster.nodes[1].admin("ListConnections", asked).await?;
        let connections = listed["connections"].as_array().context("no connections")?;
        nodes.extend(connections.iter().filter_map(|it| it["node"].as_str().map(str::to_owned)));
        token = listed["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    nodes.sort();
    ensure!(nodes == ["node-0", "node-0", "node-1", "node-1", "node-2", "node-2"], "{nodes:?}");
    let ended = cluster.nodes[2].admin("Disconnect", json!({"user": "eve", "reason": "bye"})).await?;
    ensure!(ended["disconnected"] == 6, "{ended}");
    for client in &mut clients {
        client.reader.until_closed().await?;
    }
    Ok(())
}

async fn the_map_is_the_same_everywhere(cluster: &mut Cluster) -> Result<()> {
    let mut maps = Vec::new();
    for place in 0..3 {
        let mut map = cluster.nodes[place].admin("GetShardMap", json!({"with_shards": true})).await?;
        let nodes = map["nodes"].as_array_mut().context("no nodes")?;
        nodes.iter_mut().for_each(|node| drop(node.as_object_mut().map(|node| node.remove("answering"))));
        maps.push(map);
    }
    ensure!(maps[0] == maps[1] && maps[1] == maps[2], "{maps:?}");
    let shards = |map: &Value, node: usize| map["nodes"][node]["shardCount"].as_u64().unwrap_or(0);
    ensure!((0..3).all(|node| (250..450).contains(&shards(&maps[0], node))), "{:?}", maps[0]);
    // One more node takes its share, and nothing else moves.
    let owners = |map: &Value| -> Vec<(u64, String)> {
        let nodes = map["nodes"].as_array().into_iter().flatten();
        let pairs = nodes.flat_map(|node| {
            let name = node["name"].as_str().unwrap_or_default().to_owned();
            node["shards"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|it| it.as_u64())
                .map(move |it| (it, name.clone()))
        });
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort_unstable();
        pairs
    };
    let before = owners(&maps[0]);
    let place = cluster.add().await?;
    cluster.agreed(4).await?;
    let after = owners(&cluster.nodes[1].admin("GetShardMap", json!({"with_shards": true})).await?);
    let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    ensure!(moved.iter().all(|(_, (_, node))| *node == harness::cluster::name(place)), "{moved:?}");
    ensure!((180..330).contains(&moved.len()), "{} of 1024 shards moved", moved.len());
    Ok(())
}

/// Our own conversation, with clients spread over three nodes on a cluster of three NATS servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_over_three_nodes() -> Result<()> {
    let _machine = machine().await;
    harness::process::raise_descriptor_limit();
    let cluster = Cluster::start(3, 3, ServerOptions::new()).await?;
    let addresses: Vec<_> = (0..3).map(|place| cluster.chat(place)).collect();
    let outcome = hold(Connector::among(&addresses), &Conversation::ours()).await?;
    ensure!(outcome.lines > 50 && outcome.facts.deliveries > 150, "{outcome:?}");
    println!("{outcome:?}");
    Ok(())
}
