//! The lines of a connection: read while nothing that it asked for keeps them waiting, and carried out in their order.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio_util::io::poll_read_buf;

use super::{Phase, Task};
use crate::front::listener::Shared;
use crate::front::registry::CloseReason;

/// Bytes read from the socket at once.
const READ: usize = 16 * 1024;
/// Reads in a row before others get their turn.
const READS: usize = 8;

impl Task {
    /// Whether the connection's lines must wait.
    pub(super) fn is_blocked(&self) -> bool {
        self.sending.is_some()
            || self.question.is_some()
            || self.held.is_some()
            || self.paced.is_some()
            || self.waits_for_log()
            || self.out.len() >= self.shared.limits.outbound_bytes
            || matches!(self.phase, Phase::Listening | Phase::Finishing(_) | Phase::Closing(_))
    }

    /// Whether as much of it waits for the log as may.
    fn waits_for_log(&self) -> bool {
        let Shared { limits, weight, .. } = &*self.shared;
        let gathered = self.gathered.as_ref().map_or(0, |gathered| gathered.bytes as usize);
        let own = self.me.inbox.weight().load(Ordering::Relaxed) + gathered;
        // Who waits for nothing would not be woken.
        let all = || weight.load(Ordering::Relaxed) + gathered >= limits.all_posts_in_flight_bytes;
        self.in_flight >= limits.posts_in_flight || own >= limits.posts_in_flight_bytes || (own > 0 && all())
    }

    pub(super) fn may_listen(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::LastCall | Phase::Listening)
    }

    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let result = self.read_lines(cx);
        self.send_gathered();
        result
    }

    fn read_lines(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let mut reads = 0;
        while self.take_lines() {
            match self.socket.poll_read_ready(cx) {
                Poll::Pending => {
                    self.end_last_call();
                    return Ok(());
                }
                Poll::Ready(Err(_)) => return Err(CloseReason::Socket),
                Poll::Ready(Ok(())) if reads == READS => {
                    self.end_last_call();
                    cx.waker().wake_by_ref();
                    return Ok(());
                }
                Poll::Ready(Ok(())) => {}
            }
            reads += 1;
            let buffer = self.input.spare(READ);
            match poll_read_buf(Pin::new(&mut self.socket), cx, buffer) {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) => {
                    self.on_end_of_input();
                    return Ok(());
                }
                Poll::Ready(Ok(count)) => {
                    let now = tokio::time::Instant::now();
                    self.read_at = now.into_std();
                    (self.clocks.heard, self.clocks.pinged) = (now, None);
                    self.me.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
                    self.shared.metrics.received.increment(count as u64);
                }
                Poll::Ready(Err(_)) => return Err(CloseReason::Socket),
            }
        }
        Ok(())
    }

    pub(super) fn end_last_call(&mut self) {
        if self.phase == Phase::LastCall {
            self.phase = Phase::Listening;
        }
    }

    /// Carries out the lines that have come; answers whether more may be read.
    fn take_lines(&mut self) -> bool {
        let mut is_blocked = false;
        let mut input = std::mem::take(&mut self.input);
        let max = self.shared.limits.line_bytes;
        let more = loop {
            if self.is_blocked() {
                is_blocked = true;
                break false;
            }
            match input.next_line(max) {
                Ok(Some(line)) => {
                    self.clocks.partial = None;
                    let posting = self.posting;
                    self.on_line(line);
                    // Posts have limits of their own.
                    if self.posting == posting {
                        self.pace(1);
                    }
                }
                Ok(None) => break true,
                Err(too_long) => {
                    self.on_line_too_long(&too_long);
                    break false;
                }
            }
        };
        // The time in which it is not read is not its own: the line that it has begun has all its time from when it is read again.
        let is_partial = !is_blocked && input.has_partial();
        self.clocks.partial = is_partial.then(|| self.clocks.partial.unwrap_or_else(tokio::time::Instant::now));
        self.input = input;
        more
    }

    /// Counts what a line asks of the server; if it was too much of late, the next lines wait.
    pub(in crate::front) fn pace(&mut self, count: usize) {
        let limits = &self.shared.limits;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let until = self.pace.take(count, Instant::now(), limits.requests_per_second, limits.requests_burst);
        if let Some(until) = until {
            if self.paced.is_none() {
                self.shared.metrics.paced.increment(1);
            }
            self.paced = Some(tokio::time::Instant::from_std(until));
        }
    }

    fn on_end_of_input(&mut self) {
        let mut input = std::mem::take(&mut self.input);
        match input.last_line(self.shared.limits.line_bytes) {
            Ok(Some(line)) => self.on_line(line),
            Ok(None) => {}
            Err(too_long) => self.on_line_too_long(&too_long),
        }
        self.clocks.partial = None;
        self.finish(CloseReason::Client);
    }

    /// When the lines that are being carried out were read.
    pub(in crate::front) fn read_at(&self) -> Instant {
        self.read_at
    }
}
