//! How a shard changes hands: from mirroring another node's shard to owning it, and back. Members that are connected here stay
//! members, and requests that wait are carried out by whoever has the shard then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tertulia_protocol::GroupName;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Owner;
use super::append::{Answer, Asker, returned};
use super::heads::{Ahead, Found, find};
use super::mirror::Mirror;
use super::seat::{News, Role, next};
use super::serving::Serving;
use crate::log::PageLimit;
use crate::shard::ending::Ending;
use crate::shard::peers::{Asked, Order, Peers};
use crate::shard::request::{NewPost, Posts, Request};
use crate::shard::session::{Event, Removal};
use crate::shard::wire::{self, Reply, Tell};
use crate::shard::{Batch, Record};

/// What members that are behind need to notice it: the newest messages.
pub(super) const TAIL: PageLimit = PageLimit { records: 64, bytes: 64 * 1024 };
/// So many times in a row all groups of a shard are read before it is served without those that the log does not tell.
const READS: u32 = 3;
/// How long those who ask the wrong node are answered at most.
const TURNING_AWAY: Duration = Duration::from_secs(2);

impl Owner {
    /// The mirror, if another node has the shard.
    pub(super) fn mirror(&self) -> Option<&Mirror> {
        match self.seat.as_deref() {
            Some(seat) => match &seat.role {
                Role::Mirror(mirror) => Some(mirror),
                Role::Owner(_) => None,
            },
            None => None,
        }
    }

    pub(super) fn mirror_mut(&mut self) -> Option<&mut Mirror> {
        match &mut self.seat.as_deref_mut()?.role {
            Role::Mirror(mirror) => Some(mirror),
            Role::Owner(_) => None,
        }
    }

    pub(super) fn serving_mut(&mut self) -> Option<&mut Serving> {
        match &mut self.seat.as_deref_mut()?.role {
            Role::Owner(serving) => Some(serving),
            Role::Mirror(_) => None,
        }
    }

    /// Whether it has turned out that another node has taken the shard.
    pub(super) fn is_fenced(&self) -> bool {
        self.seat.as_deref().is_some_and(|seat| seat.fenced)
    }

    /// What is to be done for other nodes between requests; answers whether requests may go on that could not before.
    pub(super) async fn take_turn(&mut self) -> bool {
        if self.give_way() {
            return true;
        }
        self.flush_told();
        self.start_flight().await;
        false
    }

    /// Steps down if another node has the shard, and nothing is under way; answers whether it did.
    fn give_way(&mut self) -> bool {
        let is_over = self.in_flight.is_none() && self.seat.as_deref().is_some_and(|seat| seat.is_lost);
        let gives_way = self.is_fenced() || is_over;
        if gives_way {
            self.step_down();
        }
        gives_way
    }

    pub(super) async fn on_news(&mut self, news: News) {
        match news {
            News::Order(order) => self.on_order(order).await,
            News::CutOff(is_cut_off) => self.on_cut_off(is_cut_off),
            News::Asked(Some(asked)) => self.waiting.push_back(Request::Asked(asked)),
            News::Asked(None) => {
                if let Some(serving) = self.serving_mut() {
                    serving.asked = Box::pin(futures_util::stream::pending());
                }
            }
            News::Beat => self.beat(),
            News::Found(found) => self.on_found(found),
            News::Replied(replied) => self.on_replied(replied),
            News::Told(told) => self.on_told(told),
            News::Late => self.look_for_late(),
            News::LatePage(page) => self.on_late_page(page),
        }
    }

    async fn on_order(&mut self, order: Order) {
        // Who ordered may have given up.
        match order {
            Order::Own { reign, holds, done } => {
                holds.into_iter().for_each(|hold| self.shared.holds.inherit(hold));
                let owned = self.step_up(reign).await;
                // Who ordered looks again later anyway.
                done.send(owned).unwrap_or_default();
            }
            Order::Release { done } => {
                if !self.settle_in_time().await {
                    // Whoever asks takes the shard, and then it is known how the append ended.
                    return;
                }
                self.step_down();
                drop(done.send(self.shared.holds.recent(self.shard, self.shared.config.count.max(1))));
            }
            // Requests are answered meanwhile: an append that NATS leaves unanswered may take for ever.
            Order::Lost => {
                if let Some(seat) = &mut self.seat {
                    seat.is_lost = true;
                }
            }
            Order::Follow => {
                let has_members = !self.groups.is_empty();
                if let Some(mirror) = self.mirror_mut().filter(|_| has_members) {
                    mirror.call_roll();
                }
                self.hasten();
            }
            Order::Nodes(nodes) => self.forget_others(&nodes),
            Order::Held(group) => self.end_held(group.as_ref()),
        }
    }

