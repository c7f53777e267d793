//! One connection's place in one group: live from the group's broadcast, or caught up from the log.
//!
//! Whatever is in the broadcast is in the log, so the way from one to the other needs no hand-over: who reads the log to its
//! head and then takes up the broadcast, skipping what it has by `seq`, misses nothing and sees nothing twice. A gap, or
//! the broadcast having moved on, leads back to the log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tertulia_protocol::{Dialect, GroupName, classic, extended};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::ReusableBoxFuture;

use super::encode;
use super::metrics::{Metrics, SAMPLE};
use super::outbound::Outbound;
use super::turns::Turns;
use crate::complaint::Complaint;
use crate::shard::directory::Lag;
use crate::shard::events::{What, Who};
use crate::shard::request::Progress;
use crate::shard::session::Joined;
use crate::shard::{
    Delivery, GroupStatus, JoinFrom, Page, PageLimit, Range, ReadError, Record, Session, Shards, Subscription,
};

/// How much is read from the log at once for one member.
const PAGE: PageLimit = PageLimit { records: 256, bytes: 64 * 1024 };
/// What may be kept of a group, in bytes of its messages, for a member whose connection has no room: more is read from the log again.
const HELD_UP: usize = 16 * 1024;
/// How long a member waits when the log cannot be read.
const READ_RETRY: Duration = Duration::from_secs(1);
/// How long it waits when what it read ends before what it knows to be there, or is of another life of the group.
const READ_AGAIN: Duration = Duration::from_millis(20);

/// What a membership needs of its connection.
pub(super) struct Surroundings<'a> {
    pub(super) dialect: Dialect,
    pub(super) session: &'a Session,
    pub(super) shards: &'a Shards,
    pub(super) metrics: &'a Metrics,
    /// That members cannot be caught up.
    pub(super) unread: &'a Complaint,
    pub(super) out: &'a mut Outbound,
    /// At so many bytes in `out` nothing more is taken up.
    pub(super) max_outbound: usize,
    /// Messages that were put into `out`.
    pub(super) delivered: u64,
}

impl Surroundings<'_> {
    fn count(&mut self, deliveries: u64) {
        self.delivered += deliveries;
        self.metrics.deliveries(self.dialect).increment(deliveries);
    }
}

pub(super) struct Membership {
    status: Arc<GroupStatus>,
    /// The next `seq` to be written.
    next: u64,
    /// The last `seq` that is written before the connection ends, once that is decided.
    end: Option<u64>,
    /// `next - 1`, for others to see.
    progress: Arc<Progress>,
    state: State,
    /// Counts this member as lagging while it is caught up because it fell behind.
    lag: Option<Lag>,
    /// Counts this member as lagging while its socket takes nothing and messages wait for it.
    held_up: Option<Lag>,
    /// Counts towards the next measurement.
    drains: u8,
}

enum State {
    Live(ReusableBoxFuture<'static, Received>),
    /// Live, and what was received waits for room.
    HeldUp(Box<Received>),
    CatchingUp {
        subscription: Subscription,
        stage: Stage,
    },
    /// The owner has let go of the group.
    Closed,
}

/// What comes next for a member that is caught up.
enum Stage {
    /// A page is to be asked for.
    Ask,
    /// It is, after a while.
    Pause(Pin<Box<tokio::time::Sleep>>),
    Page(Reading),
}

type Reading = BoxFuture<'static, Result<Option<Page>, ReadError>>;

type Received = (Result<Arc<Delivery>, RecvError>, Subscription);

/// Whether it is read from the log again rather than kept for a member whose connection has no room: nothing else would bound what all
/// groups of a connection keep so.
fn is_too_large_to_keep(delivery: &Delivery) -> bool {
    delivery.batch.size() > HELD_UP
}

async fn receive(mut subscription: Subscription) -> Received {
    (subscription.recv().await, subscription)
}

/// Reads the page after a `seq`, where there are turns when it has one.
fn read(shards: &Shards, group: &GroupName, after: u64, turns: Option<&Turns>) -> Reading {
    let range = Range::After(after);
    let Some(turns) = turns else { return shards.read(group, range, PAGE) };
    let (shards, group) = (shards.clone(), group.clone());
    turns.read(move || shards.read(&group, range, PAGE))
}

/// Where a new member begins, and whether all it asked for is there.
pub(super) fn start(joined: &Joined) -> (u64, bool) {
    let Joined { epoch, head, first, .. } = *joined;
    // Nothing is left: then it begins with what is gone, of which it is told, or it would wait for messages that do not come.
    let from_first = |wanted: u64| if first > head { wanted } else { wanted.max(first) };
    match joined.from {
        JoinFrom::Now => (head + 1, true),
        JoinFrom::Last(count) => {
            let wanted = head.saturating_sub(count) + 1;
            (from_first(wanted), first <= wanted)
        }
        JoinFrom::After { seq, epoch: seen } if seq > head || seen.is_some_and(|seen| seen != epoch) => {
            (from_first(1), false)
        }
        JoinFrom::After { seq, .. } => (seq + 1, first <= seq + 1),
    }
}

impl Membership {
    /// A membership that begins with `next`.
    pub(super) fn new(joined: Joined, next: u64, metrics: &Metrics) -> Self {
        let state = if next > joined.subscribed_at {
            State::Live(ReusableBoxFuture::new(receive(joined.subscription)))
        } else {
            metrics.resume_catchups.increment(1);
            State::CatchingUp { subscription: joined.subscription, stage: Stage::Ask }
        };
        joined.progress.set_delivered(next - 1);
        joined.progress.set_catching_up(matches!(state, State::CatchingUp { .. }));
        Self {
            status: joined.status,
            next,
            end: None,
            progress: joined.progress,
            state,
            lag: None,
            held_up: None,
            drains: 0,
        }
    }

