//! How events look, as lines. Pure.
//!
//! Where standard output is no terminal, each line is a record: fields separated by a tab, and no tab or line end within
//! a field, since control characters are written as escapes and a backslash as two ([`super::escape`]).
//!
//! ```text
//! message  GROUP  SEQ  TIME  SENDER  TEXT
//! history  GROUP  SEQ  TIME  SENDER  TEXT
//! removed  GROUP  SEQ  TIME  SENDER         instead of these, if the text was removed
//! removal  GROUP  FIRST  LAST  SENDER       after one that tells of a removal; SENDER may be empty
//! missing  GROUP  FIRST  LAST
//! member   GROUP  USER
//! group    GROUP  MEMBERS  HEAD
//! ```
//!
//! `TIME` is UTC, such as `2026-01-31T12:00:00.000Z`. What is said for people only (joined, connected again, refused)
//! goes to standard error.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use super::escape::{Backslash, escape};
use crate::input::HELP;
use crate::session::event::{Event, GroupLine, Line, Removed};

/// Lines for the two outputs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Lines {
    /// For standard output.
    pub(crate) out: String,
    /// For standard error.
    pub(crate) err: String,
}

impl Lines {
    /// How many bytes they have.
    pub(crate) fn bytes(&self) -> u64 {
        (self.out.len() + self.err.len()) as u64
    }
}

/// Who reads the lines.
#[derive(Debug, Clone)]
pub(crate) enum Style {
    /// A program.
    Record,
    /// A person.
    Terminal {
        /// Whether to use colours.
        color: bool,
        /// Where the person is.
        zone: TimeZone,
    },
}

const DIM: &str = "2";
const YELLOW: &str = "33";
const RED: &str = "31";
const OWN: &str = "1";
const GROUP: &str = "36";
/// Green, yellow, blue, magenta and their bright forms: readable on dark and on light.
const SENDERS: [&str; 8] = ["32", "33", "34", "35", "92", "93", "94", "95"];

/// Writes events as lines. `user` is the person's own name.
pub(crate) fn lines(style: &Style, events: &[Event], user: Option<&str>, now: Timestamp) -> Lines {
    let mut lines = Lines::default();
    for event in events {
        match style {
            Style::Record => record(event, &mut lines),
            Style::Terminal { color, zone } => {
                let mut writer = Writer { out: &mut lines.out, color: *color };
                writer.event(event, user, &now.to_zoned_datetime(zone.clone()));
            }
        }
    }
    lines
}

fn record(event: &Event, lines: &mut Lines) {
    let out = &mut lines.out;
    match event {
        Event::Message(line) => message_record("message", line, out),
        Event::Past(line) => message_record("history", line, out),
        Event::Missing { group, first, last } => {
            fields(&["missing", group, &first.to_string(), &last.to_string()], out)
        }
        Event::Members { group, users } => {
            for user in users {
                fields(&["member", group, user], out);
            }
        }
        Event::Groups(groups) => {
            for GroupLine { name, members, head } in groups {
                fields(&["group", name, &members.to_string(), &head.to_string()], out);
            }
        }
        Event::Help => lines.err.push_str(HELP),
        Event::Note(text) | Event::Problem(text) => {
            lines.err.push_str("tertulia: ");
            escape(text, Backslash::Keep, &mut lines.err);
            lines.err.push('\n');
        }
    }
}

fn message_record(kind: &str, line: &Line, out: &mut String) {
    let time = match timestamp(line.at) {
        Some(time) => time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        None => "-".to_owned(),
    };
    let seq = line.seq.to_string();
    if line.removed {
        return fields(&["removed", &line.group, &seq, &time, &line.sender], out);
    }
    fields(&[kind, &line.group, &seq, &time, &line.sender, &line.text], out);
    if let Some(Removed { first, last, sender }) = &line.removes {
        let sender = sender.as_deref().unwrap_or_default();
        fields(&["removal", &line.group, &first.to_string(), &last.to_string(), sender], out);
    }
}

fn fields(all: &[&str], out: &mut String) {
    for (at, field) in all.iter().enumerate() {
        if at > 0 {
            out.push('\t');
        }
        escape(field, Backslash::Double, out);
    }
    out.push('\n');
}

