//! Notes on a disk that fails and loses power.

use super::faults::eventually;
use super::*;
use crate::log::embedded::notes::{FILE, Handle, NoteFile, load};
use crate::log::embedded::simulated::{Faults, Random, SimulatedDisk};
use crate::log::notes::{Kept, Note, Notes};

const FAR: u64 = u64::MAX >> 12;

fn note(key: &str, text: &str, until: u64) -> Note {
    Note { key: key.into(), text: text.into(), until }
}

fn open_on(disk: &SimulatedDisk) -> Handle {
    Handle(Arc::new(NoteFile::open(Arc::new(disk.clone()), Arc::default()).unwrap()))
}

async fn all(notes: &Handle) -> Vec<(String, String)> {
    let (all, _) = notes.follow().await.unwrap();
    all.into_iter().map(|Kept { note, .. }| (note.key, note.text)).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_takes_the_place_of_the_one_before_it_and_outlives_the_process() {
    let disk = SimulatedDisk::default();
    let notes = open_on(&disk);
    assert_eq!(all(&notes).await, []);
    notes.keep(note("a", "first", FAR)).await.unwrap();
    notes.keep(note("b", "other", FAR)).await.unwrap();
    notes.keep(note("a", "second", FAR)).await.unwrap();
    notes.keep(note("c", "gone", FAR)).await.unwrap();
    notes.keep(note("c", "", 0)).await.unwrap();
    notes.keep(note("d", "over already", 1)).await.unwrap();
    let wanted = pairs(&[("a", "second"), ("b", "other")]);
    assert_eq!(all(&notes).await, wanted);
    assert_eq!(all(&open_on(&disk.copy())).await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_survives_a_power_cut_at_any_moment() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::default();
        let notes = open_on(&disk);
        notes.keep(note("a-old", "x", FAR)).await.unwrap();
        disk.set_faults(Faults { operations_left: Some(random.below(24)), ..Faults::default() });
        let mut kept = vec![("a-old".to_owned(), "x".to_owned())];
        let mut tried = kept.clone();
        for number in 0..8 {
            let key = format!("n{number}");
            tried.push((key.clone(), "y".repeat(number * 700)));
            match notes.keep(note(&key, &"y".repeat(number * 700), FAR)).await {
                Ok(_) => kept = tried.clone(),
                Err(_) => break,
            }
        }
        let found = all(&open_on(&disk.after_power_cut(&mut random))).await;
        assert!(found == kept || found == tried, "seed {seed}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_written_is_not_told_and_spoils_nothing() {
    let disk = SimulatedDisk::default();
    let notes = open_on(&disk);
    notes.keep(note("a", "first", FAR)).await.unwrap();
    disk.set_faults(Faults { failing_syncs: Some(("notes", 1)), ..Faults::default() });
    assert!(notes.keep(note("a", "second", FAR)).await.is_err());
    assert_eq!(all(&notes).await, pairs(&[("a", "first")]));
    notes.keep(note("b", "later", FAR)).await.unwrap();
    assert_eq!(all(&open_on(&disk.copy())).await, pairs(&[("a", "first"), ("b", "later")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_the_writing() {
    let disk = SimulatedDisk::default();
    let notes = open_on(&disk);
    let keeping = (0..300).map(|number| {
        let notes = notes.clone();
        tokio::spawn(async move { notes.keep(note(&format!("{number:03}"), "x", FAR)).await.unwrap() })
    });
    for keeping in keeping.collect::<Vec<_>>() {
        keeping.await.unwrap();
    }
    assert_eq!(all(&open_on(&disk.copy())).await.len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_was_written_is_refused_by_its_name() {
    let disk = SimulatedDisk::default();
    open_on(&disk).keep(note("a", "first", FAR)).await.unwrap();
    let whole = disk.content(FILE);
    for place in 0..whole.len() {
        let mut other = whole.clone();
        other[place] ^= 1;
        disk.set_content(FILE, other);
        let error = load(&disk).unwrap_err().to_string();
        assert!(error.contains("simulated/notes"), "byte {place}: {error}");
    }
    disk.set_content(FILE, whole[..whole.len() - 1].to_vec());
    assert!(load(&disk).is_err(), "cut");
    disk.set_content(FILE, whole);
    assert_eq!(load(&disk).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_the_notes_and_a_server_that_stopped_keeps_none() {
    let home = tempfile::tempdir().unwrap();
    let config = Config { data_dir: home.path().join("data"), ..config() };
    let log = open(&config).unwrap();
    let notes = log.notes().unwrap();
    notes.keep(note("a", "first", FAR)).await.unwrap();
    log.back_up(home.path().join("copy")).await.unwrap();
    log.close().await;
    assert!(notes.keep(note("b", "late", FAR)).await.is_err());
    crate::log::embedded::back_up(&config.data_dir, &home.path().join("another")).unwrap();
    for place in ["data", "copy", "another"] {
        let log = open(&Config { data_dir: home.path().join(place), ..config.clone() }).unwrap();
        let (all, _) = log.notes().unwrap().follow().await.unwrap();
        assert_eq!(all, [Kept { change: 1, note: note("a", "first", FAR) }], "{place}");
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_is_being_written_is_there_before_another_process_may_have_the_directory() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    disk.set_faults(Faults { slow_syncs: Some(("notes", Duration::from_millis(300))), ..Faults::default() });
    let keeping = tokio::spawn(log.notes().unwrap().keep(note("a", "held", FAR)));
    eventually(async || {
        disk.list().unwrap().iter().any(|name| name.starts_with("notes")).then_some(()).ok_or("not begun")
    })
    .await;
    log.close().await;
    keeping.await.unwrap().unwrap();
    assert_eq!(disk.changes_after_release(), 0);
    let told = log.notes().unwrap().keep(note("b", "late", FAR)).await.unwrap_err();
    assert_eq!(told.reason, "the log is closed");
}
