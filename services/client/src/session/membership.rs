//! One group as its member sees it: what was seen, what was asked for, and what is still to come. Pure.

use std::time::{Duration, Instant};

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

/// What the person should know of a join that was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// The group began anew: what was seen before is of no more use.
    pub(crate) anew: bool,
    /// An earlier attempt to join from then on was never answered: what was posted since is not shown.
    pub(crate) late: bool,
}

/// What came of all that was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaughtUp {
    /// All of it came.
    Whole,
    /// Some of it is gone, of so many messages.
    Partly(u64),
}

/// What was missed is being caught up on.
#[derive(Debug, Clone, Copy)]
struct CatchUp {
    /// What was seen before.
    after: u64,
    /// Up to here.
    head: u64,
    /// Whether nothing of it was missing so far, of what was posted to the same life of the group.
    whole: bool,
}

/// The wait after the first refusal for now, unless the server asks for a longer one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// No wait is longer, unless the server asks for it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A group that the person joined.
#[derive(Debug)]
pub(crate) struct Membership {
    /// `None` until the first `Joined`.
    position: Option<Position>,
    asking: Asking,
    /// So many of the newest are to be shown once the join that is under way is answered, and what comes of it was shown.
    newest: Option<u64>,
    /// To be left once the posts with numbers up to this one are answered.
    leave: Option<u64>,
    /// To be joined again after that.
    again: Option<From>,
    /// How many `Leave` are not answered.
    leaves: u32,
    /// Joins that were sent before the last `Leave` and are not answered: what answers them is of no use.
    passed: u32,
    /// What is known to be there: until it was seen, the member is behind.
    known: u64,
    catch_up: Option<CatchUp>,
    /// One is a member by a join that begins beyond what was seen: what comes of it comes once more, after the join that is asked for.
    skipped: bool,
    /// How often in a row the join was refused for now.
    refusals: u32,
    /// Whether a join from then on was sent and never answered.
    late: bool,
}

impl Membership {
    /// A group that is to be joined.
    pub(crate) fn new(from: From) -> Self {
        Self {
            position: None,
            asking: Asking::Wanted(from, None),
            newest: None,
            leave: None,
            again: None,
            leaves: 0,
            passed: 0,
            known: 0,
            catch_up: None,
            skipped: false,
            refusals: 0,
            late: false,
        }
    }

    /// Whether a `Join` is on its way, or will be.
    pub(crate) fn is_asking(&self) -> bool {
        self.asking != Asking::No || self.newest.is_some()
    }

    /// Whether the join was refused for now and is not answered yet: no post is taken before.
    pub(crate) fn is_put_off(&self) -> bool {
        self.refusals > 0 && self.is_asking()
    }

