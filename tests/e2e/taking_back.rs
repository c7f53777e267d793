//! Users take back messages of their own: who may, and what the others see of it.

use std::fs;

use anyhow::{Context, Result};
use harness::deadline::PATIENCE;
use harness::issuer::Issuer;
use harness::metrics::Metrics;
use harness::terminal::Terminal;
use harness::{RawClient, Server};
use serde_json::{Value, json};

use crate::extended::{ask, join};

const TOLD: &str = "A message of ada was removed.";

async fn welcome(server: &Server, token: &str) -> Result<RawClient> {
    let mut client = server.connector().raw().await?;
    ask(&mut client, json!({"Hello": {"version": 1, "token": token}}), json!({"Welcome": {}})).await?;
    Ok(client)
}

fn post(message: &str) -> Value {
    json!({"Post": {"group_name": "Dogs", "message": message, "id": message}})
}

fn remove(seq: u64) -> Value {
    json!({"Remove": {"group_name": "Dogs", "seq": seq}})
}

fn refused(code: &str) -> Value {
    json!({"Rejected": {"code": code, "request": "Remove", "group_name": "Dogs"}})
}

/// The texts of all messages of the group.
async fn texts(client: &mut RawClient) -> Result<Vec<Value>> {
    let page = ask(client, json!({"History": {"group_name": "Dogs", "after": 0}}), json!({"History": {}})).await?;
    let messages = page["History"]["messages"].as_array().context("no messages")?;
    Ok(messages.iter().map(|message| message["message"].clone()).collect())
}

