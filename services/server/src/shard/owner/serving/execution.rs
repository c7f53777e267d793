//! The requests of one frame of another node, until all are carried out and the node is answered.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::shard::peers::AnswerTo;
use crate::shard::wire::{self, Outcome, Refused, Reply, RollAnswer};

/// The requests of one frame, until all are carried out.
pub(in crate::shard::owner) struct Execution(Mutex<State>);

struct State {
    /// What is told beside the outcomes.
    reply: Replying,
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    /// Bytes that the answer may have.
    most: usize,
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
    pub(super) fn new(reply: Replying, count: usize, most: usize, answer: AnswerTo) -> Self {
        let outcomes = std::iter::repeat_with(|| None).take(count).collect();
        Self(Mutex::new(State { reply, outcomes, missing: count, most, answer: Some(answer), done: None }))
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

    /// This node does not own the shard any more: the other one is to ask whoever does. Where something was carried out already it is left
    /// without an answer: it would take what it is told for a promise that nothing was.
    pub(in crate::shard::owner) fn give_up(&self) {
        let mut state = self.state();
        let Some(answer) = state.answer.take() else { return };
        if state.outcomes.iter().all(Option::is_none) {
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
        let done = encode(Reply::Done { reign, number, told, roll, outcomes }, self.most);
        self.done = Some(done.clone());
        if let Some(answer) = self.answer.take() {
            answer(done);
        }
    }
}

/// The answer in at most so many bytes. One that is larger would never come through, and be asked for again and again: so those whose
/// outcomes take the most room are refused, whatever was carried out for them.
fn encode(mut reply: Reply, most: usize) -> Bytes {
    let frame = wire::encode(&reply);
    let Reply::Done { roll, outcomes, .. } = &mut reply else { return frame };
    if frame.len() <= most {
        return frame;
    }
    let bytes = |outcome: &Outcome| serde_json::to_vec(outcome).map_or(0, |bytes| bytes.len());
    let refused = Outcome::Refused { refused: Refused::too_large() };
    let (mut left, small) = (frame.len(), bytes(&refused));
    // Of removals the texts can be done without.
    for removed in roll.iter_mut().flat_map(|answer| &mut answer.removed) {
        left -= removed.detail.take().map_or(0, |detail| detail.len());
    }
    let mut largest: Vec<(usize, &mut Outcome)> =
        outcomes.iter_mut().map(|outcome| (bytes(outcome), outcome)).collect();
    largest.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let mut count = 0;
    for (bytes, outcome) in largest.into_iter().take_while(|(bytes, _)| *bytes > small) {
        if left <= most {
            break;
        }
        left -= bytes - small;
        *outcome = refused.clone();
        count += 1;
    }
    tracing::warn!(
        bytes = frame.len(),
        most,
        count,
        "an answer is too large for another node: so many of its parts are refused"
    );
    wire::encode(&reply)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tertulia_protocol::UserName;

    use super::*;
    use crate::shard::session::ConnectionId;
    use crate::shard::wire::{MemberTold, Person};

    #[test]
    fn of_an_answer_that_is_too_large_the_largest_parts_are_refused() {
        let member = |number| {
            let user = UserName::new(&format!("user-{number}")).unwrap();
            let (id, address) = (ConnectionId(number), IpAddr::V4(Ipv4Addr::LOCALHOST));
            let person = Person { id, user, address, joined_at: 1 };
            MemberTold { person, delivered: 2, catching_up: false }
        };
        let members = |count| Outcome::Members { page: Some((0..count).map(member).collect()) };
        let small = Outcome::Stored { epoch: 1, seq: 2, at: 3 };
        let outcomes = vec![small.clone(), members(500), members(20), members(200)];
        let reply = |outcomes| Reply::Done { reign: 1, number: 2, told: 3, roll: Vec::new(), outcomes };
        let whole = wire::encode(&reply(outcomes.clone()));
        assert_eq!(encode(reply(outcomes.clone()), whole.len()), whole);
        let frame = encode(reply(outcomes), 30_000);
        assert!(frame.len() <= 30_000, "{}", frame.len());
        let Reply::Done { outcomes, .. } = wire::decode(&frame).unwrap() else { panic!("{frame:?}") };
        assert!(matches!(&outcomes[1], Outcome::Refused { .. }), "{outcomes:?}");
        assert_eq!((&outcomes[0], &outcomes[2], &outcomes[3]), (&small, &members(20), &members(200)));
    }
}