fn timestamp(at: u64) -> Option<Timestamp> {
    i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok())
}

struct Writer<'a> {
    out: &'a mut String,
    color: bool,
}

impl Writer<'_> {
    fn event(&mut self, event: &Event, user: Option<&str>, now: &ZonedDateTime) {
        match event {
            Event::Message(line) | Event::Past(line) => self.message(line, user, now),
            Event::Missing { group, first, last } => {
                let what =
                    if first == last { format!("message {first}") } else { format!("messages {first} to {last}") };
                self.remark(RED, &format!("{group}: {what} are no longer kept"));
            }
            Event::Members { group, users } => self.remark(DIM, &format!("{group}: {}", users.join(", "))),
            Event::Groups(groups) if groups.is_empty() => self.remark(DIM, "no groups"),
            Event::Groups(groups) => {
                for GroupLine { name, members, head } in groups {
                    self.remark(DIM, &format!("{name}: {members} members, {head} messages"));
                }
            }
            Event::Help => self.out.push_str(HELP),
            Event::Note(text) => self.remark(DIM, text),
            Event::Problem(text) => self.remark(YELLOW, text),
        }
    }

    fn message(&mut self, line: &Line, user: Option<&str>, now: &ZonedDateTime) {
        let time = match timestamp(line.at).map(|time| time.to_zoned_datetime(now.time_zone().clone())) {
            Some(time) if time.date() == now.date() => time.strftime("%H:%M:%S").to_string(),
            Some(time) => time.strftime("%Y-%m-%d %H:%M").to_string(),
            None => "--:--:--".to_owned(),
        };
        let sender_style = if user == Some(&line.sender) { OWN } else { sender_color(&line.sender) };
        self.styled(DIM, &time);
        self.out.push(' ');
        self.styled(GROUP, &line.group);
        self.out.push(' ');
        self.styled(sender_style, &line.sender);
        self.out.push_str(": ");
        if line.removed {
            self.styled(DIM, "(removed)");
        } else {
            escape(&line.text, Backslash::Keep, self.out);
        }
        self.out.push('\n');
    }

    fn remark(&mut self, style: &str, text: &str) {
        self.styled(style, &format!("-- {text}"));
        self.out.push('\n');
    }

    /// Writes `text`, escaped, in a style of "select graphic rendition".
    fn styled(&mut self, style: &str, text: &str) {
        if self.color {
            self.out.push_str("\u{1b}[");
            self.out.push_str(style);
            self.out.push('m');
        }
        escape(text, Backslash::Keep, self.out);
        if self.color {
            self.out.push_str("\u{1b}[0m");
        }
    }
}

