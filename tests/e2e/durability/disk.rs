//! A disk that fills up or cannot be written: posts are refused, reads go on, and it passes by itself.
//!
//! The small disk is a tmpfs of its own, which only root can mount; without, `log.disk_bytes` and a directory without permissions stand in as far as
//! they go. `TERTULIA_TEST_REQUIRED=1` makes a missing mount a failure.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use harness::deadline::{PATIENCE, poll_until};
use harness::metrics::{Metrics, get};
use harness::mount::Mount;
use harness::recording::Rejected;
use harness::{Client, Event, Server, ServerOptions, check};
use tempfile::TempDir;
use tertulia_protocol::code::Code;

use crate::run;

/// Bytes of the small disk.
const DISK: u64 = 16 * 1024 * 1024;
/// Bytes of it that must stay free.
const RESERVE: u64 = 4 * 1024 * 1024;

/// Waits until `/readyz` answers with this status.
async fn until_ready(server: &Server, ready: bool) -> Result<()> {
    let what = if ready { "readiness" } else { "no readiness" };
    poll_until(PATIENCE, what, async || {
        let answer = get(server.http(), "/readyz").await?;
        Ok(((answer.status == 200) != ready).then_some(format!("{}: {}", answer.status, answer.body)))
    })
    .await
}

/// Posts with an id, and waits for the answer: the `seq`, or the refusal.
async fn post(client: &mut Client, text: &str, id: &str) -> Result<Result<u64, Rejected>> {
    client.writer.post("Dogs", text, Some(id)).await?;
    let answer = client.reader.until("an answer to a post", |event| match event {
        Event::Posted(posted) if posted.id.as_deref() == Some(id) => Some(Ok(posted.seq)),
        Event::Rejected(refusal) => Some(Err((**refusal).clone())),
        _ => None,
    });
    answer.await
}

/// A message that fills a disk soon.
fn filling() -> String {
    "x".repeat(8 * 1024)
}

/// Posts after `taken` until one is refused with `unavailable`: the last `seq` that was taken, and the refusal.
async fn until_refused(client: &mut Client, mut taken: u64) -> Result<(u64, Rejected)> {
    let filling = filling();
    let refusal = loop {
        match post(client, &filling, &format!("f{taken}")).await? {
            Ok(seq) => taken = seq,
            Err(refusal) => break refusal,
        }
        assert!(taken < 10_000, "posts are never refused");
    };
    assert_eq!(refusal.code, Code::Unavailable, "{refusal:?}");
    Ok((taken, refusal))
}

/// Everything that a full or broken disk must not change, and what it must: `break_it`, then `mend_it`.
async fn outage(
    server: &Server,
    break_it: impl FnOnce() -> Result<()>,
    mend_it: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let connector = server.connector();
    let mut ada = connector.extended("ada").await?;
    let mut classic = connector.classic("classic").await?;
    ada.join("Dogs").await?;
    for seq in 1..=20 {
        assert_eq!(post(&mut ada, &format!("before {seq}"), &format!("b{seq}")).await?.ok(), Some(seq));
    }
    classic.writer.join("Dogs").await?;
    classic.writer.post("Dogs", "classic before", None).await?;
    classic.reader.until_text("Dogs", "classic before").await?;

    break_it()?;
    // Until the server notices, it may take posts, and then they are kept.
    let (taken, refusal) = until_refused(&mut ada, 21).await?;
    assert!(refusal.retry_after_ms.is_some(), "{refusal:?}");
    until_ready(server, false).await?;
    let metrics = Metrics::scrape(server.http()).await?;
    assert_eq!(metrics.sum("tertulia_log_writable", &[]), Some(0.0));
    classic.writer.post("Dogs", "classic during", None).await?;
    let is_error = |event: &Event| if let Event::Error(text) = event { Some(Arc::clone(text)) } else { None };
    let text = classic.reader.until("an error", is_error).await?;
    assert!(text.contains("Dogs"), "{text}");
    // Who reads does not notice; who comes gets all of it.
    let mut bob = connector.extended("bob").await?;
    assert_eq!(bob.read_log("Dogs").await?.messages.len() as u64, taken);
    bob.join_from("Dogs", Some(0), None, None).await?;
    bob.reader.until_text("Dogs", "before 20").await?;

    mend_it()?;
    until_ready(server, true).await?;
    let seq = post(&mut ada, &filling(), &format!("f{taken}")).await?.ok();
    assert!(seq == Some(taken) || seq == Some(taken + 1), "{seq:?} after {taken}");
    let last = post(&mut ada, "after", "after").await?.ok().context("refused after it was mended")?;
    ada.reader.until_text("Dogs", "after").await?;
    bob.reader.until_text("Dogs", "after").await?;
    classic.reader.until_text("Dogs", "after").await?;
    let log = bob.read_log("Dogs").await?;
    assert_eq!(log.messages.len() as u64, last);
    let verdict = check(&[ada.settled(), bob.settled(), classic.cut()], std::slice::from_ref(&log));
    verdict.assert_clean();
    Ok(())
}

