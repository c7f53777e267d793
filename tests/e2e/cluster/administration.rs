//! What moderators see and do holds on all nodes, and outlives them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::admin::Watcher;
use harness::cluster::{AGREEING, Cluster};
use harness::deadline::poll_until;
use harness::{Event, ServerOptions};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::machine;

/// A watcher on a node that is known to see what happens on all nodes.
async fn watch(cluster: &Cluster, place: usize, nodes: &[&str]) -> Result<Watcher> {
    let address = cluster.nodes[place].listening().admin.context("no admin API")?;
    let mut watcher = Watcher::start(
        address,
        json!({"kinds": ["EVENT_KIND_JOIN", "EVENT_KIND_LEAVE", "EVENT_KIND_KICK", "EVENT_KIND_GROUP_CREATED", "EVENT_KIND_DRAIN"]}),
    )?;
    // The call may still be on its way: something is made to happen until it is seen.
    let mut client = cluster.connector(place).extended("door").await?;
    let mut seen = BTreeSet::new();
    for attempt in 0.. {
        let group = format!("door-{place}-{attempt}");
        client.join(&group).await?;
        client.writer.leave(&group).await?;
        client.reader.until("Left", |event| matches!(event, Event::Left(_)).then_some(())).await?;
        let waiting = tokio::time::timeout(Duration::from_millis(200), watcher.next()).await;
        if let Ok(event) = waiting {
            seen.insert(event?["node"].as_str().unwrap_or_default().to_owned());
        }
        if nodes.iter().all(|node| seen.contains(*node)) {
            break;
        }
        ensure!(attempt < 300, "only {seen:?} are seen");
    }
    // Nothing of the door is left to be seen.
    let end = format!("door-{place}-end");
    client.join(&end).await?;
    let _left = client.cut();
    watcher.until("the door is shut", |event| event["leave"]["groupName"] == *end).await?;
    Ok(watcher)
}

