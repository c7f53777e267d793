//! Connections come about, join, and are ready.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use mio::Token;

use super::Worker;
use super::member::State;
use crate::connection::Route;
use crate::driver::{After, Groups, Who};
use crate::payload::{NO_SLOT, Stamp};
use crate::plan::Role;

/// Connections a second at most, where the server does not tell when it has got round to one: its queue must not overflow.
const UNHEARD_RATE: u64 = 10_000;
/// How often probes are sent, and to how many groups at once: few enough to be no load of their own.
const PROBE: u64 = 5_000_000;
const PROBES: usize = 64;
/// A group is probed again after this time if somebody in it has not got one.
const PROBE_AGAIN: u64 = 250_000_000;

/// What is still to be opened.
#[derive(Debug)]
pub(super) struct Opening {
    next: usize,
    count: usize,
    under_way: usize,
    next_probe: u64,
    next_open: u64,
    /// Groups to be probed: not before when, which, and the connection that does it.
    to_probe: VecDeque<(u64, u32, usize)>,
}

impl Opening {
    pub(super) fn new(count: usize, first_posters: &[(u32, usize)]) -> Self {
        let to_probe = first_posters.iter().map(|(group, poster)| (0, *group, *poster)).collect();
        Self { next: 0, count, under_way: 0, next_probe: 0, next_open: 0, to_probe }
    }
}

impl Worker {
    /// Opens as many connections as may be under way.
    pub(super) fn open_more(&mut self, now: u64) -> Result<()> {
        if self.opening.next >= self.opening.count {
            return Ok(());
        }
        let paced = !self.shared.plan.protocol.tells_joins();
        self.opening.next_open = self.opening.next_open.max(now.saturating_sub(1_000_000_000 / UNHEARD_RATE * 16));
        while self.opening.next < self.opening.count && self.opening.under_way < self.shared.opening {
            if paced && self.opening.next_open > now {
                self.timer.set(self.opening.next_open, now)?;
                break;
            }
            self.opening.next_open += 1_000_000_000 / UNHEARD_RATE * self.shared.lanes.len() as u64;
            let index = self.opening.next;
            self.opening.next += 1;
            self.connect(index)?;
        }
        Ok(())
    }

    pub(super) fn connect(&mut self, index: usize) -> Result<()> {
        let member = &self.members[index];
        let slow = member.role == Role::Slow;
        let route = Route {
            target: self.shared.target(member.group, member.place),
            source: Route::source(self.shared.sources, index),
            receive_buffer: self.shared.receive_buffer.filter(|_| slow),
        };
        self.opening.under_way += 1;
        self.members[index].state = State::Connecting;
        self.connections[index].connect(route, self.shared.security.as_ref(), self.poll.registry(), Token(index))
    }

    pub(super) fn on_connected(&mut self, index: usize) -> Result<()> {
        let connected = self.connections[index].is_connected();
        let at = |member: &super::Member| self.shared.target(member.group, member.place);
        if !connected.with_context(|| format!("connect to {}", at(&self.members[index])))? {
            return Ok(());
        }
        let (shared, member) = (&self.shared, &mut self.members[index]);
        let protocol = shared.plan.protocol;
        member.state = State::Opening;
        let groups = match member.role {
            Role::Outside => Groups::default(),
            _ => shared.groups_of(member.group, member.place),
        };
        let after = member.resumes_after();
        let name = format!("user-{}-{index}", self.thread);
        member.joining = if protocol.tells_each_join() { groups.quiet.len() } else { 0 };
        let who = Who { name: &name, token: shared.token.as_deref() };
        protocol.open(self.connections[index].out(), who, &groups, after);
        self.connections[index].flush();
        let now = shared.now();
        if member.away_since.is_none() {
            shared.opened.fetch_add(1, Ordering::AcqRel);
        } else if !protocol.has_history() {
            member.back_since = Some(now);
        }
        if !protocol.tells_joins() {
            self.opening.under_way -= 1;
            self.members[index].state = State::Ready;
            if groups.group.is_none() || self.members[index].away_since.is_some() {
                self.on_ready(index, now);
            }
        }
        Ok(())
    }

    /// A connection may post, a member has joined.
    pub(super) fn on_ready(&mut self, index: usize, now: u64) {
        let member = &mut self.members[index];
        if std::mem::replace(&mut member.state, State::Ready) == State::Opening {
            self.opening.under_way -= 1;
        }
        if let Some(since) = member.away_since.take() {
            member.joined = true;
            // Where joins are not answered, all that is known is when it has asked for one.
            if self.shared.plan.protocol.tells_joins() && self.shared.is_measured(since) {
                self.tally.rejoins.saturating_record((now - since) / 1_000);
            }
            return;
        }
        if member.role != Role::Outside {
            self.shared.joined_in[member.group as usize].fetch_add(1, Ordering::AcqRel);
        }
        self.shared.ready.fetch_add(1, Ordering::AcqRel);
    }

    /// Posts a probe to each group in which somebody is not known to have joined.
    pub(super) fn probe(&mut self, now: u64) -> Result<()> {
        if now < self.opening.next_probe {
            return self.timer.set(self.opening.next_probe, now);
        }
        self.opening.next_probe = now + PROBE;
        let shared = &self.shared;
        for _ in 0..PROBES {
            let Some((from, group, poster)) = self.opening.to_probe.pop_front_if(|(from, ..)| *from <= now) else {
                break;
            };
            if from > 0 && shared.joined_in[group as usize].load(Ordering::Acquire) >= shared.plan.members {
                continue;
            }
            self.opening.to_probe.push_back((now + PROBE_AGAIN, group, poster));
            let stamp = Stamp { probe: true, group, poster: 0, number: 0, slot: NO_SLOT, at: now };
            let out = self.connections[poster].out();
            let (name, size) = (&shared.names[group as usize], shared.plan.size);
            shared.plan.protocol.post(out, name, size, |out| shared.format.write(&stamp, out));
            self.dirty.push(poster);
        }
        self.timer.set(self.opening.next_probe, now)
    }
}

impl super::Member {
    /// From where it comes back, if it was away and its group can tell what it missed.
    pub(super) fn resumes_after(&self) -> Option<After> {
        let head = self.away_since.and(self.head)?;
        Some(After { seq: self.last_seq()?, epoch: head.epoch })
    }
}
