//! Names of groups and users, post ids, and the rules they obey.
//!
//! A value of these types has passed the *hard* rules below, which hold in every deployment. A server may be
//! stricter: see [`NameRules`].

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

mod post_id;

pub use post_id::Removal;

/// The longest group name that any deployment can allow, in bytes.
pub const MAX_GROUP_NAME_BYTES: usize = 255;
/// The longest user name, in bytes.
pub const MAX_USER_NAME_BYTES: usize = 64;
/// The longest post id, in bytes.
pub const MAX_POST_ID_BYTES: usize = 64;

/// Why a name was refused. The text is fit for the peer that sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing between the quotes.
    #[error("a {what} must not be empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// More bytes than allowed.
    #[error("a {what} has at most {max} bytes, this one has {length}")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// The limit, in bytes.
        max: usize,
        /// What was given, in bytes.
        length: usize,
    },
    /// A character that the rule does not allow.
    #[error("a {what} must not contain {character:?} (at byte {at}): {rule}")]
    Character {
        /// Which kind of name.
        what: &'static str,
        /// The first offending character.
        character: char,
        /// Its byte offset.
        at: usize,
        /// The rule in words.
        rule: &'static str,
    },
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the hard rules and makes the name.
            ///
            /// # Errors
            /// The first rule that `text` breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same text, not copied.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// The name of a group: 1 to 255 bytes without control characters, and without white space at either end.
    GroupName,
    check_group
);
name_type!(
    /// The name of a user: 1 to 64 bytes without control characters or white space; a first `@` is kept for the
    /// server's own senders (see [`UserName::system`]).
    UserName,
    check_user
);
name_type!(
    /// The id that a client gives a post so that a retry is stored once: 1 to 64 bytes without control characters.
    PostId,
    check_post_id
);

impl UserName {
    /// The sender of announcements, which no client can claim.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::from("@system"))
    }

    /// A sender name read back from storage, where [`UserName::system`] is possible too.
    ///
    /// # Errors
    /// As [`UserName::new`], for any other name.
    pub fn from_stored(text: &str) -> Result<Self, NameError> {
        if text == "@system" { Ok(Self::system()) } else { Self::new(text) }
    }
}

/// What a server asks of group names beyond the hard rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRules {
    /// The longest group name, in bytes.
    pub max_bytes: usize,
    /// Whether names are limited to the graphic characters of ASCII, `!` to `~`.
    pub ascii_only: bool,
}

impl NameRules {
    /// Checks the hard rules, then these.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn group(&self, text: &str) -> Result<GroupName, NameError> {
        let what = "group name";
        if text.len() > self.max_bytes {
            return Err(NameError::TooLong { what, max: self.max_bytes, length: text.len() });
        }
        if self.ascii_only {
            let rule = "this server allows only graphic ASCII characters";
            first_bad(what, text, rule, |c| !c.is_ascii_graphic())?;
        }
        let name = GroupName::new(text)?;
        visible(what, text)?;
        Ok(name)
    }

    /// The name that a client gives its user: the hard rules, and no invisible characters.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn user(text: &str) -> Result<UserName, NameError> {
        let name = UserName::new(text)?;
        visible("user name", text)?;
        Ok(name)
    }
}

fn visible(what: &'static str, text: &str) -> Result<(), NameError> {
    // A post to a group that its sender is not in has its name checked.
    if text.is_ascii() {
        return Ok(());
    }
    first_bad(what, text, "invisible characters are not allowed", is_invisible)?;
    let mut before = None;
    let mut rest = text.char_indices().peekable();
    while let Some((at, character)) = rest.next() {
        if character == PICTURE && !is_drawn(before, rest.peek().map(|(_, after)| *after)) {
            let rule = "it shows only after a symbol that it makes a picture of";
            return Err(NameError::Character { what, character, at, rule });
        }
        before = Some(character);
    }
    Ok(())
}

/// Makes a picture of the symbol before it, and cannot be seen elsewhere.
const PICTURE: char = '\u{fe0f}';

/// Whether [`PICTURE`] is seen between these: after a symbol that has a picture, or after a digit that is put on a key. Where else it stands,
/// the name looks the same with it as without.
fn is_drawn(before: Option<char>, after: Option<char>) -> bool {
    const KEY: char = '\u{20e3}';
    match before {
        Some('0'..='9' | '#' | '*') => after == Some(KEY),
        // The blocks of the characters that Unicode's emoji-variation-sequences.txt has.
        Some(
            '\u{a9}'
            | '\u{ae}'
            | '\u{203c}'
            | '\u{2049}'
            | '\u{2122}'
            | '\u{2139}'
            | '\u{24c2}'
            | '\u{3030}'
            | '\u{303d}'
            | '\u{3297}'
            | '\u{3299}'
            | '\u{2190}'..='\u{21ff}'
            | '\u{2300}'..='\u{23ff}'
            | '\u{25a0}'..='\u{27bf}'
            | '\u{2900}'..='\u{297f}'
            | '\u{2b00}'..='\u{2bff}'
            | '\u{1f000}'..='\u{1faff}',
        ) => true,
        _ => false,
    }
}

