//! What an owner hands to the log, and what it tells when that has returned.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tertulia_protocol::{GroupName, PostId};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::seat::{at, cut_off};
use super::serving::Execution;
use super::traced::TracedPosts;
use super::{Owner, unavailable};
use crate::log::AppendError;
use crate::shard::group::Group;
use crate::shard::session::{Ack, Event, Session, Stored};
use crate::shard::wire::Outcome;
use crate::shard::{Batch, Refusal, Weight};
use crate::telemetry::trace::{FanOut, Post};

/// Room for so many groups or answers is kept for the next append, since most appends of a quiet server have one post.
const KEPT: usize = 8;

/// What the next append takes.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) groups: Vec<GroupName>,
    pub(super) answers: Vec<Answer>,
    pub(super) posts: usize,
    pub(super) bytes: usize,
    /// How many of the answers are traced.
    pub(super) traced: usize,
}

pub(super) struct InFlight {
    append: BoxFuture<'static, Result<(), AppendError>>,
    batches: Vec<(Arc<Batch>, Instant)>,
    pub(super) answers: Vec<Answer>,
    traced: usize,
    started: Instant,
    /// When those who wait for it are told that its end is not known; `None`: they were, or it is waited for whatever it takes.
    overdue_at: Option<tokio::time::Instant>,
    pub(super) is_overdue: bool,
}

/// What a poster will be told when the append has returned.
pub(super) struct Answer {
    pub(super) to: Asker,
    pub(super) group: GroupName,
    pub(super) id: Option<PostId>,
    pub(super) outcome: Result<Stored, Refusal>,
    /// If it is traced and has its place.
    pub(super) trace: Option<Box<Post>>,
    /// Of the posts that came with it, with the last of them.
    pub(super) weight: Option<Weight>,
}

pub(super) enum Asker {
    Session(Arc<Session>),
    Admin(oneshot::Sender<Result<Stored, Refusal>>),
    /// Another node, and which of its requests it was.
    Node(Arc<Execution>, usize),
}

impl Owner {
    pub(super) fn start_append(&mut self) {
        // Posts whose answers are not waited for any more are appended all the same.
        let nothing = self.staged.answers.is_empty() && self.staged.groups.is_empty();
        if self.in_flight.is_some() || nothing {
            return;
        }
        let Staged { mut groups, mut answers, bytes, traced, .. } = std::mem::take(&mut self.staged);
        let mut batches = Vec::with_capacity(groups.len());
        batches.extend(groups.drain(..).filter_map(|group| self.groups.get_mut(&group)?.take_batch()));
        if groups.capacity() <= KEPT {
            self.staged.groups = groups;
        }
        if batches.is_empty() {
            // Repeats and refusals only: nothing to wait for.
            TracedPosts::take(self.shard, &mut answers, traced, &batches).repeated();
            self.answer(answers);
            return;
        }
        let posts: usize = batches.iter().map(|(batch, _)| batch.records.len()).sum();
        self.shared.metrics.append_messages.record(posts as f64);
        self.shared.metrics.append_bytes.record(bytes as f64);
        let append = self.shared.log.append(self.shard, batches.iter().map(|(batch, _)| Arc::clone(batch)).collect());
        let overdue_at = self.seat.as_deref().map(|seat| tokio::time::Instant::now() + seat.patience);
        let started = Instant::now();
        self.in_flight = Some(InFlight { append, batches, answers, traced, started, overdue_at, is_overdue: false });
    }

    pub(super) async fn on_appended(&mut self, result: Result<(), AppendError>) {
        let Some(in_flight) = self.in_flight.take() else { return };
        let InFlight { batches, mut answers, traced, started, .. } = in_flight;
        let returned = Instant::now();
        let mut traced = TracedPosts::take(self.shard, &mut answers, traced, &batches);
        match result {
            Ok(()) => {
                self.is_failing = false;
                self.shared.metrics.append_seconds.record(returned.duration_since(started).as_secs_f64());
                self.commit(batches, |batch| traced.fan_out(batch, started, returned));
                traced.repeated();
                self.flush_told();
                self.answer(answers);
            }
            Err(error) => {
                let trace_id = traced.any_id().map(tracing::field::display);
                // Once for all that fail one after the other: while the log cannot be written that is each of them.
                match std::mem::replace(&mut self.is_failing, true) {
                    false => tracing::warn!(shard = self.shard, %error, trace_id, "append failed"),
                    true => tracing::debug!(shard = self.shard, %error, trace_id, "append failed again"),
                }
                let batches = match &error {
                    AppendError::FencedInPart { stored } => {
                        let (stored, lost) = divide(batches, stored);
                        self.commit(stored, |batch| traced.fan_out(batch, started, returned));
                        self.flush_told();
                        lost
                    }
                    AppendError::Fenced { .. } | AppendError::Unavailable { .. } => batches,
                };
                traced.failed(started, returned, |group| self.head(group));
                self.on_append_failed(&error, &batches, answers).await;
            }
        }
    }

