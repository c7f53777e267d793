//! One group as its member sees it: what was seen, what was asked for, and what is still to come. Pure.

use std::time::Instant;

use tertulia_protocol::extended::{Join, Joined};

/// A place in one life of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The life of the group.
    pub(crate) epoch: u64,
    /// The last `seq` that was shown, or told to be missing.
    pub(crate) seen: u64,
}

/// Where a join begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// With what is posted from now on.
    Now,
    /// With the newest few.
    Last(u64),
    /// After what was seen before.
    After(Position),
}

/// What to do with a message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It was shown before: drop it.
    Repeat,
    /// Show it.
    Next,
    /// Tell that these are missing, then show it.
    Gap {
        /// The first missing `seq`.
        first: u64,
        /// The last missing `seq`.
        last: u64,
    },
}

/// Where the asking stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// Nothing is asked for.
    No,
    /// To be asked for, not before that time if there is one.
    Wanted(From, Option<Instant>),
    /// Asked for; `Joined` has not come.
    Sent(From),
}

/// A group that the person joined.
#[derive(Debug)]
pub(crate) struct Membership {
    /// `None` until the first `Joined`.
    position: Option<Position>,
    asking: Asking,
    leaving: bool,
    /// Joins that were sent before the last `Leave` and are not answered: what answers them is of no use.
    passed: u32,
    /// What is known to be there: until it was seen, the member is behind.
    known: u64,
}

impl Membership {
    /// A group that is to be joined.
    pub(crate) fn new(from: From) -> Self {
        Self { position: None, asking: Asking::Wanted(from, None), leaving: false, passed: 0, known: 0 }
    }

    /// Whether a `Join` is on its way, or will be.
    pub(crate) fn is_asking(&self) -> bool {
        self.asking != Asking::No
    }

    /// Whether `Leave` is on its way.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Joins again, from elsewhere.
    pub(crate) fn ask(&mut self, from: From) {
        self.asking = Asking::Wanted(from, None);
    }

    /// Gives the `Join` that is to be sent now, if there is one.
    pub(crate) fn next_join<'a>(&mut self, group: &'a str, now: Instant) -> Option<Join<'a>> {
        let Asking::Wanted(from, not_before) = self.asking else { return None };
        if not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.asking = Asking::Sent(from);
        let join = Join { group_name: group.into(), ..Join::default() };
        Some(match from {
            From::Now => join,
            From::Last(last) => Join { last: Some(last), ..join },
            From::After(position) => Join { after: Some(position.seen), epoch: Some(position.epoch), ..join },
        })
    }

    /// When [`Membership::next_join`] is worth asking again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.asking {
            Asking::Wanted(_, not_before) => not_before,
            _ => None,
        }
    }

    /// A join was answered, in whatever way. Whether it is one from before a `Leave`.
    pub(crate) fn is_of_before(&mut self) -> bool {
        let is_before = self.passed > 0;
        self.passed -= u32::from(is_before);
        is_before
    }

    /// The join was refused for now: it is asked for again at that time.
    pub(crate) fn join_later(&mut self, at: Instant) {
        if let Asking::Sent(from) = self.asking {
            self.asking = Asking::Wanted(from, Some(at));
        }
    }

    /// The join was refused. Whether one is still a member, by an earlier join.
    pub(crate) fn join_refused(&mut self) -> bool {
        let resuming = matches!(self.asking, Asking::Sent(From::After(_)));
        self.asking = Asking::No;
        self.position.is_some() && !resuming
    }

    /// The join was answered. Returns whether what was seen before is of no more use, because the group began anew.
    pub(crate) fn joined(&mut self, joined: &Joined<'_>) -> bool {
        let Asking::Sent(from) = self.asking else { return false };
        self.asking = Asking::No;
        self.known = if from == From::Now { 0 } else { joined.head };
        let (seen, anew) = match from {
            From::Now => (joined.head, false),
            From::Last(last) => (joined.head.saturating_sub(last), false),
            From::After(old) if old.epoch != joined.epoch => (0, true),
            From::After(old) if !joined.recovered && old.seen > joined.head => (0, true),
            From::After(old) => (old.seen, false),
        };
        self.position = Some(Position { epoch: joined.epoch, seen });
        anew
    }

    /// A message came.
    pub(crate) fn arrived(&mut self, seq: u64) -> Arrival {
        let Some(position) = &mut self.position else { return Arrival::Repeat };
        let expected = position.seen.saturating_add(1);
        if seq < expected {
            return Arrival::Repeat;
        }
        position.seen = seq;
        if seq > expected { Arrival::Gap { first: expected, last: seq - 1 } } else { Arrival::Next }
    }

    /// The server told what is missing. Returns what of that is news.
    pub(crate) fn lagged(&mut self, first: u64, last: u64) -> Option<(u64, u64)> {
        let position = self.position.as_mut()?;
        let first = first.max(position.seen.saturating_add(1));
        position.seen = position.seen.max(last);
        (first <= last).then_some((first, last))
    }

    /// One's own post is in the group, and so will be among its messages.
    pub(crate) fn posted(&mut self, epoch: u64, seq: u64) {
        if self.position.is_some_and(|position| position.epoch == epoch) {
            self.known = self.known.max(seq);
        }
    }

    /// `Leave` was sent.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        self.passed += u32::from(matches!(self.asking, Asking::Sent(_)));
        self.asking = Asking::No;
    }

    /// The membership ended. Whether the person wants to be back already.
    pub(crate) fn left(&mut self) -> bool {
        self.leaving = false;
        self.position = None;
        self.known = 0;
        self.is_asking()
    }

    /// The connection broke: the group is to be joined again after what was seen. Returns whether there is something
    /// left to join.
    pub(crate) fn disconnected(&mut self) -> bool {
        self.passed = 0;
        if self.leaving && !self.left() {
            return false;
        }
        self.asking = match (self.asking, self.position) {
            // Also if a join from elsewhere was asked for: resuming leaves no gap.
            (_, Some(position)) => Asking::Wanted(From::After(position), None),
            (Asking::Wanted(from, _) | Asking::Sent(from), None) => Asking::Wanted(from, None),
            (Asking::No, None) => return false,
        };
        true
    }

    /// Whether all that is known to be there was shown and nothing is asked for.
    pub(crate) fn is_settled(&self) -> bool {
        !self.leaving && !self.is_asking() && self.position.is_none_or(|position| position.seen >= self.known)
    }
}

