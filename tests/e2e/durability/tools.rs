//! `tertulia-server log`: what operators do with the directory of a server that does not run.

use std::fs;
use std::path::Path;

use anyhow::Result;
use harness::deadline::PATIENCE;
use harness::{Server, ServerOptions};
use serde_json::{Value, json};

use crate::run;

/// A server on disk with ten messages in `Dogs` and one in `Cats`, stopped: cleanly, or killed.
async fn stopped(cleanly: bool) -> Result<Server> {
    let mut server = ServerOptions::new().on_disk().set("log.apply_interval", "1h").start().await?;
    let mut ada = server.connector().extended("ada").await?;
    for (group, count) in [("Dogs", 10), ("Cats", 1)] {
        ada.join(group).await?;
        for number in 1..=count {
            ada.post(group, &format!("{group} {number}"), &format!("a{number}")).await?;
        }
    }
    if cleanly {
        server.terminate()?;
        assert!(server.wait(PATIENCE).await?.success());
    } else {
        server.kill().await?;
    }
    Ok(server)
}

/// A run that succeeds: what it wrote.
fn succeeds(arguments: &[&str], data: &Path) -> Result<String> {
    let (code, stdout, stderr) = run(arguments, data)?;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    Ok(stdout)
}

fn exported(arguments: &[&str], data: &Path) -> Result<Vec<Value>> {
    let text = succeeds(arguments, data)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test]
async fn verify_and_stats_count_what_is_there() -> Result<()> {
    for cleanly in [true, false] {
        let server = stopped(cleanly).await?;
        let data = server.data_dir();
        let told: Value = serde_json::from_str(&succeeds(&["log", "verify", "--format", "json"], &data)?)?;
        let replayed = if cleanly { 0 } else { 11 };
        assert_eq!((&told["groups"], &told["messages"], &told["replayed"]), (&json!(2), &json!(11), &json!(replayed)));
        let text = succeeds(&["log", "verify"], &data)?;
        assert!(text.contains("is whole: 2 groups with 11 messages\n"), "{text}");
        let text = succeeds(&["log", "stats"], &data)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[..4], ["2", "groups", "11", "messages"], "{text}");
        let stats: Value = serde_json::from_str(&succeeds(&["log", "stats", "--format", "json"], &data)?)?;
        assert!(stats["table_bytes"].as_u64() > Some(0) && stats["commit_log_bytes"].as_u64() > Some(0), "{stats}");
    }
    Ok(())
}

#[tokio::test]
async fn export_writes_each_message_of_a_group() -> Result<()> {
    let server = stopped(false).await?;
    let data = server.data_dir();
    let lines = exported(&["log", "export", "--group", "Dogs", "--format", "jsonl"], &data)?;
    assert_eq!(lines.len(), 10);
    for (number, line) in (1..).zip(&lines) {
        assert_eq!(
            (&line["group_name"], &line["seq"], &line["sender"]),
            (&json!("Dogs"), &json!(number), &json!("ada"))
        );
        let text = format!("Dogs {number}");
        assert_eq!((&line["message"], &line["id"]), (&json!(text), &json!(format!("a{number}"))));
        assert!(line["at"].as_u64() > Some(1_600_000_000_000) && line["epoch"] == lines[0]["epoch"], "{line}");
    }
    let file = data.with_file_name("dogs.jsonl");
    let to_file = ["log", "export", "--group", "Dogs", "--output", &file.display().to_string()];
    assert!(succeeds(&to_file, &data)?.starts_with("wrote 10 messages to "));
    assert_eq!(fs::read_to_string(&file)?.lines().count(), 10);
    let (code, _, told) = run(&to_file, &data)?;
    assert_eq!(code, Some(1), "an export overwrites nothing: {told}");
    let (code, stdout, told) = run(&["log", "export", "--group", "Birds"], &data)?;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(told.contains("the log has no group 'Birds'"), "{told}");
    assert_eq!(run(&["log", "export", "--group", ""], &data)?.0, Some(2));
    Ok(())
}

#[tokio::test]
async fn a_backup_serves_as_a_data_directory() -> Result<()> {
    let mut server = stopped(false).await?;
    let data = server.data_dir();
    let copy = data.with_file_name("copy");
    let told = succeeds(&["log", "backup", &copy.display().to_string()], &data)?;
    assert!(told.contains("2 groups"), "{told}");
    let (code, _, told) = run(&["log", "backup", &copy.display().to_string()], &data)?;
    assert_eq!(code, Some(1));
    assert!(told.contains("is not empty: give a new or an empty directory"), "{told}");

    // The original is lost.
    fs::remove_dir_all(&data)?;
    fs::rename(&copy, &data)?;
    server.restart().await?;
    let mut ada = server.connector().extended("ada").await?;
    let log = ada.read_log("Dogs").await?;
    assert_eq!(log.messages.len(), 10);
    assert_eq!(ada.post("Dogs", "Dogs 10", "a10").await?.seq, 10, "ids are in the copy too");
    assert_eq!(ada.post("Dogs", "Dogs 11", "a11").await?.seq, 11);
    Ok(())
}

#[tokio::test]
async fn nothing_is_made_where_there_is_no_log() -> Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    for arguments in
        [&["log", "verify"][..], &["log", "stats"], &["log", "export", "--group", "Dogs"], &["log", "backup", "b"]]
    {
        let (code, _, told) = run(arguments, &data)?;
        assert_eq!(code, Some(1));
        assert!(told.contains(&format!("there is no log in {}", data.display())), "{told}");
        assert!(!data.exists());
    }
    let (code, _, told) = run(&["log", "stats", "--engine", "memory"], &data)?;
    assert_eq!(code, Some(1));
    assert!(told.contains("log.engine is not embedded"), "{told}");
    Ok(())
}
