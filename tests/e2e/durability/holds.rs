//! Whom moderators keep out stays out when the server is killed.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::poll_until;
use harness::{Server, ServerOptions};
use serde_json::json;

use crate::run;

async fn join(server: &Server, user: &str, group: &str) -> Result<Option<String>> {
    let mut client = server.connector().extended(user).await?;
    client.refusal(&json!({"Join": {"group_name": group}})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_survive_a_kill_and_end_when_they_are_over() -> Result<()> {
    let mut server = ServerOptions::new().on_disk().start().await?;
    let mut ada = server.connector().extended("ada").await?;
    for group in ["Dogs", "Cats", "Birds"] {
        ada.join(group).await?;
        ada.post(group, "hello", "1").await?;
    }
    // One to which nobody has posted is in memory alone.
    ada.join("Empty").await?;
    server.admin("KickMember", json!({"group_name": "Dogs", "user": "ada", "hold_seconds": 3600})).await?;
    server.admin("KickMember", json!({"user": "eve", "hold_seconds": 3600})).await?;
    server.admin("KickMember", json!({"group_name": "Cats", "user": "bob", "hold_seconds": 5})).await?;
    server.admin("CloseGroup", json!({"group_name": "Birds", "hold_seconds": 3600})).await?;
    server.admin("CloseGroup", json!({"group_name": "Empty", "hold_seconds": 3600})).await?;
    // Each kill comes at once after the answer.
    for user in 0..5 {
        let held = json!({"group_name": "Cats", "user": format!("u{user}"), "hold_seconds": 3600});
        server.admin("KickMember", held).await?;
        server.kill().await?;
        server.restart().await?;
    }
    ensure!(join(&server, "ada", "Dogs").await?.as_deref() == Some("kicked"));
    ensure!(join(&server, "ada", "Cats").await?.is_none());
    ensure!(join(&server, "eve", "Cats").await?.as_deref() == Some("kicked"));
    ensure!(join(&server, "ada", "Birds").await?.as_deref() == Some("closed"));
    ensure!(join(&server, "ada", "Empty").await?.as_deref() == Some("closed"));
    for user in 0..5 {
        ensure!(join(&server, &format!("u{user}"), "Cats").await?.as_deref() == Some("kicked"), "u{user}");
    }
    let mut ada = server.connector().extended("ada").await?;
    for kind in ["History", "Members"] {
        ensure!(ada.refusal(&json!({kind: {"group_name": "Dogs"}})).await?.as_deref() == Some("kicked"));
        ensure!(ada.refusal(&json!({kind: {"group_name": "Birds"}})).await?.as_deref() == Some("closed"));
        ensure!(ada.refusal(&json!({kind: {"group_name": "Cats"}})).await?.is_none());
    }
    let birds = server.admin("GetGroup", json!({"group_name": "Birds"})).await?;
    ensure!(birds["group"]["closedUntil"].is_string(), "{birds}");
    // What is over is over, and what is opened stays open.
    poll_until(Duration::from_secs(20), "the end of bob's hold", async || join(&server, "bob", "Cats").await).await?;
    for group in ["Birds", "Empty"] {
        server.admin("CloseGroup", json!({"group_name": group})).await?;
    }
    server.kill().await?;
    server.restart().await?;
    ensure!(join(&server, "ada", "Birds").await?.is_none());
    ensure!(join(&server, "ada", "Empty").await?.is_none());
    ensure!(join(&server, "ada", "Dogs").await?.as_deref() == Some("kicked"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_holds_stops_the_start_and_is_named() -> Result<()> {
    let mut server = ServerOptions::new().on_disk().start().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    server.admin("KickMember", json!({"group_name": "Dogs", "user": "ada", "hold_seconds": 3600})).await?;
    server.kill().await?;
    let file = server.data_dir().join("notes");
    let whole = fs::read_to_string(&file)?;
    fs::write(&file, whole.replace("ada", "abe"))?;
    let (code, _, complaint) = run(&["log", "verify"], &server.data_dir())?;
    ensure!(code == Some(1) && complaint.contains("notes"), "{complaint}");
    ensure!(server.restart().await.is_err(), "it starts without what moderators hold");
    ensure!(server.log()?.contains(&file.display().to_string()), "{}", server.log()?);
    fs::write(&file, whole)?;
    server.restart().await?;
    ensure!(join(&server, "ada", "Dogs").await?.as_deref() == Some("kicked"));
    Ok(())
}
