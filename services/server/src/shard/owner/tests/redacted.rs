//! Messages whose text a moderator removes.

use super::*;

const PAGE: PageLimit = PageLimit { records: 100, bytes: usize::MAX };

fn plain(text: &str) -> (String, bool, Option<u64>) {
    (text.into(), false, None)
}

fn removed() -> (String, bool, Option<u64>) {
    (String::new(), true, None)
}

/// A group in which Ada is, and its life.
async fn with_ada() -> (World, Arc<Session>, u64) {
    let (world, ada) = (World::new(Config::default(), BOUNDS), session(1, "ada"));
    let epoch = world.join(&ada).await.unwrap().epoch;
    (world, ada, epoch)
}

#[tokio::test]
async fn the_text_goes_and_the_group_is_told_once() {
    let world = World::new(Config::default(), BOUNDS);
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let mut joined = world.join(&bob).await.unwrap();
    assert_eq!(world.post(&ada, &["a", "", "b"]).await, [Ok(1), Ok(2), Ok(3)]);
    drop(joined.subscription.recv().await.unwrap());
    for _ in 0..2 {
        assert_eq!(world.redact(joined.epoch, 2).await, Ok(Some(4)));
    }
    let tells = ("A message of ada was removed: spam".to_owned(), false, Some(2));
    assert_eq!(world.texts().await, [plain("message a"), removed(), plain("message b"), tells.clone()]);
    let told = joined.subscription.recv().await.unwrap();
    let record = &told.batch.records[0];
    let removal = tertulia_protocol::Removal { first: 2, last: 2, sender: None };
    assert_eq!((record.seq, &record.sender, record.removes()), (4, &UserName::system(), Some(removal)));
    // The places of the others are as they were, and what comes next has the next.
    assert_eq!(world.post(&ada, &["b", "c"]).await, [Ok(3), Ok(5)]);
    for (epoch, seq) in [(joined.epoch + 1, 1), (joined.epoch, 0), (joined.epoch, 6), (joined.epoch, u64::MAX)] {
        assert_eq!(world.redact(epoch, seq).await, Ok(None), "{seq} of {epoch}");
    }
    assert_eq!(world.purge(None, 1).await, Ok(Some(1)));
    assert_eq!(world.redact(joined.epoch, 1).await, Ok(None), "it is gone");
    assert_eq!(world.post(&ada, &["d"]).await, [Ok(6)]);
}

