//! Names of streams and subjects, and how the name of a group becomes a token of a subject.
//!
//! ```text
//! stream   <prefix>-log-<stream>                        holds <prefix>.log.<stream>.>
//! fence    <prefix>.log.<stream>.<shard>.fence          who may extend the shard
//! group    <prefix>.log.<stream>.<shard>.group.<token>  what the group's members wrote
//! substitute  <prefix>.log.<stream>.<shard>.removed.<token>.<seq>
//!                                                       what stands for the message of the group whose last record is `seq`
//! ```
//!
//! `stream = shard mod streams`. In a token letters, digits, `-` and `_` stand for themselves and every other byte is `=` and two
//! hexadecimal digits. All this is stored: it never changes.

use tertulia_protocol::GroupName;

/// Makes the names of one deployment.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: String,
    streams: u16,
}

impl Names {
    pub(crate) fn new(prefix: &str, streams: u16) -> Self {
        Self { prefix: prefix.to_owned(), streams: streams.max(1) }
    }

    pub(crate) fn streams(&self) -> u16 {
        self.streams
    }

    pub(crate) fn stream_of(&self, shard: u16) -> u16 {
        shard % self.streams
    }

    pub(crate) fn stream(&self, stream: u16) -> String {
        format!("{}-log-{stream}", self.prefix)
    }

    pub(crate) fn all_of_stream(&self, stream: u16) -> String {
        format!("{}.log.{stream}.>", self.prefix)
    }

    fn shard(&self, shard: u16) -> String {
        format!("{}.log.{}.{shard}", self.prefix, self.stream_of(shard))
    }

    pub(crate) fn fence(&self, shard: u16) -> String {
        format!("{}.fence", self.shard(shard))
    }

    pub(crate) fn group(&self, shard: u16, group: &GroupName) -> String {
        format!("{}.group.{}", self.shard(shard), escape(group.as_str().as_bytes()))
    }

    /// The groups of a shard, for filters.
    pub(crate) fn groups_of_shard(&self, shard: u16) -> String {
        format!("{}.group.*", self.shard(shard))
    }

    /// What stands for the message of a group whose last record is `last`.
    pub(crate) fn substitute(&self, shard: u16, group: &GroupName, last: u64) -> String {
        format!("{}.removed.{}.{last}", self.shard(shard), escape(group.as_str().as_bytes()))
    }

    /// All substitutes of a group, for filters.
    pub(crate) fn substitutes_of(&self, shard: u16, group: &GroupName) -> String {
        format!("{}.removed.{}.*", self.shard(shard), escape(group.as_str().as_bytes()))
    }

    /// All substitutes of a stream, for filters.
    pub(crate) fn substitutes_of_stream(&self, stream: u16) -> String {
        format!("{}.log.{stream}.*.removed.*.*", self.prefix)
    }

    /// The shard, the group and the last `seq` of a subject that [`Names::substitute`] made.
    pub(crate) fn parse_substitute(&self, subject: &str) -> Option<(u16, GroupName, u64)> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".log.")?;
        let tokens: Vec<&str> = rest.split('.').collect();
        let [_stream, shard, "removed", token, last] = tokens[..] else { return None };
        Some((shard.parse().ok()?, decode(token)?, last.parse().ok()?))
    }

    /// The shard and the group of a subject that [`Names::group`] made.
    pub(crate) fn parse_group(&self, subject: &str) -> Option<(u16, GroupName)> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".log.")?;
        let mut tokens = rest.split('.');
        let (_stream, shard, kind, token) = (tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?);
        let is_group = kind == "group" && tokens.next().is_none();
        if !is_group {
            return None;
        }
        Some((shard.parse().ok()?, decode(token)?))
    }
}

fn decode(token: &str) -> Option<GroupName> {
    let mut name = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'=' {
            name.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        name.push(u8::try_from(high * 16 + low).ok()?);
    }
    GroupName::new(std::str::from_utf8(&name).ok()?).ok()
}

/// A text as a token of a subject.
pub(super) fn escape(text: &[u8]) -> String {
    let mut token = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            token.push(char::from(*byte));
        } else {
            let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0').to_ascii_uppercase();
            token.extend(['=', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_names_are_pinned() {
        let names = Names::new("tertulia", 16);
        assert_eq!(names.stream(names.stream_of(787)), "tertulia-log-3");
        assert_eq!(names.fence(787), "tertulia.log.3.787.fence");
        let subject = |group| names.group(787, &GroupName::new(group).unwrap());
        let substitute = names.substitute(787, &GroupName::new("a.b").unwrap(), 12);
        assert_eq!(substitute, "tertulia.log.3.787.removed.a=2Eb.12");
        assert_eq!(subject("general-1_B"), "tertulia.log.3.787.group.general-1_B");
        assert_eq!(subject("a.b *>=é"), "tertulia.log.3.787.group.a=2Eb=20=2A=3E=3D=C3=A9");
    }

    #[test]
    fn what_is_no_group_is_not_taken_for_one() {
        let names = Names::new("tertulia", 16);
        for subject in [
            "tertulia.log.3.787.fence",
            "other.log.3.787.group.a",
            "tertulia.log.3.787.group.=4",
            "tertulia.log.3.x.group.a",
        ] {
            assert_eq!(names.parse_group(subject), None, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in "\\PC{1,60}", shard in 0u16..1024) {
            let Ok(group) = GroupName::new(&name) else { return Ok(()) };
            let names = Names::new("some-prefix", 7);
            let subject = names.group(shard, &group);
            prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>'));
            prop_assert_eq!(subject.matches('.').count(), 5);
            prop_assert_eq!(names.parse_group(&subject), Some((shard, group.clone())));
            prop_assert_eq!(names.parse_substitute(&subject), None);
            let substitute = names.substitute(shard, &group, 17);
            prop_assert_eq!(names.parse_group(&substitute), None);
            prop_assert_eq!(names.parse_substitute(&substitute), Some((shard, group, 17)));
        }
    }
}
