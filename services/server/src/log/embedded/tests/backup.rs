//! Backups that are broken off, and what is left of them.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::SystemTime;
use std::{fs, thread};

use super::faults::eventually;
use super::*;
use crate::log::BackupError;
use crate::log::embedded::backup::{CopyError, While, copy};
use crate::log::embedded::disk::{Directory, DiskFile, Identity, LOCK, Space};
use crate::log::embedded::simulated::Faults;
use crate::log::embedded::table::{MESSAGES, Tables};
use crate::log::embedded::{back_up, verify};
use crate::log::notes::{Kept, Note};

const MIB: u64 = 1024 * 1024;

/// Tables with so many rows of so many bytes.
fn tables(rows: u64, bytes: usize) -> Arc<Tables> {
    let disk = SimulatedDisk::default();
    let tables = Tables::open(Arc::new(disk), 64 * 1024, 1).unwrap();
    let written = tables.write(|transaction| {
        let mut messages = transaction.open_table(MESSAGES)?;
        for row in 0..rows {
            messages.insert((1, row), vec![7; bytes].as_slice())?;
        }
        Ok(())
    });
    written.unwrap();
    Arc::new(tables)
}

fn place() -> Arc<dyn Disk> {
    Arc::new(SimulatedDisk::default())
}

#[test]
fn a_copy_ends_at_once_when_the_log_stops() {
    let asked = Cell::new(0);
    let stops = || {
        asked.set(asked.get() + 1);
        asked.get() > 100
    };
    let ended = copy(&tables(5_000, 100), &[], &place(), &While { stops: &stops, room: &|| Ok(()) });
    assert!(matches!(ended, Err(CopyError::Stopping)), "{ended:?}");
    assert_eq!(asked.get(), 101, "it is asked before each row");
}

#[test]
fn a_copy_is_written_little_by_little_and_looks_for_room_each_time() {
    const LARGE: usize = 64 * 1024;
    let tables = tables(20 * MIB / LARGE as u64, LARGE);
    let asked = Cell::new(0);
    let room = |most: u64| {
        asked.set(asked.get() + 1);
        if asked.get() > most { Err(CopyError::NoSpace { available: 1, needed: 2 }) } else { Ok(()) }
    };
    copy(&tables, &[], &place(), &While { stops: &|| false, room: &|| room(u64::MAX) }).unwrap();
    assert!((3..10).contains(&asked.get()), "20 MiB in {} transactions", asked.get());
    asked.set(0);
    let ended = copy(&tables, &[], &place(), &While { stops: &|| false, room: &|| room(2) });
    assert!(matches!(ended, Err(CopyError::NoSpace { .. })), "{ended:?}");
}

/// Whoever reads afterwards would wait for as long.
#[test]
fn tables_that_have_to_be_opened_again_do_not_wait_for_a_copy() {
    let tables = tables(20 * MIB / (64 * 1024), 64 * 1024);
    let (told, ended) = mpsc::channel();
    // A thread that is left alone if it waits for itself.
    thread::spawn(move || {
        let room = || tables.reopen().map_err(CopyError::from);
        let ended = copy(&tables, &[], &place(), &While { stops: &|| false, room: &room });
        drop(told.send((ended, tables.is_suspect())));
    });
    let (ended, is_suspect) = ended.recv_timeout(Duration::from_secs(60)).expect("nobody waits for the copy");
    assert!(matches!(&ended, Err(CopyError::Tables(told)) if told.contains("not open")), "{ended:?}");
    assert!(!is_suspect);
}

