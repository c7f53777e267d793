//! Who a connection is, and what it may do: one function decides.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tertulia_protocol::extended::Hello;
use tertulia_protocol::{Code, NameError, NameRules, UserName};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::reload::{Looks, Reload, follow};

pub mod config;
mod groups;
mod hash;
pub mod issue;
mod keys;
pub mod metrics;
mod passwords;
mod token;
mod users;

pub use config::Config;
pub use groups::{Error as GroupsError, Groups, Part};
pub use passwords::{BadPassword, Login, hash_of};
pub use token::Fault;

use keys::Keys;
use metrics::{File, Metrics, Way};
use passwords::Passwords;
use token::Rules;

/// When a client is to come back whose password there was no time to check.
const RETRY: Duration = Duration::from_secs(2);

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

/// Whether it is known who a client is.
#[derive(Debug)]
pub enum Decision {
    /// It is.
    Known(Principal),
    /// Its password has to be checked first.
    Login(Login),
}

/// What clients prove with who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A token.
    Token,
    /// A password.
    Password,
    /// Either.
    Any,
}

/// Why a client was not let in. The text is fit for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The name in `Hello` breaks a rule.
    #[error("{0}")]
    BadUserName(#[from] NameError),
    /// It proves nothing.
    #[error("this server asks for {0} in Hello")]
    Unproven(Proof),
    /// Guests do not choose their names.
    #[error("this server asks for {0} in Hello; otherwise you may be a guest, and then without a user")]
    UnprovenName(Proof),
    /// It proves it twice, and one of both may be wrong.
    #[error("give a token or a password, not both")]
    Both,
    /// There are no keys.
    #[error("this server takes no tokens")]
    NoTokens,
    /// There are no users.
    #[error("this server takes no passwords")]
    NoPasswords,
    /// It is not said whose the password is.
    #[error("give the user too whose password it is")]
    PasswordAlone,
    /// It is no user's.
    #[error("a password has at most {} bytes", passwords::LONGEST)]
    LongPassword,
    /// It is another one, or there is no such user: which, is nobody's business.
    #[error("user and password do not match")]
    Mismatch,
    /// Too many are before it.
    #[error("the passwords of too many clients at this address wait to be checked: try again later")]
    Busy,
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
            Self::NoToken | Self::Guest | Self::Both | Self::PasswordAlone => Code::BadRequest,
            Self::Unproven(_)
            | Self::UnprovenName(_)
            | Self::NoTokens
            | Self::NoPasswords
            | Self::LongPassword
            | Self::Mismatch
            | Self::Token(_)
            | Self::OtherUser { .. } => Code::Unauthenticated,
            Self::Busy => Code::Unavailable,
        }
    }

    /// When to try again, where that is of use.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (*self == Self::Busy).then_some(RETRY)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "a token",
            Self::Password => "a user and a password",
            Self::Any => "a token, or a user and a password",
        })
    }
}

/// Why nobody could prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no keys that can be used.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// There are no users that can be.
    #[error(transparent)]
    Users(#[from] users::Error),
}