/// The same colour for the same name, always (FNV-1a).
fn sender_color(name: &str) -> &'static str {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    SENDERS.get(hash as usize % SENDERS.len()).copied().unwrap_or(GROUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_769_860_800_000; // 2026-01-31T12:00:00Z

    fn message(text: &str) -> Event {
        Event::Message(Line {
            group: "Dogs".into(),
            seq: 7,
            sender: "bob".into(),
            at: NOON,
            text: text.into(),
            ..Line::default()
        })
    }

    fn now() -> Timestamp {
        Timestamp::from_millisecond(NOON as i64 + 5_000).unwrap()
    }

    fn terminal(events: &[Event], color: bool) -> String {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let lines = lines(&Style::Terminal { color, zone }, events, Some("ada"), now());
        assert_eq!(lines.err, "");
        lines.out
    }

    #[test]
    fn records_have_fields_that_cannot_be_forged() {
        let events = [message("woof\tbob\nmessage\\"), Event::Missing { group: "Dogs".into(), first: 2, last: 5 }];
        let lines = lines(&Style::Record, &events, None, now());
        assert_eq!(
            lines.out,
            "message\tDogs\t7\t2026-01-31T12:00:00.000Z\tbob\twoof\\tbob\\nmessage\\\\\nmissing\tDogs\t2\t5\n"
        );
    }

    #[test]
    fn what_was_removed_says_so_and_what_tells_of_it_is_told_to_programs() {
        let line = |seq, text: &str| Line {
            group: "Dogs".into(),
            seq,
            sender: "bob".into(),
            at: NOON,
            text: text.into(),
            ..Line::default()
        };
        let removed = || Line { removed: true, ..line(2, "") };
        let told = |sender: Option<&str>| {
            let removes = Some(Removed { first: 2, last: 5, sender: sender.map(str::to_owned) });
            Line { sender: "@system".into(), removes, ..line(9, "4 messages were removed.") }
        };
        let events = [
            Event::Past(removed()),
            Event::Message(removed()),
            Event::Message(told(Some("bob"))),
            Event::Past(told(None)),
        ];
        let time = "2026-01-31T12:00:00.000Z";
        let told = format!("Dogs\t9\t{time}\t@system\t4 messages were removed.");
        assert_eq!(
            lines(&Style::Record, &events, None, now()).out,
            format!(
                "removed\tDogs\t2\t{time}\tbob\nremoved\tDogs\t2\t{time}\tbob\n\
                 message\t{told}\nremoval\tDogs\t2\t5\tbob\nhistory\t{told}\nremoval\tDogs\t2\t5\t\n"
            )
        );
        let shown = "13:00:00 Dogs bob: (removed)\n13:00:00 Dogs @system: 4 messages were removed.\n";
        assert_eq!(terminal(&events[1..3], false), shown);
    }

    #[test]
    fn answers_are_records_and_remarks_are_not() {
        let events = [
            Event::Members { group: "Dogs".into(), users: vec!["ada".into(), "bob".into()] },
            Event::Groups(vec![GroupLine { name: "Dogs".into(), members: 2, head: 7 }]),
            Event::Note("joined Dogs".into()),
            Event::Problem("refused\u{1b}[2J".into()),
        ];
        let lines = lines(&Style::Record, &events, None, now());
        assert_eq!(lines.out, "member\tDogs\tada\nmember\tDogs\tbob\ngroup\tDogs\t2\t7\n");
        assert_eq!(lines.err, "tertulia: joined Dogs\ntertulia: refused\\u{1b}[2J\n");
    }

    #[test]
    fn people_see_their_own_time() {
        assert_eq!(terminal(&[message("woof")], false), "13:00:00 Dogs bob: woof\n");
        let line =
            Line { group: "Dogs".into(), seq: 1, sender: "bob".into(), at: 0, text: "w".into(), ..Line::default() };
        let old = Event::Past(line);
        assert_eq!(terminal(&[old], false), "1970-01-01 01:00 Dogs bob: w\n");
    }

    #[test]
    fn a_time_out_of_range_is_no_panic() {
        let line =
            Line { group: "D".into(), seq: 1, sender: "b".into(), at: u64::MAX, text: "w".into(), ..Line::default() };
        assert_eq!(terminal(&[Event::Message(line.clone())], false), "--:--:-- D b: w\n");
        let lines = lines(&Style::Record, &[Event::Message(line)], None, now());
        assert_eq!(lines.out, "message\tD\t1\t-\tb\tw\n");
    }

    #[test]
    fn colours_are_the_only_control_characters() {
        let hostile = Event::Message(Line {
            group: "\u{1b}[31mDogs".into(),
            seq: 1,
            sender: "\u{9b}2Jbob".into(),
            at: NOON,
            text: "\u{1b}]0;owned\u{7}".into(),
            ..Line::default()
        });
        let plain = terminal(std::slice::from_ref(&hostile), false);
        assert!(!plain.trim_end_matches('\n').contains(|c: char| c.is_control()), "{plain:?}");
        let coloured = terminal(&[hostile], true);
        let codes: Vec<&str> = coloured.split('\u{1b}').skip(1).collect();
        assert!(codes.iter().all(|code| code.starts_with('[') && !code.starts_with("[31m")), "{coloured:?}");
        assert_eq!(codes.len(), 6, "three fields in colour: {coloured:?}");
    }

    #[test]
    fn a_name_keeps_its_colour() {
        assert_eq!(sender_color("bob"), sender_color("bob"));
    }
}
