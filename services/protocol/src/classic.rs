//! The classic dialect: what the async-chat client and server of *Programming Rust*, chapter 20, say.
//!
//! Its bytes are fixed: the order of the fields, the absence of blanks, and the escaping of `serde_json`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What a classic client sends. Fields that the type does not have are ignored, as the book's server does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromClient<'a> {
    /// Become a member of a group, which comes to be if it did not exist.
    Join {
        /// The group.
        #[serde(borrow)]
        group_name: Cow<'a, str>,
    },
    /// Send a message to all members of a group.
    Post {
        /// The group.
        #[serde(borrow)]
        group_name: Cow<'a, str>,
        /// The text.
        #[serde(borrow)]
        message: Cow<'a, str>,
    },
}

/// What a classic client receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromServer<'a> {
    /// A message of a group that the client joined.
    Message {
        /// The group.
        #[serde(borrow)]
        group_name: Cow<'a, str>,
        /// The text.
        #[serde(borrow)]
        message: Cow<'a, str>,
    },
    /// Something went wrong; the text is for people.
    #[serde(borrow)]
    Error(Cow<'a, str>),
}

/// The text that tells a classic member what retention removed before it could read it.
#[must_use]
pub fn dropped(count: u64, group: &str) -> String {
    format!("Dropped {count} messages from {group}.")
}

/// The text that answers a post to a group that does not exist.
#[must_use]
pub fn no_such_group(group: &str) -> String {
    format!("Group '{group}' does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_book() {
        let join = FromClient::Join { group_name: "Dogs".into() };
        assert_eq!(serde_json::to_string(&join).unwrap(), r#"{"Join":{"group_name":"Dogs"}}"#);
        let post = FromClient::Post { group_name: "Dogs".into(), message: "Samoyeds rock!".into() };
        assert_eq!(
            serde_json::to_string(&post).unwrap(),
            r#"{"Post":{"group_name":"Dogs","message":"Samoyeds rock!"}}"#
        );
        let message = FromServer::Message { group_name: "Dogs".into(), message: "Samoyeds rock!".into() };
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"Message":{"group_name":"Dogs","message":"Samoyeds rock!"}}"#
        );
        let error = FromServer::Error(no_such_group("Cats").into());
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"Error":"Group 'Cats' does not exist"}"#);
        let dropped = FromServer::Error(dropped(11, "Dogs").into());
        assert_eq!(serde_json::to_string(&dropped).unwrap(), r#"{"Error":"Dropped 11 messages from Dogs."}"#);
    }
}
