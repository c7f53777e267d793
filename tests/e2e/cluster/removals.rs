//! Messages that a moderator removes by way of any node, wherever their group lives and its members are.

use anyhow::{Context, Result, ensure};
use harness::cluster::Cluster;
use harness::{RawClient, ServerOptions};
use serde_json::{Value, json};

use crate::machine;

const GROUPS: usize = 6;

async fn hello(cluster: &Cluster, place: usize, user: &str) -> Result<RawClient> {
    let mut client = cluster.connector(place).raw().await?;
    ask(&mut client, json!({"Hello": {"version": 1, "user": user}}), json!({"Welcome": {}})).await?;
    Ok(client)
}

async fn ask(client: &mut RawClient, line: Value, answer: Value) -> Result<Value> {
    client.line(&line.to_string()).await?;
    client.expect_json(&answer).await
}

/// All that is read of a group: the texts, and whether they were removed.
async fn history(client: &mut RawClient, group: &str) -> Result<Vec<(String, bool)>> {
    let page = ask(client, json!({"History": {"group_name": group, "after": 0}}), json!({"History": {}})).await?;
    let messages = page["History"]["messages"].as_array().context("no messages")?;
    let read = |message: &Value| {
        (message["message"].as_str().unwrap_or_default().to_owned(), message["removed"] == Value::Bool(true))
    };
    Ok(messages.iter().map(read).collect())
}

/// On both nodes; what they are told carries no numbers.
async fn classic_members_are_told(cluster: &Cluster, group: &str) -> Result<()> {
    let text = |text: &str| json!({"Message": {"group_name": group, "message": text}}).to_string();
    let mut members = Vec::new();
    let mut said = Vec::new();
    for place in 0..2 {
        let mut member = cluster.connector(place).raw().await?;
        member.line(&json!({"Join": {"group_name": group}}).to_string()).await?;
        let own = format!("this is {place}");
        member.line(&json!({"Post": {"group_name": group, "message": own}}).to_string()).await?;
        // What it said comes back when it is a member.
        member.expect(&text(&own)).await?;
        said.push(own);
        members.push(member);
    }
    let removed = cluster.nodes[1].admin("RemoveMessages", json!({"group_name": group, "first_seq": 1})).await?;
    ensure!(removed == json!({"removedMessages": 1, "seq": "3"}), "{removed}");
    let guest = |line: &str| line.contains("A message of guest-") && line.contains(" was removed.");
    for (place, member) in members.iter_mut().enumerate() {
        if place == 0 {
            member.expect(&text(&said[1])).await?;
        }
        let told = member.json().await?.to_string();
        ensure!(guest(&told), "{place} of {group}: {told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_removes_no_node_has_whoever_owns_the_group_then() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    let groups: Vec<String> = (0..GROUPS).map(|number| format!("group-{number}")).collect();
    let (mut ada, mut bob) = (hello(&cluster, 0, "ada").await?, hello(&cluster, 1, "bob").await?);
    let told = |text: &str| (text.to_owned(), false);
    let gone = || (String::new(), true);
    for (number, group) in groups.iter().enumerate() {
        ask(&mut bob, json!({"Join": {"group_name": group}}), json!({"Joined": {}})).await?;
        // In one frame, so that some are stored together.
        for text in ["one", "two", "three", "four"] {
            ada.line(&json!({"Post": {"group_name": group, "message": text, "id": text}}).to_string()).await?;
        }
        for text in ["one", "two", "three", "four"] {
            ada.expect_json(&json!({"Posted": {"id": text}})).await?;
            bob.expect_json(&json!({"Message": {"message": text}})).await?;
        }
        // By turns through the one and the other node: the groups are on both.
        let server = &cluster.nodes[number % 2];
        let range = json!({"group_name": group, "first_seq": 2, "last_seq": 3, "user": "ada"});
        let removed = server.admin("RemoveMessages", range).await?;
        ensure!(removed == json!({"removedMessages": 2, "seq": "5"}), "{removed}");
        let text = "2 messages of ada were removed.";
        let removes = json!({"first": 2, "last": 3, "sender": "ada"});
        bob.expect_json(&json!({"Message": {"seq": 5, "message": text, "removes": removes}})).await?;
        let wanted = [told("one"), gone(), gone(), told("four"), told(text)];
        for client in [&mut ada, &mut bob] {
            ensure!(history(client, group).await? == wanted, "{group}");
        }
        // Also the newest, so that of what was said nothing is left in its place.
        let removed = server.admin("RemoveMessages", json!({"group_name": group, "first_seq": 4})).await?;
        ensure!(removed == json!({"removedMessages": 1, "seq": "6"}), "{removed}");
        bob.expect_json(&json!({"Message": {"seq": 6, "removes": {"first": 4, "last": 4}}})).await?;
        ask(
            &mut ada,
            json!({"Post": {"group_name": group, "message": "two", "id": "two"}}),
            json!({"Posted": {"seq": 2}}),
        )
        .await?;
    }
    for group in ["classic-0", "classic-1", "classic-2"] {
        classic_members_are_told(&cluster, group).await?;
    }
    drop(ada);
    cluster.nodes[0].kill().await?;
    cluster.agreed_among([1], 1).await?;
    for group in &groups {
        let read = history(&mut bob, group).await?;
        let removed: Vec<bool> = read.iter().map(|(_, removed)| *removed).collect();
        ensure!(removed == [false, true, true, true, false, false], "{group}: {read:?}");
        let post = json!({"Post": {"group_name": group, "message": "five", "id": "five"}});
        bob.line(&post.to_string()).await?;
        bob.expect_all(&[json!({"Posted": {"seq": 7}}), json!({"Message": {"seq": 7}})]).await?;
    }
    Ok(())
}