    pub(super) fn group(&self) -> &GroupName {
        &self.status.name
    }

    /// Decides, if it is not decided yet, that the member is served up to what is in the log now and no further: in a group in which
    /// more is posted than its socket takes it would never end otherwise.
    pub(super) fn end_here(&mut self) {
        self.end.get_or_insert(self.status.head());
        if self.is_served()
            && let State::CatchingUp { stage, .. } = &mut self.state
        {
            // It will not be looked at any more, and others may wait for its turn.
            *stage = Stage::Ask;
        }
    }

    /// Whether the member was served up to its end.
    pub(super) fn is_served(&self) -> bool {
        self.end.is_some_and(|end| self.next > end)
    }

    /// Takes up all that is there while `out` has room. `Pending`: there is nothing more now, and the task will be woken;
    /// `Ready`: there may be more, but no room. The memberships of a connection that is in many groups read in `turns`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        around: &mut Surroundings<'_>,
        turns: Option<&Turns>,
    ) -> Poll<()> {
        if self.is_served() {
            return Poll::Pending;
        }
        let before = self.next;
        let result = self.poll_states(cx, around, turns);
        if self.next != before {
            self.progress.set_delivered(self.next - 1);
        }
        result
    }

    fn poll_states(&mut self, cx: &mut Context<'_>, around: &mut Surroundings<'_>, turns: Option<&Turns>) -> Poll<()> {
        while around.out.len() < around.max_outbound {
            match &mut self.state {
                State::Live(receiving) => {
                    let Poll::Ready((received, subscription)) = receiving.poll(cx) else {
                        self.end_hold_up();
                        return Poll::Pending;
                    };
                    self.sample_lag(around.metrics);
                    self.drain(received, subscription, around);
                }
                State::HeldUp(_) => {
                    let State::HeldUp(received) = std::mem::replace(&mut self.state, State::Closed) else { continue };
                    let (received, subscription) = *received;
                    self.drain(received, subscription, around);
                }
                State::CatchingUp { stage, .. } => match stage {
                    Stage::Page(reading) => {
                        let page = ready!(reading.as_mut().poll(cx));
                        self.on_page(page, around);
                    }
                    Stage::Pause(pause) => {
                        ready!(pause.as_mut().poll(cx));
                        *stage = Stage::Ask;
                    }
                    Stage::Ask if self.end.is_some_and(|end| self.next > end) => return Poll::Pending,
                    Stage::Ask => *stage = Stage::Page(read(around.shards, &self.status.name, self.next - 1, turns)),
                },
                State::Closed => return Poll::Pending,
            }
        }
        self.look_ahead(cx, around);
        Poll::Ready(())
    }

