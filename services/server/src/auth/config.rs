//! How clients prove who they are: section `auth` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::groups::{Error, Groups};

/// How clients prove who they are. Without a file of keys or users they are taken at their word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The keys with which tokens are signed: a JWK Set (RFC 7517), or public keys in PEM.
    pub keys_file: Option<PathBuf>,
    /// The users, with what their passwords are held against: lines `NAME HASH`, and perhaps `read=GROUPS` and `post=GROUPS`.
    pub users_file: Option<PathBuf>,
    /// How many passwords are checked at once.
    pub password_checks: usize,
    /// Logins from one address whose passwords are not checked yet.
    pub password_queue: usize,
    /// Who must have issued a token (`iss`); empty: anybody who has a key.
    pub issuer: String,
    /// For whom a token must be (`aud`); empty: for nobody in particular.
    pub audience: String,
    /// How far the clocks of those who issue tokens may be from this one.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// Whether clients are let in, as guests, that prove nothing.
    pub guests: bool,
    /// The groups that guests may join and read, separated by commas; one that ends in `*` is the beginning of a name.
    pub guest_read: String,
    /// The groups to which guests may post.
    pub guest_post: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys_file: None,
            users_file: None,
            password_checks: 2,
            password_queue: 64,
            issuer: String::new(),
            audience: String::new(),
            leeway: Duration::from_secs(10),
            guests: false,
            guest_read: "*".to_owned(),
            guest_post: "*".to_owned(),
        }
    }
}

/// The groups of a list in the configuration: names, separated by commas; one that ends in `*` is the beginning of names.
///
/// # Errors
/// There are too many, or one that no group can have.
pub fn groups(text: &str) -> Result<Groups, Error> {
    match Groups::written(text.split(',').map(str::trim)) {
        None => Ok(Groups::all()),
        Some((names, beginnings)) => Groups::of(names, beginnings),
    }
}
