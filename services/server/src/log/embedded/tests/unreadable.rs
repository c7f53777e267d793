//! Tables on a disk of which some sectors, or all, cannot be read any more.

use std::ops::Range as Bytes;

use redb::ReadableTable;

use super::faults::eventually;
use super::*;
use crate::log::embedded::export::export_from;
use crate::log::embedded::frame::PAGE;
use crate::log::embedded::holes::Holes;
use crate::log::embedded::scan::file_name;
use crate::log::embedded::simulated::Faults;
use crate::log::embedded::table::MESSAGES;
use crate::log::embedded::{OfflineError, OpenError};
use crate::log::{Head, PageLimit};

/// The sectors of the tables under these messages, named by the beginnings of their texts.
pub(super) fn sectors(disk: &SimulatedDisk, messages: &[impl AsRef<str>]) -> Faults {
    let content = disk.content("messages.redb");
    let holds = |page: &[u8], text: &str| page.windows(text.len()).any(|window| window == text.as_bytes());
    let mut bad_sectors: Vec<(&'static str, Bytes<u64>)> = Vec::new();
    for text in messages.iter().map(AsRef::as_ref) {
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

/// The engine on a disk on which groups have been moved into the tables, then with bad sectors under some of their messages.
async fn with_bad_sectors(groups: &[&str], bad: &[&str], apply_interval: Duration) -> (SimulatedDisk, Arc<Embedded>) {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    for name in groups {
        log.append(0, vec![batch(name, 7, 1, 200)]).await.unwrap();
    }
    assert!(log.flush().await);
    log.close().await;
    let disk = disk.copy();
    disk.set_faults(sectors(&disk, bad));
    // What was read once is not read from the disk again.
    let small = Config { apply_interval, cache_bytes: 0, table_cache_bytes: 0, ..config() };
    let log = start_on(&disk, &small);
    (disk, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_sectors_that_clients_read_hold_up_no_posts() {
    let (disk, log) = with_bad_sectors(&["A", "B"], &["A/7/50/"], Duration::from_millis(1)).await;
    let reading = {
        let log = Arc::clone(&log);
        // Many members, each of which tries again.
        tokio::spawn(async move {
            loop {
                drop(log.read(0, &group("A"), Range::After(49), ALL).await);
                drop(log.read(0, &group("A"), Range::Before(51), ALL).await);
                tokio::task::yield_now().await;
            }
        })
    };
    eventually(async || if disk.bad_reads() >= 2 { Ok(()) } else { Err("nobody reads") }).await;
    for seq in 201..=240 {
        eventually(async || log.append(0, vec![batch("B", 7, seq, seq)]).await).await;
        eventually(async || if log.flush().await { Ok(()) } else { Err("not applied") }).await;
    }
    assert_eq!(log.trouble(), None);
    assert!(disk.bad_reads() <= 4, "the sector was read {} times", disk.bad_reads());
    assert_holds(&*log, "B", 7, 1, 240).await;
    reading.abort();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_meets_an_error_of_the_disk_in_a_pause_of_the_applier_does_not_hold_it_up() {
    let (disk, log) = with_bad_sectors(&["A"], &["A/7/50/"], Duration::from_secs(3600)).await;
    log.append(0, vec![batch("B", 7, 1, 1)]).await.unwrap();
    let mut faults = sectors(&disk, &["A/7/50/"]);
    faults.failing_syncs = Some(("messages", 1));
    disk.set_faults(faults);
    assert!(!log.flush().await);
    let stopped = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reading = std::thread::spawn({
        let (log, stopped) = (Arc::clone(&log), Arc::clone(&stopped));
        move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                // As whoever does not know yet that the disk fails there.
                let stale = View::bare(Head { epoch: 7, seq: 200, first: 1, at: 0 });
                let unknown = Holes::default();
                drop(read::from_tables(&log.core.tables, &unknown, &group("A"), &stale, Range::After(49), ALL));
                // Several times in each pause, but not all the time.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let begun = std::time::Instant::now();
    eventually(async || if log.flush().await { Ok(()) } else { Err("not applied") }).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    reading.join().unwrap();
    log.close().await;
}

/// Reads as a member does who is behind. Answers the messages that it got, and those that it was told it lost.
async fn catch_up(log: &Embedded, name: &str, mut retry: impl FnMut()) -> (Vec<u64>, Vec<u64>) {
    let (mut got, mut lost, mut next, mut failures) = (Vec::new(), Vec::new(), 1, 0);
    loop {
        let page = match log.read(0, &group(name), Range::After(next - 1), PageLimit { records: 20, ..ALL }).await {
            Ok(page) => page.unwrap(),
            Err(error) => {
                failures += 1;
                assert!(failures < 1000, "still {error}");
                retry();
                // Somebody opens the tables again.
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let first = page.records.first().map_or(page.head.first, |record| record.seq);
        lost.extend(next..first);
        next = next.max(first);
        assert_records(
            &page.records,
            &batch(name, 7, next, next + page.records.len() as u64 - 1).records,
            "a page has no gap",
        );
        got.extend(page.records.iter().map(|record| record.seq));
        next += page.records.len() as u64;
        if next > page.head.seq {
            return (got, lost);
        }
        assert!(!page.records.is_empty() || first > 1, "it would read for ever");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_behind_a_bad_sector_gets_what_comes_after_it_and_is_told_what_it_lost() {
    // In the middle, the newest message, and both in memory.
    for (bad, posted) in [("A/7/50/", 200), ("A/7/200/", 200), ("A/7/200/", 210)] {
        let (_, log) = with_bad_sectors(&["A"], &[bad], Duration::from_millis(1)).await;
        if posted > 200 {
            let batch = batch("A", 7, 201, posted);
            eventually(async || log.append(0, vec![Arc::clone(&batch)]).await).await;
        }
        let (got, lost) = catch_up(&log, "A", || log.core.holes.hurry()).await;
        let seq: u64 = bad.split('/').nth(2).unwrap().parse().unwrap();
        assert!(lost.contains(&seq) && lost.len() < 64, "{lost:?}");
        let mut all = [got, lost].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=posted).collect::<Vec<_>>());
        assert_eq!(log.trouble(), None);
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_newest_messages_cannot_be_read_members_get_all_that_comes_later() {
    // What comes later is kept elsewhere, beside the messages of B, or it could not be moved into the tables.
    let (_, log) = with_bad_sectors(&["A", "B"], &["A/7/200/"], Duration::from_millis(1)).await;
    let (_, lost) = catch_up(&log, "A", || log.core.holes.hurry()).await;
    assert!(lost.ends_with(&[200]), "{lost:?}");
    let (_, again) = catch_up(&log, "A", || panic!("others wait for somebody's try")).await;
    assert_eq!(again, lost);
    let batch = batch("A", 7, 201, 260);
    eventually(async || log.append(0, vec![Arc::clone(&batch)]).await).await;
    eventually(async || if log.flush().await { Ok(()) } else { Err("not applied") }).await;
    let (got, later) = catch_up(&log, "A", || ()).await;
    assert_eq!(later, lost);
    assert!(got.ends_with(&(201..=260).collect::<Vec<_>>()), "{got:?}");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_once_from_new_to_old_and_can_be_read_again_is_read_by_all() {
    let (disk, log) = with_bad_sectors(&["A"], &["A/7/100/"], Duration::from_millis(1)).await;
    let read = async || log.read(0, &group("A"), Range::Before(101), ALL).await;
    while disk.bad_reads() == 0 {
        drop(read().await);
    }
    disk.set_faults(Faults::default());
    log.core.holes.hurry();
    eventually(read).await;
    for _ in 0..3 {
        assert_eq!(read().await.unwrap().unwrap().records.len(), 100);
    }
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_behind_a_damaged_message_gets_what_comes_after_it_and_is_told_what_it_lost() {
    for (seq, last) in [(50, 200), (200, 200)] {
        let disk = SimulatedDisk::default();
        let log = start_on(&disk, &Config { cache_bytes: 0, ..config() });
        log.append(0, vec![batch("A", 7, 1, last)]).await.unwrap();
        assert!(log.flush().await);
        let damaged = log.core.tables.write(|transaction| {
            let mut messages = transaction.open_table(MESSAGES)?;
            let key = messages.range((1, seq)..)?.next().unwrap()?.0.value();
            messages.insert(key, [7; 12].as_slice())?;
            Ok(key.1)
        });
        let end = damaged.unwrap();
        let (got, lost) = catch_up(&log, "A", || panic!("nothing is to be tried again")).await;
        assert!(lost.contains(&seq) && lost.ends_with(&[end]) && lost.len() < 64, "{lost:?}");
        assert_eq!(got.len() + lost.len(), last as usize);
        // From new to old it ends before that.
        let page = log.read(0, &group("A"), Range::Before(u64::MAX), ALL).await;
        match page {
            Ok(page) => assert_eq!(page.unwrap().records.first().map(|record| record.seq), Some(end + 1)),
            Err(error) => assert!(end == last, "{error}"),
        }
        log.close().await;
    }
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

/// What is acknowledged is not kept back by it, nobody reads the text meanwhile, and it goes once the disk is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_on_a_bad_sector_is_left_out_and_removed_later() {
    let (disk, log) = with_bad_sectors(&["A", "B"], &["A/7/30/"], Duration::from_millis(1)).await;
    let put_off = |log: &Embedded| {
        let id = log.core.tables.row(&group("A")).unwrap().unwrap().id;
        log.core.tables.read(|transaction| super::super::table::redactions(transaction, id)).unwrap()
    };
    let redact = async |log: &Embedded, name: &str, seqs: &[u64]| log.redact(0, &group(name), 7, seqs).await;
    assert_eq!(redact(&log, "A", &[1, 30]).await, Ok(2));
    assert_eq!(redact(&log, "B", &[2]).await, Ok(1));
    assert!(log.flush().await, "{:?}", log.trouble());
    assert_eq!(put_off(&log), [1, 30].into());
    log.close().await;

    disk.set_faults(Faults::default());
    let is_removed = async |log: &Embedded, name: &str, seq: u64| {
        let page = log.read(0, &group(name), Range::Before(seq + 1), ALL).await.unwrap().unwrap();
        let record = page.records.into_iter().last().unwrap();
        assert_eq!(record.seq, seq);
        record == batch(name, 7, seq, seq).records[0].redacted()
    };
    // First by an engine that moves nothing.
    let log = start_on(&disk, &config());
    assert!(is_removed(&log, "A", 1).await && is_removed(&log, "A", 30).await && is_removed(&log, "B", 2).await);
    assert!(!is_removed(&log, "A", 29).await);
    log.append(0, vec![batch("C", 7, 1, 1)]).await.unwrap();
    assert!(log.flush().await);
    assert_eq!(put_off(&log), [].into());
    assert!(is_removed(&log, "A", 1).await && is_removed(&log, "A", 30).await);
    log.close().await;
}

/// Be the removal in the tables or in the commit log alone, and the message too.
#[tokio::test(flavor = "multi_thread")]
async fn removed_texts_are_not_exported() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    log.append(0, vec![batch("A", 7, 1, 6)]).await.unwrap();
    log.redact(0, &group("A"), 7, &[2]).await.unwrap();
    assert!(log.flush().await);
    let removes = tertulia_protocol::Removal { first: 2, last: 2, sender: Some("ada") };
    let told =
        Record { id: Some(tertulia_protocol::PostId::of_removal(removes)), ..batch("A", 7, 8, 8).records[0].clone() };
    let batch_of = |records| Arc::new(Batch { group: group("A"), epoch: 7, records });
    log.append(0, vec![batch("A", 7, 7, 7)]).await.unwrap();
    log.append(0, vec![batch_of(vec![told])]).await.unwrap();
    log.redact(0, &group("A"), 7, &[4, 7]).await.unwrap();
    log.crash();
    let shared: Arc<dyn Disk> = Arc::new(disk.copy());
    let mut lines = Vec::new();
    assert_eq!(export_from(&shared, &group("A"), &mut lines).unwrap(), 8);
    let lines = String::from_utf8(lines).unwrap();
    for (seq, line) in (1..).zip(lines.lines()) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let whole = batch("A", 7, seq, seq);
        let record = &whole.records[0];
        let is_removed = [2, 4, 7].contains(&seq);
        let text = if is_removed { "" } else { &record.message };
        let id = if seq == 8 { None } else { record.id_of_client() };
        assert_eq!((line["message"].as_str(), line["id"].as_str()), (Some(text), id), "{line}");
        assert_eq!(line["removed"].as_bool(), is_removed.then_some(true), "{line}");
        let removes = serde_json::json!({"first": 2, "last": 2, "sender": "ada"});
        assert_eq!(line.get("removes"), (seq == 8).then_some(&removes), "{line}");
    }
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
