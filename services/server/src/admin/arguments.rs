//! The fields of requests, parsed into types that cannot be wrong.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tertulia_proto::admin::v1::{disconnect_request, kick_member_request, remove_hold_request};
use tertulia_protocol::{GroupName, PostId, UserName};

use super::status::Error;
use crate::shard::request::Selection;
use crate::shard::{ConnectionId, Target};

/// The longest reason, in bytes.
const MAX_REASON_BYTES: usize = 512;
/// The longest hold, in seconds: a year.
const MAX_HOLD_SECONDS: u32 = 31_536_000;

/// A name by the rules that hold in every deployment: a group may be older than a stricter rule of this one.
pub(super) fn group(name: &str) -> Result<GroupName, Error> {
    Ok(GroupName::new(name)?)
}

/// A name, or none for all.
pub(super) fn group_or_all(name: &str) -> Result<Option<GroupName>, Error> {
    if name.is_empty() { Ok(None) } else { group(name).map(Some) }
}

pub(super) fn user(name: &str) -> Result<UserName, Error> {
    Ok(UserName::new(name)?)
}

/// Who may have posted: a user, or the server itself.
pub(super) fn sender(name: &str) -> Result<UserName, Error> {
    Ok(UserName::from_stored(name)?)
}

/// An IP address; one of version 4 that came in the clothes of version 6 is undressed, as those of connections are.
pub(super) fn address(text: &str) -> Result<IpAddr, Error> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(Error::argument(format!("'{}' is no IP address without a port", short(text)))),
    }
}

pub(super) fn connection(text: &str) -> Result<ConnectionId, Error> {
    let digits = text.strip_prefix("c-").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(id) => Ok(ConnectionId(id)),
        None => Err(Error::argument(format!("'{}' is no id of a connection, such as c-17", short(text)))),
    }
}

pub(super) fn kick_target(target: Option<kick_member_request::Target>) -> Result<Target, Error> {
    use kick_member_request::Target as Given;
    match target {
        Some(Given::User(name)) => user(&name).map(Target::User),
        Some(Given::ConnectionId(id)) => connection(&id).map(Target::Connection),
        Some(Given::Address(text)) => address(&text).map(Target::from_address),
        None => Err(no_target()),
    }
}

pub(super) fn disconnect_target(target: Option<disconnect_request::Target>) -> Result<Target, Error> {
    use disconnect_request::Target as Given;
    match target {
        Some(Given::User(name)) => user(&name).map(Target::User),
        Some(Given::ConnectionId(id)) => connection(&id).map(Target::Connection),
        Some(Given::Address(text)) => address(&text).map(Target::Address),
        None => Err(no_target()),
    }
}

/// Whose hold is meant; that of everybody, if nobody is named.
pub(super) fn hold_target(target: Option<remove_hold_request::Target>) -> Result<Option<Target>, Error> {
    use remove_hold_request::Target as Given;
    target
        .map(|target| match target {
            Given::User(name) => user(&name).map(Target::User),
            Given::ConnectionId(id) => connection(&id).map(Target::Connection),
            Given::Address(text) => address(&text).map(Target::Address),
        })
        .transpose()
}

fn no_target() -> Error {
    Error::argument("a target is needed: user, connection_id or address")
}

/// What those concerned are told; nothing if it is empty.
pub(super) fn reason(text: &str) -> Result<Option<Arc<str>>, Error> {
    if text.len() > MAX_REASON_BYTES {
        let length = text.len();
        return Err(Error::argument(format!("a reason has at most {MAX_REASON_BYTES} bytes, this one has {length}")));
    }
    // The two that break lines without being control characters break them in logs and terminals too.
    if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(Error::argument("a reason must not contain control characters"));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

pub(super) fn hold(seconds: u32) -> Result<Duration, Error> {
    if seconds > MAX_HOLD_SECONDS {
        return Err(Error::argument(format!("hold_seconds is at most {MAX_HOLD_SECONDS}, this one is {seconds}")));
    }
    Ok(Duration::from_secs(seconds.into()))
}

pub(super) fn message(text: &str, max: usize) -> Result<Arc<str>, Error> {
    match text.len() {
        0 => Err(Error::argument("a message must not be empty")),
        length if length > max => {
            Err(Error::argument(format!("a message has at most {max} bytes, this one has {length}")))
        }
        _ => Ok(text.into()),
    }
}

/// Messages to be removed: one, or all of whomever or of one user from the first to the last.
pub(super) fn selection(first: u64, last: u64, of: &str) -> Result<Selection, Error> {
    let last = if last == 0 { first } else { last };
    if first == 0 || last < first {
        let rule = "first_seq must be at least 1, the seq of a group's first message, and last_seq no less, or 0 for first_seq alone";
        return Err(Error::argument(rule));
    }
    if last - first >= Selection::MOST {
        let most = Selection::MOST;
        return Err(Error::argument(format!(
            "first_seq and last_seq must be less than {most} apart: remove them in parts"
        )));
    }
    let sender = if of.is_empty() { None } else { Some(sender(of)?.as_str().to_owned()) };
    Ok(Selection { first, last, sender })
}

/// What makes a repeated announcement harmless; nothing if it is empty.
pub(super) fn post_id(text: &str) -> Result<Option<PostId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    PostId::new(text).map(Some).map_err(|error| Error::argument(error.to_string()))
}

/// A text of the caller's that goes into a status is cut: whoever reads it knows what was sent.
fn short(text: &str) -> String {
    const MOST: usize = 64;
    text.chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_its_limit_and_no_control_characters() {
        assert_eq!(reason("").unwrap(), None);
        assert_eq!(reason(&"é".repeat(256)).unwrap().unwrap().len(), 512);
        let error = reason(&"x".repeat(513)).unwrap_err().to_string();
        assert_eq!(error, "a reason has at most 512 bytes, this one has 513");
        for bad in ["a\nb", "a\tb", "\u{7f}", "\u{2028}"] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn targets_are_exact() {
        assert_eq!(connection("c-17").unwrap(), ConnectionId(17));
        for bad in ["", "17", "c-", "c-+1", "c-x", "c-99999999999999999999999"] {
            assert!(connection(bad).is_err(), "{bad:?}");
        }
        assert_eq!(address("::ffff:10.0.0.1").unwrap(), address("10.0.0.1").unwrap());
        for bad in ["", "10.0.0.1:80", "localhost", "10.0.0"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
        let error = kick_target(None).unwrap_err().to_string();
        assert_eq!(error, "a target is needed: user, connection_id or address");
        assert!(kick_target(Some(kick_member_request::Target::User(String::new()))).is_err());
    }

    #[test]
    fn a_hold_lasts_a_year_at_most() {
        assert_eq!(hold(31_536_000).unwrap().as_secs(), 31_536_000);
        assert!(hold(31_536_001).is_err());
    }
}
