//! The end of a connection: what it still gets, and the deadlines that bring it about.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tertulia_protocol::{Code, Dialect};

use super::{Phase, Task};
use crate::front::registry::CloseReason;
use crate::front::replies::Refused;
use crate::front::timers::{Doing, Due};

impl Task {
    /// A moderator's wish.
    pub(super) fn on_disconnect(&mut self) {
        if self.is_proving() {
            return self.dismiss();
        }
        self.begin_dismissal(CloseReason::Admin);
    }

    /// No more lines are taken; what was taken is answered if that takes no longer than `DISMISSAL`.
    fn begin_dismissal(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closing(_)) {
            self.phase = Phase::Finishing(reason);
            self.me.set_closing();
            self.clocks.heard = tokio::time::Instant::now();
        }
    }

    pub(super) fn dismiss_once_answered(&mut self) {
        if matches!(self.phase, Phase::Finishing(_)) && self.is_dismissed() && self.is_answered() {
            self.dismiss();
        }
    }

    /// Whether it is not the client who ends it: a moderator does, or its token has expired.
    pub(in crate::front) fn is_dismissed(&self) -> bool {
        use CloseReason::{Admin, Expired};
        matches!(self.phase, Phase::Finishing(Admin | Expired) | Phase::Closing(Admin | Expired))
    }

    fn dismiss(&mut self) {
        if matches!(self.phase, Phase::Finishing(CloseReason::Expired)) {
            let text = "the token has expired; the connection is closed: come back with a new one";
            self.refuse(Refused::new(Code::Unauthenticated, text));
            self.close(CloseReason::Expired);
        } else {
            let me = Arc::clone(&self.me);
            self.tell_disconnected(me.disconnect_reason());
            self.close(CloseReason::Admin);
        }
    }

    /// Takes no more lines, answers those that were taken, then ends; the first reason counts.
    pub(in crate::front) fn finish(&mut self, reason: CloseReason) {
        if self.may_listen() {
            self.phase = Phase::Finishing(reason);
            self.me.set_closing();
            self.clocks.heard = tokio::time::Instant::now();
        }
    }

    /// Writes what waits, then ends; the first reason counts.
    pub(in crate::front) fn close(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closing(_)) {
            self.phase = Phase::Closing(reason);
            self.me.set_closing();
            self.clocks.heard = tokio::time::Instant::now();
            if self.is_proving() {
                // Others wait for their passwords to be checked.
                self.question = None;
            }
        }
    }

    /// Whether its `Hello` waits for its password to be checked.
    pub(in crate::front) fn is_proving(&self) -> bool {
        self.voice.is_none() && self.question.is_some()
    }

    /// Ends a connection whose password is not checked yet.
    pub(super) fn stop_proving(&mut self, reason: CloseReason, code: Code, text: String) {
        self.refuse(Refused::new(code, format!("{text}; the connection is closed")).request("Hello"));
        self.close(reason);
    }

    pub(super) fn ended(&mut self) -> Option<CloseReason> {
        // Who does not take its answers, or sends too much, is asked no further: others wait for the end of the last call.
        let is_full = self.out.len() >= self.shared.limits.outbound_bytes;
        if self.phase == Phase::LastCall && (is_full || self.paced.is_some()) {
            self.end_last_call();
        }
        match self.phase {
            Phase::Open | Phase::LastCall => None,
            Phase::Listening => {
                if self.is_answered() {
                    self.me.answered();
                }
                None
            }
            Phase::Closing(reason) => {
                // Nobody waits for what it is slow to take.
                self.me.answered();
                (!self.is_writing()).then_some(reason)
            }
            Phase::Finishing(reason) => {
                if !self.is_answered() {
                    return None;
                }
                self.me.answered();
                self.memberships.end_here();
                (!self.is_writing() && self.memberships.are_served()).then_some(reason)
            }
        }
    }

    /// Whether all that was read is carried out and answered.
    fn is_answered(&self) -> bool {
        // What is held is in flight as well.
        self.in_flight == 0 && self.unsent.is_empty() && self.sending.is_none() && self.question.is_none()
    }

    /// `reading`: lines were taken in this poll as long as there were any.
    pub(super) fn poll_timer(&mut self, cx: &mut Context<'_>, reading: bool) -> Poll<()> {
        let doing = Doing {
            introduced: self.voice.is_some(),
            proving: self.is_proving(),
            extended: matches!(self.voice, Some((_, Dialect::Extended))),
            reading: reading && !self.is_blocked(),
            idle: self.memberships.is_empty() && self.in_flight == 0,
            writing: self.is_writing(),
            dismissed: self.is_dismissed(),
            finishing: matches!(self.phase, Phase::Finishing(_)) && !self.is_proving(),
            closing: matches!(self.phase, Phase::Closing(_)),
            paced: self.paced,
            known: self.rights.as_ref().and_then(|rights| rights.until).filter(|_| self.may_listen()),
        };
        let Some((deadline, due)) = self.clocks.next(doing, &self.shared.patience) else { return Poll::Pending };
        std::task::ready!(self.timer.poll(deadline, cx));
        let seconds = |duration: Duration| duration.as_secs_f64();
        let patience = self.shared.patience;
        match due {
            Due::Ping => {
                self.clocks.pinged = Some(tokio::time::Instant::now());
                self.ping();
            }
            Due::Stall => {
                // It takes nothing: there is no use in telling it why.
                self.abandon();
                self.close(CloseReason::WriteStall);
            }
            Due::Paced => self.paced = None,
            Due::Expired => self.begin_dismissal(CloseReason::Expired),
            // What it waits for does not come, as where a group cannot be read.
            Due::Unserved => {
                if let Phase::Finishing(reason) = self.phase {
                    self.close(reason);
                }
            }
            Due::Dismissal if matches!(self.phase, Phase::Closing(_)) => self.abandon(),
            Due::Untaken => self.abandon(),
            Due::Dismissal => self.dismiss(),
            Due::Hello if self.is_proving() => {
                let text =
                    format!("the password could not be checked within {} s: try again later", seconds(patience.hello));
                self.stop_proving(CloseReason::HelloTimeout, Code::Unavailable, text);
            }
            Due::Hello => {
                self.time_out(CloseReason::HelloTimeout, format!("no line came within {} s", seconds(patience.hello)))
            }
            Due::Line => {
                self.time_out(CloseReason::LineTimeout, format!("a line must end within {} s", seconds(patience.line)));
            }
            Due::Idle => {
                let text = format!("in no group and silent for {} s", seconds(patience.idle));
                self.time_out(CloseReason::Idle, text);
            }
            Due::Dead => {
                let text = format!("no sign of life for {} s", 2.0 * seconds(patience.heartbeat));
                self.time_out(CloseReason::Heartbeat, text);
            }
        }
        Poll::Ready(())
    }
}
