//! What one connection may see next of one group: the rules of joining, resuming and being told of losses.
//!
//! Pure: it is told what happened and answers what was wrong with it.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use tertulia_protocol::code::Code;
use tertulia_protocol::extended::LeftReason;

use crate::recording::{Event, Joined, Lagged, Recording, Sent};

/// What was wrong with something that a member saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It came to a connection that is not a member.
    Outside,
    /// It came before in this join.
    Repeated,
    /// It should have come earlier in this join.
    OutOfOrder,
    /// Others should have come before it.
    Gap {
        /// The first of them.
        expected: u64,
    },
    /// A loss was told that does not begin where the member stands, or that is empty.
    LaggedElsewhere {
        /// Where the member stands.
        expected: u64,
    },
    /// `Joined` came without a `Join`.
    NotAsked,
    /// `Joined` promised all that was asked for, after a place that is of another life of the group.
    RecoveredElsewhere,
    /// `Left` came without a `Leave`, and no moderator is said to have had a hand in it.
    LeftUnasked,
}

/// What a `Join` asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ask {
    /// Begin after this `seq`.
    pub after: Option<u64>,
    /// Begin with so many of the newest.
    pub last: Option<u64>,
    /// The epoch of `after`.
    pub epoch: Option<u64>,
}

/// How a membership begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With exactly this `seq`, or with a `Lagged` that begins there.
    Exactly(u64),
    /// With the oldest message kept, which is not before this `seq`.
    OldestKept(u64),
}

/// One standing membership.
#[derive(Debug, Clone)]
struct Standing {
    epoch: u64,
    next: Start,
    /// Told nothing of these, which should have come.
    missed: Vec<RangeInclusive<u64>>,
}

/// Where one connection stands in one group.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    asks: VecDeque<Ask>,
    /// Each `Leave` that is not answered.
    leaves: usize,
    standing: Option<Standing>,
    /// The last place of the last membership, which outlives it.
    place: Option<(u64, u64)>,
}

impl Membership {
    /// A `Join` was sent.
    pub fn asked(&mut self, ask: Ask) {
        self.asks.push_back(ask);
    }

    /// A `Join` was refused.
    pub fn refused(&mut self, code: Code) {
        let contradictory = |ask: &Ask| ask.after.is_some() && ask.last.is_some();
        let at = if code == Code::BadRequest { self.asks.iter().position(contradictory) } else { None };
        self.asks.remove(at.unwrap_or(0));
    }

    /// `Joined` came. Answers how the membership begins; `None` if it goes on where it was.
    ///
    /// # Errors
    /// If nobody asked, or it says what cannot be.
    pub fn joined(&mut self, joined: &Joined) -> Result<Option<Start>, Fault> {
        let ask = self.asks.pop_front();
        if ask.is_none_or(|ask| ask.after.is_none() && ask.last.is_none()) && self.standing.is_some() {
            return ask.map(|_| None).ok_or(Fault::NotAsked);
        }
        let asked = ask.unwrap_or_default();
        let start = beginning(asked, joined);
        self.standing = Some(Standing { epoch: joined.epoch, next: start, missed: Vec::new() });
        let (Start::Exactly(first) | Start::OldestKept(first)) = start;
        self.place = Some((first.saturating_sub(1), joined.epoch));
        if joined.recovered && is_of_another_life(asked, joined) {
            return Err(Fault::RecoveredElsewhere);
        }
        ask.map(|_| Some(start)).ok_or(Fault::NotAsked)
    }

    /// A message came.
    ///
    /// # Errors
    /// If it should not have come now.
    pub fn message(&mut self, seq: u64) -> Result<(), Fault> {
        let standing = self.standing.as_mut().ok_or(Fault::Outside)?;
        let verdict = match standing.next {
            Start::OldestKept(least) if seq >= least => Ok(()),
            Start::Exactly(expected) if seq == expected => Ok(()),
            Start::Exactly(expected) if seq > expected => {
                standing.missed.push(expected..=seq - 1);
                Err(Fault::Gap { expected })
            }
            _ if standing.missed.iter().any(|missed| missed.contains(&seq)) => return Err(Fault::OutOfOrder),
            _ => return Err(Fault::Repeated),
        };
        standing.next = Start::Exactly(seq + 1);
        self.place = Some((seq, standing.epoch));
        verdict
    }

