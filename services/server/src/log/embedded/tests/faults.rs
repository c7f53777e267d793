//! Writes and syncs that fail, full disks, and disks that cannot be written at all.

use std::process::Command;

use super::*;
use crate::log::AppendError;
use crate::log::config::Durability;
use crate::log::embedded::simulated::Faults;
use crate::log::embedded::{OpenError, back_up, export, stats, verify};

pub(super) async fn eventually<T, E: std::fmt::Debug>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let begun = std::time::Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "still {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Appends until the log refuses for good (at first, applying may still make room).
async fn fill(log: &Embedded, head: &mut u64) {
    let mut refused = 0;
    while refused < 30 {
        match log.append(0, vec![batch("Dogs", 7, *head + 1, *head + 20)]).await {
            Ok(()) => (*head, refused) = (*head + 20, 0),
            Err(AppendError::Unavailable { .. }) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(*head < 100_000, "the disk never fills up");
    }
    assert!(log.trouble().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_left_on_the_disk_is_never_read() {
    for failed_sync_keeps in [true, false] {
        let disk = SimulatedDisk::default();
        let log = start_on(&disk, &config());
        log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
        disk.set_faults(Faults { failing_syncs: Some(("commit-", 1)), failed_sync_keeps, ..Faults::default() });
        let error = log.append(0, vec![batch("Dogs", 7, 4, 9)]).await.unwrap_err();
        assert!(matches!(error, AppendError::Unavailable { .. }));
        let after_failure = disk.after_power_cut(&mut crate::log::embedded::simulated::Random::new(1));
        assert_holds(&*log, "Dogs", 7, 1, 3).await;
        log.append(0, vec![batch("Dogs", 7, 4, 5)]).await.unwrap();
        assert_eq!(log.trouble(), None);
        log.crash();

        let log = start_on(&after_failure, &config());
        assert_holds(&*log, "Dogs", 7, 1, 3).await;
        log.close().await;
        let log = start_on(&disk.copy(), &config());
        assert_holds(&*log, "Dogs", 7, 1, 5).await;
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_left_is_never_read_though_no_new_file_could_be_begun() {
    for seed in 1..=8 {
        let disk = SimulatedDisk::default();
        let log = start_on(&disk, &config());
        log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
        // The block reaches the disk, its sync says that it did not, and nothing can be made that says so.
        disk.set_faults(Faults {
            failing_syncs: Some(("commit-", 1)),
            failed_sync_keeps: true,
            failing_writes: Some(("spare-", u64::MAX)),
            ..Faults::default()
        });
        log.append(0, vec![batch("Dogs", 7, 4, 9)]).await.unwrap_err();
        assert!(log.trouble().is_some());
        let found = disk.after_power_cut(&mut crate::log::embedded::simulated::Random::new(seed));
        log.crash();
        let log = start_on(&found, &config());
        assert_holds(&*log, "Dogs", 7, 1, 3).await;
        log.append(0, vec![batch("Dogs", 7, 4, 4)]).await.unwrap();
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_write_left_on_the_disk_is_never_read() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    disk.set_faults(Faults { failing_writes: Some(("commit-", 1)), ..Faults::default() });
    log.append(0, vec![batch("Dogs", 7, 4, 9)]).await.unwrap_err();
    log.append(0, vec![batch("Dogs", 7, 4, 5)]).await.unwrap();
    log.crash();
    let log = start_on(&disk.copy(), &config());
    assert_holds(&*log, "Dogs", 7, 1, 5).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fsync_posts_wait_for_no_interval_after_a_failed_write() {
    let disk = SimulatedDisk::default();
    // Nothing is moved into the tables by itself for an hour.
    let config = Config { durability: Durability::Os, ..config() };
    let log = start_on(&disk, &config);
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    disk.set_faults(Faults { failing_writes: Some(("commit-", 1)), ..Faults::default() });
    log.append(0, vec![batch("Dogs", 7, 4, 9)]).await.unwrap_err();
    eventually(async || log.append(0, vec![batch("Dogs", 7, 4, 5)]).await).await;
    assert_eq!(log.trouble(), None);
    log.close().await;
    let log = start_on(&disk.copy(), &config);
    assert_holds(&*log, "Dogs", 7, 1, 5).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_posts_loses_nothing_and_recovers() {
    let disk = SimulatedDisk::default();
    let quick = Config { apply_interval: Duration::from_millis(1), unapplied_bytes: 256 * 1024, ..config() };
    let log = start_on(&disk, &quick);
    disk.set_faults(Faults { capacity: Some(2 * 1024 * 1024), ..Faults::default() });
    let mut head = 0;
    for round in 1..=3 {
        fill(&log, &mut head).await;
        assert_eq!(log.head(0, &group("Dogs")).await.unwrap().unwrap().seq, head);
        disk.set_faults(Faults { capacity: Some((2 + 2 * round) * 1024 * 1024), ..Faults::default() });
        eventually(async || log.append(0, vec![batch("Dogs", 7, head + 1, head + 1)]).await).await;
        head += 1;
        eventually(async || log.trouble().map_or(Ok(()), Err)).await;
    }
    assert_holds(&*log, "Dogs", 7, 1, head).await;
    log.crash();
    disk.set_faults(Faults::default());
    let log = start_on(&disk.copy(), &quick);
    assert_holds(&*log, "Dogs", 7, 1, head).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_a_full_disk_says_that_nothing_is_lost() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    log.append(0, vec![batch("Dogs", 7, 1, 4_000)]).await.unwrap();
    log.crash();
    let disk = disk.copy();
    // What is there may be written over, and nothing more is taken.
    disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
    let error = start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
    assert!(matches!(error, OpenError::Full { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("free some space") && !told.contains("backup"), "{told}");
    disk.set_faults(Faults::default());
    let log = start_on(&disk, &config());
    assert_holds(&*log, "Dogs", 7, 1, 4_000).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_on_a_full_disk_keeps_no_later_one_from_starting() {
    let large = Config { segment_bytes: 1024 * 1024, ..config() };
    // A new directory, and a backup that was restored.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    let log = start_on(&SimulatedDisk::default(), &config());
    log.append(0, vec![batch("Dogs", 7, 1, 30)]).await.unwrap();
    log.back_up(copy.clone()).await.unwrap();
    log.close().await;
    let tables = std::fs::read(copy.join("messages.redb")).unwrap();
    let restored = SimulatedDisk::default();
    restored.open("messages.redb", true).unwrap();
    let used = tables.len() as u64;
    restored.set_content("messages.redb", tables);

    for (disk, used, head) in [(SimulatedDisk::default(), 0, 0), (restored, used, 30)] {
        disk.set_faults(Faults { capacity: Some(used + 512 * 1024), ..Faults::default() });
        let log = start_on(&disk, &large);
        assert!(log.trouble().is_some());
        // Another one than the backup has, and the same at each start.
        let epoch = log.head(0, &group("Dogs")).await.unwrap().map_or(7, |head| head.epoch);
        assert_eq!(epoch > 7, head > 0);
        assert!(!disk.list().unwrap().iter().any(|name| name.starts_with("commit-")));
        log.crash();

        let disk = disk.copy();
        disk.set_faults(Faults { capacity: Some(used + 512 * 1024), ..Faults::default() });
        let log = start_on(&disk, &large);
        disk.set_faults(Faults::default());
        eventually(async || log.append(0, vec![batch("Dogs", epoch, head + 1, head + 1)]).await).await;
        let unapplied = disk.copy();
        assert!(log.flush().await);
        log.crash();
        let disk = disk.copy();
        // Once the tables stand in a commit log, its absence is noticed.
        let without = disk.copy();
        for name in without.list().unwrap().iter().filter(|name| name.starts_with("commit-")) {
            without.remove(name).unwrap();
        }
        let error = start(Arc::new(without) as Arc<dyn Disk>, &large).unwrap_err();
        assert!(matches!(error, OpenError::NoCommitLog { .. }), "{error}");
        for disk in [&disk, &unapplied] {
            let log = start_on(disk, &large);
            assert_holds_of(&*log, "Dogs", &[(7, 1, head), (epoch, head + 1, head + 1)]).await;
            log.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_stop_before_the_reserve_is_used() {
    let disk = SimulatedDisk::default();
    let reserved = Config { reserve_bytes: 1024 * 1024, ..config() };
    let log = start_on(&disk, &reserved);
    log.append(0, vec![batch("Dogs", 7, 1, 2)]).await.unwrap();
    disk.set_faults(Faults { capacity: Some(1024 * 1024), ..Faults::default() });
    eventually(async || log.trouble().ok_or("no trouble")).await;
    let error = log.append(0, vec![batch("Dogs", 7, 3, 3)]).await.unwrap_err();
    assert!(error.to_string().contains("log.reserve_bytes"), "{error}");
    assert_eq!(log.purge(0, &group("Dogs"), 1).await, Ok(1), "what frees space is let through");
    disk.set_faults(Faults::default());
    eventually(async || log.append(0, vec![batch("Dogs", 7, 3, 3)]).await).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_error_is_told_and_passes() {
    let disk = SimulatedDisk::default();
    let small = Config { cache_bytes: 0, table_cache_bytes: 0, apply_interval: Duration::from_millis(1), ..config() };
    let log = start_on(&disk, &small);
    for seq in 1..200 {
        log.append(0, vec![batch("Dogs", 7, seq, seq)]).await.unwrap();
    }
    assert!(log.flush().await);
    disk.set_faults(Faults { failing_reads: Some("messages"), ..Faults::default() });
    let failed = log.read(0, &group("Dogs"), Range::After(0), ALL).await;
    assert!(failed.is_err(), "{failed:?}");
    disk.set_faults(Faults::default());
    // The applier opens the tables again with the next thing it has to do.
    eventually(async || log.append(0, vec![batch("Dogs", 7, 200, 200)]).await).await;
    eventually(async || log.read(0, &group("Dogs"), Range::After(0), ALL).await).await;
    assert_holds(&*log, "Dogs", 7, 1, 200).await;
    log.close().await;
}

/// A small file system of its own; unmounted when dropped.
struct Mount(TempDir);

impl Mount {
    fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output().ok()?;
        mounted.status.success().then_some(Self(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_system_fills_up_and_recovers() {
    let Some(mount) = Mount::new("size=8m") else {
        eprintln!("skipped: only root can mount a small file system");
        return;
    };
    let config = Config {
        data_dir: mount.0.path().join("data"),
        segment_bytes: 512 * 1024,
        apply_interval: Duration::from_millis(5),
        ..config()
    };
    let log = open(&config).unwrap();
    let ballast = mount.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 3 * 1024 * 1024]).unwrap();
    let mut head = 0;
    fill(&log, &mut head).await;
    std::fs::remove_file(&ballast).unwrap();
    eventually(async || log.append(0, vec![batch("Dogs", 7, head + 1, head + 1)]).await).await;
    head += 1;
    assert_holds(&*log, "Dogs", 7, 1, head).await;
    log.close().await;
    let log = open(&config).unwrap();
    assert_holds(&*log, "Dogs", 7, 1, head).await;
    log.close().await;
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let Some(mount) = Mount::new("size=1m,ro") else {
        eprintln!("skipped: only root can mount a small file system");
        return;
    };
    let error = open(&Config { data_dir: mount.0.path().to_owned(), ..config() }).unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");
    assert!(error.to_string().contains(&mount.0.path().display().to_string()));
}

#[tokio::test]
async fn a_place_where_no_backup_can_be_made_is_told_as_that_of_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_dir: dir.path().join("data"), ..config() };
    open(&config).unwrap().close().await;
    let refused = |place: &std::path::Path| {
        let told = back_up(&config.data_dir, place).unwrap_err().to_string();
        assert!(told.starts_with("cannot make the backup: ") && told.contains(&place.display().to_string()), "{told}");
        assert!(told.contains("give a ") && !told.contains("data"), "{told}");
        told
    };
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refused(&file).contains("is not a directory"));
    let Some(mount) = Mount::new("size=1m,ro") else {
        eprintln!("skipped in part: only root can mount a small file system");
        return;
    };
    assert!(refused(mount.0.path()).contains("cannot write at "));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_can_look_copy_and_back_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_dir: dir.path().join("data"), ..config() };
    let log = open(&config).unwrap();
    log.append(0, vec![batch("Dogs", 7, 1, 30), batch("Cats", 8, 1, 2)]).await.unwrap();
    log.purge(0, &group("Dogs"), 10).await.unwrap();
    let copy = dir.path().join("copy");
    log.back_up(copy.clone()).await.unwrap();
    assert!(log.back_up(copy.clone()).await.is_err(), "never over another one");
    log.append(0, vec![batch("Dogs", 7, 31, 31)]).await.unwrap();
    log.crash();

    let copied = open(&Config { data_dir: copy.clone(), ..config.clone() }).unwrap();
    let epoch = epoch_of(&*copied, "Dogs").await;
    assert_holds_of(&*copied, "Dogs", &[(7, 11, 30), (epoch, 31, 30)]).await;
    copied.append(0, vec![batch("Dogs", epoch, 31, 31)]).await.unwrap();
    copied.close().await;

    let verified = verify(&config.data_dir).unwrap();
    assert_eq!((verified.groups, verified.messages, verified.replayed), (2, 23, 1));
    assert_eq!(stats(&config.data_dir).unwrap().messages, 23);
    let mut out = Vec::new();
    assert_eq!(export(&config.data_dir, &group("Cats"), &mut out).unwrap(), 2);
    let lines = String::from_utf8(out).unwrap();
    let first = lines.lines().next().unwrap();
    assert!(
        first.starts_with(r#"{"group_name":"Cats","epoch":8,"seq":1,"at":1700000000001,"sender":"ada","#),
        "{first}"
    );
    assert!(export(&config.data_dir, &group("Foxes"), &mut Vec::new()).is_err());

    // An earlier attempt ended in between: what it left is no data directory, and does not hinder the next one.
    let another = dir.path().join("another");
    std::fs::create_dir_all(another.join(".partial")).unwrap();
    std::fs::write(another.join(".partial/messages.redb"), "half").unwrap();
    assert!(stats(&another).is_err());
    assert_eq!(back_up(&config.data_dir, &another).unwrap().messages, 23);
    assert!(!another.join(".partial").exists());
    assert!(back_up(&config.data_dir, &another).is_err(), "never over another one");
    assert!(verify(dir.path()).is_err(), "there is no log in it");
}
