//! One group, and the lines that come about it.

use super::*;

fn joined(epoch: u64, head: u64, recovered: bool) -> Joined<'static> {
    Joined { group_name: "Dogs".into(), epoch, head, members: 1, recovered }
}

fn member(from: From, answer: &Joined<'_>) -> Membership {
    let mut membership = Membership::new(from);
    assert!(membership.next_join("Dogs", Instant::now()).is_some());
    membership.joined(answer);
    membership
}

#[test]
fn a_new_member_sees_what_comes_after_the_head() {
    let mut dogs = member(From::Now, &joined(1, 7, true));
    assert!(dogs.is_settled());
    assert_eq!(dogs.arrived(7), Arrival::Repeat);
    assert_eq!(dogs.arrived(8), Arrival::Next);
    assert_eq!(dogs.arrived(8), Arrival::Repeat);
    assert_eq!(dogs.arrived(11), Arrival::Gap { first: 9, last: 10 });
    assert_eq!(dogs.arrived(12), Arrival::Next);
}

#[test]
fn the_last_few_are_waited_for() {
    let mut dogs = member(From::Last(2), &joined(1, 7, true));
    assert!(!dogs.is_settled());
    assert_eq!(dogs.arrived(6), Arrival::Next);
    assert!(!dogs.is_settled());
    assert_eq!(dogs.arrived(7), Arrival::Next);
    assert!(dogs.is_settled());
}

#[test]
fn a_broken_connection_is_resumed_after_what_was_seen() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    assert_eq!(dogs.arrived(8), Arrival::Next);
    assert!(dogs.disconnected());
    let join = dogs.next_join("Dogs", Instant::now()).unwrap();
    assert_eq!((join.after, join.epoch, join.last), (Some(8), Some(5), None));
    assert_eq!(dogs.joined(&joined(5, 10, true)), News::default());
    assert!(!dogs.is_settled(), "9 and 10 are still to come");
    assert_eq!(dogs.arrived(8), Arrival::Repeat);
    assert_eq!(dogs.arrived(9), Arrival::Next);
}

#[test]
fn what_retention_removed_is_told_once() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    assert!(dogs.disconnected());
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert_eq!(dogs.joined(&joined(5, 20, false)), News::default());
    assert_eq!(dogs.lagged(8, 15), Some((8, 15)));
    assert_eq!(dogs.lagged(8, 15), None);
    assert_eq!(dogs.arrived(16), Arrival::Next);
}

#[test]
fn another_epoch_begins_at_its_first_message() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    assert!(dogs.disconnected());
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(dogs.joined(&joined(6, 2, false)).anew);
    assert_eq!(dogs.arrived(1), Arrival::Next);
    assert_eq!(dogs.arrived(2), Arrival::Next);
    assert!(dogs.is_settled());
}

#[test]
fn what_a_group_that_began_anew_has_tells_nothing_of_what_was_posted_before() {
    for joined_now in [joined(6, 1, false), joined(5, 1, false)] {
        let mut dogs = member(From::Now, &joined(5, 7, true));
        assert!(dogs.disconnected());
        dogs.next_join("Dogs", Instant::now()).unwrap();
        assert!(dogs.joined(&joined_now).anew);
        dogs.arrived(1);
        assert!(
            matches!(dogs.caught_up(), Some(CaughtUp::Partly(_))),
            "a post of the life before may have been stored"
        );
    }
}

#[test]
fn a_group_shorter_than_what_was_seen_began_anew() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    assert!(dogs.disconnected());
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(dogs.joined(&joined(5, 3, false)).anew);
    assert_eq!(dogs.arrived(1), Arrival::Next);
}

#[test]
fn one_is_behind_until_ones_own_post_came_back() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    dogs.posted(5, 9);
    assert!(!dogs.is_settled());
    assert_eq!(dogs.arrived(8), Arrival::Next);
    assert_eq!(dogs.arrived(9), Arrival::Next);
    assert!(dogs.is_settled());
    dogs.posted(4, 99);
    assert!(dogs.is_settled(), "a post in another life of the group is not waited for");
}

#[test]
fn leaving_ends_with_the_connection_too() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    assert!(dogs.leave_after(0));
    assert!(dogs.leave(), "the server is to be told");
    assert!(!dogs.is_settled());
    assert!(!dogs.leave_after(0), "it is left already");
    assert!(!dogs.disconnected(), "nothing to resume");
}

#[test]
fn who_waits_to_leave_is_a_member_until_then_and_after_a_broken_connection_again() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    assert!(dogs.leave_after(1));
    assert_eq!(dogs.arrived(8), Arrival::Next);
    assert!(dogs.disconnected());
    assert_eq!(dogs.next_join("Dogs", Instant::now()).unwrap().after, Some(8));
    assert_eq!(dogs.leaves_after(), Some(1));
    assert!(dogs.leave());
    assert!(!dogs.left());
}

