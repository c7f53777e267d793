//! Frames of requests on their way to the owner of a shard: one at a time, sent again until it is answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::packing::{halve, next_items, roll_answer_bytes};
use super::{AGAIN, Flight, Mirror, Pending, ROLL_MEMBERS, Replied, SILENT, person};
use crate::shard::owner::seat::{Role, Seat};
use crate::shard::owner::{Owner, unanswered, unavailable};
use crate::shard::peers::Silence;
use crate::shard::request::Request;
use crate::shard::wire::{self, Ask, Person, Reply, Roll, RollAnswer, RollOfGroup};

impl Owner {
    /// Sends the next frame, if there is none under way and something to send.
    pub(in crate::shard::owner) async fn start_flight(&mut self) {
        let (shard, node, instance) = match &self.seat {
            Some(seat) => (self.shard, Arc::clone(&seat.node), Arc::clone(&seat.instance)),
            None => return,
        };
        let Some(mirror) = self.mirror_mut() else { return };
        let nothing = mirror.outbox.is_empty() && mirror.roll.is_none() && !mirror.roll_is_due;
        if mirror.flight.is_some() || nothing {
            return;
        }
        if std::mem::take(&mut mirror.roll_is_due) {
            self.make_roll();
        }
        self.listen().await;
        let Some(Seat { role: Role::Mirror(mirror), frames, frame_bytes, .. }) = self.seat.as_deref_mut() else {
            return;
        };
        // Half of what a frame may have: its answer may be larger.
        let most = *frame_bytes / 2;
        *frames += 1;
        let number = *frames;
        let roll = mirror.roll.as_mut().and_then(VecDeque::pop_front);
        let (reign, items) = (mirror.reign, Vec::new());
        let mut ask = Ask { node: (*node).to_owned(), instance: (*instance).to_owned(), number, reign, roll, items };
        let mut frame = if ask.roll.is_some() { wire::encode(&ask) } else { Bytes::new() };
        while let Some(part) = &mut ask.roll
            && (frame.len() > most || roll_answer_bytes(part) > most)
            && let Some(rest) = halve(part)
        {
            mirror.roll.get_or_insert_default().push_front(rest);
            frame = wire::encode(&ask);
        }
        let is_last = mirror.roll.as_ref().is_none_or(VecDeque::is_empty);
        if is_last {
            mirror.roll = None;
        }
        // Beside a large roll there is nothing else.
        if is_last && frame.len() <= most / 2 {
            ask.items = next_items(&mirror.outbox, most);
            frame = wire::encode(&ask);
            while frame.len() > most && ask.items.len() > 1 {
                ask.items.truncate(ask.items.len() / 2);
                frame = wire::encode(&ask);
            }
        }
        mirror.passed.clear();
        mirror.ended.clear();
        let (count, roll) = (ask.items.len(), ask.roll.map(|part| (reign, part.heard)));
        self.send_frame(shard, number, frame, count, roll);
    }

    fn send_frame(&mut self, shard: u16, number: u64, frame: Bytes, count: usize, roll: Option<(u64, u64)>) {
        let Some(seat) = &self.seat else { return };
        let asking = seat.peers.ask(shard, frame.clone());
        let (again, since, is_told) = (AGAIN.0, Instant::now(), false);
        let flight = Flight { number, frame, count, roll, in_doubt: false, again, since, is_told, asking };
        self.shared.metrics.forwarded.increment(count as u64);
        if let Some(mirror) = self.mirror_mut() {
            mirror.flight = Some(flight);
        }
    }

    /// Sends the frame under way once more, after a moment.
    fn send_again(&mut self, shard: u16) {
        let Some(seat) = &self.seat else { return };
        let peers = Arc::clone(&seat.peers);
        let Some(mirror) = self.mirror_mut() else { return };
        let Some(flight) = &mut mirror.flight else { return };
        let (wait, frame) = (flight.again, flight.frame.clone());
        flight.again = (wait * 2).min(AGAIN.1);
        flight.asking = Box::pin(async move {
            tokio::time::sleep(wait).await;
            peers.ask(shard, frame).await
        });
        self.shared.metrics.forwarded_again.increment(1);
    }

