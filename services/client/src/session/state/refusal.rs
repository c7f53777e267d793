//! What follows from a refusal of the server.

use std::time::{Duration, Instant};

use tertulia_protocol::extended::Rejected;
use tertulia_protocol::{Code, Fault};

use super::State;
use super::open::not_posted;
use crate::session::backoff;
use crate::session::event::Event;
use crate::session::membership::Membership;
use crate::session::outbox::Again;

/// When to try again if the server does not say.
const AGAIN: Duration = Duration::from_secs(1);
/// Nobody waits longer for a group to be made.
const WORTH_WAITING: Duration = Duration::from_secs(10);

/// The server did not let the client in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Another attempt would end in the same way.
    #[error("refused: {0}")]
    Final(String),
    /// Another attempt may succeed later.
    #[error("refused: {0}")]
    TurnedAway(String),
    /// The server cannot tell now, and says so: it is to be asked later, also by who was never let in.
    #[error("refused: {0}")]
    Later(String),
    /// A guest's name of an earlier connection was refused; the next attempt asks for a new one.
    #[error("refused: {0}; asking for another guest name")]
    GuestName(String),
    /// The token is not one that counts any more; by the next attempt its file may hold another one.
    #[error("refused: {0}; the file of the token is read again for each attempt")]
    Unproven(String),
    /// A moderator ended the connection. Who is told so does not come straight back.
    #[error("{0}")]
    Dismissed(String),
    /// The other end speaks something else.
    #[error("that is no tertulia server: {0}")]
    NotTertulia(Fault),
}

impl State {
    /// `Hello` was refused.
    pub(super) fn not_let_in(&mut self, rejected: &Rejected<'_>) -> Result<(), Refusal> {
        let text = rejected.message.clone().into_owned();
        let about_user = matches!(rejected.code, Code::Unauthenticated | Code::BadUserName);
        let proves = self.identity.proof.is_some();
        if about_user && !proves && self.identity.asked.is_none() && self.identity.known.take().is_some() {
            // Ids of posts belong to a user: under another name a repeat could be stored twice.
            for post in self.outbox.take_uncertain() {
                self.give_up(&post);
            }
            return Err(Refusal::GuestName(text));
        }
        let passes = rejected.retry_after_ms.is_some();
        if rejected.code == Code::Unauthenticated && self.was_online && self.identity.has_a_token() && !passes {
            return Err(Refusal::Unproven(text));
        }
        if about_user && !passes || rejected.code == Code::UnsupportedVersion {
            return Err(Refusal::Final(text));
        }
        self.reconnect_after = rejected.retry_after_ms.map(backoff::asked);
        // A password was not checked in time, or before the server stopped.
        let comes_later = matches!(rejected.code, Code::Unavailable | Code::Draining);
        Err(if comes_later { Refusal::Later(text) } else { Refusal::TurnedAway(text) })
    }

    /// Something after `Hello` was refused.
    pub(super) fn rejected(&mut self, rejected: &Rejected<'_>, now: Instant) -> Result<(), Refusal> {
        let text = &*rejected.message;
        if let Some(id) = rejected.id.as_deref() {
            self.post_refused(rejected, id, now);
            return Ok(());
        }
        match (rejected.request.as_deref(), rejected.group_name.as_deref()) {
            (Some("Join"), Some(group)) => self.join_refused(rejected, group, now),
            (Some("Leave"), Some(group)) => {
                self.keep_place(group);
                if self.groups.get_mut(group).is_some_and(|membership| !membership.left()) {
                    self.groups.remove(group);
                }
                self.fail(text.to_owned());
            }
            (None, _) if rejected.code == Code::Kicked => return Err(Refusal::Dismissed(text.to_owned())),
            // It answers what it has taken, and closes: the next connection shows what the file has by then.
            (None, _) if rejected.code == Code::Unauthenticated => self.departs(text),
            (Some("Refresh"), _) => self.refresh_refused(rejected),
            (Some("History" | "Members" | "Groups" | "Remove"), _) => {
                self.queries.refused();
                self.fail(text.to_owned());
            }
            _ => {
                // A server that does not know the kind of a question may not say which one it was.
                if rejected.request.is_none() && matches!(rejected.code, Code::UnknownKind | Code::Malformed) {
                    self.queries.refused();
                }
                self.fail(text.to_owned());
            }
        }
        Ok(())
    }

    fn post_refused(&mut self, rejected: &Rejected<'_>, id: &str, now: Instant) {
        let text = &*rejected.message;
        if rejected.outcome_unknown {
            self.outbox.doubt(id);
        }
        let passing = match rejected.code {
            Code::RateLimited | Code::Unavailable | Code::Draining => true,
            // It was on its way behind a join that was refused for now, and is held until that is answered.
            Code::NotAMember | Code::NoSuchGroup | Code::Closed | Code::Kicked => {
                let group = self.outbox.group_of(id).and_then(|group| self.groups.get(group));
                group.is_some_and(Membership::is_put_off)
            }
            _ => false,
        };
        let gone = if passing {
            match self.outbox.refused_for_now(id, rejected.code, now, asked(rejected)) {
                Again::Nothing | Again::Later { news: false, .. } => return,
                Again::Later { news: true, wait } => return self.not_now(text, wait),
                Again::Never(post) => post,
            }
        } else {
            let Some(post) = self.outbox.take(id) else { return };
            post
        };
        // An earlier attempt may have come through: this refusal is of the last one.
        if gone.is_in_doubt() {
            self.give_up(&gone);
            self.note(text.to_owned());
        } else {
            self.fail(not_posted(&gone, text));
        }
    }

    fn join_refused(&mut self, rejected: &Rejected<'_>, group: &str, now: Instant) {
        let text = &*rejected.message;
        let Some(membership) = self.groups.get_mut(group) else { return };
        if membership.is_of_before() {
            return;
        }
        let wait = asked(rejected);
        let passing = match rejected.code {
            Code::Unavailable | Code::Draining => true,
            // Who was a member comes back as soon as there is room, or a moderator lets it.
            Code::GroupFull | Code::ServerFull | Code::Closed => membership.is_resuming(),
            Code::Kicked => rejected.retry_after_ms.is_some() && membership.is_resuming(),
            Code::RateLimited => wait <= WORTH_WAITING || membership.is_resuming(),
            _ => false,
        };
        if passing {
            if let Some(wait) = membership.join_later(now, wait) {
                self.not_now(text, wait);
            }
            return;
        }
        if !membership.join_refused() {
            self.groups.remove(group);
        }
        self.fail(format!("not joined {group}: {text}"));
    }

    fn not_now(&mut self, text: &str, wait: Duration) {
        let seconds = wait.as_secs_f64();
        self.events.push(Event::Problem(format!("not yet: {text}; trying again in {seconds:.1} s")));
    }
}

/// The wait that the server asks for.
fn asked(rejected: &Rejected<'_>) -> Duration {
    rejected.retry_after_ms.map_or(AGAIN, backoff::asked).max(Duration::from_millis(50))
}
