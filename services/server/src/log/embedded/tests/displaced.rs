//! What somebody removes or replaces under a running engine.

use std::fs;
use std::path::Path;

use super::faults::eventually;
use super::*;
use crate::log::AppendError;
use crate::log::embedded::disk::{Directory, LOCK};
use crate::log::embedded::files::{Demand, Files, Limits};
use crate::log::embedded::frame::{FileHeader, Position};
use crate::log::embedded::notes::{Handle, NoteFile};
use crate::log::embedded::scan::file_name;
use crate::log::embedded::trouble::{Cause, Trouble};
use crate::log::embedded::verify;
use crate::log::notes::{Note, Notes};

#[test]
fn what_is_removed_or_replaced_is_noticed_until_it_is_back() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let disk = Directory::lock(&data).unwrap();
    for name in ["messages.redb", &file_name(7)] {
        disk.open(name, true).unwrap();
    }
    disk.hold("messages.redb").unwrap();
    let trouble = Arc::new(Trouble::default());
    let limits = Limits { segment: 64 * 1024, spares: 1, reserve: 0, disk: 0 };
    let files = Files::new(Arc::new(disk), limits, Arc::clone(&trouble), &[7]).unwrap();
    // One that was there, and one that is begun.
    files.prepare().unwrap();
    files.begin(FileHeader { log: 1, file: 8, previous: Position::default() }, 0).unwrap();
    let told = || {
        files.watch(Demand::default());
        trouble.of(Cause::Displaced)
    };
    assert_eq!(told(), None);

    let away = home.path().join("away");
    let of_data = |name: &str| if name.is_empty() { data.clone() } else { data.join(name) };
    let is_told = |told: Option<String>, path: &Path| {
        let told = told.unwrap();
        assert!(told.starts_with(&format!("{} was removed or replaced", path.display())), "{told}");
        assert_eq!(told.contains("another process"), path.ends_with(LOCK), "{told}");
    };
    for name in ["messages.redb", LOCK, &file_name(7), &file_name(8), ""] {
        let path = of_data(name);
        fs::rename(&path, &away).unwrap();
        is_told(told(), &path);
        fs::rename(&away, &path).unwrap();
        assert_eq!(told(), None, "{name}");
    }
    for name in ["messages.redb", LOCK, &file_name(7), &file_name(8)] {
        let path = of_data(name);
        fs::rename(&path, &away).unwrap();
        fs::copy(&away, &path).unwrap();
        is_told(told(), &path);
        fs::rename(&away, &path).unwrap();
        assert_eq!(told(), None, "{name}");
    }
    // Of all that is gone the messages are told, not the lock: without it alone, a restart would do.
    for path in [LOCK, "messages.redb"].map(of_data) {
        fs::remove_file(path).unwrap();
    }
    is_told(told(), &of_data("messages.redb"));
    fs::rename(&data, &away).unwrap();
    fs::create_dir(&data).unwrap();
    is_told(told(), &data);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_files_a_log_takes_nothing_more_and_can_still_be_backed_up() {
    for takes_all in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let config = Config { data_dir: home.path().join("data"), ..config() };
        let log = open(&config).unwrap();
        log.append(0, vec![batch("Dogs", 7, 1, 5)]).await.unwrap();
        if takes_all {
            let away = home.path().join("away");
            fs::rename(&config.data_dir, &away).unwrap();
            fs::remove_dir_all(&away).unwrap();
        } else {
            fs::remove_file(config.data_dir.join("messages.redb")).unwrap();
        }
        let told = eventually(async || log.trouble().ok_or("nobody has noticed")).await;
        assert!(told.contains("was removed or replaced under the server"), "{told}");
        let is_refused = |result: Result<(), AppendError>| {
            let error = result.unwrap_err();
            assert!(error.to_string().contains("was removed or replaced"), "{error}");
        };
        is_refused(log.append(0, vec![batch("Dogs", 7, 6, 6)]).await);
        is_refused(log.purge(0, &group("Dogs"), 2).await.map(drop));
        is_refused(log.delete(0, &group("Dogs")).await.map(drop));
        // After an error of the disk they are opened again, and their name now leads nowhere, or to the tables of another server.
        if takes_all {
            fs::create_dir(&config.data_dir).unwrap();
            fs::write(config.data_dir.join("messages.redb"), "another server's").unwrap();
        }
        log.core.tables.reopen().unwrap();
        let copy = home.path().join("copy");
        log.back_up(copy.clone()).await.unwrap();
        // As docs/operations.md tells where no backup can be made.
        let rescued = home.path().join("rescued");
        fs::create_dir(&rescued).unwrap();
        for descriptor in fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path()) {
            // Other tests close theirs meanwhile.
            let Ok(open) = fs::read_link(&descriptor) else { continue };
            let name = open.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if open.starts_with(home.path()) && (name.starts_with("messages.redb") || name.starts_with("commit-")) {
                let name = name.trim_end_matches(" (deleted)");
                fs::copy(&descriptor, rescued.join(name)).unwrap();
            }
        }
        log.close().await;
        for copy in [copy, rescued] {
            assert_eq!(verify(&copy).unwrap().messages, 5);
        }
    }
}

