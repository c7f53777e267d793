//! Torn tails, flipped bits, missing and foreign files.

use super::faults::eventually;
use super::*;
use crate::log::embedded::OpenError;
use crate::log::embedded::disk::LOCK;
use crate::log::embedded::forget::forget;
use crate::log::embedded::frame::{PAGE, Position};
use crate::log::embedded::scan::{self, Torn, file_name};
use crate::log::embedded::simulated::Faults;

/// A commit log of blocks with nothing applied: the disk, and where each block ends.
async fn written(blocks: u64) -> (SimulatedDisk, Vec<u64>) {
    let disk = SimulatedDisk::default();
    let log = start_counting(&disk, &config());
    let mut ends = vec![PAGE];
    for seq in 1..=blocks {
        log.append(0, vec![batch("Dogs", 7, seq, seq)]).await.unwrap();
        ends.push(log.core.backlog.blocks().last().unwrap().position.end);
    }
    log.crash();
    (disk.copy(), ends)
}

fn log_of(disk: &SimulatedDisk) -> u64 {
    let page = disk.content(&file_name(1));
    crate::log::embedded::frame::FileHeader::decode(&page).unwrap().log
}

/// The blocks that are read back, and the torn tail.
fn scanned(disk: &SimulatedDisk) -> Result<(u64, Option<Torn>), OpenError> {
    let found = scan::find(disk, log_of(disk), Position::default(), true)?;
    let mut blocks = 0;
    let scanned = found.replay(disk, &mut |_| {
        blocks += 1;
        Ok(())
    })?;
    assert_eq!(scanned.end.block, blocks);
    Ok((blocks, scanned.torn))
}

#[tokio::test]
async fn a_log_cut_anywhere_in_its_last_batch_keeps_all_before() {
    let (disk, ends) = written(4).await;
    let whole = disk.content(&file_name(1));
    let (begin, end) = (ends[3] as usize, ends[4] as usize);
    let length = begin + whole[begin..end].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in begin..end {
        disk.set_content(&file_name(1), whole[..cut].to_vec());
        let (blocks, torn) = scanned(&disk).unwrap();
        assert_eq!(blocks, if cut < length { 3 } else { 4 }, "cut at {cut}");
        let reported = cut >= begin + 40 && cut < length;
        assert_eq!(torn.is_some(), reported, "cut at {cut}: {torn:?}");
        // The whole engine now and then: it takes long.
        if cut % 251 == 0 {
            let log = start_on(&disk.copy(), &config());
            assert_holds(&*log, "Dogs", 7, 1, blocks).await;
            log.append(0, vec![batch("Dogs", 7, blocks + 1, blocks + 2)]).await.unwrap();
            log.close().await;
        }
    }
}

#[tokio::test]
async fn pages_lost_from_the_last_batch_tear_it_as_a_whole() {
    let (disk, ends) = written(4).await;
    let whole = disk.content(&file_name(1));
    for page in (ends[3]..ends[4]).step_by(PAGE as usize) {
        let mut torn = whole.clone();
        torn[page as usize..(page + PAGE) as usize].fill(0);
        disk.set_content(&file_name(1), torn);
        assert_eq!(scanned(&disk).unwrap().0, 3);
    }
}

