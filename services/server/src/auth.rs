//! Who a connection is, and what it may do: one function decides.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use ::metrics::gauge;
use tertulia_protocol::extended::Hello;
use tertulia_protocol::{Code, NameError, NameRules, UserName};
use tokio_util::sync::CancellationToken;

use crate::reload::{Looks, follow};

pub mod config;
mod groups;
pub mod issue;
mod keys;
pub mod metrics;
mod token;

pub use config::Config;
pub use groups::{Error as GroupsError, Groups, Part};
pub use keys::Error;
pub use token::Fault;

use keys::Keys;
use metrics::{Metrics, Way};
use token::Rules;

/// Whom the server takes a client for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name that its posts carry and that moderators see.
    pub user: UserName,
    /// What it may do; `None`: everything, as long as it likes.
    pub rights: Option<Box<Rights>>,
}

/// What somebody may do, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// The groups that it may join and read.
    pub read: Groups,
    /// The groups to which it may post.
    pub post: Groups,
    /// When this ends, if it does.
    pub until: Option<tokio::time::Instant>,
    /// When the token says so, in milliseconds since 1970-01-01 UTC.
    pub expires_at: Option<u64>,
    /// Whether nothing was shown for them.
    pub is_guest: bool,
}

/// Why a client was not let in. The text is fit for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The name in `Hello` breaks a rule.
    #[error("{0}")]
    BadUserName(#[from] NameError),
    /// It proves nothing.
    #[error("this server asks for a token in Hello")]
    Unproven,
    /// Guests do not choose their names.
    #[error("this server asks for a token in Hello; without one you may be a guest, and then without a user")]
    UnprovenName,
    /// The token proves nothing.
    #[error("{0}")]
    Token(#[from] Fault),
    /// The token is somebody else's.
    #[error("the token is of user '{of}', not of '{not}'")]
    OtherUser {
        /// Whose it is.
        of: UserName,
        /// Who was said to be there.
        not: String,
    },
    /// It has a name that no token can be of.
    #[error("you are a guest here: connect again, and show the token in Hello")]
    Guest,
    /// Nobody asked for it.
    #[error("this server asks for no token")]
    NoToken,
}

impl Refused {
    /// The code that tells programs.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::BadUserName(_) => Code::BadUserName,
            Self::NoToken | Self::Guest => Code::BadRequest,
            Self::Unproven | Self::UnprovenName | Self::Token(_) | Self::OtherUser { .. } => Code::Unauthenticated,
        }
    }
}

/// Decides who a client is. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Auth(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// `None`: clients are taken at their word.
    tokens: Option<Tokens>,
    /// What who proves nothing may do, where that is asked for; `None`: nothing.
    guests: Option<Box<Rights>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Tokens {
    rules: Rules,
    file: PathBuf,
    keys: RwLock<Arc<Keys>>,
}