/// Neither what the owner remembers nor what it reads back brings the text back, or lets the group be told again.
#[tokio::test]
async fn a_repeat_of_what_was_removed_is_a_repeat_also_when_the_group_was_out_of_memory() {
    let world = World::new(Config { group_idle: Duration::from_millis(20), ..Config::default() }, BOUNDS);
    let ada = session(1, "ada");
    let epoch = world.join(&ada).await.unwrap().epoch;
    assert_eq!(world.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
    assert_eq!(world.redact(epoch, 1).await, Ok(Some(3)));
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    let (group, session) = (world.group.clone(), Arc::clone(&ada));
    assert!(world.shards.send(0, Request::Leave { group, session, answer: true }).await);
    assert!(matches!(next_event(&ada.inbox).await, Event::Left { was_member: true, .. }));
    while world.shards.directory().totals().groups > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    assert_eq!(world.redact(epoch, 1).await, Ok(Some(3)));
    assert_eq!(world.post(&ada, &["c"]).await, [Ok(4)]);
}

#[tokio::test]
async fn what_could_not_be_told_is_told_when_it_is_asked_for_again() {
    let (world, ada, epoch) = with_ada().await;
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    // Room for removals is made where nothing can be stored.
    world.mood(FAILING);
    assert!(matches!(world.redact(epoch, 1).await, Err(Refusal::Unavailable { .. })));
    assert_eq!(world.texts().await, [removed()]);
    world.mood(WELL);
    assert_eq!(world.redact(epoch, 1).await, Ok(Some(2)));
    assert_eq!(world.texts().await.len(), 2);
}

#[tokio::test]
async fn many_are_removed_at_once_of_one_or_of_all_and_the_group_is_told_once() {
    const MANY: usize = 150;
    let world = World::new(Config::default(), BOUNDS);
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let epoch = world.join(&bob).await.unwrap().epoch;
    for _ in 0..MANY {
        world.post(&ada, &[""]).await;
        world.post(&bob, &[""]).await;
    }
    let (last, of_ada) = (2 * MANY as u64, Some("ada".to_owned()));
    let selection = Selection { first: 11, last: last - 10, sender: of_ada };
    for _ in 0..2 {
        let removed = MANY as u64 - 10;
        assert_eq!(world.redact_all(epoch, selection.clone()).await, Ok(Some((removed, last + 1))));
    }
    let texts = world.texts().await;
    for (seq, (text, is_removed, _)) in (1..=last).zip(&texts) {
        let wanted = seq % 2 == 1 && (11..=last - 10).contains(&seq);
        assert_eq!((*is_removed, text.is_empty()), (wanted, wanted), "{seq}");
    }
    assert_eq!(texts.last().unwrap().0, format!("{} messages of ada were removed: spam", MANY - 10));
    // What tells of it stays, whoever is meant.
    let all = Selection { first: last - 10, last: last + 5, sender: None };
    assert_eq!(world.redact_all(epoch, all).await, Ok(Some((11, last + 2))));
    let texts = world.texts().await;
    assert_eq!(texts[last as usize].2, Some(11), "{texts:?}");
    assert_eq!(texts.last().unwrap().0, "11 messages were removed: spam");
    for nobody in [("eve", 1, last), ("@system", 1, last), ("ada", last + 1, last + 9)] {
        let (sender, first, last) = nobody;
        let selection = Selection { first, last, sender: Some(sender.to_owned()) };
        assert_eq!(world.redact_all(epoch, selection).await, Ok(None), "{nobody:?}");
    }
    let one = Selection { first: 1, last: 2, sender: Some("bob".to_owned()) };
    assert_eq!(world.redact_all(epoch, one).await, Ok(Some((1, last + 3))));
    assert_eq!(world.texts().await.last().unwrap().0, "A message of bob was removed: spam");
}

#[tokio::test]
async fn a_range_ends_with_the_newest_message_there_is() {
    let (world, ada, epoch) = with_ada().await;
    assert_eq!(world.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
    let selection = Selection { first: 1, last: 100, sender: None };
    for _ in 0..2 {
        assert_eq!(world.redact_all(epoch, selection.clone()).await, Ok(Some((2, 3))));
    }
    // What comes later is told of when it is removed.
    assert_eq!(world.post(&ada, &["c"]).await, [Ok(4)]);
    for _ in 0..2 {
        assert_eq!(world.redact_all(epoch, selection.clone()).await, Ok(Some((3, 5))));
    }
    let page = world.log.read(0, &world.group, Range::After(0), PAGE).await.unwrap().unwrap();
    let told: Vec<(u64, u64)> =
        page.records.iter().filter_map(|record| record.removes().map(|it| (record.seq, it.last))).collect();
    assert_eq!(told, [(3, 2), (5, 4)]);
}

#[tokio::test]
async fn what_is_removed_in_steps_is_told_at_the_end() {
    let (world, ada, epoch) = with_ada().await;
    assert_eq!(world.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
    let all = Selection { first: 1, last: 2 * Selection::STEP + 1, sender: None };
    let steps: Vec<Selection> = all.steps().collect();
    let ends: Vec<(u64, u64)> = steps.iter().map(|step| (step.first, step.last)).collect();
    let step = Selection::STEP;
    assert_eq!(ends, [(1, step), (step + 1, 2 * step), (2 * step + 1, 2 * step + 1)]);
    assert_eq!(Selection { first: 7, last: 6 + step, sender: None }.steps().count(), 0);
    let quietly = Telling { quietly: true, ..Telling::default() };
    let mut done = Vec::new();
    for step in steps {
        done.push(world.redact_by(epoch, step, quietly.clone()).await.unwrap());
    }
    assert_eq!(done, [Some((2, 0)), None, None]);
    assert_eq!(world.texts().await, [removed(), removed()]);
    // Of what comes in between nothing is removed.
    assert_eq!(world.post(&ada, &["c"]).await, [Ok(3)]);
    let removed_before = Some(crate::shard::request::RemovedBefore { messages: 2, last: 2 });
    let telling = Telling { reason: Some("spam".into()), removed: removed_before, ..Telling::default() };
    for _ in 0..2 {
        assert_eq!(world.redact_by(epoch, all.clone(), telling.clone()).await, Ok(Some((2, 4))));
    }
    let tells = ("2 messages were removed: spam".to_owned(), false, Some(1));
    assert_eq!(world.texts().await, [removed(), removed(), plain("message c"), tells]);
    assert_eq!(world.redact_by(epoch + 1, all, telling).await, Ok(None));
}

/// As where the disk fails: it may be well again later.
#[tokio::test]
async fn texts_that_cannot_be_read_are_removed_or_it_is_said_that_they_are_not() {
    for left_out in [1..3, 2..4, 3..6, 1..6] {
        let (world, ada, epoch) = with_ada().await;
        assert_eq!(world.post(&ada, &["", "", "", "", ""]).await.len(), 5);
        *world.log.0.left_out.lock().unwrap() = left_out.clone();
        let mut selection = Selection { first: 1, last: 5, sender: Some("ada".to_owned()) };
        let refused = world.redact_all(epoch, selection.clone()).await;
        assert!(matches!(refused, Err(Refusal::Unavailable { .. })), "{left_out:?}: {refused:?}");
        selection.sender = None;
        assert_eq!(world.redact_all(epoch, selection).await, Ok(Some((5, 6))), "{left_out:?}");
        *world.log.0.left_out.lock().unwrap() = 0..0;
        let texts = world.texts().await;
        assert_eq!(texts[..5], vec![removed(); 5], "{left_out:?}");
        assert_eq!(texts.len(), 6);
    }
    // What retention removed is not missed.
    let (world, ada, epoch) = with_ada().await;
    assert_eq!(world.post(&ada, &["", "", ""]).await.len(), 3);
    assert_eq!(world.purge(None, 2).await, Ok(Some(2)));
    let selection = Selection { first: 1, last: 3, sender: Some("ada".to_owned()) };
    assert_eq!(world.redact_all(epoch, selection).await, Ok(Some((1, 4))));
}