    /// Without room for it, still learns whether there is something more, so that a member whose socket takes nothing is seen to lag.
    fn look_ahead(&mut self, cx: &mut Context<'_>, around: &Surroundings<'_>) {
        while let State::Live(receiving) = &mut self.state
            && let Poll::Ready((received, subscription)) = receiving.poll(cx)
        {
            self.sample_lag(around.metrics);
            match received {
                // It is written already, from the log: what comes next is what it is to be woken for.
                Ok(delivery) if delivery.batch.last() < self.next => self.listen(subscription),
                Ok(delivery) if is_too_large_to_keep(&delivery) => self.fall_behind(subscription, around),
                received => self.state = State::HeldUp(Box::new((received, subscription))),
            }
        }
        if self.lag.is_none() && self.held_up.is_none() && self.status.head() >= self.next {
            self.held_up = Some(self.status.lag());
            self.progress.set_catching_up(true);
        }
    }

    /// The socket takes bytes again.
    fn end_hold_up(&mut self) {
        if self.held_up.take().is_some() {
            self.progress.set_catching_up(self.lag.is_some());
        }
    }

    /// Writes what the broadcast holds, until it is empty, `out` is full, or the log is needed.
    fn drain(
        &mut self,
        first: Result<Arc<Delivery>, RecvError>,
        mut subscription: Subscription,
        around: &mut Surroundings<'_>,
    ) {
        let mut received = first;
        loop {
            match received {
                Ok(delivery) if self.take(&delivery, around) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    self.fall_behind(subscription, around);
                    return;
                }
                Err(RecvError::Closed) => {
                    self.state = State::Closed;
                    return;
                }
            }
            if around.out.len() >= around.max_outbound {
                break;
            }
            received = match subscription.try_recv() {
                Ok(delivery) => Ok(delivery),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(count)) => Err(RecvError::Lagged(count)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
        }
        self.listen(subscription);
    }

    fn listen(&mut self, subscription: Subscription) {
        match &mut self.state {
            State::Live(receiving) => receiving.set(receive(subscription)),
            state => *state = State::Live(ReusableBoxFuture::new(receive(subscription))),
        }
    }

    /// Writes what is new in a delivery; answers whether it follows on what was written, and all of it is.
    fn take(&mut self, delivery: &Delivery, around: &mut Surroundings<'_>) -> bool {
        let batch = &delivery.batch;
        let (first, last) = (batch.first(), batch.last());
        if last < self.next {
            return true;
        }
        if first > self.next {
            return false;
        }
        let dialect = around.dialect;
        let mut written = last;
        if first == self.next {
            around.out.share(delivery.lines(dialect, |batch| encode::batch(dialect, batch)));
            if let Some(trace) = &delivery.trace {
                around.out.mark(around.session.id, Arc::clone(trace));
            }
        } else {
            let new = batch.records.iter().skip_while(|record| record.seq < self.next);
            // There may not be room for all: the log has the others.
            written = self.write(new, around).unwrap_or(self.next - 1);
        }
        around.count(written + 1 - self.next);
        self.next = written + 1;
        if self.is_measured() {
            around.metrics.delivery_seconds.record(delivery.received.elapsed().as_secs_f64());
        }
        written == last
    }

