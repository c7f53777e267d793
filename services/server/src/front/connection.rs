//! The task of one connection.
//!
//! One future polls everything in turn: answers of owners, the socket's lines, the groups' messages, the socket's room for bytes,
//! and the clock. While too much is under way for a connection (posts that wait for the log, bytes that wait to be written), its
//! lines are left in the socket: that is how a fast client is slowed down. Messages for it are then left in the groups'
//! broadcasts, and after that in the log.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tertulia_protocol::{Code, Dialect, GroupName, LineBuffer};
use tokio::io::AsyncWrite;

use super::bucket::{Bucket, Pace};
use super::listener::Shared;
use super::membership::Surroundings;
use super::memberships::Memberships;
use super::outbound::Outbound;
use super::registry::{Admitted, CloseReason, Connection, Order};
use super::replies::Reply;
use super::timers::{Clocks, Timer};
use crate::auth::Rights;
use crate::linger::linger;
use crate::shard::Session;
use crate::shard::request::{NewPost, Request};
use crate::tls::{self, Stream};

mod ending;
mod lines;

/// An answer counts for one more line for each so many bytes of it.
const ANSWER: usize = 64 * 1024;
/// How often in a row a connection fills up and is written to before others get their turn.
const FILLS: u32 = 4;
/// Of more bytes than this that wait, none are put off.
const PUT_OFF: usize = 16 * 1024;

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) me: Arc<Connection>,
    socket: Stream,
    /// Bytes that may be among what was encrypted and the socket has not taken; 0 if it has taken all.
    encrypted: u16,
    writing: Writing,
    /// Who it is and how it speaks, once the first line has told.
    pub(super) voice: Option<(Arc<Session>, Dialect)>,
    /// What it may do; `None`: everything.
    pub(super) rights: Option<Box<Rights>>,
    input: LineBuffer,
    pub(super) out: Outbound,
    pub(super) memberships: Memberships,
    /// The groups of `Join`s and `Leave`s that are not answered yet, in their order.
    pub(super) changing: Vec<Change>,
    /// Requests that owners have not answered: posts, joins, leaves.
    pub(super) in_flight: usize,
    /// How many of them are posts.
    pub(super) posting: u32,
    /// A request that its owner gets, as do the lines after it, when the posts before it are answered.
    pub(super) held: Option<Box<(u16, Request)>>,
    /// Posts of the lines that were just read.
    pub(super) gathered: Option<Gathered>,
    /// When those lines were read.
    pub(super) read_at: Instant,
    /// Requests for which the owner's queue had no room; the first is being sent.
    pub(super) unsent: VecDeque<(u16, Request)>,
    pub(super) sending: Option<BoxFuture<'static, bool>>,
    /// The answer to a question that the connection's next lines wait for.
    pub(super) question: Option<BoxFuture<'static, Reply>>,
    /// What is told after a `Hello` that is still to come.
    pub(super) going_away: Option<Box<(Arc<str>, Duration)>>,
    /// Where posts are limited.
    pub(super) bucket: Option<Box<Bucket>>,
    pace: Pace,
    /// Until when its lines wait, because there were too many.
    paced: Option<tokio::time::Instant>,
    pub(super) malformed: u32,
    phase: Phase,
    pub(super) clocks: Clocks,
    timer: Timer,
    /// Since when the oldest post that is measured has been under way.
    pub(super) measured_post: Option<Instant>,
    /// How many posts are to be answered before that one.
    pub(super) measured_behind: u16,
    /// Counts posts towards the next that is measured.
    pub(super) posts: u8,
}

/// A membership that is to begin or to end.
pub(super) struct Change {
    pub(super) group: GroupName,
    /// Whether it is to begin.
    pub(super) joins: bool,
}

/// Posts on their way to one shard.
pub(super) struct Gathered {
    pub(super) shard: u16,
    /// What they weigh.
    pub(super) bytes: u32,
    pub(super) posts: Vec<NewPost>,
}