    /// Whether the person wants to leave, and has not left yet.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave.is_some() || self.leaves > 0
    }

    /// Whether the group is being joined again after what was seen, and not all that was missed has come yet.
    pub(crate) fn is_resuming(&self) -> bool {
        matches!(self.asking, Asking::Wanted(From::After(_), _) | Asking::Sent(From::After(_)))
            || self.catch_up.is_some()
    }

    /// Joins (again), from elsewhere; after the group was left, if it is to be.
    pub(crate) fn ask(&mut self, from: From) {
        if self.leave.is_some() {
            self.again = Some(from);
        } else {
            self.asking = Asking::Wanted(from, None);
            self.refusals = 0;
        }
    }

    /// Joins once more for the newest so many, after the join that is under way and what is still to come of it: both may be needed to
    /// leave no gap.
    pub(crate) fn ask_later(&mut self, newest: u64) {
        self.newest = Some(newest);
    }

    /// Gives the `Join` that is to be sent now, if there is one.
    pub(crate) fn next_join<'a>(&mut self, group: &'a str, now: Instant) -> Option<Join<'a>> {
        if self.asking == Asking::No
            && self.position.is_some_and(|position| position.seen >= self.known)
            && let Some(newest) = self.newest.take()
        {
            self.asking = Asking::Wanted(From::Last(newest), None);
        }
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

    /// The join was refused for now: it is asked for again after `wait`, or longer if it was refused before. Returns
    /// after how long, if this was the first refusal in a row.
    pub(crate) fn join_later(&mut self, now: Instant, wait: Duration) -> Option<Duration> {
        let Asking::Sent(from) = self.asking else { return None };
        let grown = FIRST_WAIT.saturating_mul(1 << self.refusals.min(16)).min(LONGEST_WAIT);
        let wait = wait.max(grown);
        self.asking = Asking::Wanted(from, Some(now + wait));
        self.refusals += 1;
        (self.refusals == 1).then_some(wait)
    }

    /// The join was refused. Whether one is still a member, by an earlier join.
    pub(crate) fn join_refused(&mut self) -> bool {
        let resuming = matches!(self.asking, Asking::Sent(From::After(_)));
        self.asking = Asking::No;
        (self.refusals, self.newest) = (0, None);
        let is_here = std::mem::take(&mut self.skipped) || !resuming;
        self.position.is_some() && is_here
    }

    /// The join was answered.
    pub(crate) fn joined(&mut self, joined: &Joined<'_>) -> News {
        let Asking::Sent(from) = self.asking else { return News::default() };
        self.asking = Asking::No;
        (self.refusals, self.skipped) = (0, false);
        if let (From::Last(last), Some(old)) = (from, self.position)
            && old.epoch == joined.epoch
            && old.seen < joined.head.saturating_sub(last)
        {
            // What lies between does not come any more. It does, and the newest after it, in a join that begins with it.
            (self.asking, self.catch_up, self.skipped) = (Asking::Wanted(From::After(old), None), None, true);
            return News::default();
        }
        self.known = if from == From::Now { 0 } else { joined.head };
        let (seen, anew) = match from {
            From::Now => (joined.head, false),
            From::Last(last) => (joined.head.saturating_sub(last), false),
            From::After(old) if old.epoch != joined.epoch => (0, true),
            From::After(old) if !joined.recovered && old.seen > joined.head => (0, true),
            From::After(old) => (old.seen, false),
        };
        let resumed = matches!(from, From::After(_));
        self.catch_up = resumed.then_some(CatchUp { after: seen, head: joined.head, whole: !anew });
        self.position = Some(Position { epoch: joined.epoch, seen });
        News { anew, late: std::mem::take(&mut self.late) && from == From::Now }
    }

    /// What came of all that was missed, once it has come; told once.
    pub(crate) fn caught_up(&mut self) -> Option<CaughtUp> {
        let CatchUp { after, head, whole } = self.catch_up?;
        self.position.filter(|position| position.seen >= head)?;
        self.catch_up = None;
        Some(if whole { CaughtUp::Whole } else { CaughtUp::Partly(head.saturating_sub(after)) })
    }

    /// A message came.
    pub(crate) fn arrived(&mut self, seq: u64) -> Arrival {
        let Some(position) = self.position.as_mut().filter(|_| !self.skipped) else { return Arrival::Repeat };
        let expected = position.seen.saturating_add(1);
        if seq < expected {
            return Arrival::Repeat;
        }
        position.seen = seq;
        if seq == expected {
            return Arrival::Next;
        }
        self.some_is_gone();
        Arrival::Gap { first: expected, last: seq - 1 }
    }

    /// The server told what is missing. Returns what of that is news.
    pub(crate) fn lagged(&mut self, first: u64, last: u64) -> Option<(u64, u64)> {
        let position = self.position.as_mut().filter(|_| !self.skipped)?;
        let first = first.max(position.seen.saturating_add(1));
        position.seen = position.seen.max(last);
        self.some_is_gone();
        (first <= last).then_some((first, last))
    }

    fn some_is_gone(&mut self) {
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.whole = false;
        }
    }

    /// One's own post is in the group, and so will be among its messages.
    pub(crate) fn posted(&mut self, epoch: u64, seq: u64) {
        if self.position.is_some_and(|position| position.epoch == epoch) {
            self.known = self.known.max(seq);
        }
    }

    /// To be left once the posts with numbers up to this one are answered. `false` if it is left already.
    pub(crate) fn leave_after(&mut self, number: u64) -> bool {
        if self.is_leaving() && !self.is_asking() && self.again.is_none() {
            return false;
        }
        (self.leave, self.again, self.newest) = (Some(number), None, None);
        true
    }

    /// With which post the group is to be left, if it is to be.
    pub(crate) fn leaves_after(&self) -> Option<u64> {
        self.leave
    }

    /// The group is left. Whether the server is to be told, since one is a member on this connection, or asked to be.
    pub(crate) fn leave(&mut self) -> bool {
        let is_here = match self.asking {
            Asking::Sent(_) => true,
            Asking::Wanted(From::After(_), _) => self.skipped,
            Asking::Wanted(..) | Asking::No => self.position.is_some() && self.leaves == 0,
        };
        self.leaves += u32::from(is_here);
        self.passed += u32::from(matches!(self.asking, Asking::Sent(_)));
        self.leave = None;
        self.refusals = 0;
        self.asking = self.again.take().map_or(Asking::No, |from| Asking::Wanted(from, None));
        if !is_here {
            self.begin_anew();
        }
        is_here
    }

    /// `Leave` was answered. Whether the person wants to be back already, or is still waited for to go.
    pub(crate) fn left(&mut self) -> bool {
        self.leaves = self.leaves.saturating_sub(1);
        self.begin_anew();
        self.is_of_use()
    }

    /// The membership was ended unasked. Whether a `Join` or a `Leave` crossed that on its way, and is still to be answered: a
    /// join that the server saw afterwards makes one a member again.
    pub(crate) fn put_out(&mut self) -> bool {
        self.begin_anew();
        self.leaves > 0 || matches!(self.asking, Asking::Sent(_))
    }

    /// Whether there is something to join, to leave, or to be in.
    pub(crate) fn is_of_use(&self) -> bool {
        self.position.is_some() || self.is_asking() || self.is_leaving()
    }

    fn begin_anew(&mut self) {
        (self.position, self.known, self.catch_up, self.skipped) = (None, 0, None, false);
    }

    /// The connection broke: the group is to be joined again after what was seen. Returns whether there is something
    /// left to join.
    pub(crate) fn disconnected(&mut self) -> bool {
        self.passed = 0;
        (self.catch_up, self.skipped) = (None, false);
        if self.leaves > 0 {
            self.leaves = 0;
            self.begin_anew();
        }
        self.asking = match (self.asking, self.position) {
            // Also if a join from elsewhere was asked for: resuming leaves no gap. The newest few come after that.
            (asking, Some(position)) => {
                if let Asking::Wanted(From::Last(newest), _) | Asking::Sent(From::Last(newest)) = asking {
                    self.newest = Some(newest);
                }
                Asking::Wanted(From::After(position), None)
            }
            (Asking::Wanted(from, _) | Asking::Sent(from), None) => {
                self.late |= self.asking == Asking::Sent(From::Now);
                Asking::Wanted(from, None)
            }
            (Asking::No, None) => return false,
        };
        true
    }

    /// How far the group was seen.
    pub(crate) fn position(&self) -> Option<Position> {
        self.position
    }

    /// How far the group was seen, and what is known to be there.
    pub(crate) fn seen_of_known(&self) -> Option<(u64, u64)> {
        self.position.map(|position| (position.seen, self.known))
    }

    /// Whether all that is known to be there was shown and nothing is asked for.
    pub(crate) fn is_settled(&self) -> bool {
        !self.is_leaving() && !self.is_asking() && self.position.is_none_or(|position| position.seen >= self.known)
    }
}

#[cfg(test)]
mod tests;