    /// A loss was told.
    ///
    /// # Errors
    /// If it does not fit where the member stands.
    pub fn lagged(&mut self, lagged: &Lagged) -> Result<(), Fault> {
        let standing = self.standing.as_mut().ok_or(Fault::Outside)?;
        let (expected, fits) = match standing.next {
            Start::Exactly(expected) => (expected, lagged.first == expected),
            Start::OldestKept(least) => (least, lagged.first >= least),
        };
        if !fits || lagged.last < lagged.first {
            return Err(Fault::LaggedElsewhere { expected });
        }
        standing.next = Start::Exactly(lagged.last + 1);
        self.place = Some((lagged.last, standing.epoch));
        Ok(())
    }

    /// A `Leave` was sent.
    pub fn asked_to_leave(&mut self) {
        self.leaves += 1;
    }

    /// A `Leave` was refused.
    pub fn leave_refused(&mut self) {
        self.leaves = self.leaves.saturating_sub(1);
    }

    /// `Left` came.
    ///
    /// # Errors
    /// If the connection is not a member, or it says that somebody asked and nobody did.
    pub fn left(&mut self, reason: LeftReason) -> Result<(), Fault> {
        let was_in = self.standing.take().is_some();
        if reason == LeftReason::Leave {
            self.leaves = self.leaves.checked_sub(1).ok_or(Fault::LeftUnasked)?;
        }
        if was_in { Ok(()) } else { Err(Fault::Outside) }
    }

    /// Whether a `Join` was neither answered nor refused.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.asks.is_empty()
    }

    /// The epoch of the standing membership.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.standing.as_ref().map(|standing| standing.epoch)
    }

    /// What the standing membership has to see next, and its epoch.
    #[must_use]
    pub fn next(&self) -> Option<(Start, u64)> {
        self.standing.as_ref().map(|standing| (standing.next, standing.epoch))
    }

    /// The last `seq` seen, or before which the last membership began, and its epoch: where to resume.
    #[must_use]
    pub fn place(&self) -> Option<(u64, u64)> {
        self.place
    }
}

/// Whether the place after which to begin is none of the life that one has joined.
fn is_of_another_life(ask: Ask, joined: &Joined) -> bool {
    let epoch_differs = ask.epoch.is_some_and(|epoch| epoch != joined.epoch);
    ask.after.is_some_and(|after| epoch_differs || after > joined.head)
}

fn beginning(ask: Ask, joined: &Joined) -> Start {
    match (ask.after, ask.last) {
        (Some(_), _) if is_of_another_life(ask, joined) => Start::OldestKept(1),
        (Some(after), _) => Start::Exactly(after + 1),
        (None, Some(last)) => {
            let first = joined.head.saturating_sub(last) + 1;
            if joined.recovered { Start::Exactly(first) } else { Start::OldestKept(first) }
        }
        (None, None) => Start::Exactly(joined.head + 1),
    }
}