/// How an event is known in this test: kind, group and user.
fn name(event: &Value) -> (String, String, String) {
    let kind = ["join", "leave", "kick", "groupCreated", "drain", "missed"];
    let kind = kind.into_iter().find(|kind| event.get(*kind).is_some()).unwrap_or("other");
    let text = |key: &str| event[kind][key].as_str().unwrap_or_default().to_owned();
    (kind.to_owned(), text("groupName"), text("user"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_on_any_node_sees_what_happens_on_all_of_them() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let all = ["node-0", "node-1", "node-2"];
    let mut watchers = Vec::new();
    for place in 0..2 {
        watchers.push(watch(&cluster, place, &all).await?);
    }
    // The first has seen what the second was shown; from here on both see the same.
    watchers[0].until("the second door is shut", |event| event["leave"]["groupName"] == "door-1-end").await?;

    let mut expected = Vec::new();
    let mut members = Vec::new();
    for number in 0..12 {
        let (group, user) = (format!("seen-{number}"), format!("user-{number}"));
        let mut client = cluster.connector(number % 3).extended(&user).await?;
        client.join(&group).await?;
        expected.push(("groupCreated".to_owned(), group.clone(), String::new()));
        expected.push(("join".to_owned(), group.clone(), user.clone()));
        if number % 2 == 0 {
            client.writer.leave(&group).await?;
            client.reader.until("Left", |event| matches!(event, Event::Left(_)).then_some(())).await?;
            expected.push(("leave".to_owned(), group, user));
        } else {
            let kicked =
                cluster.nodes[number % 3].admin("KickMember", json!({"group_name": group, "user": user})).await?;
            ensure!(kicked["kicked"] == 1, "{kicked}");
            expected.push(("kick".to_owned(), group, user));
        }
        members.push(client);
    }
    expected.sort();
    for watcher in &mut watchers {
        let mut left = expected.clone();
        let events = watcher.until("all that happened", |event| {
            left.retain(|wanted| *wanted != name(event));
            left.is_empty()
        });
        let events = events.await?;
        let mut seen: Vec<_> = events.iter().map(name).filter(|(_, group, _)| group.starts_with("seen-")).collect();
        seen.sort();
        ensure!(seen == expected, "not each once: {events:#?}");
        let nodes: BTreeSet<&str> = events.iter().filter_map(|event| event["node"].as_str()).collect();
        ensure!(nodes.into_iter().eq(all), "not of all nodes: {events:#?}");
    }

    // One node leaves, and says so; another comes, and is watched at once.
    cluster.nodes[2].terminate()?;
    ensure!(cluster.nodes[2].wait(Duration::from_secs(30)).await?.success());
    for watcher in &mut watchers {
        watcher
            .until("the drain of the third node", |event| event["node"] == "node-2" && event.get("drain").is_some())
            .await?;
    }
    cluster.agreed(2).await?;
    let place = cluster.add().await?;
    cluster.agreed(3).await?;
    let newcomer = harness::cluster::name(place);
    let mut client = cluster.connector(0).extended("late").await?;
    let mut joined = Vec::new();
    for number in 0..24 {
        let group = format!("late-{number}");
        client.join(&group).await?;
        joined.push(group);
    }
    for watcher in &mut watchers {
        let mut left = joined.clone();
        let events = watcher.until("the joins after the change", |event| {
            left.retain(|group| event["join"]["groupName"] != **group);
            left.is_empty()
        });
        let events = events.await?;
        ensure!(events.iter().any(|event| event["node"] == *newcomer), "none of the new node: {events:#?}");
        ensure!(events.iter().all(|event| event.get("missed").is_none()), "something was missed: {events:#?}");
    }

    // One that is killed takes nothing with it but itself.
    cluster.nodes[place].kill().await?;
    cluster.agreed(2).await?;
    client.join("after").await?;
    for watcher in &mut watchers {
        watcher.until("the join after the kill", |event| event["join"]["groupName"] == "after").await?;
    }
    Ok(())
}

/// Waits until a request of `user` on each node is refused with a code.
async fn refused_everywhere(cluster: &Cluster, user: &str, request: &Value, code: &str) -> Result<()> {
    for place in 0..cluster.nodes.len() {
        poll_until(AGREEING, "the refusal", async || {
            let mut client = cluster.connector(place).extended(user).await?;
            let refusal = client.refusal(request).await?;
            Ok((refusal.as_deref() != Some(code)).then(|| format!("{request} on node {place}: {refusal:?}")))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_are_in_force_on_all_nodes_and_outlive_all_of_them() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let groups: Vec<String> = (0..6).map(|number| format!("held-{number}")).collect();
    let mut ada = cluster.connector(0).extended("ada").await?;
    let mut bob = cluster.connector(1).extended("bob").await?;
    for group in &groups {
        for client in [&mut ada, &mut bob] {
            client.join(group).await?;
            client.post(group, "hello", "1").await?;
        }
    }
    for (place, group) in groups.iter().enumerate().take(5) {
        let held = json!({"group_name": group, "user": "ada", "hold_seconds": 3600});
        cluster.nodes[place % 3].admin("KickMember", held).await?;
    }
    cluster.nodes[2].admin("CloseGroup", json!({"group_name": groups[5], "hold_seconds": 3600})).await?;
    cluster.nodes[1].admin("KickMember", json!({"user": "eve", "hold_seconds": 3600})).await?;
    // The owner knows at once, whichever node one asks.
    for (place, group) in groups.iter().enumerate().take(5) {
        let mut again = cluster.connector(place % 3).extended("ada").await?;
        ensure!(again.refusal(&json!({"Join": {"group_name": group}})).await?.as_deref() == Some("kicked"));
    }
    let check = async |cluster: &Cluster| -> Result<()> {
        let of = |kind: &str, group: &str| json!({kind: {"group_name": group}});
        for kind in ["Join", "History", "Members"] {
            for group in &groups[..2] {
                refused_everywhere(cluster, "ada", &of(kind, group), "kicked").await?;
            }
            refused_everywhere(cluster, "eve", &of(kind, &groups[3]), "kicked").await?;
            refused_everywhere(cluster, "bob", &of(kind, &groups[5]), "closed").await?;
        }
        let mut bob = cluster.connector(0).extended("bob").await?;
        for kind in ["Join", "History", "Members"] {
            ensure!(bob.refusal(&of(kind, &groups[0])).await?.is_none(), "bob is not held");
        }
        Ok(())
    };
    check(&cluster).await?;
    // Another owner: nothing changes.
    cluster.nodes[2].kill().await?;
    cluster.nodes[2].restart().await?;
    cluster.agreed(3).await?;
    check(&cluster).await?;
    // All of them at once.
    for node in &mut cluster.nodes {
        node.kill().await?;
    }
    for node in &mut cluster.nodes {
        node.restart().await?;
    }
    cluster.agreed(3).await?;
    check(&cluster).await?;
    // And what a moderator ends is over, everywhere.
    cluster.nodes[0].admin("CloseGroup", json!({"group_name": groups[5]})).await?;
    for place in 0..3 {
        poll_until(AGREEING, "the group to be open", async || {
            let mut client = cluster.connector(place).extended("bob").await?;
            let refusal = client.refusal(&json!({"History": {"group_name": groups[5]}})).await?;
            Ok(refusal.map(|code| format!("{code} on node {place}")))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_groups_is_that_of_all_nodes_together() -> Result<()> {
    const LIMIT: usize = 30;
    let _machine = machine().await;
    let options = ServerOptions::new().set("limits.groups", LIMIT).set("shard.group_idle", "1s");
    let cluster = Cluster::start(3, 1, options).await?;
    let mut client = cluster.connector(0).extended("ada").await?;
    let mut joined = Vec::new();
    // Nodes tell each other how many they have a few times in a second: slowly, so that all know.
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    // After a stall there is as much time between two of them as before.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while joined.len() < 2 * LIMIT {
        ticks.tick().await;
        let group = format!("many-{}", joined.len());
        match client.refusal(&json!({"Join": {"group_name": group}})).await?.as_deref() {
            None => joined.push(group),
            Some("server_full") => break,
            Some(other) => bail!("refused with {other}"),
        }
    }
    ensure!((LIMIT..LIMIT + 20).contains(&joined.len()), "{} groups were made", joined.len());
    // Nobody has said anything in them: when nobody has been in them for a while they are gone.
    drop(client.cut());
    poll_until(AGREEING, "room for groups", async || {
        let mut client = cluster.connector(1).extended("bob").await?;
        client.refusal(&json!({"Join": {"group_name": "more"}})).await
    })
    .await
}