    /// Another node may own the shard now: it is asked at once.
    pub(in crate::shard::owner) fn hasten(&mut self) {
        let Some(flight) = self.mirror_mut().and_then(|mirror| mirror.flight.as_mut()) else { return };
        flight.again = AGAIN.0;
        // Nobody waits for the answer any more.
        flight.in_doubt = true;
        self.send_again(self.shard);
    }

    fn make_roll(&mut self) {
        let mut parts = VecDeque::new();
        let mut heard = u64::MAX;
        if let Some(mirror) = self.mirror_mut() {
            // Those who are in parts of the roll before that were not sent were not told what was missed before that one.
            let before = mirror.roll.take().and_then(|parts| parts.front().map(|part| part.heard));
            let missed = mirror.missed.take().or(mirror.heard);
            heard = missed.into_iter().chain(before).min().unwrap_or(u64::MAX);
        }
        let mut part = Roll { begins: true, heard, groups: Vec::new() };
        let mut count = 0;
        for (name, group) in &self.groups {
            let mut members = group.members().map(|member| person(&member.session, member.joined_at)).peekable();
            while members.peek().is_some() {
                let members: Vec<Person> = members.by_ref().take(ROLL_MEMBERS).collect();
                count += members.len();
                let (epoch, head) = (group.epoch(), group.head());
                part.groups.push(RollOfGroup { group: name.clone(), epoch, head, members });
                if count >= ROLL_MEMBERS {
                    let next = Roll { begins: false, heard, groups: Vec::new() };
                    parts.push_back(std::mem::replace(&mut part, next));
                    count = 0;
                }
            }
        }
        if parts.is_empty() || !part.groups.is_empty() {
            parts.push_back(part);
        }
        if let Some(mirror) = self.mirror_mut() {
            mirror.roll = Some(parts);
        }
    }

    pub(in crate::shard::owner) fn on_replied(&mut self, replied: Replied) {
        let shard = self.shard;
        let Some(mirror) = self.mirror_mut() else { return };
        let reply = match replied {
            Ok(bytes) => wire::decode::<Reply>(&bytes).unwrap_or_else(|error| Reply::Unfit { why: error.to_string() }),
            Err(error) => {
                if let Some(flight) = mirror.flight.as_mut().filter(|_| !matches!(error, Silence::Nobody)) {
                    flight.in_doubt = true;
                }
                let (reign, waiting) = (mirror.reign, mirror.outbox.len());
                let flight = mirror.flight.as_mut().filter(|flight| !flight.is_told && flight.since.elapsed() > SILENT);
                if let Some(flight) = flight {
                    flight.is_told = true;
                    let number = flight.number;
                    tracing::warn!(shard, %error, waiting, reign, number, "the owner of the shard does not answer for long");
                } else {
                    tracing::debug!(shard, %error, waiting, "the owner of the shard does not answer");
                }
                return self.try_again();
            }
        };
        match reply {
            Reply::Done { reign, number, told, roll, outcomes }
                if mirror.flight.as_ref().is_some_and(|flight| flight.number == number) =>
            {
                let Some(flight) = mirror.flight.take() else { return };
                if reign == mirror.reign {
                    mirror.has_told(told);
                }
                mirror.reign = reign;
                mirror.doubts.clear();
                roll.into_iter().for_each(|answer| self.on_roll_answer(answer));
                self.conclude_all(flight.count, outcomes, told);
                self.listen_again();
            }
            // Who says that has lost the shard and does not know it yet.
            Reply::Reign { reign } if reign < mirror.reign => self.try_again(),
            Reply::Reign { reign } => {
                mirror.let_go_of_flight();
                mirror.follow(reign);
                if !self.groups.is_empty()
                    && let Some(mirror) = self.mirror_mut()
                {
                    mirror.call_roll();
                }
            }
            Reply::Done { .. } | Reply::NotOwner | Reply::Unknown => self.try_again(),
            Reply::Unfit { why } => {
                // An upgrade that is under way may bring another owner.
                tracing::warn!(shard, why, "the owner of the shard does not understand this node");
                self.try_again();
            }
        }
    }

