//! Posts are sent, as the window or the schedule allows.

use std::sync::atomic::Ordering;

use anyhow::Result;

use super::member::Member;
use super::{LOOK, Worker};
use crate::pace::{Schedule, Window};
use crate::payload::{NO_SLOT, Stamp};
use crate::plan::{Pace, Plan};

/// Posts at once, at most, before what has come is read: a rate that is too high must not fill the memory.
const AT_ONCE: usize = 10_000;

/// Bytes of posts, of all threads, that wait for sockets at most (open loop). What is due beyond that waits in the schedule, where it
/// takes no room.
const WAITING: u64 = 64 * 1024 * 1024;
/// Bytes that a post has beside its message, about.
const BESIDE: u64 = 64;

/// Who posts, in turn.
#[derive(Debug)]
pub(super) struct Posting {
    /// Connections of all posters of this thread's groups: first those that are poster 0 of their group.
    posters: Vec<usize>,
    /// Of these, with their group: the first posters.
    first: Vec<(u32, usize)>,
    next: usize,
    pace: Pacing,
    /// Posts that no socket has taken yet, and how many there may be before no others are made.
    waiting: u64,
    room: u64,
}

#[derive(Debug)]
enum Pacing {
    None,
    Closed(Window),
    /// Posts a second in total; this thread's part begins when posting begins.
    Open {
        rate: f64,
        offset: u64,
        step: u64,
        schedule: Option<Schedule>,
    },
}

impl Posting {
    pub(super) fn new(plan: &Plan, thread: usize, members: &[Member]) -> Self {
        let posters = members.iter().enumerate().filter(|(_, member)| plan.home(member.group) == thread);
        let mut posters: Vec<_> =
            posters.filter_map(|(index, member)| Some((member.poster?, member.group, index))).collect();
        posters.sort_unstable();
        let first = posters.iter().take_while(|(poster, ..)| *poster == 0).map(|(_, group, index)| (*group, *index));
        let pace = match plan.pace {
            Pace::Closed(_) => {
                let (first, size) = plan.slots(thread);
                Pacing::Closed(Window::new(first, size))
            }
            // Groups are shared out evenly; if there are fewer than threads, only some of these post.
            Pace::Open(rate) if !posters.is_empty() => {
                let posting = u64::from(plan.groups.min(u32::from(plan.threads)));
                Pacing::Open { rate, offset: thread as u64, step: posting, schedule: None }
            }
            Pace::Open(_) | Pace::None => Pacing::None,
        };
        let posters_at = |posters: &[(u16, u32, usize)]| posters.iter().map(|(.., index)| *index).collect();
        Self {
            first: first.collect(),
            posters: posters_at(&posters),
            next: 0,
            pace,
            waiting: 0,
            room: room(plan.size, plan.threads),
        }
    }

    pub(super) fn window(&mut self) -> Option<&mut Window> {
        match &mut self.pace {
            Pacing::Closed(window) => Some(window),
            Pacing::None | Pacing::Open { .. } => None,
        }
    }

    /// The groups of this thread, each with the connection of its first poster.
    pub(super) fn first_posters(&self) -> &[(u32, usize)] {
        &self.first
    }

    /// The next post, if there is one now: its slot and when it was due.
    fn take(&mut self, now: u64) -> Option<(u32, u64)> {
        match &mut self.pace {
            Pacing::None => None,
            Pacing::Closed(window) => Some((window.take()?, now)),
            // One poster whose server takes nothing keeps the others back in the end; they are late then, and that is told.
            Pacing::Open { .. } if self.waiting >= self.room => None,
            Pacing::Open { rate, offset, step, schedule } => {
                let schedule = schedule.get_or_insert_with(|| Schedule::new(now, *rate, *offset, *step));
                Some((NO_SLOT, schedule.take_due(now)?))
            }
        }
    }

    fn schedule(&self) -> Option<&Schedule> {
        match &self.pace {
            Pacing::Open { schedule, .. } => schedule.as_ref(),
            _ => None,
        }
    }

    /// Posts that were due by `now`, and that no socket has taken.
    pub(super) fn untaken(&self, now: u64) -> u64 {
        self.waiting + self.schedule().map_or(0, |schedule| schedule.overdue(now))
    }

    /// Posts that waited on a connection which is no more.
    pub(super) fn forget(&mut self, posts: usize) {
        self.waiting = self.waiting.saturating_sub(posts as u64);
    }
}

/// How many posts of this size may wait on one of so many threads.
fn room(size: usize, threads: u16) -> u64 {
    (WAITING / (size as u64 + BESIDE) / u64::from(threads.max(1))).max(1)
}

impl Worker {
    /// Sends all posts that have room or are due, but none that is due after `last`.
    pub(super) fn post(&mut self, now: u64, last: u64) {
        let foreign = self.shared.lanes[self.thread].take_done();
        if let Some(window) = self.posting.window() {
            foreign.into_iter().for_each(|slot| window.give_back(slot));
        }
        for _ in 0..AT_ONCE {
            let Some((slot, due)) = self.posting.take(now.min(last)) else { break };
            self.post_one(slot, due, now);
        }
    }

    /// Wakes when the next post is due, unless that is after `last`. Without room for it, the next event is that a socket has some; until
    /// then it is shown how many are due.
    pub(super) fn await_due(&mut self, now: u64, last: u64) -> Result<()> {
        match self.posting.schedule().map(Schedule::next) {
            Some(due) if due <= last => {
                let has_room = self.posting.waiting < self.posting.room;
                self.timer.set(if has_room { due } else { now + LOOK }, now)
            }
            _ => Ok(()),
        }
    }

    /// Counts the posts of a connection that its socket has taken by now.
    pub(super) fn count_written(&mut self, index: usize, now: u64) {
        let measured_from = self.shared.measure_from.load(Ordering::Relaxed);
        while let Some(due) = self.connections[index].take_written() {
            self.posting.waiting -= 1;
            self.tally.posts += 1;
            if due >= measured_from {
                self.tally.lateness.saturating_record(now.saturating_sub(due) / 1_000);
            }
        }
    }

    fn post_one(&mut self, slot: u32, due: u64, now: u64) {
        let Some(&index) = self.posting.posters.get(self.posting.next) else { return };
        self.posting.next = (self.posting.next + 1) % self.posting.posters.len();
        let (shared, member) = (&self.shared, &self.members[index]);
        let (group, poster) = (member.group, member.poster.unwrap_or(0));
        let number = shared.count_post(group, poster, now);
        if slot != NO_SLOT {
            shared.remaining.begin(slot, shared.plan.watchers());
        }
        let stamp = Stamp { probe: false, group, poster, number, slot, at: due };
        let connection = &mut self.connections[index];
        let out = connection.out();
        if out.is_empty() {
            self.dirty.push(index);
        }
        let (name, size) = (&shared.names[group as usize], shared.plan.size);
        shared.plan.protocol.post(out, name, size, |out| shared.format.write(&stamp, out));
        connection.add_post(due);
        self.posting.waiting += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_that_wait_take_no_more_room_than_they_may() {
        for (size, threads) in [(40, 1), (128, 4), (64 * 1024, 1), (64 * 1024, 64)] {
            let bytes = room(size, threads) * u64::from(threads) * size as u64;
            assert!((WAITING / 4..=WAITING).contains(&bytes), "{size} bytes, {threads} threads: {bytes}");
        }
    }
}
