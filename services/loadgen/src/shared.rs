//! What the threads of a run have in common.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use mio::Waker;
use tertulia_tls_client::Security;

use crate::driver::{Groups, QUIET};
use crate::endpoint::Endpoint;
use crate::pace::Remaining;
use crate::payload::Format;
use crate::plan::Plan;

/// The run's clock shows no more when the run begins: times of messages are below 2^60, and 2^59 ns are 18 years.
const LATEST_BEGIN: u64 = 1 << 59;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Connections are opened and join.
    Open,
    /// Where joins are not answered: probes find out who has joined.
    Probe,
    /// Posts are sent (or nothing, in `idle`).
    Load,
    /// What was posted is awaited.
    Drain,
    /// Slow members read again.
    Resume,
    /// All is over.
    Stop,
}

const PHASES: [Phase; 6] = [Phase::Open, Phase::Probe, Phase::Load, Phase::Drain, Phase::Resume, Phase::Stop];

/// What one thread shows of itself while it runs.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    waker: OnceLock<Waker>,
    /// Slots of its window that other threads found to be done.
    done_slots: Mutex<Vec<u32>>,
    /// Posts that sockets have taken.
    pub(crate) posts: AtomicU64,
    /// Posts that are due and that no socket has taken.
    pub(crate) untaken: AtomicU64,
    /// Messages that reading members got.
    pub(crate) deliveries: AtomicU64,
    /// Messages that others got.
    pub(crate) late_deliveries: AtomicU64,
    /// The 99th percentile so far, in microseconds.
    pub(crate) p99: AtomicU64,
    /// Whether all has come that is awaited in this phase: the phase in which it was found so.
    pub(crate) settled: AtomicU8,
}