#[test]
fn a_place_that_fails_does_not_have_the_tables_opened_again() {
    let full = SimulatedDisk::default();
    full.set_faults(Faults { capacity: Some(4 * MIB), ..Faults::default() });
    let tables = tables(20 * MIB / (64 * 1024), 64 * 1024);
    let ended = copy(&tables, &[], &(Arc::new(full) as Arc<dyn Disk>), &While { stops: &|| false, room: &|| Ok(()) });
    assert!(matches!(ended, Err(CopyError::Tables(_))), "{ended:?}");
    assert!(!tables.is_suspect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_leaves_the_space_that_posts_need() {
    let config = Config { reserve_bytes: MIB, ..config() };
    let log = start_on(&SimulatedDisk::default(), &config);
    log.append(0, vec![batch("Dogs", 7, 1, 100)]).await.unwrap();
    let unapplied = log.core.backlog.size().bytes as u64;
    assert!(unapplied > 0);
    let needed = log.core.tables.disk_bytes() + config.reserve_bytes + 2 * unapplied + config.segment_bytes;
    for (free, is_enough) in [(needed - 1, false), (2 * needed, true)] {
        let place = SimulatedDisk::default();
        place.set_faults(Faults { capacity: Some(free), ..Faults::default() });
        let made = log.core.copy_into(&(Arc::new(place) as Arc<dyn Disk>));
        match made {
            Ok(_) => assert!(is_enough),
            Err(error) => {
                assert!(!is_enough);
                assert_eq!(error, BackupError::NoSpace { available: free, needed });
            }
        }
    }
    log.close().await;
}

/// A place for a copy; what is written there leaves less on the disk of the log.
#[derive(Debug)]
struct Crowding {
    place: SimulatedDisk,
    disk: SimulatedDisk,
    capacity: u64,
}

impl Disk for Crowding {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.set_faults(Faults { capacity: Some(self.capacity), ..Faults::default() });
        self.place.open(name, create)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.place.list()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.place.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.place.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.place.sync_dir()
    }
    fn space(&self) -> io::Result<Space> {
        self.place.space()
    }
    fn hold(&self, name: &str) -> io::Result<()> {
        self.place.hold(name)
    }
    fn displaced(&self, files: &[(String, Identity)]) -> Option<PathBuf> {
        self.place.displaced(files)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }
    fn release(&self) {
        self.place.release();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_on_another_disk_leaves_the_log_the_space_that_posts_need() {
    let disk = SimulatedDisk::default();
    let config = Config { reserve_bytes: MIB, ..config() };
    let log = start_on(&disk, &config);
    log.append(0, vec![batch("Dogs", 7, 1, 100)]).await.unwrap();
    assert!(log.flush().await);
    // Files that are at hand for the next messages are made meanwhile.
    let mut used = 0;
    eventually(async || {
        let before = std::mem::replace(&mut used, log.stats().bytes);
        tokio::time::sleep(Duration::from_millis(300)).await;
        (log.stats().bytes == used && before == used).then_some(()).ok_or(used)
    })
    .await;
    let needed = config.reserve_bytes + config.segment_bytes;
    let made = |free: u64| {
        disk.set_faults(Faults { capacity: Some(used + free), ..Faults::default() });
        log.core.copy_into(&place())
    };
    // It may do with what posts do with.
    for free in [needed, needed - 1] {
        made(free).unwrap();
    }
    // But not with what it has taken itself: the disk fills up while it is made.
    disk.set_faults(Faults { capacity: Some(used + needed), ..Faults::default() });
    let crowding = Crowding { place: SimulatedDisk::default(), disk: disk.clone(), capacity: used + needed - 1 };
    let made = log.core.copy_into(&(Arc::new(crowding) as Arc<dyn Disk>));
    assert_eq!(made, Err(BackupError::Crowded { available: needed - 1, needed }));
    assert_eq!(log.trouble(), None, "it gives way before posts do");
    // It takes nothing from posts that are refused.
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    eventually(async || log.trouble().ok_or("nobody has noticed")).await;
    log.core.copy_into(&place()).unwrap();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_for_which_there_is_no_space_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let config = Config { data_dir: home.path().join("data"), reserve_bytes: 1 << 60, ..config() };
    let log = open(&config).unwrap();
    let refused = log.back_up(home.path().join("copy")).await.unwrap_err();
    assert!(matches!(refused, BackupError::NoSpace { needed, .. } if needed > config.reserve_bytes), "{refused}");
    assert!(!home.path().join("copy").exists() && !home.path().join("copy.partial").exists());
    log.close().await;
}

/// Makes all files in `directory` as old as what was left behind long ago.
fn age(directory: &Path) {
    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
    for entry in fs::read_dir(directory).unwrap() {
        fs::File::options().write(true).open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_left_of_a_backup_is_removed_and_what_a_living_one_makes_is_not() {
    let home = tempfile::tempdir().unwrap();
    let log = open(&Config { data_dir: home.path().join("data"), ..config() }).unwrap();
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    let backups = home.path().join("all/backups");
    let of = |name: &str, files: &[&str]| {
        let directory = backups.join(name);
        fs::create_dir_all(&directory).unwrap();
        files.iter().for_each(|file| fs::write(directory.join(file), "half").unwrap());
        age(&directory);
        directory
    };
    let killed = of("backup-1.partial", &[LOCK, "messages.redb", "notes"]);
    let living = of("backup-2.partial", &[LOCK, "messages.redb"]);
    let lock = Directory::lock(&living).unwrap();
    age(&living);
    let seen_from_elsewhere = of("backup-3.partial", &[LOCK, "messages.redb"]);
    fs::write(seen_from_elsewhere.join("messages.redb"), "just written").unwrap();
    let just_begun = of("backup-4.partial", &[]);
    let foreign = of("letters.partial", &[LOCK, "letters"]);
    let whole = of("backup-5", &[LOCK, "messages.redb"]);

    log.back_up(backups.join("monday")).await.unwrap();
    assert!(!killed.exists() && !backups.join("monday.partial").exists());
    for other in [&living, &seen_from_elsewhere, &just_begun, &foreign, &whole] {
        assert!(other.exists(), "{}", other.display());
    }
    let refused = log.back_up(backups.join("backup-2")).await.unwrap_err();
    assert!(refused.to_string().contains("another process uses"), "{refused}");
    assert!(living.join("messages.redb").exists());
    drop(lock);
    // Under the same name nothing else could be made of it.
    log.back_up(backups.join("backup-2")).await.unwrap();
    log.back_up(backups.join("backup-4")).await.unwrap();
    assert!(!living.exists() && !just_begun.exists());
    assert_eq!(verify(&backups.join("backup-2")).unwrap().messages, 3);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_killed_does_not_keep_the_next_one_from_its_place() {
    let home = tempfile::tempdir().unwrap();
    let config = Config { data_dir: home.path().join("data"), ..config() };
    let log = open(&config).unwrap();
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    let place = home.path().join("place");
    let killed = |moved: &[&str]| {
        fs::create_dir_all(place.join(".partial")).unwrap();
        for file in [LOCK, "messages.redb"] {
            fs::write(place.join(".partial").join(file), "half").unwrap();
        }
        moved.iter().for_each(|file| fs::write(place.join(file), "old").unwrap());
    };
    log.close().await;

    // As this version leaves it; as the one before did.
    for moved in [&["notes"][..], &[LOCK], &[LOCK, "notes"]] {
        killed(moved);
        assert_eq!(back_up(&config.data_dir, &place).unwrap().messages, 3);
        assert!(!place.join(".partial").exists() && !place.join("notes").exists(), "its notes are not this copy's");
        fs::remove_dir_all(&place).unwrap();
    }
    let log = open(&config).unwrap();
    let note = Note { key: "a".into(), text: "first".into(), until: u64::MAX >> 12 };
    log.notes().unwrap().keep(note.clone()).await.unwrap();
    log.close().await;
    killed(&["notes"]);
    back_up(&config.data_dir, &place).unwrap();
    let copied = open(&Config { data_dir: place.clone(), ..config.clone() }).unwrap();
    assert_eq!(copied.notes().unwrap().follow().await.unwrap().0, [Kept { change: 1, note }]);
    copied.close().await;

    // What is whole, or anybody else's, is not written over.
    let refused = |place: &Path| {
        let told = back_up(&config.data_dir, place).unwrap_err().to_string();
        assert!(told.contains("is not empty"), "{told}");
    };
    fs::create_dir(place.join(".partial")).unwrap();
    refused(&place);
    let lone = home.path().join("lone");
    fs::create_dir(&lone).unwrap();
    fs::write(lone.join("notes"), "somebody's").unwrap();
    refused(&lone);
    // One that is being made is left alone.
    let taken = home.path().join("taken");
    let lock = Directory::lock(&taken.join(".partial")).unwrap();
    let told = back_up(&config.data_dir, &taken).unwrap_err().to_string();
    assert!(told.contains("another process uses"), "{told}");
    assert!(taken.join(".partial").join(LOCK).exists());
    drop(lock);
}