#[tokio::test]
async fn a_flipped_bit_in_what_was_synced_stops_the_start_and_is_named() {
    let (disk, ends) = written(4).await;
    let whole = disk.content(&file_name(1));
    let (begin, end) = (ends[1] as usize, ends[2] as usize);
    let length = begin + whole[begin..end].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for at in begin..length {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        disk.set_content(&file_name(1), flipped);
        match scanned(&disk) {
            Err(OpenError::Corrupt { path, offset, .. }) => {
                assert!(path.ends_with(file_name(1)));
                assert_eq!(offset, begin as u64);
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
    let error = start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config()).unwrap_err().to_string();
    assert!(error.contains(&file_name(1)) && error.contains(&begin.to_string()), "{error}");
    assert!(error.contains("restore a backup"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_read_after_the_end_stops_no_start() {
    let (disk, ends) = written(4).await;
    let bad = |from: u64| Faults { bad_sectors: vec![("commit-", from..from + 1)], ..Faults::default() };
    disk.set_faults(bad(ends[4] + 2 * PAGE));
    assert_eq!(scanned(&disk).unwrap(), (4, None));
    let log = start_on(&disk, &config());
    assert_holds(&*log, "Dogs", 7, 1, 4).await;
    log.crash();

    // Where the next block would be, there may be one, and the proof for it right behind.
    let (disk, ends) = written(4).await;
    for at in [ends[4], ends[4] + PAGE] {
        disk.set_faults(bad(at));
        assert!(matches!(scanned(&disk), Err(OpenError::Io { .. })));
    }

    // A later one that says that it had been there is found all the same.
    let mut content = disk.content(&file_name(1));
    content[ends[1] as usize + 50] ^= 1;
    disk.set_content(&file_name(1), content);
    disk.set_faults(bad(ends[2]));
    match scanned(&disk) {
        Err(OpenError::Corrupt { offset, .. }) => assert_eq!(offset, ends[1]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_copy_of_the_log_stops_the_start() {
    let disk = SimulatedDisk::default();
    let log = start_counting(&disk, &config());
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    assert!(log.flush().await);
    log.crash();
    // Each of two copies goes on by itself, and the numbers of their files differ.
    let go_on = async |step: fn() -> u64, last: u64| {
        let disk = disk.copy();
        let log = start_with(Arc::new(disk.clone()) as Arc<dyn Disk>, &config(), step, Clock::believed()).unwrap();
        for seq in 4..=last {
            log.append(0, vec![batch("Dogs", 7, seq, seq)]).await.unwrap();
        }
        assert!(log.flush().await);
        log.crash();
        disk.copy()
    };
    let (one, other) = (go_on(|| 1, 9).await, go_on(|| 10, 5).await);
    let stray = file_name(11);
    one.open(&stray, true).unwrap();
    one.set_content(&stray, other.content(&stray));
    let error = start(Arc::new(one.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
    assert!(matches!(error, OpenError::Astray { .. }), "{error}");
    assert!(error.to_string().contains(&stray), "{error}");
    one.remove(&stray).unwrap();
    let log = start_on(&one, &config());
    assert_holds(&*log, "Dogs", 7, 1, 9).await;
    log.close().await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_header_stops_the_start() {
    let (disk, _) = written(1).await;
    let mut content = disk.content(&file_name(1));
    content[30] ^= 1;
    disk.set_content(&file_name(1), content);
    let error = start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { offset: 0, .. }), "{error}");
}

#[tokio::test]
async fn another_format_is_refused() {
    let (disk, _) = written(1).await;
    let mut content = disk.content(&file_name(1));
    content[8] = 9;
    disk.set_content(&file_name(1), content);
    let error = start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 9, .. }), "{error}");
}

#[tokio::test]
async fn missing_and_foreign_files_stop_the_start() {
    let (disk, _) = written(40).await;
    let start = |disk: &SimulatedDisk| start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
    let names: Vec<String> = disk.list().unwrap().into_iter().filter(|name| name.starts_with("commit-")).collect();
    assert!(names.len() > 2, "{names:?}");

    let without = disk.copy();
    without.remove(&file_name(2)).unwrap();
    assert!(matches!(start(&without), OpenError::MissingFile { .. }));

    let without = disk.copy();
    names.iter().for_each(|name| without.remove(name).unwrap());
    let error = start(&without);
    assert!(matches!(error, OpenError::NoCommitLog { .. }), "{error}");
    let first = disk.path(&file_name(1));
    let told = "is missing, and may hold acknowledged messages: there is no file of it from";
    assert!(error.to_string().contains(&format!("{told} {} on", first.display())), "{error}");

    let without = disk.copy();
    without.remove("messages.redb").unwrap();
    assert!(matches!(start(&without), OpenError::MissingFile { .. }));

    let (other, _) = written(1).await;
    let mixed = disk.copy();
    mixed.set_content(names.last().unwrap(), other.content(&file_name(1)));
    assert!(matches!(start(&mixed), OpenError::Foreign { .. }));
}

#[tokio::test]
async fn damaged_tables_stop_the_start() {
    let (disk, _) = written(1).await;
    let size = disk.content("messages.redb").len();
    disk.set_content("messages.redb", vec![0x5a; size]);
    let error = start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
    assert!(matches!(error, OpenError::Tables { .. }), "{error}");
}

/// Gives pages of the tables that hold messages of one group, and none of the other, a kind that redb does not know.
fn rot(disk: &SimulatedDisk, group: &str, other: &str) {
    const LEAF: u8 = 1;
    let mut content = disk.content("messages.redb");
    let holds = |page: &[u8], group: &str| {
        let text = format!("{group}/7/");
        page.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let is_chosen = |page: &[u8]| page[0] == LEAF && holds(page, group) && !holds(page, other);
    let mut rotten = 0;
    for page in content.chunks_mut(PAGE as usize).filter(|page| is_chosen(page)) {
        page[0] = 9;
        rotten += 1;
    }
    assert!(rotten > 0);
    disk.set_content("messages.redb", content);
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_in_the_tables_stops_posts_and_nothing_else() {
    let disk = SimulatedDisk::default();
    let uncached = Config { cache_bytes: 0, table_cache_bytes: 0, ..config() };
    let log = start_on(&disk, &uncached);
    // In this order in the tables. The last one is to rot; whoever reads the one before it looks for its end there.
    for name in ["Birds", "Cats", "Dogs"] {
        for seq in 1..=60 {
            log.append(0, vec![batch(name, 7, seq, seq)]).await.unwrap();
        }
    }
    assert!(log.flush().await);
    rot(&disk, "Dogs", "Cats");
    let error = log.read(0, &group("Dogs"), Range::After(0), ALL).await.unwrap_err();
    assert!(error.reason.contains("the tables are damaged"), "{error}");
    assert_holds(&*log, "Birds", 7, 1, 60).await;
    assert_eq!(log.trouble(), None);

    log.append(0, vec![batch("Dogs", 7, 61, 61)]).await.unwrap();
    assert!(!log.flush().await);
    let told = log.append(0, vec![batch("Birds", 7, 61, 61)]).await.unwrap_err().to_string();
    assert!(told.contains("the tables are damaged") && told.contains("log verify"), "{told}");
    assert!(log.trouble().is_some());
    assert_holds(&*log, "Birds", 7, 1, 60).await;
    tokio::time::timeout(Duration::from_secs(60), log.close()).await.expect("it ends");
    let error = start(Arc::new(disk.copy()) as Arc<dyn Disk>, &uncached).unwrap_err().to_string();
    assert!(error.contains("restore a backup"), "{error}");
}

/// A log, and its tables as they were earlier: as a backup has them, or a copy that was in use.
async fn outgrown(is_backup: bool) -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    let log = start_counting(&disk, &config());
    log.append(0, vec![batch("Dogs", 7, 1, 5)]).await.unwrap();
    assert!(log.flush().await);
    let earlier = if is_backup {
        let place = tempfile::tempdir().unwrap();
        let copy = place.path().join("copy");
        log.back_up(copy.clone()).await.unwrap();
        std::fs::read(copy.join("messages.redb")).unwrap()
    } else {
        disk.content("messages.redb")
    };
    // Files that the tables have no more need of are used again.
    let mut seq = 5;
    eventually(async || {
        log.append(0, vec![batch("Dogs", 7, seq + 1, seq + 20)]).await.unwrap();
        seq += 20;
        assert!(log.flush().await);
        let names = disk.list().unwrap();
        if [1, 2].iter().any(|number| names.contains(&file_name(*number))) { Err(names) } else { Ok(()) }
    })
    .await;
    log.crash();
    disk.set_content("messages.redb", earlier);
    disk.copy()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_older_than_the_commit_log_beside_them_are_told_as_such() {
    for is_backup in [true, false] {
        let disk = outgrown(is_backup).await;
        let error = start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
        assert!(matches!(error, OpenError::Older { .. }), "{error}");
        let told = error.to_string();
        // It may be a real loss: what may be lost comes before what gives it up.
        let place = |words| told.find(words).unwrap_or_else(|| panic!("{words}: {told}"));
        assert!(place("either files of the commit log are missing") < place("bring back the files that are missing"));
        assert!(place("bring back the files that are missing") < place("move the commit-* files away"));
        // As it says.
        for name in disk.list().unwrap().iter().filter(|name| name.starts_with("commit-")) {
            disk.remove(name).unwrap();
        }
        if !is_backup {
            forget(&(Arc::new(disk.clone()) as Arc<dyn Disk>)).unwrap();
        }
        let log = start_on(&disk, &config());
        let epoch = epoch_of(&*log, "Dogs").await;
        assert_holds_of(&*log, "Dogs", &[(7, 1, 5), (epoch, 6, 5)]).await;
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_dir: dir.path().to_owned(), ..config() };
    let log = open(&config).unwrap();
    let error = open(&config).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&dir.path().display().to_string()));
    // Whoever takes the file for a stale one lets nobody in.
    std::fs::remove_file(dir.path().join(LOCK)).unwrap();
    let error = open(&config).unwrap_err();
    assert!(matches!(error, OpenError::Locked { process: None, .. }), "{error}");
    assert!(error.to_string().contains("Do not remove LOCK"), "{error}");
    log.close().await;
    open(&config).unwrap().close().await;
}

#[test]
fn a_directory_that_an_earlier_version_uses_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    // Which locks the file alone.
    let lock = std::fs::File::create(dir.path().join(LOCK)).unwrap();
    lock.lock().unwrap();
    let config = Config { data_dir: dir.path().to_owned(), ..config() };
    let error = open(&config).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
}
