//! Where the disk fails under what clients read.
//!
//! After an error of the disk, redb takes nothing until it is opened again, and clients try again every second: without this, one sector of
//! one old message would keep all that is acknowledged out of the tables for as long as somebody wants to read it. So a place that failed is
//! left alone for a while. After some tries what is there is passed over, so that members who are behind get what comes after it.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tertulia_protocol::GroupName;

use super::complaints::Complaints;
use super::table::TableError;

/// How soon a place is tried again; twice as long each time that it fails, up to four times.
const AGAIN: Duration = Duration::from_secs(15);
/// Between two tries, wherever: a transaction must find the time in between.
const BETWEEN: Duration = Duration::from_secs(10);
/// With so many failures what is there is passed over.
const TRIES: u32 = 3;
/// How many messages are passed over at first. What lies in the sector that failed, nobody can say: it is twice as many each time.
const STRIDE: u64 = 16;
/// Failures so close to each other are one place.
const NEAR: u64 = 256;
/// For how long a place is known: the disk may have been put right, as by writing the sector anew.
const KNOWN: Duration = Duration::from_secs(3600);
/// With so many places it is the disk as a whole.
const MOST: usize = 1024;

/// The places.
#[derive(Debug, Default)]
pub(crate) struct Holes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Where a list of groups failed.
    list: Option<Tries>,
    groups: HashMap<GroupName, Places>,
    /// When the last try began.
    tried: Option<Instant>,
    complaints: Complaints,
}

/// Those of one group.
#[derive(Debug, Default)]
struct Places {
    /// Of this life of the group: another one has other messages under the same numbers.
    epoch: u64,
    /// The group itself cannot be read.
    row: Option<Tries>,
    /// Met by whoever reads from old to new.
    forward: Vec<Hole>,
    /// Met by whoever reads from new to old.
    backward: Vec<Hole>,
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    failures: u32,
    /// Not before.
    again: Instant,
    /// When it failed last.
    met: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Hole {
    from: u64,
    /// Reading forward, where the next try begins; what is before that, from `from` on, is passed over.
    to: u64,
    /// It could be read from `to` on.
    is_passed: bool,
    tries: Tries,
}

/// Where a read forward begins, and before which message it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

impl Tries {
    fn first(now: Instant) -> Self {
        Self { failures: 1, again: now + AGAIN, met: now }
    }

    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        (self.again, self.met) = (now + self.pause(), now);
    }

    fn pause(&self) -> Duration {
        AGAIN * (1 << self.failures.saturating_sub(1).min(2))
    }

    /// Whether it may be tried now; then nobody else does for a while.
    fn begin(&mut self, tried: &mut Option<Instant>, now: Instant) -> Result<(), TableError> {
        if now < self.again || tried.is_some_and(|at| now < at + BETWEEN) {
            return Err(TableError::Avoided);
        }
        self.again = now + self.pause();
        *tried = Some(now);
        Ok(())
    }

    fn is_known(&self, now: Instant) -> bool {
        now < self.met + KNOWN
    }
}

impl Hole {
    fn new(at: u64, now: Instant) -> Self {
        Self { from: at, to: at, is_passed: false, tries: Tries::first(now) }
    }
}

impl Places {
    fn forget_old(&mut self, now: Instant) {
        self.row = self.row.filter(|tries| tries.is_known(now));
        self.forward.retain(|hole| hole.tries.is_known(now));
        self.backward.retain(|hole| hole.tries.is_known(now));
    }

    /// Forgets what is of another life of the group.
    fn turn_to(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.forward.clear();
            self.backward.clear();
        }
    }

    fn count(&self) -> usize {
        usize::from(self.row.is_some()) + self.forward.len() + self.backward.len()
    }
}

impl State {
    /// The places of a group in which one more may be noted.
    fn noting(&mut self, group: &GroupName, error: &dyn Display, now: Instant) -> Option<&mut Places> {
        self.complaints.of_reads(group.as_str(), error);
        self.groups.retain(|_, places| {
            places.forget_old(now);
            places.count() > 0
        });
        let count: usize = self.groups.values().map(Places::count).sum();
        (count < MOST).then(|| self.groups.entry(group.clone()).or_default())
    }

