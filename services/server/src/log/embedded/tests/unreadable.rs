//! Tables on a disk of which some sectors, or all, cannot be read any more.

use std::ops::Range as Bytes;

use super::faults::eventually;
use super::*;
use crate::log::embedded::export::export_from;
use crate::log::embedded::frame::PAGE;
use crate::log::embedded::scan::file_name;
use crate::log::embedded::simulated::Faults;
use crate::log::embedded::{OfflineError, OpenError};

/// The sectors of the tables under these messages, named by the beginnings of their texts.
fn sectors(disk: &SimulatedDisk, messages: &[&str]) -> Faults {
    let content = disk.content("messages.redb");
    let holds = |page: &[u8], text: &str| page.windows(text.len()).any(|window| window == text.as_bytes());
    let mut bad_sectors: Vec<(&'static str, Bytes<u64>)> = Vec::new();
    for text in messages {
        let before = bad_sectors.len();
        let pages = content.chunks(PAGE as usize).enumerate().filter(|(_, page)| holds(page, text));
        bad_sectors.extend(pages.map(|(number, _)| ("messages", number as u64 * PAGE..(number as u64 + 1) * PAGE)));
        assert!(bad_sectors.len() > before, "{text} is nowhere");
    }
    Faults { bad_sectors, ..Faults::default() }
}

/// The oldest message in the tables, if they are open just now.
fn first(log: &Embedded, name: &str) -> Option<u64> {
    log.core.tables.row(&group(name)).ok()?.map(|row| row.head.first)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_sectors_under_old_messages_hold_up_neither_posts_nor_the_retention_of_other_groups() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    for name in ["A", "B", "C", "D"] {
        log.append(0, vec![batch(name, 7, 1, 40)]).await.unwrap();
    }
    assert!(log.flush().await);
    log.close().await;

    let disk = disk.copy();
    // The one is met by the walk, which looks at the oldest messages, the other one by the transaction that would remove them.
    disk.set_faults(sectors(&disk, &["A/7/1/", "C/7/20/"]));
    let small = Config {
        retention: Retention { messages: 0, bytes: 5_000, age: Duration::ZERO },
        sweep_interval: Duration::from_secs(3600),
        apply_interval: Duration::from_millis(1),
        ..config()
    };
    let log = start_on(&disk, &small);
    for name in ["B", "D"] {
        eventually(async || first(&log, name).filter(|first| *first > 30).ok_or("nobody looks at other groups")).await;
    }
    for name in ["A", "C"] {
        eventually(async || log.append(0, vec![batch(name, 7, 41, 41)]).await).await;
        assert!(log.flush().await, "{:?}", log.trouble());
        assert_eq!(first(&log, name), Some(1), "what cannot be read is kept");
    }
    assert_eq!(log.trouble(), None);
    log.close().await;
    // Also at a start, which removes nothing.
    let log = start_on(&disk, &small);
    log.append(0, vec![batch("A", 7, 42, 42), batch("C", 7, 42, 42)]).await.unwrap();
    log.crash();
    let log = start_on(&disk, &small);
    assert_eq!(log.core.tables.row(&group("A")).unwrap().unwrap().head.seq, 42);
    log.close().await;
    disk.set_faults(Faults::default());
    let log = start_on(&disk, &config());
    assert_holds(&*log, "A", 7, 1, 42).await;
    assert_holds(&*log, "C", 7, 1, 42).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_stop_soon_where_the_tables_cannot_take_them_over() {
    let disk = SimulatedDisk::default();
    let quick = Config { table_cache_bytes: 0, apply_interval: Duration::from_millis(1), ..config() };
    let log = start_on(&disk, &quick);
    log.append(0, vec![batch("A", 7, 1, 5)]).await.unwrap();
    assert!(log.flush().await);
    disk.set_faults(Faults { failing_reads: Some("messages"), ..Faults::default() });
    log.append(0, vec![batch("A", 7, 6, 6)]).await.unwrap();
    let trouble = eventually(async || log.trouble().ok_or("what nobody can take over is taken")).await;
    assert!(trouble.contains("the tables cannot be written"), "{trouble}");
    let refused = log.append(0, vec![batch("A", 7, 7, 7)]).await.unwrap_err().to_string();
    assert!(refused.contains("the tables cannot be written"), "{refused}");
    disk.set_faults(Faults::default());
    eventually(async || log.append(0, vec![batch("A", 7, 7, 7)]).await).await;
    assert_eq!(log.trouble(), None);
    log.close().await;
    let log = start_on(&disk, &quick);
    assert_holds(&*log, "A", 7, 1, 7).await;
    log.close().await;
}

/// The `seq`s of an export, whose lines are as they should be.
fn exported(lines: &[u8], name: &str) -> Vec<u64> {
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let seq = value["seq"].as_u64().unwrap();
        assert_eq!(value["message"].as_str(), Some(&*batch(name, 7, seq, seq).records[0].message));
        seq
    };
    std::str::from_utf8(lines).unwrap().lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_is_exported_as_far_as_it_can_be_read() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    for name in ["A", "B", "C"] {
        log.append(0, vec![batch(name, 7, 1, 60)]).await.unwrap();
    }
    assert!(log.flush().await);
    log.append(0, vec![batch("A", 7, 61, 65), batch("B", 7, 61, 62), batch("D", 7, 1, 3)]).await.unwrap();
    log.purge(0, &group("B"), 58).await.unwrap();
    log.delete(0, &group("C")).await.unwrap();
    log.append(0, vec![batch("C", 7, 1, 2)]).await.unwrap();
    log.crash();
    let disk = disk.copy();
    // Where the new messages of A belong, and some old ones.
    disk.set_faults(sectors(&disk, &["A/7/30/", "A/7/60/", "B/7/1/"]));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let error = start(Arc::clone(&shared), &config()).unwrap_err();
    assert!(matches!(error, OpenError::TakeOver { .. }), "{error}");
    assert!(error.to_string().contains("It is not lost"), "{error}");

    let export = |name: &str| {
        let mut lines = Vec::new();
        let result = export_from(&shared, &group(name), &mut lines);
        (result, exported(&lines, name))
    };
    let (result, found) = export("A");
    let Err(OfflineError::Incomplete { written, missing }) = result else { panic!("{result:?}") };
    assert_eq!(written, found.len() as u64);
    let lost: Vec<u64> = (1..=65).filter(|seq| !found.contains(seq)).collect();
    assert!(lost.contains(&30) && lost.contains(&60) && lost.len() < 20, "{lost:?}");
    assert!(found.is_sorted() && found.ends_with(&[61, 62, 63, 64, 65]), "{found:?}");
    for range in missing.split("; ") {
        let numbers: Vec<u64> = range.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(numbers.iter().all(|seq| lost.contains(seq)), "{missing}");
    }
    // What of the others cannot be read was removed.
    let whole = [("B", (59..=62).collect::<Vec<u64>>()), ("C", vec![1, 2]), ("D", vec![1, 2, 3])];
    for (name, expected) in whole {
        let (result, found) = export(name);
        assert_eq!((result.unwrap(), &found), (expected.len() as u64, &expected), "{name}");
    }
    assert!(matches!(export("E").0, Err(OfflineError::NoGroup(_))));

    // And nothing was lost by that.
    disk.set_faults(Faults::default());
    let log = start_on(&disk, &config());
    assert_holds(&*log, "A", 7, 1, 65).await;
    assert_holds(&*log, "B", 7, 59, 62).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_log_that_is_corrupt_is_exported_up_to_there() {
    let disk = SimulatedDisk::default();
    let log = start_counting(&disk, &config());
    log.append(0, vec![batch("A", 7, 1, 5)]).await.unwrap();
    assert!(log.flush().await);
    for seq in 6..=8 {
        log.append(0, vec![batch("A", 7, seq, seq)]).await.unwrap();
    }
    let ends: Vec<u64> = log.core.backlog.blocks().iter().map(|block| block.position.end).collect();
    log.crash();
    let disk = disk.copy();
    let mut content = disk.content(&file_name(1));
    content[ends[0] as usize + 50] ^= 1;
    disk.set_content(&file_name(1), content);
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let mut lines = Vec::new();
    let error = export_from(&shared, &group("A"), &mut lines).unwrap_err();
    assert!(matches!(error, OfflineError::Incomplete { written: 6, .. }), "{error}");
    assert!(error.to_string().contains("the commit log is corrupt"), "{error}");
    assert_eq!(exported(&lines, "A"), [1, 2, 3, 4, 5, 6]);
}
