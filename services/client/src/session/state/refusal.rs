//! What follows from a refusal of the server.

use std::time::{Duration, Instant};

use tertulia_protocol::extended::Rejected;
use tertulia_protocol::{Code, Fault};

use super::State;
use crate::session::backoff;

/// When to try again if the server does not say.
const AGAIN: Duration = Duration::from_secs(1);

/// The server did not let the client in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Another attempt would end in the same way.
    #[error("refused: {0}")]
    Final(String),
    /// Another attempt may succeed later.
    #[error("refused: {0}")]
    TurnedAway(String),
    /// A guest's name of an earlier connection was refused; the next attempt asks for a new one.
    #[error("refused: {0}; asking for another guest name")]
    GuestName(String),
    /// The other end speaks something else.
    #[error("that is no tertulia server: {0}")]
    NotTertulia(Fault),
}

impl State {
    /// `Hello` was refused.
    pub(super) fn not_let_in(&mut self, rejected: &Rejected<'_>) -> Result<(), Refusal> {
        let text = rejected.message.clone().into_owned();
        let about_user = matches!(rejected.code, Code::Unauthenticated | Code::BadUserName);
        if about_user && self.identity.asked.is_none() && self.identity.known.take().is_some() {
            // Ids of posts belong to a user: under another name a repeat could be stored twice.
            for post in self.outbox.take_uncertain() {
                self.give_up(&post);
            }
            return Err(Refusal::GuestName(text));
        }
        if about_user || rejected.code == Code::UnsupportedVersion {
            return Err(Refusal::Final(text));
        }
        self.reconnect_after = rejected.retry_after_ms.map(backoff::asked);
        Err(Refusal::TurnedAway(text))
    }

    /// Something after `Hello` was refused.
    pub(super) fn rejected(&mut self, rejected: &Rejected<'_>, now: Instant) {
        let wait = rejected.retry_after_ms.map_or(AGAIN, backoff::asked).max(Duration::from_millis(50));
        let later = now + wait;
        let passing = matches!(rejected.code, Code::RateLimited | Code::Unavailable | Code::Draining);
        let group = rejected.group_name.as_deref();
        let text = &rejected.message;

        if let Some(id) = rejected.id.as_deref() {
            if rejected.outcome_unknown {
                self.outbox.doubt(id);
            }
            let gone = if passing { self.outbox.retry(id, later) } else { self.outbox.take(id) };
            match gone {
                // An earlier attempt may have come through: this refusal is of the last one.
                Some(post) if post.in_doubt => {
                    self.give_up(&post);
                    self.note(text.clone().into_owned());
                }
                Some(post) => self.fail(format!("not posted to {}: {text}", post.group)),
                None => {}
            }
            return;
        }
        match (rejected.request.as_deref(), group) {
            (Some("Join"), Some(group)) => {
                let Some(membership) = self.groups.get_mut(group) else { return };
                if membership.is_of_before() {
                    return;
                }
                if passing {
                    return membership.join_later(later);
                }
                if !membership.join_refused() {
                    self.groups.remove(group);
                }
                self.fail(format!("not joined {group}: {text}"));
            }
            (Some("Leave"), Some(group)) => {
                if self.groups.get_mut(group).is_some_and(|membership| !membership.left()) {
                    self.groups.remove(group);
                }
                self.fail(text.clone().into_owned());
            }
            // A server that does not know the kind of a question may not say which one it was.
            (Some("History" | "Members" | "Groups") | None, _) if !self.queries.is_empty() => {
                self.queries.refused();
                self.fail(text.clone().into_owned());
            }
            _ => self.fail(text.clone().into_owned()),
        }
    }
}