    fn after(&mut self, group: &GroupName, epoch: u64, from: u64, now: Instant) -> Result<Span, TableError> {
        let mut begin = from;
        let Some(places) = self.groups.get_mut(group) else { return Ok(Span { begin, end: u64::MAX }) };
        places.forget_old(now);
        places.turn_to(epoch);
        while let Some(hole) = places.forward.iter_mut().find(|hole| hole.covers(begin)) {
            if !hole.is_passed {
                hole.tries.begin(&mut self.tried, now)?;
                begin = hole.to;
                break;
            }
            begin = hole.to;
        }
        let ahead = places.forward.iter().map(|hole| hole.from).filter(|from| *from > begin);
        Ok(Span { begin, end: ahead.min().unwrap_or(u64::MAX) })
    }

    fn before(&mut self, group: &GroupName, epoch: u64, last: u64, now: Instant) -> Result<u64, TableError> {
        let Some(places) = self.groups.get_mut(group) else { return Ok(0) };
        places.forget_old(now);
        places.turn_to(epoch);
        if let Some(hole) = places.backward.iter_mut().find(|hole| hole.covers(last)) {
            hole.tries.begin(&mut self.tried, now)?;
        }
        let ahead = places.backward.iter().map(|hole| hole.to).filter(|to| *to < last);
        Ok(ahead.max().unwrap_or(0))
    }

    fn failed_after(&mut self, group: &GroupName, epoch: u64, at: u64, error: &dyn Display, now: Instant) {
        let Some(places) = self.noting(group, error, now) else { return };
        places.turn_to(epoch);
        let is_here = |hole: &Hole| (hole.from.saturating_sub(NEAR)..=hole.to).contains(&at);
        let Some(hole) = places.forward.iter_mut().find(|hole| is_here(hole)) else {
            places.forward.push(Hole::new(at, now));
            return;
        };
        hole.tries.failed(now);
        (hole.from, hole.is_passed) = (hole.from.min(at), false);
        if let Some(times) = hole.tries.failures.checked_sub(TRIES) {
            let stride = STRIDE << times.min(40);
            hole.to = hole.to.max(hole.from.saturating_add(stride));
        }
    }

    fn failed_before(&mut self, group: &GroupName, epoch: u64, at: u64, error: &dyn Display, now: Instant) {
        let Some(places) = self.noting(group, error, now) else { return };
        places.turn_to(epoch);
        let is_here = |hole: &Hole| at.abs_diff(hole.from) <= NEAR || at.abs_diff(hole.to) <= NEAR;
        match places.backward.iter_mut().find(|hole| is_here(hole)) {
            Some(hole) => {
                hole.tries.failed(now);
                (hole.from, hole.to) = (hole.from.min(at), hole.to.max(at));
            }
            None => places.backward.push(Hole::new(at, now)),
        }
    }

    fn read_after(&mut self, group: &GroupName, begin: u64) {
        let Some(places) = self.groups.get_mut(group) else { return };
        // If nothing is passed over, it can be read again.
        places.forward.retain(|hole| hole.from != begin);
        places.forward.iter_mut().filter(|hole| hole.to == begin).for_each(|hole| hole.is_passed = true);
    }
}

impl Hole {
    /// Whether what begins there, or ends there, is in it. Where nobody has read from its end on, that is in it too.
    fn covers(&self, seq: u64) -> bool {
        self.from <= seq && (seq < self.to || (seq == self.to && !self.is_passed))
    }
}