    /// The log has these: now they may be seen.
    fn commit(&mut self, batches: Vec<(Arc<Batch>, Instant)>, mut trace: impl FnMut(&Batch) -> Option<Arc<FanOut>>) {
        for (batch, received) in batches {
            self.shared.metrics.stored.increment(batch.records.len() as u64);
            let Some(group) = self.groups.get_mut(&batch.group) else { continue };
            group.last_used = tokio::time::Instant::now();
            let trace = trace(&batch);
            if let Some(seat) = self.seat.as_mut().filter(|_| group.is_remote()) {
                seat.tell(&batch);
            }
            if group.commit(batch, received, trace) {
                self.shared.directory.now_stored();
            }
        }
    }

    /// Refuses all that was given a place, also what would have gone into the next append: its places are no longer right.
    async fn on_append_failed(
        &mut self,
        error: &AppendError,
        batches: &[(Arc<Batch>, Instant)],
        mut answers: Vec<Answer>,
    ) {
        let mut staged = std::mem::take(&mut self.staged);
        TracedPosts::take(self.shard, &mut staged.answers, staged.traced, &[]).given_up(|group| self.head(group));
        answers.extend(staged.answers);
        let is_fenced = matches!(error, AppendError::Fenced { .. } | AppendError::FencedInPart { .. });
        if is_fenced && self.seat.is_some() {
            answers = self.give_up_shard(batches, answers);
        }
        for answer in &mut answers {
            let head = self.head(&answer.group);
            if answer.outcome.as_ref().is_ok_and(|stored| stored.seq > head) {
                answer.outcome = Err(unavailable(&answer.group));
                self.shared.metrics.failed.increment(1);
            }
        }
        let names = batches.iter().map(|(batch, _)| batch.group.clone()).chain(staged.groups);
        for name in names.collect::<Vec<_>>() {
            // If another node has it now, that one tells where it is.
            let head = match is_fenced && self.seat.is_none() {
                true => self.shared.log.head(self.shard, &name).await.ok().flatten(),
                false => None,
            };
            let Some(group) = self.groups.get_mut(&name) else { continue };
            group.roll_back();
            if let Some(head) = head {
                if !group.is_stored() {
                    self.shared.directory.now_stored();
                }
                group.move_to(head.epoch, head.seq, head.at);
            }
        }
        self.answer(answers);
    }

    /// Tells posters, and keeps the room for the next answers.
    fn answer(&mut self, answers: Vec<Answer>) {
        let room = send_answers(answers);
        if self.staged.answers.capacity() == 0 && room.capacity() <= KEPT {
            self.staged.answers = room;
        }
    }

    /// Up to which `seq` a group is in the log.
    pub(super) fn head(&self, group: &GroupName) -> u64 {
        self.groups.get(group).map_or(0, Group::head)
    }

    /// When the append in flight is overdue, if it will be.
    pub(super) fn overdue_at(&self) -> Option<tokio::time::Instant> {
        self.in_flight.as_ref()?.overdue_at
    }

    /// Nobody waits for the append in flight any more. It goes on: what it may yet have stored must be known before the next one.
    pub(super) fn on_overdue(&mut self) {
        let Some(in_flight) = &mut self.in_flight else { return };
        (in_flight.overdue_at, in_flight.is_overdue) = (None, true);
        tracing::warn!(shard = self.shard, "an append is not answered: the shard takes nothing until it is");
        self.give_up_answers();
    }

    /// Finishes every append, for what must see their end.
    pub(super) async fn settle(&mut self) {
        while !self.settle_in_time().await {
            self.go_on(std::future::pending()).await;
        }
    }

