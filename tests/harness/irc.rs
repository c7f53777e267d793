//! Reads logs of IRC channels, so that real conversations can be held again.
//!
//! Every line is something that happened: a post `[HH:MM] <nick> text`, an action `[HH:MM]  * nick text` (older logs write
//! `=== nick text`), `=== nick [host]  has joined #channel`, `has left`, `was kicked off`, `is now known as`, and the channel's
//! own notices, such as `=== mode/#channel …`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::environment;

/// A conversation of our own, which is always there.
const OURS: &str = include_str!("../conversations/reading-circle.log");

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Somebody said something.
    Said {
        /// Who.
        nick: String,
        /// What.
        text: String,
    },
    /// Somebody did something: `* nick waves`.
    Did {
        /// Who.
        nick: String,
        /// What.
        text: String,
    },
    /// Somebody came.
    Joined {
        /// Who.
        nick: String,
    },
    /// Somebody went, or was made to go.
    Left {
        /// Who.
        nick: String,
    },
    /// Somebody took another name.
    Renamed {
        /// The name before.
        from: String,
        /// The name since.
        to: String,
    },
    /// The channel itself says something.
    Noticed {
        /// What.
        text: String,
    },
}

/// All that happened in a channel for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Where it was: the name of the file.
    pub name: String,
    /// What happened, oldest first.
    pub happenings: Vec<Happening>,
}

impl Conversation {
    /// Reads a log. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn parse(name: &str, log: &[u8]) -> Self {
        let log = String::from_utf8_lossy(log);
        let lines = log.split('\n').map(|line| line.trim_end_matches('\r')).filter(|line| !line.is_empty());
        Self { name: name.to_owned(), happenings: lines.map(parse_line).collect() }
    }

    /// The conversation of our own.
    #[must_use]
    pub fn ours() -> Self {
        Self::parse("reading-circle", OURS.as_bytes())
    }
}

/// The real conversations, ordered by name: those of the directory that `TERTULIA_IRC_DIR` names, or of `../shared/data/irc`
/// beside the repository. `None`, after a message, if there are none.
///
/// # Errors
/// If they are there but cannot be read, or `TERTULIA_IRC_DIR` names what is no directory.
pub fn real_conversations() -> Result<Option<Vec<Conversation>>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("TERTULIA_IRC_DIR").map(PathBuf::from);
    let directory = named.clone().unwrap_or_else(|| repository.join("../shared/data/irc"));
    if !directory.is_dir() {
        // They are no part of the repository, so nobody needs to have them; but who names a place is to hear that there are none.
        ensure!(named.is_none(), "TERTULIA_IRC_DIR = {}: is no directory", directory.display());
        let missing = format!("no conversations in {} (TERTULIA_IRC_DIR says where they are)", directory.display());
        environment::announce(&format!("left out: {missing}"));
        return Ok(None);
    }
    let entries = std::fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    let conversations = paths.iter().map(|path| {
        let log = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Conversation::parse(&name, &log))
    });
    conversations.collect::<Result<_>>().map(Some)
}

fn parse_line(line: &str) -> Happening {
    parse_timed(line)
        .or_else(|| line.strip_prefix("=== ").map(parse_event))
        .unwrap_or_else(|| Happening::Noticed { text: line.to_owned() })
}

/// `[03:12] <nick> text` or `[03:12]  * nick text`.
fn parse_timed(line: &str) -> Option<Happening> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let (hours, minutes) = time.split_once(':')?;
    if ![hours, minutes].iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    if let Some((nick, text)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        let text = text.strip_prefix(' ').unwrap_or(text);
        return Some(Happening::Said { nick: nick.to_owned(), text: text.to_owned() });
    }
    let action = rest.trim_start().strip_prefix("* ")?;
    let (nick, text) = action.split_once(' ').unwrap_or((action, ""));
    Some(Happening::Did { nick: nick.to_owned(), text: text.to_owned() })
}

/// What follows `=== `.
fn parse_event(event: &str) -> Happening {
    let noticed = || Happening::Noticed { text: event.to_owned() };
    let Some((nick, what)) = event.split_once(' ') else { return noticed() };
    let nick = nick.to_owned();
    if let Some(to) = what.strip_prefix("is now known as ") {
        return Happening::Renamed { from: nick, to: to.trim().to_owned() };
    }
    if what.starts_with("was kicked off #") {
        return Happening::Left { nick };
    }
    // `[host]`, which may itself hold brackets, then what happened.
    if what.starts_with('[') {
        if what.contains("]  has joined #") {
            return Happening::Joined { nick };
        }
        if what.contains("]  has left #") {
            return Happening::Left { nick };
        }
    }
    if nick.starts_with("mode/") || nick.starts_with("..[") || nick.starts_with('#') {
        return noticed();
    }
    Happening::Did { nick, text: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(nick: &str, text: &str) -> Happening {
        Happening::Said { nick: nick.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn every_kind_of_line_is_understood() {
        let log = b"[03:12] <ada> hello: [is] <this> on?\r\n\
                    [03:12]  * bob waves\n\
                    === carol waves too\n\
                    === dan [~d@host[1].example]  has joined #ubuntu\n\
                    === dan [n=d@host]  has left #ubuntu [\"Bye\"] \n\
                    === eve is now known as eve_\n\
                    === fay was kicked off #ubuntu by ops (flood)\n\
                    === mode/#ubuntu [+o ops]  by ChanServ\n\
                    \n\
                    [03:13] <a|b> \n\
                    [03:13] <gus> caf\xe9\n";
        let expected = [
            said("ada", "hello: [is] <this> on?"),
            Happening::Did { nick: "bob".into(), text: "waves".into() },
            Happening::Did { nick: "carol".into(), text: "waves too".into() },
            Happening::Joined { nick: "dan".into() },
            Happening::Left { nick: "dan".into() },
            Happening::Renamed { from: "eve".into(), to: "eve_".into() },
            Happening::Left { nick: "fay".into() },
            Happening::Noticed { text: "mode/#ubuntu [+o ops]  by ChanServ".into() },
            said("a|b", ""),
            said("gus", "caf\u{fffd}"),
        ];
        assert_eq!(Conversation::parse("x", log).happenings, expected);
    }

    #[test]
    fn our_own_conversation_has_everything_that_real_ones_have() {
        let ours = Conversation::ours().happenings;
        let count = |kind: fn(&Happening) -> bool| ours.iter().filter(|happening| kind(happening)).count();
        assert!(count(|it| matches!(it, Happening::Said { .. })) >= 40);
        assert!(count(|it| matches!(it, Happening::Did { .. })) >= 2);
        assert!(count(|it| matches!(it, Happening::Joined { .. })) >= 4);
        assert!(count(|it| matches!(it, Happening::Left { .. })) >= 3);
        assert!(count(|it| matches!(it, Happening::Renamed { .. })) >= 2);
        assert!(count(|it| matches!(it, Happening::Noticed { .. })) >= 1);
    }

    #[test]
    fn the_real_conversations_are_whole() {
        let Some(conversations) = real_conversations().unwrap() else { return };
        let lines: usize = conversations.iter().map(|conversation| conversation.happenings.len()).sum();
        println!("{} conversations, {lines} lines", conversations.len());
        assert!(conversations.iter().all(|conversation| conversation.happenings.len() > 50));
    }
}
