//! `tertulia-server auth …`: what clients prove with who they are, made without a server.

use tertulia_server::auth::issue::{self, Claims};
use tertulia_server::config::Config;

use crate::cli::{Auth, Token};
use crate::hashing;

/// What was asked for, as it is to be written.
///
/// # Errors
/// Why there is none, and what to do about it.
pub(crate) fn run(command: &Auth, config: &Config) -> anyhow::Result<String> {
    match command {
        Auth::Key => Ok(issue::key()?),
        Auth::HashPassword => hashing::run(),
        Auth::Token(token) => Ok(issue::token(&config.auth, &claims(token))? + "\n"),
    }
}

fn claims(token: &Token) -> Claims {
    let list = |given: &Vec<String>| (!given.is_empty()).then(|| given.clone());
    let (read, post) = (list(&token.read), list(&token.post));
    Claims { user: token.user.clone(), lifetime: token.lifetime, read, post }
}