impl Holes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a list of groups may be read now.
    pub(crate) fn may_list(&self) -> Result<(), TableError> {
        let (state, now) = (&mut *self.state(), Instant::now());
        let tries = state.list.as_mut().filter(|tries| tries.is_known(now));
        tries.map_or(Ok(()), |tries| tries.begin(&mut state.tried, now))
    }

    /// A list of groups was read, or the disk failed under it.
    pub(crate) fn listed<T>(&self, result: &Result<T, TableError>) {
        let (state, now) = (&mut *self.state(), Instant::now());
        match (result, &mut state.list) {
            (Ok(_), list) => *list = None,
            (Err(error), Some(tries)) if error.is_disk_failure() => tries.failed(now),
            (Err(error), list @ None) if error.is_disk_failure() => *list = Some(Tries::first(now)),
            (Err(_), _) => {}
        }
    }

    /// Whether a group itself may be read now.
    pub(crate) fn may_read_row(&self, group: &GroupName) -> Result<(), TableError> {
        let (state, now) = (&mut *self.state(), Instant::now());
        let tries = state.groups.get_mut(group).and_then(|places| places.row.as_mut());
        let tries = tries.filter(|tries| tries.is_known(now));
        tries.map_or(Ok(()), |tries| tries.begin(&mut state.tried, now))
    }

    /// A group itself was read.
    pub(crate) fn read_row(&self, group: &GroupName) {
        if let Some(places) = self.state().groups.get_mut(group) {
            places.row = None;
        }
    }

    /// The disk failed under a group itself.
    pub(crate) fn failed_row(&self, group: &GroupName, error: &dyn Display) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(places) = state.noting(group, error, now) else { return };
        match &mut places.row {
            Some(tries) => tries.failed(now),
            row @ None => *row = Some(Tries::first(now)),
        }
    }

    /// How to read messages from `from` on.
    pub(crate) fn after(&self, group: &GroupName, epoch: u64, from: u64) -> Result<Span, TableError> {
        self.state().after(group, epoch, from, Instant::now())
    }

    /// Messages could be read from `begin` on, as [`Holes::after`] told it.
    pub(crate) fn read_after(&self, group: &GroupName, begin: u64) {
        self.state().read_after(group, begin);
    }

    /// The disk failed under the message `at`, or one that is kept with it.
    pub(crate) fn failed_after(&self, group: &GroupName, epoch: u64, at: u64, error: &dyn Display) {
        self.state().failed_after(group, epoch, at, error, Instant::now());
    }

    /// How to read messages from `last` down: after which one to end.
    pub(crate) fn before(&self, group: &GroupName, epoch: u64, last: u64) -> Result<u64, TableError> {
        self.state().before(group, epoch, last, Instant::now())
    }

    /// As [`Holes::failed_after`], for who reads from new to old.
    pub(crate) fn failed_before(&self, group: &GroupName, epoch: u64, at: u64, error: &dyn Display) {
        self.state().failed_before(group, epoch, at, error, Instant::now());
    }

    /// What was read of a group is not what was written.
    pub(crate) fn damaged(&self, group: &GroupName, error: &dyn Display) {
        self.state().complaints.of_reads(group.as_str(), error);
    }

    /// Lets all be tried again at once.
    #[cfg(test)]
    pub(crate) fn hurry(&self) {
        let (state, now) = (&mut *self.state(), Instant::now());
        state.tried = None;
        for places in state.groups.values_mut() {
            let holes = places.forward.iter_mut().chain(&mut places.backward).map(|hole| &mut hole.tries);
            holes.chain(&mut places.row).for_each(|tries| tries.again = now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::conformance::group;

    const SECOND: Duration = Duration::from_secs(1);

    fn whole(begin: u64) -> Span {
        Span { begin, end: u64::MAX }
    }

    #[test]
    fn a_place_that_failed_is_left_alone_and_then_passed_over() {
        let (mut state, dogs, mut now) = (State::default(), group("Dogs"), Instant::now());
        state.failed_after(&dogs, 7, 100, &"bad", now);
        assert!(matches!(state.after(&dogs, 7, 100, now), Err(TableError::Avoided)));
        assert_eq!(state.after(&dogs, 7, 7, now).unwrap(), Span { begin: 7, end: 100 }, "what is before it is read");
        assert_eq!(state.after(&dogs, 7, 101, now).unwrap(), whole(101), "and what is after it");
        assert_eq!(state.after(&group("Cats"), 7, 100, now).unwrap(), whole(100), "and other groups");
        for (failures, pause) in [(2, AGAIN), (3, 2 * AGAIN)] {
            now += pause;
            assert_eq!(state.after(&dogs, 7, 100, now).unwrap(), whole(100), "try {failures}");
            assert!(matches!(state.after(&dogs, 7, 100, now), Err(TableError::Avoided)), "one tries, no more");
            state.failed_after(&dogs, 7, 100, &"bad", now);
        }
        for passed in [STRIDE, 2 * STRIDE] {
            now += 4 * AGAIN;
            assert_eq!(state.after(&dogs, 7, 100, now).unwrap(), whole(100 + passed));
            state.failed_after(&dogs, 7, 100 + passed, &"bad", now);
        }
        now += 4 * AGAIN;
        let begin = state.after(&dogs, 7, 103, now).unwrap().begin;
        assert_eq!(begin, 100 + 4 * STRIDE);
        state.read_after(&dogs, begin);
        assert_eq!(state.after(&dogs, 7, 100, now).unwrap(), whole(begin));
        assert_eq!(state.after(&dogs, 7, begin, now).unwrap(), whole(begin));
        assert_eq!(state.after(&dogs, 7, 100, now + KNOWN).unwrap(), whole(100), "the disk may have been put right");
    }

    #[test]
    fn what_can_be_read_again_is_no_hole_any_more() {
        let (mut state, dogs, mut now) = (State::default(), group("Dogs"), Instant::now());
        state.failed_after(&dogs, 7, 100, &"bad", now);
        now += AGAIN;
        assert_eq!(state.after(&dogs, 7, 100, now).unwrap(), whole(100));
        state.read_after(&dogs, 100);
        assert_eq!(state.after(&dogs, 7, 90, now).unwrap(), whole(90));
    }

    #[test]
    fn another_life_of_the_group_has_other_messages_there() {
        let (mut state, dogs, now) = (State::default(), group("Dogs"), Instant::now());
        state.failed_after(&dogs, 7, 100, &"bad", now);
        state.failed_before(&dogs, 7, 100, &"bad", now);
        assert_eq!(state.after(&dogs, 8, 100, now).unwrap(), whole(100));
        assert_eq!(state.before(&dogs, 8, 100, now).unwrap(), 0);
    }

    #[test]
    fn places_are_tried_one_after_the_other() {
        let (mut state, now) = (State::default(), Instant::now());
        let names = [group("A"), group("B")];
        names.iter().for_each(|name| state.failed_after(name, 7, 1, &"bad", now));
        let later = now + AGAIN;
        assert!(state.after(&names[0], 7, 1, later).is_ok());
        assert!(state.after(&names[1], 7, 1, later).is_err());
        assert!(state.after(&names[1], 7, 1, later + BETWEEN).is_ok());
    }

    #[test]
    fn whoever_reads_backward_ends_before_the_place() {
        let (mut state, dogs, now) = (State::default(), group("Dogs"), Instant::now());
        state.failed_before(&dogs, 7, 100, &"bad", now);
        assert_eq!(state.before(&dogs, 7, 200, now).unwrap(), 100);
        assert!(state.before(&dogs, 7, 100, now).is_err());
        assert_eq!(state.before(&dogs, 7, 99, now).unwrap(), 0);
        state.failed_before(&dogs, 7, 90, &"bad", now + SECOND);
        assert!(state.before(&dogs, 7, 95, now + SECOND).is_err(), "it is one place");
    }

    #[test]
    fn a_disk_that_fails_as_a_whole_does_not_fill_the_memory() {
        let (mut state, now) = (State::default(), Instant::now());
        for number in 0..2 * MOST as u64 {
            state.failed_after(&group(&format!("G{}", number / 2)), 7, number * 2 * NEAR, &"bad", now);
        }
        assert_eq!(state.groups.values().map(Places::count).sum::<usize>(), MOST);
        state.failed_after(&group("Dogs"), 7, 1, &"bad", now + KNOWN);
        assert_eq!(state.groups.len(), 1);
    }
}