/// What the threads of a run have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) targets: Vec<Endpoint>,
    /// With whom connections speak TLS.
    pub(crate) security: Option<Security>,
    /// What says who all connections are, if they do not just say so.
    pub(crate) token: Option<String>,
    pub(crate) sources: u8,
    pub(crate) opening: usize,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) format: Format,
    /// The groups' names.
    pub(crate) names: Vec<String>,
    /// The first part of the names of those in which nobody posts.
    quiet: String,
    start: Instant,
    /// What the run's clock showed then.
    pub(crate) began: u64,
    phase: AtomicU8,
    /// Posts that are due in this time are measured; nanoseconds.
    pub(crate) measure_from: AtomicU64,
    pub(crate) measure_to: AtomicU64,
    /// What each poster of each group has sent.
    sent: Vec<AtomicU64>,
    /// When each group was posted to last.
    posted: Vec<AtomicU64>,
    /// Of each slot, how many must still see its post.
    pub(crate) remaining: Remaining,
    /// Of each group, how many have joined.
    pub(crate) joined_in: Vec<AtomicU32>,
    /// Connections that have said all they say at first.
    pub(crate) opened: AtomicUsize,
    /// Connections that are ready, members that have joined.
    pub(crate) ready: AtomicUsize,
    pub(crate) lanes: Vec<Lane>,
    failure: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(plan: Plan, load: &crate::args::Load, security: Option<Security>, token: Option<String>) -> Self {
        let slots = (0..usize::from(plan.threads)).map(|thread| plan.slots(thread)).map(|(first, size)| first + size);
        Self {
            targets: load.targets.clone(),
            security,
            token,
            sources: load.sources,
            opening: load.opening.max(1),
            receive_buffer: load.receive_buffer,
            format: Format::new(plan.size),
            quiet: format!("{}{}", load.prefix, QUIET),
            names: (0..plan.groups).map(|group| format!("{}-{group:06}", load.prefix)).collect(),
            start: Instant::now(),
            began: RandomState::new().hash_one(std::process::id()) % LATEST_BEGIN,
            phase: AtomicU8::new(Phase::Open as u8),
            measure_from: AtomicU64::new(u64::MAX),
            measure_to: AtomicU64::new(u64::MAX),
            sent: (0..plan.groups as usize * usize::from(plan.posters)).map(|_| AtomicU64::new(0)).collect(),
            posted: (0..plan.groups).map(|_| AtomicU64::new(0)).collect(),
            remaining: Remaining::new(slots.max().unwrap_or(0)),
            joined_in: (0..plan.groups).map(|_| AtomicU32::new(0)).collect(),
            opened: AtomicUsize::new(0),
            ready: AtomicUsize::new(0),
            lanes: (0..plan.threads).map(|_| Lane::default()).collect(),
            failure: Mutex::new(None),
            plan,
        }
    }

    /// Nanoseconds of the run's clock. It begins anywhere, so that what another run has posted is known by its time.
    pub(crate) fn now(&self) -> u64 {
        self.began + self.start.elapsed().as_nanos() as u64
    }

    /// Whether what began then is part of the measurement.
    pub(crate) fn is_measured(&self, at: u64) -> bool {
        (self.measure_from.load(Ordering::Relaxed)..self.measure_to.load(Ordering::Relaxed)).contains(&at)
    }

    pub(crate) fn phase(&self) -> Phase {
        PHASES.get(usize::from(self.phase.load(Ordering::Acquire))).copied().unwrap_or(Phase::Stop)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.lanes.iter().for_each(Lane::wake);
    }

    /// Whether all threads have all that they await in this phase.
    pub(crate) fn all_settled(&self, phase: Phase) -> bool {
        self.lanes.iter().all(|lane| lane.settled.load(Ordering::Acquire) == phase as u8)
    }

    /// The server of the member at `place` of a group.
    pub(crate) fn target(&self, group: u32, place: u32) -> SocketAddr {
        self.targets[self.plan.turn(group, place) % self.targets.len()].address
    }

    /// What the member at `place` of a group joins.
    pub(crate) fn groups_of(&self, group: u32, place: u32) -> Groups<'_> {
        /// Members that share their quiet groups.
        const TOGETHER: u64 = 100;
        let Plan { members, quiet_groups, .. } = self.plan;
        let first = (u64::from(group) * u64::from(members) + u64::from(place)) / TOGETHER * u64::from(quiet_groups);
        let quiet = (first..first + u64::from(quiet_groups)).map(|number| format!("{}{number:06}", self.quiet));
        Groups { group: Some(&self.names[group as usize]), quiet: quiet.collect() }
    }

    fn sent_of(&self, group: u32, poster: u16) -> Option<&AtomicU64> {
        self.sent.get(group as usize * usize::from(self.plan.posters) + usize::from(poster))
    }

    /// What a poster has sent.
    pub(crate) fn sent(&self, group: u32, poster: u16) -> u64 {
        self.sent_of(group, poster).map_or(0, |sent| sent.load(Ordering::Acquire))
    }

    /// When a group was posted to last.
    pub(crate) fn last_post(&self, group: u32) -> u64 {
        self.posted.get(group as usize).map_or(0, |posted| posted.load(Ordering::Acquire))
    }

    /// A poster sends one more, which gets this number.
    pub(crate) fn count_post(&self, group: u32, poster: u16, now: u64) -> u64 {
        if let Some(posted) = self.posted.get(group as usize) {
            posted.store(now, Ordering::Release);
        }
        self.sent_of(group, poster).map_or(0, |sent| sent.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Ends the run.
    pub(crate) fn fail(&self, text: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        self.enter(Phase::Stop);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Lane {
    pub(crate) fn set_waker(&self, waker: Waker) {
        drop(self.waker.set(waker));
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            // Without it the thread looks by itself a little later.
            drop(waker.wake());
        }
    }

    /// Posts of this thread are done, says another.
    pub(crate) fn give_back(&self, slots: &mut Vec<u32>) {
        self.done_slots.lock().unwrap_or_else(PoisonError::into_inner).append(slots);
        self.wake();
    }

    pub(crate) fn take_done(&self) -> Vec<u32> {
        std::mem::take(&mut *self.done_slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
