//! `tertulia-server log`: what operators do with the directory of a server that does not run.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use harness::deadline::{PATIENCE, poll_until};
use harness::metrics::Metrics;
use harness::{Server, ServerOptions, within};
use serde_json::{Value, json};

use crate::{program, run};

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
    // Whoever reads it may have seen enough.
    let (reader, writer) = io::pipe()?;
    drop(reader);
    let mut unread = program()?;
    unread.args(["log", "export", "--group", "Dogs", "--data-dir"]).arg(&data).stdout(writer);
    let output = unread.output()?;
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), ""));
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

    let seen = exported(&["log", "export", "--group", "Dogs"], &copy)?[9]["epoch"].as_u64();
    // The original is lost.
    fs::remove_dir_all(&data)?;
    fs::rename(&copy, &data)?;
    server.restart().await?;
    let mut ada = server.connector().extended("ada").await?;
    let log = ada.read_log("Dogs").await?;
    assert_eq!(log.messages.len(), 10);
    assert_eq!(ada.post("Dogs", "Dogs 10", "a10").await?.seq, 10, "ids are in the copy too");
    assert_eq!(ada.post("Dogs", "Dogs 11", "a11").await?.seq, 11);
    // What she has seen may not be what others posted since under the same numbers.
    let joined = ada.join_from("Dogs", Some(10), None, seen).await?;
    assert!(!joined.recovered && seen.is_some_and(|seen| joined.epoch > seen), "{joined:?}");
    Ok(())
}

/// Asks a running server for a backup with grpcurl, as an operator does: whether it succeeded, and what it printed.
async fn ask_for_backup(server: &Server, name: &str) -> Result<(bool, String)> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::env::split_paths(&path).chain([fetched]))?;
    let address = server.listening().admin.context("no admin API")?.to_string();
    let request = json!({"name": name}).to_string();
    let call = "tertulia.admin.v1.AdminService/CreateBackup";
    let mut grpcurl = tokio::process::Command::new("grpcurl");
    grpcurl.args(["-plaintext", "-d", &request, &address, call]).env("PATH", path).kill_on_drop(true);
    let asked = async { grpcurl.output().await.context("run grpcurl: tests/tools/fetch grpcurl brings it") };
    let output = within(PATIENCE, "grpcurl", asked).await?;
    let told = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&told).into_owned()))
}

/// When the newest backup was made, as a server tells.
async fn newest_backup(server: &Server) -> Result<f64> {
    let told = Metrics::scrape(server.http()).await?.sum("tertulia_backup_newest_timestamp_seconds", &[]);
    told.context("it does not tell when the newest backup was made")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_backed_up_while_posts_go_on() -> Result<()> {
    let home = tempfile::tempdir()?;
    let backups = home.path().join("backups");
    let server = ServerOptions::new().on_disk().set("admin.backup_dir", backups.display()).start().await?;
    let begun = newest_backup(&server).await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    for number in 1..=200 {
        ada.post("Dogs", &format!("Dogs {number}"), &format!("a{number}")).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let posting = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut number = 200;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                ada.post("Dogs", &format!("Dogs {number}"), &format!("a{number}")).await?;
            }
            anyhow::Ok(number)
        }
    });
    let (succeeded, told) = ask_for_backup(&server, "monday").await?;
    stop.store(true, Ordering::Relaxed);
    let posted = posting.await??;
    assert!(succeeded && posted > 200, "{told}");
    let copy = backups.join("monday");
    assert!(told.contains("\"finished\"") && told.contains(&copy.display().to_string()), "{told}");
    assert!(told.contains("\"groups\": \"1\""), "{told}");

    let lines = exported(&["log", "export", "--group", "Dogs"], &copy)?;
    assert!((200..=posted).contains(&lines.len()), "{} of {posted}", lines.len());
    for (number, line) in (1..).zip(&lines) {
        assert_eq!((&line["seq"], &line["message"]), (&json!(number), &json!(format!("Dogs {number}"))));
    }
    assert!(succeeds(&["log", "verify"], &copy)?.contains("is whole: 1 groups"));
    let made = newest_backup(&server).await?;
    assert!(made > begun, "{begun} {made}");

    let (succeeded, told) = ask_for_backup(&server, "monday").await?;
    assert!(!succeeded && told.contains("AlreadyExists") && told.contains("choose another name"), "{told}");
    let (succeeded, told) = ask_for_backup(&server, "../tuesday").await?;
    assert!(!succeeded && told.contains("InvalidArgument"), "{told}");
    let entries: Vec<_> = fs::read_dir(&backups)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(entries, ["monday"], "nothing else is left");

    let in_memory = ServerOptions::new().in_memory().set("admin.backup_dir", backups.display()).start().await?;
    // It began later, and has found the one that is there.
    poll_until(PATIENCE, "the time of the backup that is there", || async {
        let found = newest_backup(&in_memory).await?;
        Ok((found > made).then(|| format!("{found}, made {made}")))
    })
    .await?;

    // The copy serves.
    let restored = ServerOptions::new().on_disk().data_dir(copy).start().await?;
    let mut bob = restored.connector().extended("bob").await?;
    assert_eq!(bob.read_log("Dogs").await?.messages.len(), lines.len());
    let (succeeded, told) = ask_for_backup(&restored, "").await?;
    assert!(!succeeded && told.contains("FailedPrecondition") && told.contains("admin.backup_dir"), "{told}");
    let (succeeded, told) = ask_for_backup(&in_memory, "memory").await?;
    assert!(!succeeded && told.contains("FailedPrecondition") && told.contains("only the engine embedded"), "{told}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_made_where_there_is_no_log() -> Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    for arguments in [
        &["log", "verify"][..],
        &["log", "stats"],
        &["log", "export", "--group", "Dogs"],
        &["log", "backup", "b"],
        &["log", "forget-commit-log"],
    ] {
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