/// Whether what waits for the socket is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Due,
    /// It was put off at the last poll; see [`Task::may_put_off`].
    PutOff,
    /// It will not be waited for any more.
    Abandoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Reads what has come, then no more.
    LastCall,
    /// Takes no more lines; messages go on.
    Listening,
    /// Takes no more lines; ends when all that was read is answered and all that was posted so far is written.
    Finishing(CloseReason),
    /// Writes what waits, then ends.
    Closing(CloseReason),
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>, me: Arc<Connection>, socket: Stream) -> Self {
        let now = tokio::time::Instant::now();
        let limits = &shared.limits;
        let bucket = Bucket::new(limits.posts_per_second, limits.posts_burst, now.into_std()).map(Box::new);
        let timer = Timer::new(now + shared.patience.hello);
        Self {
            shared,
            me,
            socket,
            encrypted: 0,
            writing: Writing::Due,
            voice: None,
            rights: None,
            input: LineBuffer::new(),
            out: Outbound::default(),
            memberships: Memberships::default(),
            changing: Vec::new(),
            in_flight: 0,
            posting: 0,
            held: None,
            gathered: None,
            read_at: now.into_std(),
            unsent: VecDeque::new(),
            sending: None,
            question: None,
            going_away: None,
            bucket,
            pace: Pace::new(now.into_std()),
            paced: None,
            malformed: 0,
            phase: Phase::Open,
            clocks: Clocks::new(now),
            timer,
            measured_post: None,
            measured_behind: 0,
            posts: 0,
        }
    }

    /// Serves the connection to its end.
    ///
    /// Boxed, since a future keeps room for what it was given and for what it makes of it: the task would be in it twice.
    pub(super) async fn run(mut self: Box<Self>, admitted: Admitted) {
        let reason = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.shared.metrics.closed(reason);
        self.log_end(reason);
        self.leave_all();
        self.me.answered();
        if reason != CloseReason::Socket {
            // In a box, so that the task is not larger all its life for what it does at its end.
            Box::pin(linger(&mut self.socket)).await;
        }
        drop(admitted);
    }

    fn log_end(&self, reason: CloseReason) {
        let duration_ms = self.me.since.elapsed().unwrap_or_default().as_millis() as u64;
        let (user, dialect) = match &self.voice {
            Some((session, dialect)) => (session.user.as_str(), dialect.as_str()),
            None => ("", ""),
        };
        tracing::info!(
            connection = %self.me.id,
            peer = %self.me.peer,
            user,
            dialect,
            reason = reason.as_str(),
            duration_ms,
            groups = self.memberships.len(),
            posts = self.me.posts.load(Ordering::Relaxed),
            deliveries = self.me.deliveries.load(Ordering::Relaxed),
            bytes_in = self.me.bytes_in.load(Ordering::Relaxed),
            bytes_out = self.me.bytes_out.load(Ordering::Relaxed),
            "connection closed"
        );
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut fills = 1;
        loop {
            self.poll_orders(cx);
            let waiting = self.joins_and_leaves();
            let input = self.poll_requests(cx);
            // What waits for the log may be let go of from now on, by another thread: lines are taken when that is looked at again, and until
            // then nothing is late.
            let blocked = self.is_blocked();
            self.dismiss_once_answered();
            let starved = self.poll_memberships(cx);
            if input.is_ok() && self.joins_and_leaves() > waiting && self.may_put_off() {
                self.writing = Writing::PutOff;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.writing == Writing::PutOff {
                self.writing = Writing::Due;
            }
            let before = self.out.len();
            if let Err(reason) = input.and_then(|()| self.poll_output(cx)) {
                return Poll::Ready(reason);
            }
            if let Some(reason) = self.ended() {
                return Poll::Ready(reason);
            }
            // Only room in `out` lets anything go on that did not go on before.
            let room = self.out.len() < before;
            if room && (starved || (blocked && !self.is_blocked())) {
                if fills < FILLS {
                    fills += 1;
                    continue;
                }
                // A client may take all as fast as it is read from memory, and nothing of that ends a turn by itself.
                cx.waker().wake_by_ref();
            }
            if self.poll_timer(cx, !blocked).is_pending() {
                self.settle();
                return Poll::Pending;
            }
        }
    }

    /// Requests, other than posts, that owners have not answered.
    fn joins_and_leaves(&self) -> usize {
        self.in_flight.saturating_sub(self.posting as usize)
    }

    /// Whether what waits to be written may wait for one more poll, when a join or leave has just been asked of an owner: that is mostly
    /// answered before the next poll, and one write takes both, the answer to a `Hello` that came with it, say. Never twice in a row.
    /// With posts nothing was gained: they wait for the log.
    fn may_put_off(&self) -> bool {
        self.writing == Writing::Due && !self.out.is_empty() && self.out.len() < PUT_OFF && self.phase == Phase::Open
    }

    /// Before it sleeps: memory goes back, and others see how full it is.
    fn settle(&mut self) {
        if self.input.is_empty() {
            self.input.shrink();
        }
        self.out.shrink();
        self.me.in_flight.store(self.in_flight, Ordering::Relaxed);
        self.me.outbound.store(self.waiting(), Ordering::Relaxed);
    }

    // ---- orders and answers

    fn poll_orders(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(events) = self.me.inbox.poll_take(cx) {
            for event in events {
                self.on_event(event);
            }
            match self.me.inbox.take_stored() {
                0 => {}
                posts => self.on_answered(posts),
            }
            for order in self.me.take_orders() {
                match order {
                    Order::GoAway(reason, after) => self.tell_going_away(&reason, after),
                    Order::LastCall if self.phase == Phase::Open => {
                        self.phase = Phase::LastCall;
                        self.me.set_closing();
                    }
                    Order::Finish if self.is_proving() && !self.is_dismissed() => {
                        self.stop_proving(CloseReason::Drain, Code::Draining, "The server is stopping".to_owned());
                    }
                    Order::Finish => self.finish(CloseReason::Drain),
                    Order::LastCall => {}
                    Order::Disconnect => self.on_disconnect(),
                }
            }
        }
    }

    /// Takes lines until none has come, or one must wait: for its own answer, or for room in an owner's queue.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        self.poll_answers(cx);
        loop {
            let input = self.poll_input(cx);
            let waits = self.question.is_some() || self.sending.is_some() || self.held.is_some();
            if input.is_err() || !waits || !self.poll_answers(cx) {
                return input;
            }
        }
    }

    /// Answers whether lines that waited for an answer may go on.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(sending) = &mut self.sending {
            let Poll::Ready(sent) = sending.as_mut().poll(cx) else { break };
            self.sending = None;
            if !sent {
                self.on_stopped();
            }
            self.send_unsent();
        }
        if self.posting == 0
            && let Some(held) = self.held.take()
        {
            let (shard, request) = *held;
            self.send(shard, request);
        }
        // What it asks about may be changed by what the owners have not answered yet.
        if self.in_flight == 0
            && let Some(question) = &mut self.question
            && let Poll::Ready(reply) = question.as_mut().poll(cx)
        {
            self.question = None;
            let before = self.out.len();
            self.on_reply(reply);
            self.pace(self.out.len().saturating_sub(before) / ANSWER);
        }
        self.question.is_none() && self.sending.is_none() && self.held.is_none()
    }

    // ---- messages

    /// Takes up messages; answers whether some were left for want of room.
    fn poll_memberships(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((session, dialect)) = &self.voice else { return false };
        if matches!(self.phase, Phase::Closing(_)) {
            return false;
        }
        let mut around = Surroundings {
            dialect: *dialect,
            session,
            shards: &self.shared.shards,
            metrics: &self.shared.metrics,
            unread: &self.shared.unread,
            out: &mut self.out,
            max_outbound: self.shared.limits.outbound_bytes,
            delivered: 0,
        };
        let starved = self.memberships.poll(cx, &mut around);
        if around.delivered > 0 {
            self.me.deliveries.fetch_add(around.delivered, Ordering::Relaxed);
        }
        starved
    }

    // ---- output

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let failed = |phase| {
            if let Phase::Finishing(reason) | Phase::Closing(reason) = phase { reason } else { CloseReason::Socket }
        };
        // As the last attempt left it.
        let waited = self.me.outbound.load(Ordering::Relaxed) > 0;
        if !self.out.is_empty() && !waited {
            self.clocks.wrote = tokio::time::Instant::now();
        }
        let (unwritten, taken) = (self.out.len(), self.socket.taken_encrypted());
        while !self.out.is_empty() {
            match self.out.poll_write_to(&mut self.socket, cx) {
                Poll::Ready(Ok(count)) => {
                    self.me.bytes_out.fetch_add(count as u64, Ordering::Relaxed);
                    self.shared.metrics.sent.increment(count as u64);
                    let encrypted = usize::from(self.encrypted) + count;
                    self.encrypted = u16::try_from(encrypted.min(tls::BUFFER)).unwrap_or(u16::MAX);
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(_)) => return Err(failed(self.phase)),
                Poll::Pending => break,
            }
        }
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.encrypted = 0,
            Poll::Ready(Err(_)) => return Err(failed(self.phase)),
            // It may be nothing but what belongs to TLS.
            Poll::Pending => self.encrypted = self.encrypted.max(1),
        }
        // What TLS takes tells nothing of the client.
        let has_taken = match taken {
            Some(before) => self.socket.taken_encrypted() > Some(before),
            None => self.out.len() < unwritten,
        };
        if has_taken {
            self.on_taken(waited);
        }
        if self.is_writing() {
            self.me.set_waiting(self.clocks.wrote.into_std());
        }
        self.me.outbound.store(self.waiting(), Ordering::Relaxed);
        Ok(())
    }

    /// The socket has taken something, for which that had `waited` or not.
    fn on_taken(&mut self, waited: bool) {
        self.clocks.wrote = tokio::time::Instant::now();
        if waited && self.clocks.pinged.is_some() {
            // It takes what it is sent; the question may be behind that, or the last of it.
            self.clocks.pinged = Some(self.clocks.wrote);
        }
    }

    /// Bytes that wait for the socket.
    fn waiting(&self) -> usize {
        self.out.len() + usize::from(self.encrypted)
    }

    /// Whether something waits for room in the socket.
    fn is_writing(&self) -> bool {
        self.writing != Writing::Abandoned && (self.encrypted > 0 || !self.out.is_empty())
    }

    fn abandon(&mut self) {
        self.out = Outbound::default();
        self.encrypted = 0;
        self.writing = Writing::Abandoned;
    }
}

#[cfg(test)]
mod tests;
