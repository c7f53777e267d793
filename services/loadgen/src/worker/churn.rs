//! Members come and go, or read history over and over.

use anyhow::Result;

use super::Worker;
use super::member::{Member, State};
use crate::pace::Schedule;
use crate::plan::{Plan, Role};

/// How many go at once, at most, before others get their turn.
const AT_ONCE: usize = 1_000;

/// Who comes and goes, and when the next one does.
#[derive(Debug)]
pub(super) struct Churn {
    churners: Vec<usize>,
    rate: f64,
    schedule: Option<Schedule>,
    count: usize,
}

impl Churn {
    pub(super) fn new(plan: &Plan, members: &[Member]) -> Self {
        let churners = members.iter().enumerate().filter(|(_, member)| member.role == Role::Churner);
        let churners: Vec<usize> = churners.map(|(index, _)| index).collect();
        let threads = (0..usize::from(plan.threads)).filter(|thread| plan.has_special(*thread)).count();
        Self { churners, rate: plan.churn / threads.max(1) as f64, schedule: None, count: 0 }
    }
}

impl Worker {
    /// Sends away who is due: in turn one that leaves and one whose connection breaks.
    pub(super) fn churn(&mut self, now: u64) -> Result<()> {
        if self.churn.churners.is_empty() || self.churn.rate <= 0.0 {
            return Ok(());
        }
        for _ in 0..AT_ONCE {
            let rate = self.churn.rate;
            let schedule = self.churn.schedule.get_or_insert_with(|| Schedule::new(now, rate, 1, 1));
            if schedule.take_due(now).is_none() {
                return Ok(());
            }
            let index = self.churn.churners[self.churn.count % self.churn.churners.len()];
            self.churn.count += 1;
            if self.members[index].state != State::Ready || !self.members[index].joined {
                continue;
            }
            let protocol = self.shared.plan.protocol;
            self.members[index].goes_away(now, protocol.has_history());
            if protocol.has_history() && self.churn.count.is_multiple_of(2) {
                let name = &self.shared.names[self.members[index].group as usize];
                self.members[index].state = State::Leaving;
                protocol.leave(self.connections[index].out(), name);
                self.dirty.push(index);
            } else {
                self.close(index);
                self.connect(index)?;
            }
        }
        self.timer.set(now, now)
    }

    /// Who left comes back at once.
    pub(super) fn on_left(&mut self, index: usize, _now: u64) {
        let member = &mut self.members[index];
        if member.state != State::Leaving {
            self.tally.faults.refused += 1;
            self.tally.faults.say(|| "the server removed a member".to_owned());
            return;
        }
        member.state = State::Ready;
        let name = &self.shared.names[member.group as usize];
        self.shared.plan.protocol.join(self.connections[index].out(), name, member.resumes_after());
        self.dirty.push(index);
    }

    /// A laggard joins anew, at an older message.
    pub(super) fn ask_history(&mut self, index: usize, now: u64) {
        let member = &mut self.members[index];
        let Some(after) = member.back(self.shared.plan.depth) else { return };
        member.reads_from(after.seq, now);
        let name = &self.shared.names[member.group as usize];
        self.shared.plan.protocol.join(self.connections[index].out(), name, Some(after));
        self.dirty.push(index);
    }
}
