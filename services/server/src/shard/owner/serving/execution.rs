//! The requests of one frame of another node, until all are carried out and the node is answered.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::shard::peers::AnswerTo;
use crate::shard::wire::{self, Outcome, Reply, RollAnswer};

/// The requests of one frame, until all are carried out.
pub(in crate::shard::owner) struct Execution(Mutex<State>);

struct State {
    /// What is told beside the outcomes.
    reply: Replying,
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    answer: Option<AnswerTo>,
    done: Option<Bytes>,
}

pub(super) struct Replying {
    pub(super) reign: u64,
    pub(super) number: u64,
    pub(super) told: u64,
    pub(super) roll: Vec<RollAnswer>,
}

impl Execution {
    pub(super) fn new(reply: Replying, count: usize, answer: AnswerTo) -> Self {
        let outcomes = std::iter::repeat_with(|| None).take(count).collect();
        Self(Mutex::new(State { reply, outcomes, missing: count, answer: Some(answer), done: None }))
    }

    /// Says what became of a request. When that is known of all, the node is answered.
    pub(in crate::shard::owner) fn set(&self, place: usize, outcome: Outcome) {
        let mut state = self.state();
        if let Some(slot @ None) = state.outcomes.get_mut(place) {
            *slot = Some(outcome);
            state.missing -= 1;
        }
        state.finish();
    }

    /// The node asked again.
    pub(super) fn again(&self, answer: AnswerTo) {
        let mut state = self.state();
        match state.done.clone() {
            Some(done) => answer(done),
            None => state.answer = Some(answer),
        }
    }

    /// This node does not own the shard any more: the other one is to ask whoever does.
    pub(in crate::shard::owner) fn give_up(&self) {
        let mut state = self.state();
        if let Some(answer) = state.answer.take() {
            answer(wire::encode(&Reply::NotOwner));
        }
    }

    /// Answers at once if there is nothing to wait for.
    pub(super) fn finish(&self) {
        self.state().finish();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn finish(&mut self) {
        if self.missing > 0 || self.done.is_some() {
            return;
        }
        let Replying { reign, number, told, .. } = self.reply;
        let outcomes = std::mem::take(&mut self.outcomes).into_iter().flatten().collect();
        let roll = std::mem::take(&mut self.reply.roll);
        let done = wire::encode(&Reply::Done { reign, number, told, roll, outcomes });
        self.done = Some(done.clone());
        if let Some(answer) = self.answer.take() {
            answer(done);
        }
    }
}
