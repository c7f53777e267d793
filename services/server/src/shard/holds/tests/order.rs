//! What became of a hold, told in any order.

use tokio::sync::Semaphore;

use super::*;

/// Notes of which the first is kept at once, and whoever keeps it learns that only with a permit.
#[derive(Debug)]
struct Late {
    changes: AtomicU64,
    first: Semaphore,
}

#[derive(Debug, Clone)]
struct Handle(Arc<Late>);

impl Notes for Handle {
    fn keep(&self, _: Note) -> BoxFuture<'static, Result<u64, NoteError>> {
        let late = Arc::clone(&self.0);
        Box::pin(async move {
            let change = late.changes.fetch_add(1, Ordering::Relaxed) + 1;
            if change == 1 {
                late.first.acquire().await.unwrap().forget();
            }
            Ok(change)
        })
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, NoteError>> {
        Box::pin(async { Ok((Vec::new(), futures_util::stream::pending().boxed())) })
    }
}

#[tokio::test]
async fn of_two_that_are_kept_at_once_the_later_is_in_force_whoever_hears_of_it_first() {
    let ada = session(1, "ada", [10, 0, 0, 1]);
    for (earlier, later, wanted) in [(HOUR, Duration::ZERO, "ok"), (Duration::ZERO, HOUR, "kicked")] {
        let late = Arc::new(Late { changes: 0.into(), first: Semaphore::new(0) });
        let holds = Arc::new(Holds::new(Some(Arc::new(Handle(Arc::clone(&late)))), 100, true));
        // So that there is one to end.
        holds.apply(hold("Dogs", Some(user("ada")), 2 * HOUR));
        let mut first = std::pin::pin!(holds.keep(hold("Dogs", Some(user("ada")), earlier)));
        while late.changes.load(Ordering::Relaxed) == 0 {
            assert!(futures_util::poll!(&mut first).is_pending());
            tokio::task::yield_now().await;
        }
        holds.keep(hold("Dogs", Some(user("ada")), later)).await.unwrap();
        late.first.add_permits(1);
        first.await.unwrap();
        assert_eq!(code(holds.check(&group("Dogs"), &ada)), wanted);
    }
}

/// A node that had nothing of it learns of the end alone, where both were kept at once.
#[tokio::test(start_paused = true)]
async fn whoever_is_to_act_upon_a_hold_that_is_known_to_be_ended_holds_nobody() {
    let (one, other) = (Arc::new(Holds::new(None, 100, true)), Holds::new(None, 100, true));
    let kept = one.keep(hold("Dogs", Some(user("ada")), HOUR)).await.unwrap();
    let ended = one.keep(hold("Dogs", Some(user("ada")), Duration::ZERO)).await.unwrap();
    let again = one.keep(hold("Dogs", Some(user("ada")), 2 * HOUR)).await.unwrap();
    let place = (kept.group.clone(), kept.target.clone());
    other.apply(ended.clone());
    tokio::time::advance(2 * RECENT).await;
    other.inherit(kept.clone());
    assert_eq!(other.find(place.clone()), None);
    // One that was made since is another, also where what was before is told once more.
    for hold in [&again, &kept, &ended] {
        other.inherit(hold.clone());
        assert_eq!(other.find(place.clone()), Some(again.clone()));
    }
}

#[tokio::test]
async fn what_is_read_anew_is_not_undone_by_what_became_known_meanwhile_and_is_older() {
    let holds = Arc::new(Holds::new(None, 100, true));
    let begun = Instant::now();
    let kept = Hold { change: 1, ..hold("Dogs", Some(user("ada")), HOUR) };
    holds.apply(kept.clone());
    let ended = Kept { change: 2, note: Note { until: 0, ..kept.note() } };
    holds.replace(&[ended], begun);
    assert!(holds.is_empty());
    // As where it is kept while the reading is under way.
    let later = Hold { change: 3, ..kept };
    holds.apply(later.clone());
    holds.replace(&[], begun);
    assert_eq!(holds.find((later.group.clone(), later.target.clone())), Some(later));
}

#[tokio::test]
async fn the_name_of_a_deleted_group_is_not_opened_if_it_was_closed_anew() {
    let holds = Arc::new(Holds::new(None, 100, true));
    let closed = holds.keep(hold("Dogs", None, HOUR)).await.unwrap();
    let anew = holds.keep(hold("Dogs", None, 2 * HOUR)).await.unwrap();
    holds.open(group("Dogs"), closed.change);
    assert!(holds.closed_for("Dogs").is_some());
    holds.open(group("Dogs"), anew.change);
    assert!(holds.closed_for("Dogs").is_none());
    // Whoever follows may be told only now what it was closed by.
    holds.apply(anew);
    assert!(holds.closed_for("Dogs").is_none());
}

/// As where an operator has removed the bucket, and made another one.
#[tokio::test]
async fn where_changes_are_numbered_anew_what_is_kept_is_in_force_all_the_same() {
    let holds = Arc::new(Holds::new(Some(Arc::new(Sheet::default())), 100, true));
    let kept = Hold { change: 500, ..hold("Dogs", Some(user("ada")), HOUR) };
    holds.apply(kept.clone());
    holds.keep(Hold { until: 0, ..kept.clone() }).await.unwrap();
    assert!(holds.is_empty());
    holds.keep(kept).await.unwrap();
    assert_eq!(holds.len(), 1);
}