    /// Ceases to own the shard, if it did, once what is under way has ended.
    pub(super) async fn cease(&mut self) {
        self.settle().await;
        self.step_down();
    }

    /// Begins to own the shard, which the log has made ours. Answers whether it does: else the log could not be read, which passes as a rule, or
    /// another node has taken it since.
    async fn step_up(&mut self, reign: u64) -> bool {
        self.cease().await;
        if self.mirror().is_some_and(|mirror| mirror.knows_later(reign)) {
            return false;
        }
        // The shard is served by nobody meanwhile.
        let sought = self.groups.iter().map(|(name, group)| (name.clone(), group.head())).collect();
        let found = find(Arc::clone(&self.shared.log), self.shard, sought).await;
        if found.iter().any(|found| found.outcome.is_err()) {
            let Some(mirror) = self.mirror_mut() else { return false };
            mirror.read_in_vain += 1;
            if mirror.read_in_vain < READS {
                return false;
            }
        }
        let Some(seat) = &mut self.seat else { return false };
        let Ok(asked) = seat.peers.asked(self.shard).await else { return false };
        let serving = Serving::new(reign, seat.frame_bytes, asked);
        self.hear_last();
        if self.mirror().is_some_and(|mirror| mirror.knows_later(reign)) {
            return false;
        }
        self.refuse_ended();
        let Some(seat) = &mut self.seat else { return false };
        let Role::Mirror(mirror) = std::mem::replace(&mut seat.role, Role::Owner(serving)) else { return false };
        let mut unread = Vec::new();
        for Found { name, outcome, .. } in found {
            let Some(group) = self.groups.get_mut(&name) else { continue };
            match outcome {
                Ok((Some(head), tail)) if head.epoch == group.epoch() => group.go_on_from(head, tail),
                // Nobody has posted yet.
                Ok((None, _)) if group.status.head() == 0 => self.shared.directory.not_stored(),
                Ok(_) => self.end_life(&name),
                // The others need not be without an owner for it.
                Err(error) => {
                    group.is_unread = true;
                    if !group.is_stored() {
                        self.shared.directory.not_stored();
                    }
                    unread.push((name, error));
                }
            }
        }
        self.read_later(unread);
        self.ahead = Ahead::default();
        // Who had the shard may have held some of them, and known nobody here.
        self.end_held(None);
        self.shared.set_owned(self.shard, true);
        for request in mirror.into_requests().rev() {
            self.waiting.push_front(request);
        }
        true
    }

    /// Hears what the owner before has told and is there already: nobody tells it again.
    fn hear_last(&mut self) {
        while let Some(told) = self.mirror_mut().and_then(Mirror::next_told) {
            self.on_told(Some(told));
        }
    }

    /// The life of a group that is mirrored has ended: its members learn it.
    pub(super) fn end_life(&mut self, name: &GroupName) {
        let Some(mut group) = self.groups.remove(name) else { return };
        self.shared.directory.remove(name, true);
        let gone = group.remove_where(|_| true);
        self.shared.metrics.deleted.increment(gone.len() as u64);
        for session in gone {
            session.inbox.push(Event::Removed { group: name.clone(), removal: Removal::Deleted, detail: None });
        }
    }

    /// Ceases to own the shard, if it did. Nothing is under way.
    pub(super) fn step_down(&mut self) {
        let Some(seat) = &mut self.seat else { return };
        (seat.fenced, seat.is_lost) = (false, false);
        let Role::Owner(serving) = &seat.role else { return };
        let mut mirror = Mirror::after(serving.reign());
        self.shared.set_owned(self.shard, false);
        let directory = &self.shared.directory;
        self.groups.retain(|name, group| {
            drop(group.remove_where(|session| session.home.is_some()));
            let keep = group.member_count() > 0;
            match keep {
                true if !group.is_stored() => directory.now_stored(),
                true => {}
                false => directory.remove(name, group.is_stored()),
            }
            group.forget_ids();
            group.is_unread = false;
            keep
        });
        if !self.groups.is_empty() {
            mirror.call_roll();
        }
        if let Role::Owner(serving) = std::mem::replace(&mut seat.role, Role::Mirror(mirror)) {
            tokio::spawn(turn_away(Arc::clone(&seat.peers), self.shard, serving));
        }
    }

