//! One thread: a loop over the events of its connections.

mod churn;
mod member;
mod opening;
mod posting;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::{Events, Poll, Token, Waker};

use crate::connection::{Connection, Got};
use crate::driver::Protocol;
use crate::plan::{Pace, Role};
use crate::shared::{Phase, Shared};
use crate::tally::Tally;
use crate::timer::Timer;
use member::{Ears, Member, State, Want};
use opening::Opening;
use posting::Posting;

const WAKE: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);
/// What is read at once.
const READ: usize = 128 * 1024;
/// Full buffers in a row from one connection before others get their turn.
const READS: usize = 4;
/// How long a thread sleeps at most.
const NAP: Duration = Duration::from_millis(100);
/// How often it looks whether it has all it waits for.
const LOOK: u64 = 10_000_000;
/// How often the percentile for the progress line is worked out.
const SHOW: u64 = 1_000_000_000;

pub(crate) struct Worker {
    shared: Arc<Shared>,
    thread: usize,
    poll: Poll,
    timer: Timer,
    members: Vec<Member>,
    connections: Vec<Connection>,
    opening: Opening,
    posting: Posting,
    churn: churn::Churn,
    tally: Tally,
    /// Connections with something to write.
    dirty: Vec<usize>,
    /// Connections that were not read to the end.
    again: Vec<usize>,
    /// What was done of other threads' windows.
    others_done: Vec<Vec<u32>>,
    wants: Vec<Want>,
    buffer: Vec<u8>,
    phase: Phase,
    next_look: u64,
    next_show: u64,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, thread: usize) -> Result<Self> {
        let poll = Poll::new().context("open epoll")?;
        shared.lanes[thread].set_waker(Waker::new(poll.registry(), WAKE)?);
        let timer = Timer::new(poll.registry(), TIMER)?;
        let members = member::of_thread(&shared.plan, thread);
        let posting = Posting::new(&shared.plan, thread, &members);
        Ok(Self {
            timer,
            connections: members.iter().map(|_| Connection::default()).collect(),
            opening: Opening::new(members.len(), posting.first_posters()),
            churn: churn::Churn::new(&shared.plan, &members),
            posting,
            members,
            tally: Tally::default(),
            dirty: Vec::new(),
            again: Vec::new(),
            others_done: (0..shared.plan.threads).map(|_| Vec::new()).collect(),
            wants: Vec::new(),
            buffer: vec![0; READ],
            phase: Phase::Open,
            next_look: 0,
            next_show: 0,
            thread,
            poll,
            shared,
        })
    }

    /// Runs to the end, and tells what it has seen.
    pub(crate) fn run(mut self) -> Outcome {
        if let Err(error) = self.run_loop() {
            self.shared.fail(format!("{error:#}"));
        }
        self.outcome()
    }

    fn run_loop(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Stop {
                return Ok(());
            }
            if phase != self.phase {
                self.phase = phase;
                self.on_phase();
            }
            let now = self.shared.now();
            let nap = if matches!(phase, Phase::Drain | Phase::Resume) { Duration::from_nanos(LOOK) } else { NAP };
            let timeout =
                if self.again.is_empty() { self.timer.timeout(now).unwrap_or(nap).min(nap) } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => result.context("wait for events")?,
            }
            for index in std::mem::take(&mut self.again) {
                self.on_readable(index)?;
            }
            for event in &events {
                match event.token() {
                    WAKE | TIMER => {}
                    Token(index) => {
                        if event.is_read_closed() || event.is_error() {
                            self.connections[index].read_to_the_end();
                        }
                        self.on_event(index, event.is_readable(), event.is_writable())?;
                    }
                }
            }
            self.turn()?;
        }
    }

    /// What is to be done after the events of a turn.
    fn turn(&mut self) -> Result<()> {
        for (thread, slots) in self.others_done.iter_mut().enumerate() {
            if !slots.is_empty() {
                self.shared.lanes[thread].give_back(slots);
            }
        }
        let now = self.shared.now();
        self.open_more(now)?;
        let last_due = match self.phase {
            Phase::Load => Some(u64::MAX),
            // What was due while it was measured is sent, however late.
            Phase::Drain if matches!(self.shared.plan.pace, Pace::Open(_)) => {
                Some(self.shared.measure_to.load(Ordering::Relaxed))
            }
            _ => None,
        };
        if self.phase == Phase::Probe {
            self.probe(now)?;
        }
        if let Some(last) = last_due {
            self.post(now, last);
        }
        if self.phase == Phase::Load {
            self.churn(now)?;
        }
        self.write_all();
        if let Some(last) = last_due {
            self.await_due(now, last)?;
        }
        self.show(now);
        Ok(())
    }

    /// Writes what the turn has brought. The clock is read once for all of it.
    fn write_all(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        for index in &dirty {
            self.connections[*index].flush();
        }
        let now = if dirty.is_empty() { 0 } else { self.shared.now() };
        for index in &dirty {
            self.count_written(*index, now);
        }
    }

    fn close(&mut self, index: usize) {
        self.posting.forget(self.connections[index].waiting_posts());
        self.connections[index].close();
    }

    fn on_phase(&mut self) {
        if self.phase == Phase::Resume {
            let slow = self.members.iter().enumerate().filter(|(_, member)| member.role == Role::Slow);
            self.again.extend(slow.map(|(index, _)| index));
        }
        if self.phase == Phase::Load {
            let now = self.shared.now();
            for index in 0..self.members.len() {
                if self.members[index].role == Role::Laggard {
                    self.ask_history(index, now);
                }
            }
        }
    }

    fn on_event(&mut self, index: usize, readable: bool, writable: bool) -> Result<()> {
        if writable {
            self.connections[index].unblock();
            if self.members[index].is_connecting() {
                self.on_connected(index)?;
            }
            self.connections[index].flush();
            if self.connections[index].waiting_posts() > 0 {
                self.count_written(index, self.shared.now());
            }
        }
        if readable {
            self.on_readable(index)?;
        }
        Ok(())
    }

    fn on_readable(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        let sleeps = member.role == Role::Slow && member.joined && member.joining == 0 && self.phase < Phase::Resume;
        // An event may be left of a connection that was closed since.
        if sleeps || matches!(member.state, State::Closed | State::Connecting) {
            return Ok(());
        }
        let (protocol, size) = (self.shared.plan.protocol, self.shared.plan.size);
        for _ in 0..READS {
            let (end, full) = match self.connections[index].read(&mut self.buffer) {
                Got::Bytes { end, full } => (end, full),
                Got::Nothing => return Ok(()),
                Got::End => return self.on_end(index),
            };
            let now = self.shared.now();
            let mut ears = Ears {
                member: &mut self.members[index],
                index,
                tally: &mut self.tally,
                shared: &self.shared,
                window: self.posting.window(),
                others_done: &mut self.others_done,
                wants: &mut self.wants,
                now,
            };
            let taken = protocol.scan(&self.buffer[..end], size, &mut ears);
            let taken = taken.map_err(|text| anyhow::anyhow!("the server does not speak {protocol:?}: {text}"))?;
            self.connections[index].keep(&self.buffer[taken..end]);
            anyhow::ensure!(taken > 0 || end < READ, "the server sent a line longer than {READ} bytes");
            self.satisfy(now)?;
            if !full {
                return Ok(());
            }
        }
        self.again.push(index);
        Ok(())
    }

    /// Does what members asked for while their bytes were read.
    fn satisfy(&mut self, now: u64) -> Result<()> {
        while let Some(want) = self.wants.pop() {
            match want {
                Want::Pong(index) => {
                    self.shared.plan.protocol.pong(self.connections[index].out());
                    self.dirty.push(index);
                }
                Want::Ready(index) => self.on_ready(index, now),
                Want::Left(index) => self.on_left(index, now),
                Want::History(index) if self.phase == Phase::Load => self.ask_history(index, now),
                Want::History(_) => {}
            }
        }
        Ok(())
    }

    fn on_end(&mut self, index: usize) -> Result<()> {
        if self.phase <= Phase::Probe {
            let why = self.connections[index].trouble().map_or_else(String::new, |why| format!(": {why}"));
            anyhow::bail!("the server closed a connection while the run was being set up{why}");
        }
        self.close(index);
        let member = &mut self.members[index];
        self.tally.faults.closed += 1;
        self.tally.faults.say(|| format!("the server closed the connection of a {:?}", member.role));
        member.joined = false;
        member.state = State::Closed;
        // Its messages will never come: whoever waits for them would wait for ever.
        if member.role == Role::Member || member.role == Role::Outside {
            self.shared.fail("the server closed the connection of a member that reads".to_owned());
        }
        Ok(())
    }

    /// Lets others see how far it is.
    fn show(&mut self, now: u64) {
        let lane = &self.shared.lanes[self.thread];
        lane.posts.store(self.tally.posts, Ordering::Relaxed);
        lane.untaken.store(self.posting.untaken(now), Ordering::Relaxed);
        lane.deliveries.store(self.tally.deliveries, Ordering::Relaxed);
        lane.late_deliveries.store(self.tally.late_deliveries, Ordering::Relaxed);
        if now >= self.next_show {
            self.next_show = now + SHOW;
            lane.p99.store(self.tally.latency.value_at_quantile(0.99), Ordering::Relaxed);
        }
        if matches!(self.phase, Phase::Drain | Phase::Resume) && now >= self.next_look {
            self.next_look = now + LOOK;
            let all = self.phase == Phase::Resume;
            let has_all = |member: &Member| member.state == State::Closed || member.missing(&self.shared) == 0;
            let settled = self.posting.untaken(self.shared.measure_to.load(Ordering::Relaxed)) == 0
                && self.members.iter().filter(|member| member.is_awaited(all)).all(has_all)
                && !self.members.iter().any(Member::is_away)
                && !self.members.iter().any(|member| member.state != State::Closed && member.lacks_history())
                && (!self.shared.plan.protocol.acks_posts() || self.tally.acks >= self.tally.posts);
            lane.settled.store(if settled { self.phase as u8 } else { 0 }, Ordering::Release);
        }
    }

    fn outcome(mut self) -> Outcome {
        let mut stories: Vec<(u32, u64, u64)> = Vec::new();
        // Of a run that was cut off, nothing is known of what it would have seen.
        if self.shared.failure().is_some() {
            return Outcome { tally: self.tally, stories: Vec::new() };
        }
        let faults = &mut self.tally.faults;
        let untaken = self.posting.untaken(self.shared.measure_to.load(Ordering::Relaxed));
        if untaken > 0 {
            faults.untaken += untaken;
            faults.say(|| {
                format!("the server has not taken {untaken} posts that were due: it was offered more than it can do")
            });
        }
        let unsent: u64 = self.connections.iter().map(|connection| connection.unsent() as u64).sum();
        if unsent > 0 {
            faults.unsent += unsent;
            faults.say(|| format!("the server has not taken {unsent} bytes that were to be sent"));
        }
        for member in &self.members {
            let Member { group, place, .. } = member;
            if member.is_awaited(true) {
                let missing = member.missing(&self.shared);
                faults.missing_at_end += missing;
                if member.is_forgotten(&self.shared) {
                    faults.say(|| format!("group {group}, place {place}: it came back and got nothing"));
                } else if missing > 0 {
                    faults.say(|| format!("group {group}, place {place}: the last {missing} messages have not come"));
                }
            }
            if member.is_away() {
                faults.away += 1;
                faults.say(|| format!("group {group}, place {place}: it has not come back ({:?})", member.state));
            }
            if member.lacks_history() {
                faults.unread += 1;
                faults.say(|| format!("group {group}, place {place}: the history that it asked for has not come"));
            }
            if let Some((count, order)) = member.story() {
                stories.push((member.group, count, order));
            }
        }
        if self.shared.plan.protocol.acks_posts() {
            let unacknowledged = self.tally.posts.saturating_sub(self.tally.acks);
            self.tally.faults.unacknowledged += unacknowledged;
            if unacknowledged > 0 {
                self.tally.faults.say(|| format!("{unacknowledged} posts were not acknowledged"));
            }
        }
        Outcome { tally: self.tally, stories }
    }
}

/// What a thread has seen.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// Of members that were there all the time: their group, how many messages they saw, and a sum over their order.
    pub(crate) stories: Vec<(u32, u64, u64)>,
}

/// Whether all members of a group must see one order: core NATS does not promise that to several publishers.
pub(crate) fn has_one_order(protocol: Protocol) -> bool {
    protocol != Protocol::Nats
}