#[tokio::test]
async fn an_own_message_is_taken_back_and_all_members_are_told() -> Result<()> {
    let issuer = Issuer::new()?;
    let server = issuer.server().set("auth.guests", true).start().await?;
    let (mut ada, mut bob) = (
        welcome(&server, &issuer.token("ada", 600, json!({}))?).await?,
        welcome(&server, &issuer.token("bob", 600, json!({}))?).await?,
    );
    let mut classic = server.connector().raw().await?;
    classic.line(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    classic.line(r#"{"Post":{"group_name":"Dogs","message":"woof"}}"#).await?;
    classic.expect(r#"{"Message":{"group_name":"Dogs","message":"woof"}}"#).await?;
    let epoch = join(&mut bob, "Dogs").await?["Joined"]["epoch"].clone();
    // She need not be in the group.
    ask(&mut ada, post("oh no"), json!({"Posted": {"seq": 2}})).await?;
    bob.line(&post("what?").to_string()).await?;
    let mine = json!({"Message": {"seq": 3, "sender": "bob"}});
    bob.expect_all(&[json!({"Message": {"seq": 2, "message": "oh no"}}), mine, json!({"Posted": {"seq": 3}})]).await?;

    let removed = json!({"Removed": {"group_name": "Dogs", "epoch": epoch, "seq": 2, "told_by": 4}});
    ask(&mut ada, remove(2), removed.clone()).await?;
    let removes = json!({"first": 2, "last": 2, "sender": "ada"});
    let told = json!({"Message": {"seq": 4, "sender": "@system", "message": TOLD, "removes": removes}});
    bob.expect_json(&told).await?;
    for message in ["oh no", "what?", TOLD] {
        classic.expect(&json!({"Message": {"group_name": "Dogs", "message": message}}).to_string()).await?;
    }
    // A repeat tells nobody anything, and on another connection she is the same.
    let mut again = welcome(&server, &issuer.token("ada", 600, json!({}))?).await?;
    ask(&mut again, remove(2), removed).await?;
    // What is a guest's, somebody else's, the server's, or not there at all is the same to her.
    for seq in [1, 3, 4, 5] {
        ask(&mut ada, remove(seq), refused("no_such_message")).await?;
    }
    assert_eq!(texts(&mut bob).await?, ["woof", "", "what?", TOLD]);
    let other_life = json!({"Remove": {"group_name": "Dogs", "seq": 3, "epoch": 1}});
    ask(&mut bob, other_life, refused("no_such_message")).await?;
    // Who is in the group hears of it twice, in either order.
    bob.line(&remove(3).to_string()).await?;
    bob.expect_all(&[json!({"Removed": {"seq": 3, "told_by": 5}}), json!({"Message": {"seq": 5}})]).await?;

    let metrics = Metrics::scrape(server.http()).await?;
    assert_eq!(metrics.sum("tertulia_requests_total", &[("kind", "remove")]), Some(8.0));
    assert_eq!(metrics.sum("tertulia_rejections_total", &[("code", "no_such_message")]), Some(5.0));
    Ok(())
}

#[tokio::test]
async fn who_proves_nothing_or_may_not_post_takes_nothing_back() -> Result<()> {
    let issuer = Issuer::new()?;
    let server = issuer.server().set("auth.guests", true).start().await?;
    let mut guest = server.connector().raw().await?;
    ask(&mut guest, json!({"Hello": {"version": 1}}), json!({"Welcome": {}})).await?;
    let mut ada = welcome(&server, &issuer.token("ada", 600, json!({}))?).await?;
    join(&mut ada, "Dogs").await?;
    ask(&mut ada, json!({"Leave": {"group_name": "Dogs"}}), json!({"Left": {}})).await?;
    ask(&mut guest, post("hello"), json!({"Posted": {"seq": 1}})).await?;
    ask(&mut ada, post("hello"), json!({"Posted": {"seq": 2}})).await?;

    ask(&mut guest, remove(1), refused("forbidden")).await?;
    let reader = json!({"tertulia": {"post": ["Cats"]}});
    let mut less = welcome(&server, &issuer.token("ada", 600, reader)?).await?;
    ask(&mut less, remove(2), refused("forbidden")).await?;
    // The token counts that was shown last.
    ask(&mut less, json!({"Refresh": {"token": issuer.token("ada", 600, json!({}))?}}), json!({"Refreshed": {}}))
        .await?;

    let hold = json!({"group_name": "Dogs", "user": "ada", "hold_seconds": 600});
    server.admin("KickMember", hold).await?;
    let kicked = ask(&mut less, remove(2), refused("kicked")).await?;
    assert!(kicked["Rejected"]["retry_after_ms"].is_u64(), "{kicked}");
    server.admin("RemoveHold", json!({"group_name": "Dogs", "user": "ada"})).await?;
    server.admin("CloseGroup", json!({"group_name": "Dogs", "hold_seconds": 600})).await?;
    ask(&mut less, remove(2), refused("closed")).await?;
    server.admin("RemoveHold", json!({"group_name": "Dogs"})).await?;
    assert_eq!(texts(&mut ada).await?, ["hello", "hello"]);
    ask(&mut less, remove(2), json!({"Removed": {"seq": 2, "told_by": 3}})).await?;

    let off = issuer.server().set("chat.remove_own", false).start().await?;
    let mut bob = welcome(&off, &issuer.token("bob", 600, json!({}))?).await?;
    join(&mut bob, "Dogs").await?;
    ask(&mut bob, remove(1), refused("forbidden")).await?;
    Ok(())
}

#[tokio::test]
async fn the_terminal_client_takes_back_what_was_typed_last() -> Result<()> {
    let (issuer, directory) = (Issuer::new()?, tempfile::tempdir()?);
    let server = issuer.server().start().await?;
    let (address, file) = (server.chat().to_string(), directory.path().join("token"));
    fs::write(&file, issuer.token("ada", 600, json!({}))?)?;
    let mut terminal =
        Terminal::start(&[&address, "--token-file", &file.display().to_string(), "--join", "Dogs", "--linger", "60"])?;
    for line in ["hello", "oh no", "remove"] {
        terminal.types(line).await?;
    }
    terminal.hang_up();
    for (seq, sender, text) in [(1, "ada", "hello"), (2, "ada", "oh no"), (3, "@system", TOLD)] {
        let line = terminal.line().await?;
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!([&fields[..3], &fields[4..]].concat(), ["message", "Dogs", &seq.to_string(), sender, text]);
    }
    let (code, said) = terminal.end(PATIENCE).await?;
    assert!(code == Some(0) && said.contains("removed from Dogs: oh no"), "{code:?}: {said}");
    let mut ada = welcome(&server, &issuer.token("ada", 600, json!({}))?).await?;
    assert_eq!(texts(&mut ada).await?, ["hello", "", TOLD]);
    Ok(())
}