/// Moves a directory away and makes another one, as of another server, in its place.
fn replace(data: &Path, away: &Path, names: &[&str]) {
    fs::rename(data, away).unwrap();
    fs::create_dir(data).unwrap();
    names.iter().for_each(|name| fs::write(data.join(name), name).unwrap());
}

/// Checks that nobody has changed that other one.
fn assert_untouched(data: &Path, names: &[&str]) {
    for name in names {
        assert_eq!(fs::read_to_string(data.join(name)).unwrap(), *name);
    }
    assert_eq!(fs::read_dir(data).unwrap().count(), names.len());
}

#[tokio::test]
async fn no_note_is_kept_among_those_of_another_server() {
    let home = tempfile::tempdir().unwrap();
    let (data, away) = (home.path().join("data"), home.path().join("away"));
    let trouble = Arc::new(Trouble::default());
    let disk = Arc::new(Directory::lock(&data).unwrap());
    let notes = Handle(Arc::new(NoteFile::open(disk, Arc::clone(&trouble)).unwrap()));
    let keep = async || {
        let kept = notes.keep(Note { key: "ada".into(), text: String::new(), until: u64::MAX >> 12 });
        kept.await.map_err(|error| error.reason)
    };
    keep().await.unwrap();
    let names = ["notes", "notes.next"];
    replace(&data, &away, &names);
    // Also before anybody has noticed.
    let told = keep().await.unwrap_err();
    assert!(told.contains("was removed or replaced under the server"), "{told}");
    assert_untouched(&data, &names);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&away, &data).unwrap();
    trouble.set(Cause::Displaced, Some("it is away".to_owned()));
    assert_eq!(keep().await.unwrap_err(), "it is away");
    trouble.set(Cause::Displaced, None);
    keep().await.unwrap();
}

#[test]
fn no_file_of_another_server_is_taken_renamed_or_removed() {
    const SEGMENT: u64 = 64 * 1024;
    let home = tempfile::tempdir().unwrap();
    let (data, away) = (home.path().join("data"), home.path().join("away"));
    let disk = Directory::lock(&data).unwrap();
    disk.open(&file_name(7), true).unwrap();
    let trouble = Arc::new(Trouble::default());
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: 0, disk: 0 };
    let files = Files::new(Arc::new(disk), limits, Arc::clone(&trouble), &[7]).unwrap();
    files.prepare().unwrap();
    files.retire(8);
    let begin = |need| {
        let header = FileHeader { log: 1, file: 8, previous: Position::default() };
        files.begin(header, need).map(|segment| segment.number)
    };
    let seventh = file_name(7);
    let names = ["spare-0", &seventh];
    replace(&data, &away, &names);
    for is_noticed in [false, true] {
        assert_eq!(trouble.of(Cause::Displaced).is_some(), is_noticed);
        for need in [0, 2 * SEGMENT] {
            let told = begin(need).unwrap_err().to_string();
            assert!(told.contains("was removed or replaced under the server"), "{told}");
        }
        files.provide(&Demand::default).unwrap_err();
        assert_untouched(&data, &names);
        files.watch(Demand::default());
    }
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&away, &data).unwrap();
    files.watch(Demand::default());
    assert_eq!(begin(0).unwrap(), 8);
    assert!(files.provide(&Demand::default).unwrap());
    assert!(data.join(file_name(8)).exists() && !data.join("spare-0").exists() && !data.join(seventh).exists());
}

#[test]
fn what_is_gone_is_noticed_while_a_spare_file_is_filled() {
    const SEGMENT: u64 = 3 * 1024 * 1024;
    let disk = SimulatedDisk::default();
    disk.open(&file_name(7), true).unwrap();
    let trouble = Arc::new(Trouble::default());
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: 0, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::clone(&trouble), &[7]).unwrap();
    disk.remove(&file_name(7)).unwrap();
    let told = files.provide(&Demand::default).unwrap_err().to_string();
    assert!(told.contains("was removed or replaced under the server"), "{told}");
    assert_eq!(trouble.of(Cause::Displaced), Some(told));
    // What was made by then is no use any more, and takes no space.
    let sizes: Vec<usize> = disk.list().unwrap().iter().map(|name| disk.content(name).len()).collect();
    assert_eq!(sizes, [0]);
}