    /// Sends the frame again, unless its requests have waited for too long.
    fn try_again(&mut self) {
        let patience = self.seat.as_ref().map_or(Duration::ZERO, |seat| seat.patience);
        let Some(mirror) = self.mirror() else { return };
        let over = mirror.outbox.iter().take_while(|pending| pending.since.elapsed() > patience).count();
        let Some(flight) = &mirror.flight else { return };
        let (is_roll_alone, is_old) = (flight.count == 0, flight.since.elapsed() > patience);
        if is_roll_alone {
            // Requests wait for its end behind it. It goes on as long as anybody waits: a roll that was called anew would be sent at once, again
            // and again for as long as nobody has the shard. Nor does it go on for ever, for its answer may be one that never comes through.
            self.leave_unanswered(over);
        }
        let is_over = if is_roll_alone { is_old } else { over > 0 };
        if is_over {
            self.give_up_flight();
        } else {
            self.send_again(self.shard);
        }
    }

    /// Nobody is going to answer the requests of the frame under way.
    fn give_up_flight(&mut self) {
        let Some(mirror) = self.mirror_mut() else { return };
        let Some(flight) = mirror.flight.take() else { return };
        if let Some((reign, heard)) = flight.roll {
            // What was missed before it still is.
            if reign == mirror.reign && heard < u64::MAX {
                mirror.missed = Some(mirror.missed.map_or(heard, |missed| missed.min(heard)));
            }
            mirror.roll = None;
            mirror.call_roll();
        }
        self.leave_unanswered(flight.count);
    }

    /// Tells those who made the oldest `count` requests that nobody knows what came of them.
    fn leave_unanswered(&mut self, count: usize) {
        let Some(mirror) = self.mirror_mut() else { return };
        let given_up: Vec<Pending> = mirror.outbox.drain(..count.min(mirror.outbox.len())).collect();
        mirror.doubt(&given_up);
        self.shared.metrics.unanswered.increment(given_up.len() as u64);
        for pending in given_up {
            self.refuse(pending, unanswered);
        }
    }

    /// Nobody can be asked: of the requests of the frame under way it is not known what becomes of them, of those others that no owner
    /// has had it is that nothing does.
    ///
    /// What went unanswered before may still be stored: the same post is not refused as one that is not.
    pub(in crate::shard::owner) fn give_up_outbox(&mut self) {
        // A part of the roll alone goes on: one that was called anew would be made and sent at once, with each request.
        if self.mirror().is_some_and(|mirror| mirror.flight.as_ref().is_some_and(|flight| flight.count > 0)) {
            self.give_up_flight();
        }
        let Some(mirror) = self.mirror_mut() else { return };
        let Mirror { outbox, doubts, .. } = mirror;
        let mut outbox = std::mem::take(outbox);
        if !doubts.is_empty() {
            for pending in &mut outbox {
                let is_doubted = pending.ids().any(|id| doubts.contains(&id));
                pending.in_doubt |= is_doubted;
            }
        }
        for pending in outbox {
            // No owner has counted it.
            match &pending.request {
                Request::Post(_) => self.shared.metrics.failed.increment(1),
                Request::Join { .. } => self.shared.metrics.join_refused.increment(1),
                _ => {}
            }
            self.refuse(pending, |group| unavailable(&group));
        }
    }

    fn on_roll_answer(&mut self, answer: RollAnswer) {
        let RollAnswer { group: name, now, removed } = answer;
        self.on_removed(removed);
        let Some(group) = self.groups.get(&name) else { return };
        match now {
            Some((epoch, head)) if epoch == group.epoch() => self.expect(&name, head, Duration::ZERO),
            // An owner of an older build has taken those who were in a life without messages for members of the next one. They were told
            // another epoch.
            Some(_) => {
                self.end_life(&name);
                if let Some(mirror) = self.mirror_mut() {
                    mirror.call_roll();
                }
            }
            None => self.end_life(&name),
        }
    }
}
