//! Ids of posts that servers give, which say more of a message than its poster did.

use std::sync::Arc;

use super::{NameError, PostId, UserName, check_post_id};

/// The first character of ids that servers make, which no client can claim.
const OF_SERVERS: char = '\u{1}';
/// What the id of a removed message begins with, before the one that it had.
const REMOVED: &str = "\u{1}removed=";
/// What the id of a message that tells of a removal begins with, before `FIRST=LAST` or `FIRST=LAST=SENDER`; a sender may have a `=` in its
/// name.
const REMOVES: &str = "\u{1}removes=";

impl PostId {
    /// The id that a server gives to a post without one, so that nodes can repeat it among themselves; clients never see it. The
    /// numbers are random.
    #[must_use]
    pub fn of_server(high: u64, low: u64) -> Self {
        Self(Arc::from(format!("{OF_SERVERS}{high:016x}{low:016x}")))
    }

    /// The id under which a message is kept whose text was removed; `id` is the one that it had.
    #[must_use]
    pub fn of_removed(id: Option<&Self>) -> Self {
        match id {
            Some(id) if id.is_of_removed() => id.clone(),
            id => Self(Arc::from(format!("{REMOVED}{}", id.map_or("", Self::as_str)))),
        }
    }

    /// The id of the message by which a group is told of a removal.
    #[must_use]
    pub fn of_removal(removal: Removal<'_>) -> Self {
        let Removal { first, last, sender } = removal;
        Self(Arc::from(match sender {
            Some(sender) => format!("{REMOVES}{first}={last}={sender}"),
            None => format!("{REMOVES}{first}={last}"),
        }))
    }

    /// An id read back from storage or sent by another node, where one of a server's is possible too.
    ///
    /// # Errors
    /// As [`PostId::new`], for any other id.
    pub fn from_stored(text: &str) -> Result<Self, NameError> {
        if let Some(had) = text.strip_prefix(REMOVED) {
            // It had one that is not such an id itself, or none.
            match had {
                "" => {}
                twice if twice.starts_with(REMOVED) => check_post_id(twice)?,
                had => drop(Self::from_stored(had)?),
            }
            return Ok(Self(Arc::from(text)));
        }
        if Removal::read(text).is_some() {
            return Ok(Self(Arc::from(text)));
        }
        match text.strip_prefix(OF_SERVERS) {
            Some(rest) => check_post_id(rest).map(|()| Self(Arc::from(text))),
            None => Self::new(text),
        }
    }

    /// Whether a client gave it, so that clients see it.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        !self.0.starts_with(OF_SERVERS)
    }

    /// What the client gave it that posted the message, be that removed since or not.
    #[must_use]
    pub fn of_client(&self) -> Option<&str> {
        match self.0.strip_prefix(REMOVED) {
            Some(id) => Some(id).filter(|id| !id.is_empty() && !id.starts_with(OF_SERVERS)),
            None => self.is_of_client().then_some(&*self.0),
        }
    }

    /// The id by which a repeat of the post is known.
    #[must_use]
    pub fn of_post(self) -> Option<Self> {
        match self.0.strip_prefix(REMOVED) {
            Some("") => None,
            Some(id) => Some(Self(Arc::from(id))),
            None => Some(self),
        }
    }

    /// Whether the text of its message was removed.
    #[must_use]
    pub fn is_of_removed(&self) -> bool {
        self.0.starts_with(REMOVED)
    }

    /// The removal of which its message tells.
    #[must_use]
    pub fn removes(&self) -> Option<Removal<'_>> {
        Removal::read(&self.0)
    }
}

/// Of which messages of a group the texts were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal<'a> {
    /// The `seq` of the first.
    pub first: u64,
    /// The `seq` of the last.
    pub last: u64,
    /// Only those of this sender; of all, without one.
    pub sender: Option<&'a str>,
}

impl<'a> Removal<'a> {
    fn read(id: &'a str) -> Option<Self> {
        let mut parts = id.strip_prefix(REMOVES)?.splitn(3, '=');
        let (first, last) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let sender = parts.next();
        let is_sender = sender.is_none_or(|sender| UserName::from_stored(sender).is_ok());
        is_sender.then_some(Self { first, last, sender })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_POST_ID_BYTES, MAX_USER_NAME_BYTES};
    use super::*;

    #[test]
    fn a_client_cannot_claim_the_id_of_a_server() {
        let id = PostId::of_server(7, u64::MAX);
        assert!(!id.is_of_client() && PostId::new(id.as_str()).is_err());
        assert_eq!(PostId::from_stored(id.as_str()).unwrap(), id);
        assert!(PostId::from_stored("7").unwrap().is_of_client());
    }

    #[test]
    fn the_ids_of_removed_messages_and_of_removals_say_so() {
        let longest = PostId::new(&"x".repeat(MAX_POST_ID_BYTES)).unwrap();
        for id in [None, Some(&longest)] {
            let removed = PostId::of_removed(id);
            assert!(removed.is_of_removed() && !removed.is_of_client() && removed.removes().is_none());
            assert_eq!(removed.of_client(), id.map(PostId::as_str));
            // Another removal changes nothing.
            assert_eq!(PostId::of_removed(Some(&removed)), removed);
            assert_eq!(PostId::from_stored(removed.as_str()).unwrap(), removed);
            assert_eq!(removed.clone().of_post().as_ref(), id);
            assert!(PostId::new(removed.as_str()).is_err());
        }
        assert!(PostId::from_stored(&format!("{REMOVED}{}", "x".repeat(65))).is_err());
        for sender in [None, Some("ada"), Some("a=b=3"), Some("@system"), Some(&*"x".repeat(MAX_USER_NAME_BYTES))] {
            let told = Removal { first: 3, last: u64::MAX, sender };
            let removal = PostId::of_removal(told);
            assert_eq!((removal.removes(), removal.of_client()), (Some(told), None));
            assert_eq!(PostId::from_stored(removal.as_str()).unwrap(), removal);
            assert_eq!(removal.clone().of_post(), Some(removal));
        }
        for bad in ["1=2=", "1=2=a b", "1=", "=2", "1=2=\u{1}"] {
            assert_eq!(Removal::read(&format!("{REMOVES}{bad}")), None, "{bad}");
        }
        // What nodes give to posts among themselves is neither.
        let of_server = PostId::of_server(1, 2);
        assert!(!of_server.is_of_removed() && of_server.removes().is_none() && of_server.of_client().is_none());
        // Of a message that has one it is kept for them.
        let removed = PostId::of_removed(Some(&of_server));
        assert!(removed.is_of_removed() && removed.of_client().is_none() && removed.removes().is_none());
        assert_eq!(PostId::from_stored(removed.as_str()).unwrap(), removed);
        assert_eq!(removed.clone().of_post(), Some(of_server));
        assert!(PostId::from_stored(&format!("{REMOVED}{removed}", removed = removed.as_str())).is_err());
        assert_eq!(longest.of_client(), Some(longest.as_str()));
    }
}