/// A server on a small disk of its own, to be dropped before the mount, and that before its place; `None` where there cannot be one.
async fn on_small_disk(options: ServerOptions) -> Result<Option<(TempDir, Mount, Server)>> {
    let home = tempfile::tempdir()?;
    let disk = home.path().join("disk");
    let Some(mount) = Mount::new(&disk, DISK)? else { return Ok(None) };
    let options = options.on_disk().data_dir(disk.join("data"));
    let options = options.set("log.retention.bytes", 0).set("log.unapplied_bytes", "2MiB");
    Ok(Some((home, mount, options.start().await?)))
}

#[tokio::test]
async fn a_full_disk_refuses_posts_until_there_is_space() -> Result<()> {
    let options = ServerOptions::new().set("log.reserve_bytes", RESERVE);
    let Some((_home, mount, mut server)) = on_small_disk(options).await? else { return Ok(()) };
    let metrics = Metrics::scrape(server.http()).await?;
    assert_eq!(metrics.sum("tertulia_log_volume_size_bytes", &[]), Some(DISK as f64));
    assert_eq!(metrics.sum("tertulia_log_reserve_bytes", &[]), Some(RESERVE as f64));
    // Somebody else takes the space.
    let other = mount.path().join("other");
    let fill = || {
        let free = rustix::fs::statvfs(mount.path()).map(|stat| stat.f_bavail * stat.f_frsize)?;
        Ok(fs::write(&other, vec![1; usize::try_from(free - RESERVE / 2)?])?)
    };
    outage(&server, fill, || Ok(fs::remove_file(&other)?)).await?;

    // And it starts on a full disk, to be read.
    fill()?;
    server.kill().await?;
    server.restart().await?;
    let mut eve = server.connector().extended("eve").await?;
    assert!(eve.read_log("Dogs").await?.messages.len() > 20);
    until_ready(&server, false).await?;
    fs::remove_file(&other)?;
    until_ready(&server, true).await?;
    Ok(())
}

#[tokio::test]
async fn a_disk_without_a_byte_left_loses_nothing() -> Result<()> {
    let options = ServerOptions::new().set("log.reserve_bytes", 0).set("log.apply_interval", "10ms");
    let Some((_home, mount, server)) = on_small_disk(options).await? else { return Ok(()) };
    let other = mount.path().join("other");
    let fill = || {
        // Up to the last byte: what a write cannot take any more.
        let mut file = fs::File::create(&other)?;
        let full = std::io::copy(&mut std::io::repeat(1), &mut file);
        assert_eq!(full.err().map(|error| error.kind()), Some(std::io::ErrorKind::StorageFull));
        Ok(())
    };
    outage(&server, fill, || Ok(fs::remove_file(&other)?)).await
}

#[tokio::test]
async fn a_directory_that_takes_too_much_refuses_posts() -> Result<()> {
    let options = ServerOptions::new().on_disk().set("log.disk_bytes", "5MiB").set("log.retention.messages", 0);
    let options =
        options.set("log.retention.bytes", 0).set("log.apply_interval", "10ms").set("log.unapplied_bytes", "1MiB");
    let server = options.start().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    let (taken, _) = until_refused(&mut ada, 0).await?;
    until_ready(&server, false).await?;
    assert_eq!(ada.read_log("Dogs").await?.messages.len() as u64, taken);
    let metrics = Metrics::scrape(server.http()).await?;
    assert_eq!(metrics.sum("tertulia_log_limit_bytes", &[]), Some(5.0 * 1024.0 * 1024.0));
    Ok(())
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_stops_the_start() -> Result<()> {
    let Some((_home, mount, mut server)) = on_small_disk(ServerOptions::new().set("log.reserve_bytes", 0)).await?
    else {
        return Ok(());
    };
    server.terminate()?;
    assert!(server.wait(PATIENCE).await?.success());
    mount.remount("ro")?;
    for command in [
        &["log", "verify"][..],
        &["--chat", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "off"],
    ] {
        let (code, stdout, told) = run(command, &mount.path().join("data"))?;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{told}");
        assert!(
            told.contains("cannot write in the data directory, at ") && told.contains("set log.data_dir"),
            "{told}"
        );
    }
    mount.remount("rw")?;
    server.restart().await?;
    Ok(())
}