    /// Another writer has the shard. What was to be appended and is behind the heads is not stored: it is sent to whoever has it, but for what
    /// moderators asked, who are told. Answers what is left to be answered.
    pub(super) fn give_up_shard(&mut self, batches: &[(Arc<Batch>, Instant)], answers: Vec<Answer>) -> Vec<Answer> {
        let Some(seat) = &mut self.seat else { return answers };
        seat.fenced = true;
        let mut records: HashMap<(GroupName, u64), Record> = HashMap::new();
        for (batch, _) in batches {
            records.extend(batch.records.iter().map(|record| ((batch.group.clone(), record.seq), record.clone())));
        }
        for group in self.groups.values() {
            let name = &group.status.name;
            records.extend(group.staged().map(|record| ((name.clone(), record.seq), record.clone())));
        }
        let mut left = Vec::new();
        let mut again = Vec::new();
        for answer in answers {
            let record = match &answer.outcome {
                // A post and its repeat wait for one record.
                Ok(stored) if stored.seq > self.head(&answer.group) => {
                    records.get(&(answer.group.clone(), stored.seq)).cloned()
                }
                Ok(_) | Err(_) => None,
            };
            match (&answer.to, record) {
                (Asker::Session(session), Some(record)) => {
                    let Record { message, id, .. } = record;
                    let posts =
                        vec![NewPost { group: answer.group, message, id, trace: answer.trace, weight: answer.weight }];
                    let received = Instant::now();
                    again.push(Request::Post(Posts { session: Arc::clone(session), posts, received, in_doubt: false }));
                }
                (Asker::Node(execution, _), Some(_)) => execution.give_up(),
                _ => left.push(answer),
            }
        }
        again.into_iter().rev().for_each(|request| self.waiting.push_front(request));
        left
    }

    /// Before the task ends: requests that only another node can answer are answered, or nobody waits for that any more; and other nodes
    /// are served for as long as they may ask. `unfinished` is let go of when all that was sent here is answered.
    pub(super) async fn last_words(&mut self, ending: &Ending, unfinished: TaskTrackerToken) {
        let mut unfinished = Some(unfinished);
        loop {
            self.give_way();
            while self.has_room() {
                let Some(request) = self.waiting.pop_front() else { break };
                self.on_request(request).await;
            }
            self.settle_at_the_end(&ending.impatient).await;
            // Behind what waits to be sent to another node there may be no room for more.
            if self.is_fenced() || !self.waiting.is_empty() && self.mirror().is_none() {
                continue;
            }
            if ending.impatient.is_cancelled() && self.mirror().is_some_and(|mirror| !mirror.outbox.is_empty()) {
                tracing::warn!(shard = self.shard, "requests to other nodes are left unanswered");
                self.give_up_outbox();
                continue;
            }
            self.flush_told();
            self.start_flight().await;
            if self.waiting.is_empty() && self.mirror().is_none_or(|mirror| mirror.outbox.is_empty()) {
                drop(unfinished.take());
                if ending.over.is_cancelled() {
                    return;
                }
            }
            tokio::select! {
                // One that was not waited for.
                result = returned(&mut self.in_flight) => self.on_appended(result).await,
                news = next(&mut self.seat) => self.on_news(news).await,
                () = ending.impatient.cancelled(), if unfinished.is_some() && !ending.impatient.is_cancelled() => {}
                () = ending.over.cancelled(), if !ending.over.is_cancelled() => {}
            }
        }
    }
}

/// Answers those who still ask here that this node does not own the shard, so that they need not wait for an answer in vain. Once
/// another node answers them that would only be in its way: of two answers the first is taken.
async fn turn_away(peers: Arc<dyn Peers>, shard: u16, serving: Serving) {
    let (reign, mut asked) = (serving.reign(), serving.asked);
    let turning = async {
        while let Some(Asked { answer, .. }) = asked.next().await {
            answer(wire::encode(&Reply::NotOwner));
        }
    };
    // A new owner tells that it is there, after it has begun to listen.
    let replaced = async {
        let mut told = peers.told(shard).await.unwrap_or_else(|_| futures_util::stream::pending().boxed());
        let is_of_another = |frame: &[u8]| wire::decode::<Tell>(frame).is_ok_and(|tell| tell.reign > reign);
        while let Some(frame) = told.next().await {
            if is_of_another(&frame) {
                return;
            }
        }
        std::future::pending().await
    };
    let until_replaced = async {
        tokio::select! {
            () = turning => {}
            () = replaced => {}
        }
    };
    // It ends at this moment, or with the connection.
    tokio::time::timeout(TURNING_AWAY, until_replaced).await.unwrap_or(());
}