#[cfg(test)]
mod tests {
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
        assert!(!dogs.joined(&joined(5, 10, true)));
        assert!(!dogs.is_settled(), "9 and 10 are still to come");
        assert_eq!(dogs.arrived(8), Arrival::Repeat);
        assert_eq!(dogs.arrived(9), Arrival::Next);
    }

    #[test]
    fn what_retention_removed_is_told_once() {
        let mut dogs = member(From::Now, &joined(5, 7, true));
        assert!(dogs.disconnected());
        dogs.next_join("Dogs", Instant::now()).unwrap();
        assert!(!dogs.joined(&joined(5, 20, false)));
        assert_eq!(dogs.lagged(8, 15), Some((8, 15)));
        assert_eq!(dogs.lagged(8, 15), None);
        assert_eq!(dogs.arrived(16), Arrival::Next);
    }

    #[test]
    fn another_epoch_begins_at_its_first_message() {
        let mut dogs = member(From::Now, &joined(5, 7, true));
        assert!(dogs.disconnected());
        dogs.next_join("Dogs", Instant::now()).unwrap();
        assert!(dogs.joined(&joined(6, 2, false)));
        assert_eq!(dogs.arrived(1), Arrival::Next);
        assert_eq!(dogs.arrived(2), Arrival::Next);
        assert!(dogs.is_settled());
    }

    #[test]
    fn a_group_shorter_than_what_was_seen_began_anew() {
        let mut dogs = member(From::Now, &joined(5, 7, true));
        assert!(dogs.disconnected());
        dogs.next_join("Dogs", Instant::now()).unwrap();
        assert!(dogs.joined(&joined(5, 3, false)));
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
        dogs.leave();
        assert!(!dogs.is_settled());
        assert!(!dogs.disconnected(), "nothing to resume");
    }

    #[test]
    fn back_before_the_leave_was_answered() {
        let mut dogs = member(From::Now, &joined(5, 7, true));
        dogs.leave();
        dogs.ask(From::Now);
        dogs.next_join("Dogs", Instant::now()).unwrap();
        assert!(dogs.left());
        assert!(!dogs.joined(&joined(5, 9, true)));
        assert_eq!(dogs.arrived(10), Arrival::Next);
    }

    #[test]
    fn gone_and_back_before_anything_was_answered() {
        let mut dogs = Membership::new(From::Now);
        let now = Instant::now();
        dogs.next_join("Dogs", now).unwrap();
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
    fn a_refused_join_is_repeated_not_before_its_time() {
        let mut dogs = Membership::new(From::Last(3));
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(2);
        dogs.next_join("Dogs", now).unwrap();
        dogs.join_later(later);
        assert_eq!(dogs.deadline(), Some(later));
        assert_eq!(dogs.next_join("Dogs", now), None);
        assert_eq!(dogs.next_join("Dogs", later).unwrap().last, Some(3));
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
}
