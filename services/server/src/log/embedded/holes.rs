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
/// Between a try that failed and the next one, wherever: a transaction must find the time in between.
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
    /// When the last try began, unless it succeeded.
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

/// A read that the disk failed under.
#[derive(Debug, Clone, Copy)]
struct Failed {
    begun: Instant,
    now: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Hole {
    from: u64,
    /// Reading forward, where the next try begins; what is before that, from `from` on, is passed over.
    to: u64,
    /// How many messages of those before `to` are passed over unseen, because of what failed before them.
    stride: u64,
    /// It could be read from `to` on, or that is in memory.
    is_passed: bool,
    /// Reading forward, the next try begins at `from`: what is passed over may be readable again, or never have been bad.
    is_whole_next: bool,
    tries: Tries,
}

/// Where a read forward begins, and before which message it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// What whoever reads forward does about a place.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Passes over it, up to here.
    Over(u64),
    /// Tries what is from here on.
    Try(u64),
}

impl Tries {
    fn first(now: Instant) -> Self {
        Self { failures: 1, again: now + AGAIN, met: now }
    }

    /// Answers whether it counts: who had begun before it failed the last time met the same, as a disk may take seconds to say that it failed.
    fn failed(&mut self, Failed { begun, now }: Failed) -> bool {
        if begun < self.met {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        (self.again, self.met) = (now + self.pause(), now);
        true
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
        Self { from: at, to: at, stride: 0, is_passed: false, is_whole_next: true, tries: Tries::first(now) }
    }

    /// How to go on at `begin`, which it covers; what comes from `memory_first` on is in memory.
    fn after(
        &mut self,
        begin: u64,
        memory_first: u64,
        tried: &mut Option<Instant>,
        now: Instant,
    ) -> Result<Way, TableError> {
        let may_skip = self.tries.failures >= TRIES;
        if may_skip && !self.is_passed && self.to >= memory_first {
            (self.is_passed, self.is_whole_next) = (true, true);
        }
        // Once it is passed, what is in it is tried one more time. Nobody waits for that.
        if self.is_passed && (!self.is_whole_next || self.tries.begin(tried, now).is_err()) {
            return Ok(Way::Over(self.to));
        }
        if !self.is_passed {
            self.tries.begin(tried, now)?;
        }
        let is_whole = self.is_whole_next;
        self.is_whole_next = !(may_skip && is_whole);
        Ok(Way::Try(if is_whole { begin } else { self.to }))
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

    fn after(
        &mut self,
        group: &GroupName,
        epoch: u64,
        from: u64,
        memory_first: u64,
        now: Instant,
    ) -> Result<Span, TableError> {
        let mut begin = from;
        let Some(places) = self.groups.get_mut(group) else { return Ok(Span { begin, end: u64::MAX }) };
        places.forget_old(now);
        places.turn_to(epoch);
        while begin < memory_first
            && let Some(hole) = places.forward.iter_mut().find(|hole| hole.covers(begin))
        {
            match hole.after(begin, memory_first, &mut self.tried, now)? {
                Way::Over(to) => begin = to,
                Way::Try(at) => {
                    begin = at;
                    break;
                }
            }
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

    fn failed_after(
        &mut self,
        group: &GroupName,
        epoch: u64,
        at: u64,
        memory_first: u64,
        error: &dyn Display,
        failed: Failed,
    ) {
        let Some(places) = self.noting(group, error, failed.now) else { return };
        places.turn_to(epoch);
        // What is passed over does not grow by what has failed once.
        let near = |hole: &Hole| if hole.is_passed { 0 } else { NEAR };
        let is_here = |hole: &Hole| (hole.from.saturating_sub(near(hole))..=hole.to).contains(&at);
        let Some(hole) = places.forward.iter_mut().find(|hole| is_here(hole)) else {
            places.forward.push(Hole::new(at, failed.now));
            return;
        };
        if at < hole.from {
            // Nothing held back who began there, and it may be kept with what is bad: that was no try of the place.
            hole.from = at;
            return;
        }
        if !hole.tries.failed(failed) {
            return;
        }
        // Else it failed in what is passed over, which says nothing of what comes after that.
        let is_at_end = at >= hole.to;
        hole.is_passed &= !is_at_end;
        if hole.tries.failures == TRIES {
            hole.is_whole_next = false;
        }
        if hole.tries.failures == TRIES || (hole.tries.failures > TRIES && is_at_end) {
            let more = if hole.stride == 0 { STRIDE } else { hole.stride };
            hole.stride = hole.stride.saturating_add(more);
            // What will be there once it has left memory is nowhere near the sector.
            hole.to = hole.to.saturating_add(more).min(memory_first).max(hole.to);
        }
    }

    fn failed_before(&mut self, group: &GroupName, epoch: u64, at: u64, error: &dyn Display, failed: Failed) {
        let Some(places) = self.noting(group, error, failed.now) else { return };
        places.turn_to(epoch);
        let is_here = |hole: &Hole| at.abs_diff(hole.from) <= NEAR || at.abs_diff(hole.to) <= NEAR;
        match places.backward.iter_mut().find(|hole| is_here(hole)) {
            Some(hole) => {
                hole.tries.failed(failed);
                (hole.from, hole.to) = (hole.from.min(at), hole.to.max(at));
            }
            None => places.backward.push(Hole::new(at, failed.now)),
        }
    }

    fn read_after(&mut self, group: &GroupName, begin: u64) {
        let Some(places) = self.groups.get_mut(group) else { return };
        for hole in places.forward.iter_mut().filter(|hole| (hole.from..=hole.to).contains(&begin)) {
            // What is before that is passed over only after some tries.
            let is_left = hole.from < begin && hole.tries.failures < TRIES;
            (hole.to, hole.is_passed) = if is_left { (begin - 1, false) } else { (begin, true) };
            self.tried = None;
        }
        // If nothing is passed over, it can be read again.
        places.forward.retain(|hole| hole.from < hole.to || !hole.is_passed);
    }

    fn read_before(&mut self, group: &GroupName, last: u64) {
        let Some(places) = self.groups.get_mut(group) else { return };
        let count = places.backward.len();
        places.backward.retain(|hole| !hole.covers(last));
        if places.backward.len() < count {
            self.tried = None;
        }
    }

    fn read_row(&mut self, group: &GroupName) {
        if self.groups.get_mut(group).and_then(|places| places.row.take()).is_some() {
            self.tried = None;
        }
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

    /// A list of groups, which was begun then, was read, or the disk failed under it.
    pub(crate) fn listed<T>(&self, begun: Instant, result: &Result<T, TableError>) {
        let (state, now) = (&mut *self.state(), Instant::now());
        match (result, &mut state.list) {
            (Ok(_), Some(_)) => (state.list, state.tried) = (None, None),
            (Ok(_), None) => {}
            (Err(error), Some(tries)) if error.is_disk_failure() => {
                tries.failed(Failed { begun, now });
            }
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
        self.state().read_row(group);
    }

    /// The disk failed under a group itself, in a read that was begun then.
    pub(crate) fn failed_row(&self, group: &GroupName, begun: Instant, error: &dyn Display) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(places) = state.noting(group, error, now) else { return };
        match &mut places.row {
            Some(tries) => {
                tries.failed(Failed { begun, now });
            }
            row @ None => *row = Some(Tries::first(now)),
        }
    }

    /// How to read messages from `from` on, up to those in memory, which begin with `memory_first`.
    pub(crate) fn after(
        &self,
        group: &GroupName,
        epoch: u64,
        from: u64,
        memory_first: u64,
    ) -> Result<Span, TableError> {
        self.state().after(group, epoch, from, memory_first, Instant::now())
    }

    /// Messages could be read from `begin` on, as [`Holes::after`] told it.
    pub(crate) fn read_after(&self, group: &GroupName, begin: u64) {
        self.state().read_after(group, begin);
    }

    /// The disk failed under the message `at`, or one that is kept with it, in a read that was begun then; later ones, from `memory_first` on,
    /// are in memory.
    pub(crate) fn failed_after(
        &self,
        group: &GroupName,
        epoch: u64,
        at: u64,
        memory_first: u64,
        begun: Instant,
        error: &dyn Display,
    ) {
        let failed = Failed { begun, now: Instant::now() };
        self.state().failed_after(group, epoch, at, memory_first, error, failed);
    }

    /// How to read messages from `last` down: after which one to end.
    pub(crate) fn before(&self, group: &GroupName, epoch: u64, last: u64) -> Result<u64, TableError> {
        self.state().before(group, epoch, last, Instant::now())
    }

    /// Messages could be read from `last` down.
    pub(crate) fn read_before(&self, group: &GroupName, last: u64) {
        self.state().read_before(group, last);
    }

    /// As [`Holes::failed_after`], for who reads from new to old.
    pub(crate) fn failed_before(&self, group: &GroupName, epoch: u64, at: u64, begun: Instant, error: &dyn Display) {
        self.state().failed_before(group, epoch, at, error, Failed { begun, now: Instant::now() });
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
        if let Some(tries) = &mut state.list {
            tries.again = now;
        }
    }
}

#[cfg(test)]
mod tests;