#[test]
fn who_is_no_member_on_this_connection_leaves_without_the_server() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    assert!(dogs.disconnected());
    assert!(dogs.leave_after(0));
    assert!(!dogs.leave());
    assert!(!dogs.is_of_use());
}

#[test]
fn back_before_the_leave_was_answered() {
    let mut dogs = member(From::Now, &joined(5, 7, true));
    dogs.leave_after(0);
    dogs.ask(From::Now);
    dogs.leave();
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(dogs.left());
    assert_eq!(dogs.joined(&joined(5, 9, true)), News::default());
    assert_eq!(dogs.arrived(10), Arrival::Next);
}

#[test]
fn gone_and_back_before_anything_was_answered() {
    let mut dogs = Membership::new(From::Now);
    let now = Instant::now();
    dogs.next_join("Dogs", now).unwrap();
    dogs.leave_after(0);
    dogs.leave();
    dogs.ask(From::Now);
    dogs.next_join("Dogs", now).unwrap();
    assert!(dogs.is_of_before(), "the first join is answered, and left by now");
    assert!(dogs.left(), "the second one is still to be answered");
    assert!(!dogs.is_of_before());
    dogs.joined(&joined(5, 9, true));
    assert_eq!(dogs.arrived(10), Arrival::Next);
}

#[test]
fn a_refused_join_is_repeated_later_and_later() {
    let mut dogs = Membership::new(From::Last(3));
    let (mut now, wait) = (Instant::now(), Duration::from_secs(2));
    dogs.next_join("Dogs", now).unwrap();
    assert_eq!(dogs.join_later(now, wait), Some(wait), "as the server asked");
    assert_eq!(dogs.deadline(), Some(now + wait));
    assert_eq!(dogs.next_join("Dogs", now), None);
    for seconds in [2, 2, 4, 8, 16, 32, 60, 60] {
        now = dogs.deadline().unwrap();
        assert_eq!(dogs.next_join("Dogs", now).unwrap().last, Some(3));
        assert_eq!(dogs.join_later(now, wait), None, "that is no news");
        assert_eq!(dogs.deadline(), Some(now + Duration::from_secs(seconds)));
    }
}

#[test]
fn a_join_from_then_on_that_was_never_answered_is_told() {
    let mut dogs = Membership::new(From::Now);
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(dogs.disconnected());
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(dogs.joined(&joined(5, 9, true)).late);
}

#[test]
fn one_has_caught_up_at_the_head_there_was_and_knows_whether_all_of_it_came() {
    for (lost, all) in [(false, CaughtUp::Whole), (true, CaughtUp::Partly(2))] {
        let mut dogs = member(From::Now, &joined(5, 7, true));
        assert_eq!(dogs.caught_up(), None, "there is nothing to catch up on");
        assert!(dogs.disconnected());
        assert!(dogs.is_resuming());
        dogs.next_join("Dogs", Instant::now()).unwrap();
        dogs.joined(&joined(5, 9, !lost));
        if lost {
            dogs.lagged(8, 8);
        } else {
            dogs.arrived(8);
        }
        assert_eq!((dogs.is_resuming(), dogs.caught_up()), (true, None));
        dogs.arrived(9);
        assert_eq!(dogs.caught_up(), Some(all));
        assert!(!dogs.is_resuming());
    }
}

#[test]
fn a_refusal_ends_a_membership_only_if_there_is_no_earlier_one() {
    let mut dogs = Membership::new(From::Now);
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(!dogs.join_refused());

    let mut dogs = member(From::Now, &joined(5, 7, true));
    dogs.ask(From::Last(3));
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(dogs.join_refused(), "the first join holds");

    assert!(dogs.disconnected());
    dogs.next_join("Dogs", Instant::now()).unwrap();
    assert!(!dogs.join_refused(), "the connection that held it is gone");
}

#[test]
fn who_has_skipped_messages_is_a_member_whatever_becomes_of_the_join_for_them() {
    let skipping = || {
        let mut dogs = member(From::Now, &joined(5, 7, true));
        dogs.ask(From::Last(1));
        dogs.next_join("Dogs", Instant::now()).unwrap();
        dogs.joined(&joined(5, 10, true));
        assert_eq!(dogs.next_join("Dogs", Instant::now()).unwrap().after, Some(7));
        assert_eq!((dogs.arrived(10), dogs.lagged(8, 9)), (Arrival::Repeat, None));
        dogs
    };
    let mut dogs = skipping();
    assert!(dogs.join_refused(), "the one before holds");
    assert_eq!(dogs.arrived(11), Arrival::Gap { first: 8, last: 10 });

    let mut dogs = skipping();
    dogs.join_later(Instant::now(), Duration::from_secs(1));
    assert!(dogs.leave_after(0));
    assert!(dogs.leave(), "the server is to be told");

    let mut dogs = skipping();
    assert!(dogs.disconnected());
    assert_eq!(dogs.next_join("Dogs", Instant::now()).unwrap().after, Some(7));
    dogs.joined(&joined(5, 10, true));
    assert_eq!(dogs.arrived(8), Arrival::Next);
}
