//! Who the person is, and what proves it.

use tertulia_protocol::extended::{FromClient, Hello, Rejected};
use tertulia_protocol::{VERSION, codec};

use super::{Phase, State};
use crate::session::event::Event;
use crate::session::proof::Shown;

/// Who the person is.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// As asked for; `None` for a guest, and for whoever a token says.
    pub(super) asked: Option<String>,
    /// As the server said. Later connections ask for the same name again, since ids of posts belong to a user.
    pub(super) known: Option<String>,
    /// What proves it, on this connection or the next one.
    pub(super) proof: Option<Shown>,
    /// When the token ends that the server looked at last, until that was taken out.
    ends_at: Option<u64>,
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
    }

    /// What the file has now: if it is another token, the server is shown it on this connection.
    pub(crate) fn refresh(&mut self, shown: Shown) {
        if self.phase != Phase::Online || self.identity.proof.as_ref() == Some(&shown) {
            return;
        }
        if let Shown::Token(token) = &shown {
            codec::encode(&FromClient::Refresh { token: token.into() }, &mut self.wire);
        }
        self.identity.proof = Some(shown);
    }

    /// When the token ends that counts now, in milliseconds since 1970; told once.
    pub(crate) fn take_ends_at(&mut self) -> Option<u64> {
        self.identity.ends_at.take()
    }

    /// The server said when the token ends.
    pub(super) fn ends_at(&mut self, at: Option<u64>) {
        self.identity.ends_at = at;
    }

    /// The token before goes on, and the file may have another one before that ends.
    pub(super) fn refresh_refused(&mut self, rejected: &Rejected<'_>) {
        self.events.push(Event::Problem(format!("the new token is refused: {}", rejected.message)));
    }
}