/// Where the connection of a recording stands in `group`.
#[must_use]
pub fn follow(recording: &Recording, group: &str) -> Membership {
    let mut membership = Membership::default();
    for event in &recording.events {
        let outcome = match event {
            Event::Sent(sent) => {
                match &**sent {
                    Sent::Join { group: it, after, last, epoch } if &**it == group => {
                        membership.asked(Ask { after: *after, last: *last, epoch: *epoch });
                    }
                    Sent::Leave { group: it } if &**it == group => membership.asked_to_leave(),
                    _ => {}
                }
                Ok(())
            }
            Event::Rejected(it) if it.request.as_deref() == Some("Join") && it.group.as_deref() == Some(group) => {
                membership.refused(it.code);
                Ok(())
            }
            Event::Joined(it) if &*it.group == group => membership.joined(it).map(|_| ()),
            Event::Message(it) if &*it.group == group => membership.message(it.seq),
            Event::Lagged(it) if &*it.group == group => membership.lagged(it),
            Event::Rejected(it) if it.request.as_deref() == Some("Leave") && it.group.as_deref() == Some(group) => {
                membership.leave_refused();
                Ok(())
            }
            Event::Left(it) if &*it.group == group => membership.left(it.reason),
            _ => Ok(()),
        };
        // What is wrong is for the checker to say.
        drop(outcome);
    }
    membership
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(epoch: u64, head: u64, recovered: bool) -> Joined {
        Joined { group: "G".into(), epoch, head, members: 1, recovered }
    }

    fn lagged(first: u64, last: u64) -> Lagged {
        Lagged { group: "G".into(), first, last }
    }

    fn member(ask: Ask, answer: &Joined) -> Membership {
        let mut membership = Membership::default();
        membership.asked(ask);
        membership.joined(answer).unwrap();
        membership
    }

    #[test]
    fn a_plain_join_begins_after_the_head() {
        let mut it = member(Ask::default(), &joined(1, 7, true));
        assert_eq!(it.place(), Some((7, 1)));
        assert_eq!(it.message(8), Ok(()));
        assert_eq!(it.message(8), Err(Fault::Repeated));
        assert_eq!(it.message(7), Err(Fault::Repeated));
        assert_eq!(it.message(10), Err(Fault::Gap { expected: 9 }));
        assert_eq!(it.message(9), Err(Fault::OutOfOrder));
        assert_eq!(it.message(11), Ok(()));
        it.asked_to_leave();
        assert_eq!(it.left(LeftReason::Leave), Ok(()));
        assert_eq!(it.message(12), Err(Fault::Outside));
        assert_eq!(it.place(), Some((11, 1)));
    }

    #[test]
    fn a_resumed_join_begins_where_it_stood_or_is_told_the_loss() {
        let ask = Ask { after: Some(3), last: None, epoch: Some(1) };
        let mut it = member(ask, &joined(1, 9, true));
        assert_eq!(it.message(4), Ok(()));
        let mut it = member(ask, &joined(1, 9, false));
        assert_eq!(it.lagged(&lagged(5, 6)), Err(Fault::LaggedElsewhere { expected: 4 }));
        assert_eq!(it.lagged(&lagged(4, 6)), Ok(()));
        assert_eq!(it.message(7), Ok(()));
        let mut it = member(ask, &joined(2, 9, false));
        assert_eq!(it.message(3), Ok(()), "another epoch begins with whatever is kept");
        assert_eq!(it.message(5), Err(Fault::Gap { expected: 4 }));
    }

    #[test]
    fn nobody_recovers_a_place_of_another_life() {
        let ask = Ask { after: Some(3), last: None, epoch: Some(1) };
        for answer in [joined(2, 9, true), joined(1, 2, true)] {
            let mut it = Membership::default();
            it.asked(ask);
            assert_eq!(it.joined(&answer), Err(Fault::RecoveredElsewhere));
            assert_eq!(it.message(1), Ok(()), "it is in all the same");
        }
        // The head itself is of this life.
        assert_eq!(member(ask, &joined(1, 3, true)).message(4), Ok(()));
    }

    #[test]
    fn who_is_in_stays_until_it_asks_or_is_sent_away() {
        let mut it = member(Ask::default(), &joined(1, 2, true));
        assert_eq!(it.clone().left(LeftReason::Leave), Err(Fault::LeftUnasked));
        assert_eq!(it.clone().left(LeftReason::Kicked), Ok(()));
        it.asked_to_leave();
        it.asked_to_leave();
        it.leave_refused();
        assert_eq!(it.left(LeftReason::Leave), Ok(()));
        assert_eq!(it.left(LeftReason::Leave), Err(Fault::LeftUnasked));
        assert_eq!(it.left(LeftReason::Deleted), Err(Fault::Outside));
    }

    #[test]
    fn the_newest_few_begin_that_far_back() {
        let ask = Ask { after: None, last: Some(3), epoch: None };
        assert_eq!(member(ask, &joined(1, 9, true)).message(7), Ok(()));
        assert_eq!(member(ask, &joined(1, 9, true)).message(8), Err(Fault::Gap { expected: 7 }));
        assert_eq!(member(ask, &joined(1, 2, true)).message(1), Ok(()));
        assert_eq!(member(ask, &joined(1, 9, false)).message(9), Ok(()), "retention removed two of them");
    }

    #[test]
    fn joining_again_goes_on_or_begins_again() {
        let mut it = member(Ask::default(), &joined(1, 2, true));
        it.message(3).unwrap();
        it.asked(Ask::default());
        assert_eq!(it.joined(&joined(1, 5, true)), Ok(None));
        assert_eq!(it.message(4), Ok(()));
        it.asked(Ask { after: Some(0), last: None, epoch: Some(1) });
        assert_eq!(it.joined(&joined(1, 5, true)), Ok(Some(Start::Exactly(1))));
        assert_eq!(it.message(1), Ok(()));
        assert_eq!(it.joined(&joined(1, 5, true)), Err(Fault::NotAsked));
    }

    #[test]
    fn a_refused_join_is_not_waited_for() {
        let mut it = Membership::default();
        it.asked(Ask { after: Some(4), last: Some(1), epoch: None });
        it.asked(Ask { after: Some(4), last: None, epoch: None });
        it.refused(Code::BadRequest);
        assert_eq!(it.joined(&joined(1, 9, true)), Ok(Some(Start::Exactly(5))));
    }
}
