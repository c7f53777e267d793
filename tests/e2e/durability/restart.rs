//! What a start finds on the disk: what a crash left, what belongs to another process, and what is broken.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::deadline::PATIENCE;
use harness::{Server, ServerOptions};

use crate::run;

/// What the commit log is aligned to.
const PAGE: usize = 4096;

/// The newest file of the commit log.
fn newest_commit_file(data: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(data)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("commit-"));
    files.into_iter().filter(is_one).max().context("there is no commit log")
}

/// Where the pages end that are not empty.
fn written(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last / PAGE + 1) * PAGE)
}

/// A server on disk with the messages 1 to `count` in `Dogs`, killed.
async fn killed(count: u64) -> Result<Server> {
    // What was posted stays in the commit log.
    let options = ServerOptions::new().on_disk().set("log.apply_interval", "1h");
    let mut server = options.start().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    for seq in 1..=count {
        assert_eq!(ada.post("Dogs", &seq.to_string(), &format!("a{seq}")).await?.seq, seq);
    }
    server.kill().await?;
    Ok(server)
}

/// How a start that fails ends: the exit code, and its one line.
fn refused(data: &Path) -> Result<String> {
    let ports = ["--chat", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "off"];
    let (code, stdout, stderr) = run(&ports, data)?;
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{stderr}");
    Ok(stderr.trim_end().to_owned())
}

#[tokio::test]
async fn a_post_is_known_by_its_id_after_a_crash_and_after_a_clean_stop() -> Result<()> {
    let mut server = killed(3).await?;
    for next in [4, 5] {
        server.restart().await?;
        let mut ada = server.connector().extended("ada").await?;
        let mut bob = server.connector().extended("bob").await?;
        // As one does that had no answer.
        for seq in 1..next {
            assert_eq!(ada.post("Dogs", &seq.to_string(), &format!("a{seq}")).await?.seq, seq, "stored again");
        }
        assert_eq!(ada.post("Dogs", &next.to_string(), &format!("a{next}")).await?.seq, next);
        let log = bob.read_log("Dogs").await?;
        assert_eq!(log.messages.len() as u64, next);
        server.terminate()?;
        assert!(server.wait(PATIENCE).await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_told() -> Result<()> {
    let mut server = killed(3).await?;
    let file = newest_commit_file(&server.data_dir())?;
    // A block that was begun and not finished: like the last one, but with another content than its checksum says.
    let mut content = fs::read(&file)?;
    let end = written(&content);
    let torn: Vec<u8> =
        content[end - PAGE..end].iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 60)).collect();
    content[end..end + PAGE].copy_from_slice(&torn);
    fs::write(&file, content)?;

    server.restart().await?;
    let log = server.until_logged("torn tail").await?;
    let told = log.lines().find(|line| line.contains("torn tail")).context("nothing is said of the torn tail")?;
    assert!(told.contains(&format!("offset={end}")) && told.contains("commit-"), "{told}");
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    assert_eq!(ada.post("Dogs", "4", "a4").await?.seq, 4);
    assert_eq!(ada.read_log("Dogs").await?.messages.len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_corrupt_commit_log_stops_the_start_and_can_be_given_up() -> Result<()> {
    let mut server = killed(3).await?;
    let file = newest_commit_file(&server.data_dir())?;
    let mut content = fs::read(&file)?;
    // In the first of several blocks, of which the later ones say that it had been on the disk.
    content[PAGE + 60] ^= 1;
    fs::write(&file, content)?;
    let told = refused(&server.data_dir())?;
    assert!(told.contains("the commit log is corrupt: ") && told.contains(&file.display().to_string()), "{told}");
    assert!(told.contains(&format!("at byte {PAGE}")) && told.contains("restore a backup"), "{told}");
    let (code, _, verified) = run(&["log", "verify"], &server.data_dir())?;
    assert_eq!(code, Some(1));
    assert!(verified.contains("the commit log is corrupt: "), "{verified}");

    // While the file is there, nothing of it is given up.
    let (code, _, kept) = run(&["log", "forget-commit-log"], &server.data_dir())?;
    assert_eq!(code, Some(1));
    assert!(kept.contains(&file.display().to_string()) && kept.contains("move this file"), "{kept}");
    fs::remove_file(&file)?;
    let told = refused(&server.data_dir())?;
    assert!(told.contains("is missing") && told.contains("`tertulia-server log forget-commit-log`"), "{told}");
    let (code, given_up, complaint) = run(&["log", "forget-commit-log"], &server.data_dir())?;
    assert_eq!(code, Some(0), "{complaint}");
    assert!(given_up.contains("goes on without") && given_up.contains("it has 0 groups"), "{given_up}");
    // Nothing had been moved into the tables.
    server.restart().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    assert_eq!(ada.post("Dogs", "1", "b1").await?.seq, 1);
    Ok(())
}

#[tokio::test]
async fn a_newer_format_stops_the_start() -> Result<()> {
    let server = killed(1).await?;
    let file = newest_commit_file(&server.data_dir())?;
    let mut content = fs::read(&file)?;
    content[8] = 9;
    fs::write(&file, content)?;
    let told = refused(&server.data_dir())?;
    assert!(told.contains("has format 9, and this version reads format 1: start the newer version"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_directory_belongs_to_one_process() -> Result<()> {
    let server = ServerOptions::new().on_disk().start().await?;
    let told = refused(&server.data_dir())?;
    let holder = fs::read_to_string(server.data_dir().join("LOCK"))?;
    assert!(told.contains(&format!("is in use by another process ({holder}); stop that one")), "{told}");
    assert!(Path::new("/proc").join(&holder).exists(), "{holder} is no process");
    let (code, _, told) = run(&["log", "verify"], &server.data_dir())?;
    assert_eq!(code, Some(1));
    assert!(told.contains("is in use by another process"), "{told}");
    // The one that was refused has changed nothing.
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    assert_eq!(ada.post("Dogs", "1", "a1").await?.seq, 1);
    Ok(())
}

/// What removes messages takes their ids along, and they are missed when the ids are read from the log again.
#[tokio::test]
async fn an_id_is_forgotten_where_its_message_was_removed() -> Result<()> {
    let mut server = ServerOptions::new().on_disk().start().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    for seq in 1..=3 {
        assert_eq!(ada.post("Dogs", &seq.to_string(), &format!("a{seq}")).await?.seq, seq);
    }
    let purge = serde_json::json!({"group_name": "Dogs", "through_seq": 2});
    assert_eq!(server.admin("PurgeHistory", purge).await?["removedMessages"], "2");
    assert_eq!(ada.post("Dogs", "1", "a1").await?.seq, 1, "as long as nothing ended, it is known");
    server.terminate()?;
    assert!(server.wait(PATIENCE).await?.success());
    server.restart().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    assert_eq!(ada.post("Dogs", "3", "a3").await?.seq, 3, "it is kept, and so is its id");
    for (id, seq) in [("a1", 4), ("a2", 5), ("a1", 4)] {
        assert_eq!(ada.post("Dogs", "again", id).await?.seq, seq, "{id}");
    }
    Ok(())
}

#[tokio::test]
async fn the_directory_is_made_and_what_stands_in_its_way_is_named() -> Result<()> {
    let home = tempfile::tempdir()?;
    let file = home.path().join("file");
    fs::write(&file, "")?;
    for data in [file.clone(), file.join("data")] {
        let told = refused(&data)?;
        assert!(told.contains(&format!("the data directory {} is not a directory", file.display())), "{told}");
    }
    let server = ServerOptions::new().on_disk().start().await?;
    assert!(server.data_dir().join("LOCK").is_file());
    Ok(())
}
