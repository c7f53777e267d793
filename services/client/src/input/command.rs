//! What a typed line means. Pure.
//!
//! The rule, in this order:
//!
//! 1. A blank line means nothing.
//! 2. `//TEXT` posts `/TEXT` to the current group; any other line that begins with `/` is a command: `/join Dogs`.
//! 3. A line whose first word is the name of a command is that command: `join Dogs`. `say TEXT` posts a text that begins
//!    with such a word.
//! 4. Any other line is posted to the current group, which is the group that was joined or posted to last by a command.
//!
//! With `--raw` there is one rule: every line is posted as it stands to the group that was joined.
//!
//! Which group is current depends on what was typed alone, never on what the server says meanwhile: a text cannot end up
//! in a group that its author did not name.

use tertulia_protocol::GroupName;

/// What the person wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Become a member, and see the newest few messages first.
    Join {
        /// The group.
        group: String,
        /// So many.
        last: Option<u64>,
    },
    /// Stop being a member.
    Leave {
        /// The group.
        group: String,
    },
    /// Send a message.
    Post {
        /// The group.
        group: String,
        /// The text.
        text: String,
    },
    /// List the users in a group.
    Members {
        /// The group.
        group: String,
    },
    /// List the groups.
    Groups {
        /// Only those whose names begin so.
        prefix: Option<String>,
    },
    /// Show messages of the past.
    History {
        /// The group.
        group: String,
        /// So many.
        count: u64,
    },
    /// Take back a message of one's own.
    Remove {
        /// The group.
        group: String,
        /// Which; without it the one that was posted last in this session.
        seq: Option<u64>,
    },
    /// Show the commands.
    Help,
    /// End the session.
    Quit,
}

/// Why a line means nothing that can be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mistake {
    /// The arguments do not fit.
    #[error("usage: {usage} (to post this line as it stands: say {line})")]
    Usage {
        /// How the command is used.
        usage: &'static str,
        /// The line.
        line: String,
    },
    /// No such command.
    #[error("no command '/{0}': try /help; to post a text that begins with '/', double it")]
    Unknown(String),
    /// Nothing was joined.
    #[error("there is no current group: join one first")]
    NoGroup,
    /// The name breaks a rule.
    #[error(transparent)]
    Name(#[from] tertulia_protocol::NameError),
}

/// The commands, for `help`.
pub(crate) const HELP: &str = "\
join GROUP [--last N]   become a member, and see the newest N messages first
leave [GROUP]           stop being a member
post GROUP TEXT         post to that group, which becomes the current one
say TEXT                post to the current group, whatever the text begins with
members [GROUP]         who is in the group
groups [PREFIX]         the groups there are
history [GROUP] [N]     the newest N messages (20)
remove [GROUP] [SEQ]    take back what you posted last, or your message SEQ
help                    this list
quit                    end, as does Control-D

Any other line is posted to the current group. Commands may begin with a slash (/join GROUP); a text that
begins with one is typed with two (//TEXT). A group name with blanks is put in double quotes: join \"two words\".
";

/// Messages of history that are shown if no number is given.
const HISTORY: u64 = 20;

/// Reads lines, and remembers which group is the current one.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    current: Option<String>,
    /// Whether no line is a command.
    raw: bool,
}

impl Reader {
    /// Begins with that group as the current one.
    pub(crate) fn new(current: Option<String>) -> Self {
        Self { current, raw: false }
    }

    /// Takes every line as a text for that group.
    pub(crate) fn raw(group: String) -> Self {
        Self { current: Some(group), raw: true }
    }

    /// The current group.
    pub(crate) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Says what a line means; `None` if nothing.
    pub(crate) fn read(&mut self, line: &str) -> Result<Option<Command>, Mistake> {
        if self.raw {
            return self.say(line).map(Some);
        }
        let text = line.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if let Some(rest) = text.strip_prefix('/') {
            if rest.starts_with('/') {
                return self.say(rest).map(Some);
            }
            let (word, rest) = split_word(rest);
            return match self.command(word, rest, text) {
                Some(command) => command.map(Some),
                None => Err(Mistake::Unknown(word.to_owned())),
            };
        }
        let (word, rest) = split_word(text);
        match self.command(word, rest, text) {
            Some(command) => command.map(Some),
            None => self.say(line.trim_end()).map(Some),
        }
    }

