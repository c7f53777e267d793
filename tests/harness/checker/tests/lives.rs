//! Lives of a group that end, and posts without an id, of which only the places tell which is which.

use super::*;

/// Another life of the group.
const BEFORE: u64 = EPOCH - 1;

/// Joins after a place of another life.
fn join_after_another_life(after: u64) -> Event {
    Event::Sent(Arc::new(Sent::Join { group: GROUP.into(), after: Some(after), last: None, epoch: Some(BEFORE) }))
}

fn joined_before(head: u64) -> Event {
    Event::Joined(Arc::new(Joined { group: GROUP.into(), epoch: BEFORE, head, members: 1, recovered: true }))
}

#[test]
fn a_recovery_in_another_life() {
    let mut it = Evening::new();
    let there = [join_after_another_life(2), joined(4, false)];
    it.bob.events = there.into_iter().chain(seen(&it.log)).collect();
    it.verdict().assert_clean();
    // The two first of this life are taken for seen.
    let there = [join_after_another_life(2), joined(4, true)];
    it.bob.events = there.into_iter().chain(seen(&it.log[2..])).collect();
    let violations = it.broken(LOSS);
    assert!(violations.iter().any(|it| matches!(it, Violation::Unexpected { fault: Fault::RecoveredElsewhere, .. })));
    // A place beyond the head is of another life too.
    it.bob.events = vec![join(Some(9), None), joined(4, true)];
    it.bob.end = End::Cut;
    assert!(matches!(it.broken(LOSS)[..], [Violation::Unexpected { fault: Fault::RecoveredElsewhere, .. }]));
}

#[test]
fn a_life_that_is_over_is_missed_by_who_is_gone() {
    let mut it = Evening::new();
    let rules = Rules { epochs_may_end: true, ..Rules::default() };
    it.bob.end = End::Cut;
    // Something was said before it came.
    it.bob.events = vec![join(None, None), joined_before(5)];
    assert!(matches!(it.broken(KEPT)[..], [Violation::EpochEnded { epoch: BEFORE, .. }]));
    it.rules = rules;
    it.verdict().assert_clean();
    // It heard it.
    it.rules = Rules::default();
    let heard = Event::Message(message(1, "ada", "one", Some("a1")));
    it.bob.events =
        vec![join(None, None), joined_before(0), heard.clone(), Event::Message(message(2, "ada", "x", None))];
    assert!(matches!(it.broken(KEPT)[..], [Violation::EpochEnded { epoch: BEFORE, .. }]), "each is told of once");
    it.rules = rules;
    it.verdict().assert_clean();
    // Nothing was said in it: there is nothing to keep of it.
    it.rules = Rules::default();
    it.bob.events = vec![join(None, None), joined_before(0)];
    it.verdict().assert_clean();
}

/// Ada also posts these without an id, and is answered with the places; the log holds them in the order of `kept`.
fn with_posts(posts: &[&str], kept: &[&str], places: &[u64]) -> Evening {
    let mut it = Evening::new();
    let more: Vec<_> = (5..).zip(kept).map(|(seq, said)| message(seq, "ada", said, None)).collect();
    it.log.extend(more.clone());
    for member in [&mut it.ada, &mut it.bob] {
        member.events.extend(seen(&more));
    }
    for member in [&mut it.guest, &mut it.listener] {
        member.events.extend(kept.iter().map(|said| text(said)));
    }
    it.ada.events.extend(posts.iter().map(|said| post(said, None)));
    it.ada.events.extend(places.iter().map(|seq| posted(None, *seq)));
    it
}

#[test]
fn posts_without_an_id_keep_their_order() {
    with_posts(&["x", "y", "x"], &["x", "y", "x"], &[5, 6, 7]).verdict().assert_clean();
    // The texts tell that the first stands behind the second.
    let it = with_posts(&["x", "y"], &["y", "x"], &[5, 6]);
    assert!(matches!(it.broken(ORDER)[..], [Violation::PostsSwapped { first: 6, later: 5, .. }]));
    // So do the answers, where the texts are the same.
    let it = with_posts(&["x", "x"], &["x", "x"], &[6, 5]);
    assert!(matches!(it.broken(ORDER)[..], [Violation::PostsSwapped { first: 6, later: 5, .. }]));
    // The first of three was refused, and is like the last.
    let mut it = with_posts(&["x", "y", "x"], &["y", "x"], &[5, 6]);
    it.ada.events.push(refused("Post", Code::RateLimited, None));
    it.verdict().assert_clean();
}

#[test]
fn one_place_for_two_posts_without_an_id() {
    let it = with_posts(&["x", "x"], &["x"], &[5, 5]);
    assert!(matches!(it.broken(ONCE)[..], [Violation::PlaceGivenTwice { seq: 5, .. }]));
    // Also where one user posts over two connections.
    let mut it = with_posts(&["x"], &["x"], &[5]);
    it.bob = recording("ada", Dialect::Extended, vec![post("x", None), posted(None, 5)]);
    assert!(matches!(it.broken(ONCE)[..], [Violation::PlaceGivenTwice { seq: 5, .. }]));
}

#[test]
fn a_head_that_was_not_there_yet() {
    let mut it = Evening::new();
    // It was told of two messages, and what it posts then is the first.
    it.ada.events[1] = joined(2, true);
    it.ada.events[0] = join(Some(0), None);
    let violations = it.broken(LOSS);
    assert!(matches!(violations[..], [Violation::HeadAhead { head: 2, newest: 0, .. }]), "{violations:?}");
    // A repeat is answered with a place before that.
    let tried = vec![join(None, None), joined(0, true), post("one", Some("a1"))];
    let mut tried = recording("ada", Dialect::Extended, tried);
    tried.end = End::Cut;
    it.bob = tried;
    it.verdict().assert_clean();

    let mut it = with_posts(&["x"], &["x"], &[5]);
    let before = it.ada.events.len() - 2;
    it.ada.events.splice(before..before, [join(Some(5), None), joined(5, true)]);
    assert!(matches!(it.broken(LOSS)[..], [Violation::HeadAhead { head: 5, newest: 4, .. }]));
}