fn check_group(text: &str) -> Result<(), NameError> {
    let what = "group name";
    check_length(what, text, MAX_GROUP_NAME_BYTES)?;
    first_bad(what, text, "control characters are not allowed", is_control)?;
    let rule = "white space is not allowed at either end";
    let ends = [text.chars().next().map(|c| (0, c)), text.char_indices().next_back()];
    match ends.into_iter().flatten().find(|(_, c)| c.is_whitespace()) {
        Some((at, character)) => Err(NameError::Character { what, character, at, rule }),
        None => Ok(()),
    }
}

fn check_user(text: &str) -> Result<(), NameError> {
    let what = "user name";
    check_length(what, text, MAX_USER_NAME_BYTES)?;
    if text.starts_with('@') {
        let rule = "a first '@' is kept for the server";
        return Err(NameError::Character { what, character: '@', at: 0, rule });
    }
    first_bad(what, text, "control characters and white space are not allowed", |c| is_control(c) || c.is_whitespace())
}

fn check_post_id(text: &str) -> Result<(), NameError> {
    check_length("post id", text, MAX_POST_ID_BYTES)?;
    first_bad("post id", text, "control characters are not allowed", is_control)
}

fn check_length(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty { what }),
        length if length > max => Err(NameError::TooLong { what, max, length }),
        _ => Ok(()),
    }
}

fn first_bad(what: &'static str, text: &str, rule: &'static str, bad: impl Fn(char) -> bool) -> Result<(), NameError> {
    match text.char_indices().find(|(_, c)| bad(*c)) {
        Some((at, character)) => Err(NameError::Character { what, character, at, rule }),
        None => Ok(()),
    }
}

/// Control characters, and the invisible ones that turn or break a line of a terminal: no name was ever allowed to have them, and what is
/// stored has none.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Those by which two names look alike: the others of Unicode's category Cf that have no shape of their own, variation selectors but
/// [`PICTURE`], and the fillers. Names that are stored may have them.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0e}'
        | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_names_follow_the_hard_rules() {
        for good in ["Dogs", "#ubuntu", "两只狗", "two words", "a", &"x".repeat(255)] {
            assert!(GroupName::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", " Dogs", "Dogs ", "Do\ngs", "Do\0gs", "a\u{202e}b", &"x".repeat(256)] {
            assert!(GroupName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_clients_offer_has_no_invisible_characters_but_what_is_stored_may() {
        let rules = NameRules { max_bytes: 255, ascii_only: false };
        for bad in
            ["D\u{ad}ogs", "D\u{2060}ogs", "Dogs\u{e0041}", "\u{3164}", "Dogs\u{fe0e}", "Dogs\u{e0100}", "Do\u{2800}gs"]
        {
            assert!(rules.group(bad).is_err() && NameRules::user(bad).is_err(), "{bad:?}");
            assert!(GroupName::new(bad).is_ok() && UserName::from_stored(bad).is_ok(), "{bad:?}");
        }
        assert!(rules.group("د\u{600}").is_ok() && NameRules::user("ada").is_ok());
    }

    #[test]
    fn what_makes_pictures_stands_only_where_it_does() {
        let rules = NameRules { max_bytes: 255, ascii_only: false };
        for bad in [
            "Dogs\u{fe0f}",
            "D\u{fe0f}ogs",
            "\u{fe0f}",
            "1\u{fe0f}",
            "狗\u{fe0f}",
            "\u{2764}\u{fe0f}\u{fe0f}",
            "Ada\u{2019}\u{fe0f}s",
            "rene\u{301}\u{fe0f}",
            "\u{e01}\u{e49}\u{fe0f}",
        ] {
            assert!(rules.group(bad).is_err() && NameRules::user(bad).is_err(), "{bad:?}");
            assert!(GroupName::new(bad).is_ok() && UserName::from_stored(bad).is_ok(), "{bad:?}");
        }
        for good in ["\u{2764}\u{fe0f}dogs", "1\u{fe0f}\u{20e3}", "\u{2139}\u{fe0f}", "\u{1f170}\u{fe0f}", "\u{1f43e}"]
        {
            assert!(rules.group(good).is_ok() && NameRules::user(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_error_names_the_rule_and_the_place() {
        let error = GroupName::new("Do\tgs").unwrap_err();
        assert_eq!(
            error.to_string(),
            "a group name must not contain '\\t' (at byte 2): control characters are not allowed"
        );
    }

    #[test]
    fn a_client_cannot_claim_the_servers_name() {
        assert!(UserName::new("@system").is_err());
        assert_eq!(UserName::from_stored("@system").unwrap(), UserName::system());
    }

    #[test]
    fn a_server_may_be_stricter() {
        let rules = NameRules { max_bytes: 8, ascii_only: true };
        assert!(rules.group("Dogs").is_ok());
        assert!(rules.group("two dogs").is_err(), "a blank is not graphic");
        assert!(rules.group("köter").is_err());
        assert!(rules.group("ninebytes").is_err());
    }
}