    /// Writes records while there is room for another page. As lines they may be several times as long as they are in the log, which is how
    /// pages are measured. Answers the `seq` of the last.
    fn write<'r>(&self, records: impl Iterator<Item = &'r Record>, around: &mut Surroundings<'_>) -> Option<u64> {
        let (dialect, group) = (around.dialect, &self.status.name);
        let room = around.max_outbound.saturating_sub(around.out.len()).max(PAGE.bytes);
        let mut last = None;
        around.out.write_with(|out| {
            let before = out.len();
            for record in records {
                if out.len() - before >= room {
                    break;
                }
                encode::record(dialect, group, record, out);
                last = Some(record.seq);
            }
        });
        last
    }

    fn fall_behind(&mut self, subscription: Subscription, around: &Surroundings<'_>) {
        self.held_up = None;
        if self.lag.is_none() {
            around.metrics.lag_catchups.increment(1);
            self.tell_watchers(0, around);
            self.lag = Some(self.status.lag());
        }
        self.progress.set_catching_up(true);
        self.state = State::CatchingUp { subscription, stage: Stage::Ask };
    }

    /// Tells those who watch that this member is behind, and how much of that it has lost.
    fn tell_watchers(&self, lost: u64, around: &Surroundings<'_>) {
        around.shards.events().tell(|| What::Lagged {
            group: self.status.name.clone(),
            who: Who::from(around.session),
            behind: (self.status.head() + 1).saturating_sub(self.next),
            lost,
        });
    }

    fn on_page(&mut self, page: Result<Option<Page>, ReadError>, around: &mut Surroundings<'_>) {
        let State::CatchingUp { subscription, .. } = std::mem::replace(&mut self.state, State::Closed) else { return };
        let page = match page {
            Ok(Some(page)) => page,
            // Nobody has posted yet, or the group was deleted and its members are about to hear of it.
            Ok(None) => return self.go_live(subscription, around, None),
            Err(error) => {
                if around.unread.is_due() {
                    tracing::warn!(group = %self.status.name, %error, "member cannot be caught up now");
                }
                return self.read_later(subscription, READ_RETRY);
            }
        };
        if page.head.epoch != self.status.epoch() {
            // Deleted and begun again, as the log has it: its members are about to hear of it, and nothing of this is theirs.
            return self.read_later(subscription, READ_AGAIN);
        }
        // Where the page begins: nothing before it can be read any more.
        let first = page.records.first().map_or(page.head.first, |record| record.seq);
        if first > self.next {
            self.tell_lost(self.next, first - 1, around);
            self.next = first;
        }
        let new = page.records.iter().skip_while(|record| record.seq < self.next);
        let before = self.next;
        if let Some(last) = self.write(new, around) {
            let count = last + 1 - self.next;
            self.next = last + 1;
            around.count(count);
            around.metrics.catchup_messages.increment(count);
        }
        if self.next > page.head.seq {
            self.go_live(subscription, around, Some((self.status.head(), self.next > before)));
        } else {
            self.state = State::CatchingUp { subscription, stage: Stage::Ask };
        }
    }

    fn read_later(&mut self, subscription: Subscription, wait: Duration) {
        self.state = State::CatchingUp { subscription, stage: Stage::Pause(Box::pin(tokio::time::sleep(wait))) };
    }

    /// Takes up the broadcast, unless something is missing in between: it has moved on, or the log that was read, which another node
    /// writes, was not known to hold all up to the head. `read`, if anything could be: the head, and whether the last page had something.
    fn go_live(&mut self, mut subscription: Subscription, around: &Surroundings<'_>, read: Option<(u64, bool)>) {
        let has_room = around.out.len() < around.max_outbound;
        let state = loop {
            match subscription.try_recv() {
                Ok(delivery) if delivery.batch.last() < self.next => {}
                Ok(delivery) if read.is_some() && delivery.batch.first() > self.next => {
                    // It is in the log too, and what is missing before it.
                    return match read {
                        Some((_, true)) => self.state = State::CatchingUp { subscription, stage: Stage::Ask },
                        _ => self.read_later(subscription, READ_AGAIN),
                    };
                }
                Ok(delivery) if !has_room && is_too_large_to_keep(&delivery) => {
                    return self.fall_behind(subscription, around);
                }
                Ok(delivery) => break State::HeldUp(Box::new((Ok(delivery), subscription))),
                // It was read from the log meanwhile; if not all of it, what comes next shows that, or the head does.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Closed) => break State::Closed,
                Err(TryRecvError::Empty) if read.is_some_and(|(head, _)| head >= self.next) => {
                    return self.read_later(subscription, READ_AGAIN);
                }
                Err(TryRecvError::Empty) => break State::Live(ReusableBoxFuture::new(receive(subscription))),
            }
        };
        self.held_up = None;
        self.lag = None;
        self.progress.set_catching_up(false);
        self.state = state;
    }

    fn tell_lost(&self, first: u64, last: u64, around: &mut Surroundings<'_>) {
        let group = self.status.name.as_str();
        around.metrics.dropped.increment(last + 1 - first);
        self.tell_watchers(last + 1 - first, around);
        match around.dialect {
            Dialect::Classic => {
                around.out.push(&classic::FromServer::Error(classic::dropped(last + 1 - first, group).into()));
            }
            Dialect::Extended => {
                let lagged = extended::Lagged { group_name: group.into(), first, last };
                around.out.push(&extended::FromServer::Lagged(lagged));
            }
        }
    }

    /// Whether what is taken up now is one of those that are measured: the first, and then one of [`SAMPLE`].
    fn is_measured(&self) -> bool {
        self.drains % SAMPLE == 1
    }

    fn sample_lag(&mut self, metrics: &Metrics) {
        self.drains = self.drains.wrapping_add(1);
        if self.is_measured() {
            let behind = (self.status.head() + 1).saturating_sub(self.next);
            metrics.lag.record(behind as f64);
        }
    }
}

#[cfg(test)]
mod tests;
