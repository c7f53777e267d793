//! Moderators remove the texts of messages: what members, late comers and moderators see of it, also after a kill.

use anyhow::{Context, Result, ensure};
use harness::{RawClient, Server, ServerOptions};
use serde_json::{Value, json};

use crate::extended::{ask, hello, join};

const SPAM: &str = "buy my coins";

fn remove(first: u64, last: u64, user: &str) -> Value {
    json!({"group_name": "Dogs", "first_seq": first, "last_seq": last, "user": user, "reason": "spam"})
}

async fn post(client: &mut RawClient, text: &str, id: &str) -> Result<Value> {
    let post = json!({"Post": {"group_name": "Dogs", "message": text, "id": id}});
    ask(client, post, json!({"Posted": {"id": id}})).await
}

/// All that the server has of the group.
async fn history(client: &mut RawClient) -> Result<Vec<Value>> {
    let page = ask(client, json!({"History": {"group_name": "Dogs", "after": 0}}), json!({"History": {}})).await?;
    page["History"]["messages"].as_array().cloned().context("no messages")
}

fn texts(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["message"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn members_are_told_and_who_comes_later_finds_no_text() -> Result<()> {
    let server = Server::start().await?;
    let mut bob = hello(&server, "bob").await?;
    let epoch = join(&mut bob, "Dogs").await?["Joined"]["epoch"].clone();
    let mut classic = server.connector().raw().await?;
    classic.line(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    classic.line(r#"{"Post":{"group_name":"Dogs","message":"woof"}}"#).await?;
    classic.expect(r#"{"Message":{"group_name":"Dogs","message":"woof"}}"#).await?;
    bob.expect_json(&json!({"Message": {"seq": 1}})).await?;
    let mut eve = hello(&server, "eve").await?;
    let posted = post(&mut eve, SPAM, "e-1").await?["Posted"].clone();
    post(&mut eve, "hello", "e-2").await?;
    for text in [SPAM, "hello"] {
        bob.expect_json(&json!({"Message": {"message": text}})).await?;
        classic.expect(&json!({"Message": {"group_name": "Dogs", "message": text}}).to_string()).await?;
    }

    let removed = json!({"removedMessages": 1, "seq": "4"});
    ensure!(server.admin("RemoveMessages", remove(2, 0, "")).await? == removed);
    let told = "A message of eve was removed: spam";
    let tells =
        json!({"Message": {"seq": 4, "sender": "@system", "message": told, "removes": {"first": 2, "last": 2}}});
    bob.expect_json(&tells).await?;
    classic.expect(&json!({"Message": {"group_name": "Dogs", "message": told}}).to_string()).await?;
    // Asked for again, it is told to nobody again; nor does a repeat of the post bring it back.
    ensure!(server.admin("RemoveMessages", remove(2, 0, "")).await? == removed);
    ensure!(post(&mut eve, SPAM, "e-1").await?["Posted"] == posted);

    let gone = json!({"seq": 2, "sender": "eve", "message": "", "id": "e-1", "removed": true, "at": posted["at"]});
    let all = history(&mut bob).await?;
    ensure!(all[1] == gone && all.len() == 4, "{all:?}");
    ensure!(all[3]["removes"] == json!({"first": 2, "last": 2}) && all[3].get("removed").is_none(), "{all:?}");
    let mut late = hello(&server, "late").await?;
    for from in [json!({"after": 0, "epoch": epoch}), json!({"last": 3})] {
        let mut wanted = gone.clone();
        wanted["group_name"] = json!("Dogs");
        let mut request = from.clone();
        request["group_name"] = json!("Dogs");
        ask(&mut late, json!({ "Join": request }), json!({"Joined": {"recovered": true, "head": 4}})).await?;
        if from.get("after").is_some() {
            late.expect_json(&json!({"Message": {"seq": 1, "message": "woof"}})).await?;
        }
        late.expect_json(&json!({ "Message": wanted })).await?;
        for seq in [3, 4] {
            late.expect_json(&json!({"Message": {"seq": seq}})).await?;
        }
    }
    let listed = server.admin("ListMessages", json!({"group_name": "Dogs"})).await?;
    let listed = listed["messages"].as_array().context("no messages")?;
    ensure!(listed[2]["removed"] == true && listed[2].get("text").is_none(), "{listed:?}");
    ensure!(listed[0]["removes"] == json!({"firstSeq": "2", "lastSeq": "2"}), "{listed:?}");
    Ok(())
}

#[tokio::test]
async fn a_wave_of_spam_is_taken_back_at_once_and_stays_away_after_a_kill() -> Result<()> {
    let mut server = ServerOptions::new().on_disk().start().await?;
    let mut bob = hello(&server, "bob").await?;
    join(&mut bob, "Dogs").await?;
    let mut eve = hello(&server, "eve").await?;
    for number in 1..=20 {
        post(&mut eve, SPAM, &format!("e-{number}")).await?;
        bob.line(
            &json!({"Post": {"group_name": "Dogs", "message": "stop it", "id": format!("b-{number}")}}).to_string(),
        )
        .await?;
        bob.expect_all(&[
            json!({"Message": {"message": SPAM}}),
            json!({"Message": {"message": "stop it"}}),
            json!({"Posted": {}}),
        ])
        .await?;
    }
    ensure!(server.admin("RemoveMessages", remove(3, 40, "eve")).await? == json!({"removedMessages": 19, "seq": "41"}));
    let removes = json!({"first": 3, "last": 39, "sender": "eve"});
    let told = "19 messages of eve were removed: spam";
    bob.expect_json(&json!({"Message": {"seq": 41, "message": told, "removes": removes}})).await?;
    let before = history(&mut bob).await?;
    ensure!(texts(&before).iter().filter(|text| **text == SPAM).count() == 1);
    ensure!(texts(&before).iter().filter(|text| **text == "stop it").count() == 20);

    server.kill().await?;
    server.restart().await?;
    let mut bob = hello(&server, "bob").await?;
    ensure!(history(&mut bob).await? == before);
    ensure!(
        server.admin("RemoveMessages", remove(1, 0, "")).await? == json!({"removedMessages": 1, "seq": "42"}),
        "what was before the kill goes on being removed"
    );
    // The ids were read from the log again: a repeat is known, stores nothing and brings no text back.
    let mut eve = hello(&server, "eve").await?;
    ensure!(post(&mut eve, SPAM, "e-5").await?["Posted"]["seq"] == 9);
    let all = history(&mut bob).await?;
    ensure!(all.len() == 42 && !texts(&all).contains(&SPAM), "{all:?}");
    let mut late = hello(&server, "late").await?;
    let from_the_first = json!({"Join": {"group_name": "Dogs", "after": 0}});
    ask(&mut late, from_the_first, json!({"Joined": {"head": 42}})).await?;
    for past in &all {
        late.expect_json(&json!({ "Message": past })).await?;
    }
    let listed = server.admin("ListMessages", json!({"group_name": "Dogs", "user": "eve"})).await?;
    let listed = listed["messages"].as_array().context("no messages")?;
    let is_gone = |message: &Value| message["removed"] == true && message.get("text").is_none();
    ensure!(listed.len() == 20 && listed.iter().all(is_gone), "{listed:?}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_removed_is_refused_with_the_reason() -> Result<()> {
    let server = Server::start().await?;
    let mut bob = hello(&server, "bob").await?;
    join(&mut bob, "Dogs").await?;
    bob.line(&json!({"Post": {"group_name": "Dogs", "message": "woof", "id": "1"}}).to_string()).await?;
    bob.expect_all(&[json!({"Message": {}}), json!({"Posted": {}})]).await?;
    let other_life = json!({"group_name": "Dogs", "first_seq": 1, "epoch": 1});
    let elsewhere = json!({"group_name": "Cats", "first_seq": 1});
    for (request, code) in [
        (remove(2, 0, ""), "NotFound"),
        (remove(1, 9, "eve"), "NotFound"),
        (other_life, "NotFound"),
        (elsewhere, "NotFound"),
        (remove(0, 9, ""), "InvalidArgument"),
        (remove(3, 2, ""), "InvalidArgument"),
        (remove(1, 10_001, ""), "InvalidArgument"),
    ] {
        let refused = server.admin("RemoveMessages", request.clone()).await;
        let text = refused.err().map(|error| format!("{error:#}")).context("it was done")?;
        ensure!(text.contains(code), "{request}: {text}");
    }
    ensure!(texts(&history(&mut bob).await?) == ["woof"]);
    Ok(())
}