    /// `None` if `word` is not the name of a command.
    fn command(&mut self, word: &str, rest: &str, line: &str) -> Option<Result<Command, Mistake>> {
        let usage = |usage| Mistake::Usage { usage, line: line.to_owned() };
        Some(match word {
            "join" => self.join(rest, usage("join GROUP [--last N]")),
            "leave" => self.leave(rest, usage("leave [GROUP]")),
            "post" => self.post(rest, usage("post GROUP TEXT")),
            "say" if rest.is_empty() => Err(usage("say TEXT")),
            "say" => self.say(rest),
            "members" => self.optional_group(rest, usage("members [GROUP]")).map(|group| Command::Members { group }),
            "groups" => match arguments(rest).as_deref() {
                Some([]) => Ok(Command::Groups { prefix: None }),
                Some([prefix]) => Ok(Command::Groups { prefix: Some((*prefix).to_owned()) }),
                _ => Err(usage("groups [PREFIX]")),
            },
            "history" => self.history(rest, usage("history [GROUP] [N]")),
            "remove" => self.remove(rest, usage("remove [GROUP] [SEQ]")),
            "help" if rest.is_empty() => Ok(Command::Help),
            "help" => Err(usage("help")),
            "quit" if rest.is_empty() => Ok(Command::Quit),
            "quit" => Err(usage("quit")),
            _ => return None,
        })
    }

    fn join(&mut self, rest: &str, usage: Mistake) -> Result<Command, Mistake> {
        let (group, last) = match arguments(rest).as_deref() {
            Some([group]) => (checked(group)?, None),
            Some([group, "--last", count]) => (checked(group)?, Some(count.parse().map_err(|_| usage)?)),
            _ => return Err(usage),
        };
        self.current = Some(group.clone());
        Ok(Command::Join { group, last })
    }

    fn leave(&mut self, rest: &str, usage: Mistake) -> Result<Command, Mistake> {
        let group = self.optional_group(rest, usage)?;
        if self.current.as_ref() == Some(&group) {
            self.current = None;
        }
        Ok(Command::Leave { group })
    }

    fn post(&mut self, rest: &str, usage: Mistake) -> Result<Command, Mistake> {
        let Some((group, text)) = split_argument(rest) else { return Err(usage) };
        if text.is_empty() {
            return Err(usage);
        }
        let group = checked(group)?;
        self.current = Some(group.clone());
        Ok(Command::Post { group, text: text.to_owned() })
    }

    fn say(&self, text: &str) -> Result<Command, Mistake> {
        let group = self.current.clone().ok_or(Mistake::NoGroup)?;
        Ok(Command::Post { group, text: text.to_owned() })
    }

    fn history(&self, rest: &str, usage: Mistake) -> Result<Command, Mistake> {
        let (group, count) = self.group_and_number(rest, usage)?;
        Ok(Command::History { group, count: count.unwrap_or(HISTORY) })
    }

    fn remove(&self, rest: &str, usage: Mistake) -> Result<Command, Mistake> {
        let (group, seq) = self.group_and_number(rest, usage)?;
        Ok(Command::Remove { group, seq })
    }

    /// A group, the current one without one, and a number, if there is one.
    fn group_and_number(&self, rest: &str, usage: Mistake) -> Result<(String, Option<u64>), Mistake> {
        let current = || self.current.clone().ok_or(Mistake::NoGroup);
        let (group, number) = match arguments(rest).as_deref() {
            Some([]) => (current()?, None),
            Some([one]) => match one.parse() {
                Ok(number) => (current()?, Some(number)),
                Err(_) => (checked(one)?, None),
            },
            Some([group, number]) => match number.parse() {
                Ok(number) => (checked(group)?, Some(number)),
                Err(_) => return Err(usage),
            },
            _ => return Err(usage),
        };
        // The newest none are nothing that can be asked for, nor is there a message 0.
        if number == Some(0) { Err(usage) } else { Ok((group, number)) }
    }

    fn optional_group(&self, rest: &str, usage: Mistake) -> Result<String, Mistake> {
        match arguments(rest).as_deref() {
            Some([]) => self.current.clone().ok_or(Mistake::NoGroup),
            Some([group]) => Ok(checked(group)?),
            _ => Err(usage),
        }
    }
}

fn checked(group: &str) -> Result<String, tertulia_protocol::NameError> {
    GroupName::new(group).map(|name| name.as_str().to_owned())
}

/// The first run of characters that are not blank, and the rest without blanks before it.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

/// As [`split_word`], but a word in double quotes may contain blanks; `None` if a quote is not closed or nothing is left.
fn split_argument(text: &str) -> Option<(&str, &str)> {
    if text.is_empty() {
        return None;
    }
    match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').map(|(word, rest)| (word, rest.trim_start())),
        None => Some(split_word(text)),
    }
}