    /// Finishes every append before the task ends. What has no end is waited for only until `impatient`: then those who wait for it are told so.
    pub(super) async fn settle_at_the_end(&mut self, impatient: &CancellationToken) {
        self.start_append();
        while self.in_flight.is_some() {
            if impatient.is_cancelled() {
                if !self.is_overdue() {
                    self.on_overdue();
                }
                return;
            }
            self.go_on(impatient.cancelled()).await;
            self.start_append();
        }
    }

    /// Begins the next append if it has as many posts as may be, for what comes as one request and may be posts to thousands of groups. If
    /// that takes too long, the next post is refused by itself.
    pub(super) async fn keep_small(&mut self) {
        if self.is_full() {
            self.settle_in_time().await;
        }
    }

    /// Finishes every append, for requests that need to see their end; answers whether that took no longer than anybody is kept waiting.
    pub(super) async fn settle_in_time(&mut self) -> bool {
        loop {
            self.start_append();
            if self.in_flight.is_none() {
                return true;
            }
            if self.is_overdue() {
                return false;
            }
            self.go_on(std::future::pending()).await;
        }
    }

    /// Waits until the append in flight has come further, or for nothing more once it is `given_up`.
    async fn go_on(&mut self, given_up: impl Future<Output = ()>) {
        let overdue_at = self.overdue_at();
        tokio::select! {
            result = returned(&mut self.in_flight) => self.on_appended(result).await,
            is_cut_off = cut_off(&mut self.seat) => self.on_cut_off(is_cut_off),
            () = at(overdue_at) => self.on_overdue(),
            () = given_up => {}
        }
    }
}

/// What of an append is stored, and what is not.
type Divided = (Vec<(Arc<Batch>, Instant)>, Vec<(Arc<Batch>, Instant)>);

/// Divides an append of which these groups are stored up to this `seq`, and nothing more.
fn divide(batches: Vec<(Arc<Batch>, Instant)>, stored: &[(GroupName, u64)]) -> Divided {
    let upto: HashMap<&GroupName, u64> = stored.iter().map(|(group, seq)| (group, *seq)).collect();
    let (mut there, mut lost) = (Vec::new(), Vec::new());
    for (batch, received) in batches {
        let seq = upto.get(&batch.group).copied().unwrap_or(0);
        let (before, after) = batch.records.split_at(batch.records.partition_point(|record| record.seq <= seq));
        for (records, part) in [(before, &mut there), (after, &mut lost)] {
            if !records.is_empty() {
                let batch = Batch { group: batch.group.clone(), epoch: batch.epoch, records: records.to_vec() };
                part.push((Arc::new(batch), received));
            }
        }
    }
    (there, lost)
}

/// The end of the append in flight; never, if there is none. Dropping it loses nothing: the append stays in flight.
pub(super) async fn returned(in_flight: &mut Option<InFlight>) -> Result<(), AppendError> {
    match in_flight {
        Some(in_flight) => (&mut in_flight.append).await,
        None => std::future::pending().await,
    }
}

/// Answers to one poster, one after the other.
struct Run {
    session: Arc<Session>,
    /// How many were stored that it wants to know no more of.
    stored: usize,
    acks: Vec<Ack>,
}

impl Run {
    fn send(self) {
        if self.stored > 0 {
            self.session.inbox.push_stored(self.stored);
        }
        if !self.acks.is_empty() {
            self.session.inbox.push(Event::Posted(self.acks));
        }
    }
}

/// Tells each poster, at once for each run of answers to the same one. Gives the room for answers back.
pub(super) fn send_answers(mut answers: Vec<Answer>) -> Vec<Answer> {
    let mut run: Option<Run> = None;
    for Answer { to, group, id, outcome, weight, .. } in answers.drain(..) {
        // Before the poster is woken, who may wait for that.
        drop(weight);
        let session = match to {
            // Who asked may have given up.
            Asker::Admin(reply) => {
                drop(reply.send(outcome));
                continue;
            }
            Asker::Node(execution, place) => {
                execution.set(place, Outcome::of_post(&outcome));
                continue;
            }
            Asker::Session(session) => session,
        };
        let run = match &mut run {
            Some(run) if Arc::ptr_eq(&run.session, &session) => run,
            other => {
                if let Some(before) = other.take() {
                    before.send();
                }
                other.insert(Run { session, stored: 0, acks: Vec::new() })
            }
        };
        if outcome.is_ok() && !run.session.wants_places {
            run.stored += 1;
        } else {
            run.acks.push(Ack { group, id, outcome });
        }
    }
    if let Some(run) = run {
        run.send();
    }
    answers
}
