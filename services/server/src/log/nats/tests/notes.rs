//! Notes on a real server.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::*;
use crate::log::nats::link::Published;
use crate::log::notes::{Kept, Note, Notes};
use crate::log::now_ms;

fn note(key: &str, text: &str, until: u64) -> Note {
    Note { key: key.into(), text: text.into(), until }
}

async fn next(following: &mut BoxStream<'static, Kept>) -> Kept {
    tokio::time::timeout(PATIENCE, following.next()).await.expect("no note came").expect("the stream ended")
}

/// The notes that hold.
async fn all(notes: &dyn Notes) -> Vec<Note> {
    let (all, _) = notes.follow().await.unwrap();
    all.into_iter().map(|kept| kept.note).filter(|note| note.until > now_ms()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_told_to_every_node_and_outlive_all_of_them() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let far = now_ms() + 3_600_000;
    let (one, other) = (open(&config).await, open(&config).await);
    let (notes, mut following) = other.notes().unwrap().follow().await.unwrap();
    assert_eq!(notes, []);
    let keeper = one.notes().unwrap();
    let odd = note("group Dögs/user ada.*", "{}", far);
    let mut change = keeper.keep(odd.clone()).await.unwrap();
    assert_eq!(next(&mut following).await, Kept { change, note: odd.clone() });
    // One after the other: who follows is not told of a note that another one has replaced before it was on its way.
    for note in [
        note("b", "first", far),
        note("b", "second", far),
        note("c", "soon over", now_ms() + 1_000_000),
        note("c", "", 0),
    ] {
        let before = std::mem::replace(&mut change, keeper.keep(note.clone()).await.unwrap());
        assert!(change > before, "{change} after {before}");
        assert_eq!(next(&mut following).await, Kept { change, note });
    }
    one.close().await;
    other.close().await;
    let anew = open(&config).await;
    let mut notes = all(&*anew.notes().unwrap()).await;
    notes.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(notes, [note("b", "second", far), odd]);
    anew.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_comes_late_undoes_none_that_was_kept_since() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let far = now_ms() + 3_600_000;
    let (one, other) = (open(&config).await, open(&config).await);
    // It is on its way, and its node gives it up.
    let (late, newer) = (note("a", "late", far), note("a", "newer", far));
    let last = one.core.notes.last("a").await.unwrap();
    other.notes().unwrap().keep(newer.clone()).await.unwrap();
    assert_eq!(one.core.notes.put(&late, last).await.unwrap(), Published::Fenced);
    assert_eq!(all(&*one.notes().unwrap()).await, [newer]);

    // At the same moment one follows the other.
    let both = [&one, &other].map(|log| log.notes().unwrap());
    for round in 0..20 {
        let texts = [format!("one {round}"), format!("other {round}")];
        let keeping = both.iter().zip(&texts).map(|(notes, text)| notes.keep(note("a", text, far)));
        futures_util::future::try_join_all(keeping).await.unwrap();
        let notes = all(&*one.notes().unwrap()).await;
        assert!(notes.len() == 1 && texts.contains(&notes[0].text), "{notes:?}");
    }
    // One that is over is replaced like any other.
    both[0].keep(note("a", "", 0)).await.unwrap();
    both[1].keep(note("a", "again", far)).await.unwrap();
    assert_eq!(all(&*one.notes().unwrap()).await, [note("a", "again", far)]);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_notes_than_one_answer_holds_are_all_read() {
    let servers = Servers::start(1, "").await;
    let log = open(&config(&servers.urls())).await;
    let keeper = log.notes().unwrap();
    let far = now_ms() + 3_600_000;
    let keeping = (0..1_500).map(|number| keeper.keep(note(&format!("n{number}"), "x", far)));
    let kept: Vec<_> = futures_util::stream::iter(keeping).buffer_unordered(64).collect().await;
    assert!(kept.iter().all(Result::is_ok));
    assert_eq!(all(&*keeper).await.len(), 1_500);
    log.close().await;
}