/// Decides who a client is. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Auth(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Without these and passwords clients are taken at their word.
    tokens: Option<Tokens>,
    passwords: Option<Arc<Passwords>>,
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
    /// Reads the keys and the users, if the configuration names files for them. It blocks.
    ///
    /// # Errors
    /// A file has none, or one that cannot be used.
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
        let passwords =
            config.users_file.as_ref().map(|file| Passwords::new(file, config.password_checks, config.password_queue));
        let passwords = passwords.transpose()?.map(Arc::new);
        // What is in the configuration was looked at when it was read.
        let groups = |text: &str| config::groups(text).unwrap_or_else(|_| Groups::none());
        let (read, post) = (groups(&config.guest_read), groups(&config.guest_post));
        let guests = Rights { read, post, until: None, expires_at: None, is_guest: true };
        let guests = config.guests.then(|| Box::new(guests));
        Ok(Self(Arc::new(Inner { tokens, passwords, guests, metrics: Metrics::default() })))
    }

    /// What clients have to prove with who they are; `None`: nothing.
    #[must_use]
    pub fn asks_for(&self) -> Option<Proof> {
        match (&self.0.tokens, &self.0.passwords) {
            (None, None) => None,
            (Some(_), None) => Some(Proof::Token),
            (None, Some(_)) => Some(Proof::Password),
            (Some(_), Some(_)) => Some(Proof::Any),
        }
    }

    /// Decides who a client is, from its `Hello`; without a name or a proof in it, a guest.
    ///
    /// This is the one place where that is decided.
    ///
    /// # Errors
    /// If the client is not to be let in.
    pub fn decide(&self, hello: &Hello<'_>) -> Result<Decision, Refused> {
        let user = hello.user.as_deref();
        let (token, password) = (hello.token.as_deref(), hello.password.as_deref());
        let Some(proof) = self.asks_for() else {
            let way = if user.is_some() { Way::Word } else { Way::Guest };
            return self.count(way, at_its_word(user)).map(Decision::Known);
        };
        match (token, password) {
            (None, None) => self.count(Way::Guest, self.guest(proof, user)).map(Decision::Known),
            (Some(token), None) => self.count(Way::Token, self.bearer(token, user)).map(Decision::Known),
            (Some(_), Some(_)) => self.count(Way::Password, Err(Refused::Both)),
            (None, Some(password)) => match self.login(user, password) {
                Ok(login) => Ok(Decision::Login(login)),
                // It is counted where it is checked, else here.
                Err(refused) => self.count(Way::Password, Err(refused)),
            },
        }
    }

    /// Decides who a client is that has no way to say so.
    ///
    /// # Errors
    /// If it is not to be let in.
    pub fn nameless(&self) -> Result<Principal, Refused> {
        self.count(
            Way::Guest,
            match self.asks_for() {
                None => at_its_word(None),
                Some(proof) => self.guest(proof, None),
            },
        )
    }

    /// What a client may do from now on that shows another token, and until when.
    ///
    /// # Errors
    /// The token proves nothing, or is not that user's, or there is none to be shown.
    pub fn refresh(&self, user: &UserName, rights: Option<&Rights>, token: &str) -> Result<Box<Rights>, Refused> {
        let Some(tokens) = &self.0.tokens else { return Err(Refused::NoToken) };
        let refreshed = match rights {
            // No token is of the name that was made for it.
            Some(rights) if rights.is_guest => Err(Refused::Guest),
            _ => tokens.bearer(token, Some(user.as_str())).map(|(_, rights)| rights),
        };
        self.count(Way::Refresh, refreshed)
    }

    fn bearer(&self, token: &str, user: Option<&str>) -> Result<Principal, Refused> {
        let (user, rights) = self.0.tokens.as_ref().ok_or(Refused::NoTokens)?.bearer(token, user)?;
        Ok(Principal { user, rights: Some(rights) })
    }

    fn login(&self, user: Option<&str>, password: &str) -> Result<Login, Refused> {
        let passwords = self.0.passwords.as_ref().ok_or(Refused::NoPasswords)?;
        let user = NameRules::user(user.ok_or(Refused::PasswordAlone)?)?;
        if password.len() > passwords::LONGEST {
            return Err(Refused::LongPassword);
        }
        Ok(Login { auth: self.clone(), passwords: Arc::clone(passwords), user, password: password.into() })
    }

    fn guest(&self, proof: Proof, user: Option<&str>) -> Result<Principal, Refused> {
        match (&self.0.guests, user) {
            (None, _) => Err(Refused::Unproven(proof)),
            (Some(_), Some(_)) => Err(Refused::UnprovenName(proof)),
            (Some(rights), None) => Ok(Principal { user: guest()?, rights: Some(rights.clone()) }),
        }
    }

    fn count<T>(&self, way: Way, result: Result<T, Refused>) -> Result<T, Refused> {
        self.0.metrics.count(way, result)
    }

    /// Has the files read again whenever it is time, until `stop`; while one cannot be used, what it said before stays.
    pub fn follow(&self, reload: &Reload, every: Duration, stop: &CancellationToken, tasks: &TaskTracker) {
        if self.0.tokens.is_some() {
            tasks.spawn(self.clone().follow_keys(reload.looks(every), stop.clone()));
        }
        if let Some(passwords) = &self.0.passwords {
            tasks.spawn(Arc::clone(passwords).follow(reload.looks(every), stop.clone()));
        }
    }

    async fn follow_keys(self, looks: Looks, stop: CancellationToken) {
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
        follow(looks, read, replace, what, metrics::reload_failing(File::Keys), stop).await;
    }
}

impl Tokens {
    /// Who shows a token, and says to be `user`, if anybody; and what that may.
    fn bearer(&self, token: &str, user: Option<&str>) -> Result<(UserName, Box<Rights>), Refused> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let (of, rights) = self.rules.verify(token, &keys)?;
        match user {
            Some(user) if user != of.as_str() => {
                NameRules::user(user)?;
                Err(Refused::OtherUser { of, not: user.to_owned() })
            }
            _ => Ok((of, rights)),
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