fn arguments(mut text: &str) -> Option<Vec<&str>> {
    let mut all = Vec::new();
    while !text.is_empty() {
        let (argument, rest) = split_argument(text)?;
        all.push(argument);
        text = rest;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_dogs() -> Reader {
        Reader::new(Some("Dogs".into()))
    }

    fn read(line: &str) -> Command {
        in_dogs().read(line).unwrap().unwrap()
    }

    fn post(group: &str, text: &str) -> Command {
        Command::Post { group: group.into(), text: text.into() }
    }

    #[test]
    fn commands_with_and_without_a_slash() {
        for line in ["join Cats", "/join Cats", "  join   Cats  "] {
            assert_eq!(read(line), Command::Join { group: "Cats".into(), last: None }, "{line}");
        }
        assert_eq!(read("join Cats --last 20"), Command::Join { group: "Cats".into(), last: Some(20) });
        assert_eq!(read("join \"two words\""), Command::Join { group: "two words".into(), last: None });
        assert_eq!(read("leave"), Command::Leave { group: "Dogs".into() });
        assert_eq!(read("members Cats"), Command::Members { group: "Cats".into() });
        assert_eq!(read("groups"), Command::Groups { prefix: None });
        assert_eq!(read("groups Do"), Command::Groups { prefix: Some("Do".into()) });
        assert_eq!(read("/help"), Command::Help);
        assert_eq!(read("quit"), Command::Quit);
    }

    #[test]
    fn anything_else_is_posted_as_it_was_typed() {
        assert_eq!(read("Samoyeds   rock!"), post("Dogs", "Samoyeds   rock!"));
        assert_eq!(read("  indented"), post("Dogs", "  indented"));
        assert_eq!(read("Join us"), post("Dogs", "Join us"));
        assert_eq!(read("post Cats  meow  meow"), post("Cats", "meow  meow"));
        assert_eq!(read("post \"two words\" hi"), post("two words", "hi"));
    }

    #[test]
    fn what_looks_like_a_command_can_be_posted() {
        assert_eq!(read("say quit smoking"), post("Dogs", "quit smoking"));
        assert_eq!(read("//etc/passwd"), post("Dogs", "/etc/passwd"));
        assert_eq!(read("/say /etc"), post("Dogs", "/etc"));
    }

    #[test]
    fn raw_lines_are_texts_whatever_they_look_like() {
        let mut reader = Reader::raw("Dogs".into());
        for line in ["quit", "/leave", "//x", "  a  ", "", "join me"] {
            assert_eq!(reader.read(line), Ok(Some(post("Dogs", line))));
        }
    }

    #[test]
    fn arguments_that_do_not_fit_do_nothing() {
        for line in ["join me for lunch", "quit smoking", "help me", "post Dogs", "say", "join \"open", "leave a b"] {
            let mut reader = in_dogs();
            assert!(matches!(reader.read(line), Err(Mistake::Usage { .. })), "{line}");
            assert_eq!(reader.current(), Some("Dogs"), "{line}");
        }
        assert_eq!(in_dogs().read("/joni Cats"), Err(Mistake::Unknown("joni".into())));
        assert!(matches!(in_dogs().read("join \" x\""), Err(Mistake::Name(_))));
    }

    #[test]
    fn a_number_alone_is_a_count() {
        assert_eq!(read("history"), Command::History { group: "Dogs".into(), count: 20 });
        assert_eq!(read("history 5"), Command::History { group: "Dogs".into(), count: 5 });
        assert_eq!(read("history Cats"), Command::History { group: "Cats".into(), count: 20 });
        assert_eq!(read("history 5 7"), Command::History { group: "5".into(), count: 7 });
        let remove = |group: &str, seq| Command::Remove { group: group.into(), seq };
        assert_eq!(
            ["remove", "remove Cats", "/remove 7"].map(read),
            [remove("Dogs", None), remove("Cats", None), remove("Dogs", Some(7))]
        );
        assert_eq!(read("remove Cats 7"), remove("Cats", Some(7)));
        for line in ["history 0", "history Cats 0", "remove 0", "remove that please"] {
            assert!(matches!(in_dogs().read(line), Err(Mistake::Usage { .. })), "{line}");
        }
    }

    #[test]
    fn the_current_group_is_the_one_last_joined_or_posted_to() {
        let mut reader = Reader::default();
        assert_eq!(reader.read("hello"), Err(Mistake::NoGroup));
        assert_eq!(reader.read("   "), Ok(None));
        reader.read("join Dogs").unwrap();
        reader.read("post Cats meow").unwrap();
        assert_eq!(reader.read("purr"), Ok(Some(post("Cats", "purr"))));
        reader.read("leave Dogs").unwrap();
        assert_eq!(reader.current(), Some("Cats"));
        reader.read("leave").unwrap();
        assert_eq!(reader.current(), None);
    }
}