impl Auth {
    /// Reads the keys, if the configuration names a file for them. It blocks.
    ///
    /// # Errors
    /// The file has none, or one that cannot be used.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let tokens = match &config.keys_file {
            None => None,
            Some(file) => {
                let keys = keys::read(file)?;
                let (count, passed_over) = (keys.len(), keys.passed_over());
                tracing::info!(file = %file.display(), count, passed_over, "clients show tokens, signed with these keys");
                let keys = RwLock::new(Arc::new(keys));
                Some(Tokens { rules: Rules::new(config), file: file.clone(), keys })
            }
        };
        // What is in the configuration was looked at when it was read.
        let groups = |text: &str| config::groups(text).unwrap_or_else(|_| Groups::none());
        let (read, post) = (groups(&config.guest_read), groups(&config.guest_post));
        let guests = Rights { read, post, until: None, expires_at: None, is_guest: true };
        let guests = config.guests.then(|| Box::new(guests));
        Ok(Self(Arc::new(Inner { tokens, guests, metrics: Metrics::default() })))
    }

    /// Whether clients have to prove who they are.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.0.tokens.is_some()
    }

    /// Decides who a client is, from its `Hello`; a client without one, or without a name in it, is a guest.
    ///
    /// This is the one place where that is decided.
    ///
    /// # Errors
    /// If the client is not to be let in.
    pub fn decide(&self, hello: Option<&Hello<'_>>) -> Result<Principal, Refused> {
        let user = hello.and_then(|hello| hello.user.as_deref());
        let token = hello.and_then(|hello| hello.token.as_deref());
        let Some(tokens) = &self.0.tokens else {
            let way = if user.is_some() { Way::Word } else { Way::Guest };
            return self.0.metrics.count(way, at_its_word(user));
        };
        let Some(token) = token else { return self.0.metrics.count(Way::Guest, self.guest(user)) };
        self.0.metrics.count(Way::Token, tokens.principal(token, user))
    }

    /// What a client may do from now on that shows another token, and until when.
    ///
    /// # Errors
    /// The token proves nothing, or is not that user's, or there is none to be shown.
    pub fn refresh(
        &self,
        user: &UserName,
        rights: Option<&Rights>,
        token: &str,
    ) -> Result<Option<Box<Rights>>, Refused> {
        let Some(tokens) = &self.0.tokens else { return Err(Refused::NoToken) };
        let refreshed = match rights {
            // No token is of the name that was made for it.
            Some(rights) if rights.is_guest => Err(Refused::Guest),
            _ => tokens.principal(token, Some(user.as_str())).map(|principal| principal.rights),
        };
        self.0.metrics.count(Way::Refresh, refreshed)
    }

    fn guest(&self, user: Option<&str>) -> Result<Principal, Refused> {
        match (&self.0.guests, user) {
            (None, _) => Err(Refused::Unproven),
            (Some(_), Some(_)) => Err(Refused::UnprovenName),
            (Some(rights), None) => Ok(Principal { user: guest()?, rights: Some(rights.clone()) }),
        }
    }

    /// Reads the keys whenever it is time, until `stop`; while the file cannot be used, those before stay.
    pub async fn follow(self, looks: Looks, stop: CancellationToken) {
        let Some(Tokens { file, keys, .. }) = &self.0.tokens else { return };
        let read = || {
            let file = file.clone();
            move || keys::read(&file)
        };
        let replace = |new: Keys| {
            let mut current = keys.write().unwrap_or_else(PoisonError::into_inner);
            if **current != new {
                let (count, passed_over) = (new.len(), new.passed_over());
                tracing::info!(file = %file.display(), count, passed_over, "the tokens of clients are held against new keys");
                *current = Arc::new(new);
            }
        };
        let what = "the new keys for the tokens of clients cannot be used: the old ones stay";
        follow(looks, read, replace, what, gauge!(metrics::RELOAD_FAILING), stop).await;
    }
}

impl Tokens {
    /// Who shows a token, and says to be `user`, if anybody.
    fn principal(&self, token: &str, user: Option<&str>) -> Result<Principal, Refused> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let principal = self.rules.verify(token, &keys)?;
        match user {
            Some(user) if user != principal.user.as_str() => {
                NameRules::user(user)?;
                Err(Refused::OtherUser { of: principal.user, not: user.to_owned() })
            }
            _ => Ok(principal),
        }
    }
}

fn at_its_word(user: Option<&str>) -> Result<Principal, Refused> {
    let user = user.map_or_else(guest, NameRules::user)?;
    Ok(Principal { user, rights: None })
}

/// A name that nobody has: 50 random bits.
fn guest() -> Result<UserName, NameError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let random = crate::random::number();
    let letter = |place: u32| char::from(LETTERS[(random >> (5 * place)) as usize % LETTERS.len()]);
    UserName::new(&format!("guest-{}", (0..10).map(letter).collect::<String>()))
}

#[cfg(test)]
mod tests;
