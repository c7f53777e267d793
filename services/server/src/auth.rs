//! Who a connection is.

use tertulia_protocol::extended::Hello;
use tertulia_protocol::{NameError, NameRules, UserName};

/// Whom the server takes a client for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name that its posts carry and that moderators see.
    pub user: UserName,
}

/// Why a client was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name in `Hello` breaks a rule.
    #[error("{0}")]
    BadUserName(#[from] NameError),
}

/// Decides who a client is, from its `Hello`; a client without one, or without a name in it, is a guest.
///
/// This is the one place where that is decided. For now a name is taken at its word.
///
/// # Errors
/// If the client is not to be let in.
pub fn decide(hello: Option<&Hello<'_>>) -> Result<Principal, Error> {
    match hello.and_then(|hello| hello.user.as_deref()) {
        Some(user) => Ok(Principal { user: NameRules::user(user)? }),
        None => Ok(Principal { user: guest()? }),
    }
}

/// A name that nobody has: 50 random bits.
fn guest() -> Result<UserName, NameError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let random = crate::random::number();
    let letter = |place: u32| char::from(LETTERS[(random >> (5 * place)) as usize % LETTERS.len()]);
    UserName::new(&format!("guest-{}", (0..10).map(letter).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_at_its_word_and_guests_differ() {
        let hello = Hello { version: 1, user: Some("ada".into()), ..Hello::default() };
        assert_eq!(decide(Some(&hello)).unwrap().user.as_str(), "ada");
        let (one, other) = (decide(None).unwrap(), decide(Some(&Hello::default())).unwrap());
        assert_ne!(one, other);
        assert!(one.user.as_str().starts_with("guest-") && one.user.as_str().len() == 16);
    }

    #[test]
    fn a_name_that_breaks_a_rule_is_refused_with_the_rule() {
        let hello = Hello { version: 1, user: Some("@system".into()), ..Hello::default() };
        let error = decide(Some(&hello)).unwrap_err();
        assert!(error.to_string().contains("'@' is kept for the server"), "{error}");
    }
}
