//! Who the person is, and what proves it.

use tertulia_protocol::extended::{FromClient, Hello, Rejected};
use tertulia_protocol::{VERSION, codec};

use super::{Phase, State};
use crate::session::event::Event;
use crate::session::proof::Shown;

/// So often a token that is refused is shown on one connection. A server takes a refused `Refresh` for a malformed line, and ends the
/// connection after ten of those, as it comes.
const MOST_REFUSALS: u32 = 6;

/// Who the person is.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// As asked for; `None` for a guest, and for whoever a token says.
    pub(super) asked: Option<String>,
    /// As the server said. Later connections ask for the same name again, since ids of posts belong to a user.
    pub(super) known: Option<String>,
    /// What proves it on this connection: what the server took last, or is shown first.
    pub(super) proof: Option<Shown>,
    /// Another token that was shown since, and not answered yet.
    asking: Option<Shown>,
    /// The one that the server would not take.
    refused: Option<Refused>,
    /// When the token ends that the server looked at last, until that was taken out.
    ends_at: Option<u64>,
}

/// A token that the server would not take. By now it may: it looks for new keys every few seconds, and the token may have been there first.
#[derive(Debug)]
struct Refused {
    shown: Shown,
    /// How often it was refused.
    times: u32,
    /// How often it was seen in the file since.
    looks: u32,
}

impl Refused {
    /// Whether it is worth another attempt, now that it is in the file again. Each is twice as far away as the one before.
    fn is_due(&mut self) -> bool {
        self.looks += 1;
        self.times < MOST_REFUSALS && self.looks >= 1 << self.times
    }
}

impl Identity {
    pub(super) fn new(asked: Option<String>) -> Self {
        Self { asked, ..Self::default() }
    }

    pub(super) fn hello(&self) -> Hello<'_> {
        let user = self.asked.as_deref().or(self.known.as_deref()).map(Into::into);
        let (token, password) = match &self.proof {
            None => (None, None),
            Some(Shown::Token(token)) => (Some(token.into()), None),
            Some(Shown::Password(password)) => (None, Some(password.into())),
        };
        Hello { version: VERSION, user, token, password }
    }

    /// Whether what it shows may be replaced by something better.
    pub(super) fn has_a_token(&self) -> bool {
        matches!(self.proof, Some(Shown::Token(_)))
    }
}

impl State {
    /// What the next connection shows.
    pub(crate) fn show_proof(&mut self, shown: Shown) {
        self.identity.proof = Some(shown);
        (self.identity.asking, self.identity.refused) = (None, None);
    }

    /// What the file has now: if it is a token that the server has not taken, it is shown it on this connection.
    pub(crate) fn refresh(&mut self, shown: Shown) {
        let Identity { proof, asking, refused, .. } = &mut self.identity;
        let Shown::Token(token) = &shown else { return };
        if self.phase != Phase::Online || asking.is_some() || proof.as_ref() == Some(&shown) {
            return;
        }
        if refused.as_mut().is_some_and(|refused| refused.shown == shown && !refused.is_due()) {
            return;
        }
        codec::encode(&FromClient::Refresh { token: token.into() }, &mut self.wire);
        *asking = Some(shown);
    }

    /// When the token ends that counts now, in milliseconds since 1970; told once.
    pub(crate) fn take_ends_at(&mut self) -> Option<u64> {
        self.identity.ends_at.take()
    }

    /// The server said when the token ends.
    pub(super) fn ends_at(&mut self, at: Option<u64>) {
        self.identity.ends_at = at;
    }

    /// The server took the token that it was shown.
    pub(super) fn refreshed(&mut self, expires_at: Option<u64>) {
        let identity = &mut self.identity;
        if let Some(shown) = identity.asking.take() {
            (identity.proof, identity.refused) = (Some(shown), None);
        }
        self.ends_at(expires_at);
    }

    /// The token before goes on, and before that ends the file may have another one, or the server take this one. It is told once.
    pub(super) fn refresh_refused(&mut self, rejected: &Rejected<'_>) {
        let identity = &mut self.identity;
        if let Some(shown) = identity.asking.take() {
            let before = identity.refused.take().filter(|refused| refused.shown == shown);
            let times = before.map_or(0, |refused| refused.times) + 1;
            identity.refused = Some(Refused { shown, times, looks: 0 });
            if times > 1 {
                return;
            }
        }
        self.events.push(Event::Problem(format!("the new token is refused: {}", rejected.message)));
    }
}
