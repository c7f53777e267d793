//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tertulia_protocol::{GroupName, UserName};

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// On every terminal.
    Always,
    /// Nowhere.
    Never,
}

/// Talk in groups on a tertulia server.
#[derive(Debug, Parser)]
#[command(name = "tertulia", version, after_long_help = AFTER_HELP, after_help = "More with --help.")]
pub(crate) struct Args {
    /// Where the server listens
    #[arg(value_name = "HOST:PORT", value_parser = address)]
    pub(crate) address: String,

    /// Who to be; without it the server gives a guest name
    #[arg(long, value_name = "NAME", value_parser = user, conflicts_with = "classic")]
    pub(crate) user: Option<String>,

    /// Show the server the token in this file, which also says who you are; it is read again for each connection, and
    /// while one nears the end of its token
    #[arg(long, value_name = "FILE", conflicts_with_all = ["classic", "password_file"])]
    pub(crate) token_file: Option<PathBuf>,

    /// Show the server the password in this file, as the user of --user; it is read again for each connection
    #[arg(long, value_name = "FILE", requires = "user", conflicts_with = "classic")]
    pub(crate) password_file: Option<PathBuf>,

    /// Join this group at once; may be repeated, and plain text goes to the last of them
    #[arg(long, value_name = "GROUP", value_parser = group, conflicts_with = "classic")]
    pub(crate) join: Vec<String>,

    /// With --join: see the newest N messages first
    #[arg(long, value_name = "N", requires = "join")]
    pub(crate) last: Option<u64>,

    /// Keep in this file up to where groups were printed, and go on from there the next time
    #[arg(long, value_name = "FILE", conflicts_with = "classic")]
    pub(crate) state: Option<PathBuf>,

    /// Behave as the client of the async chat in "Programming Rust", chapter 20
    #[arg(long)]
    pub(crate) classic: bool,

    /// Post every line of the input as it stands to the group of --join: no line is a command
    #[arg(long, requires = "join", conflicts_with = "classic")]
    pub(crate) raw: bool,

    /// Stay when standard input has ended, and print until interrupted or no group is left (quit, and Control-D at a
    /// terminal, still end it)
    #[arg(long, conflicts_with = "classic")]
    pub(crate) follow: bool,

    /// End when the connection is lost
    #[arg(long)]
    pub(crate) no_reconnect: bool,

    /// After standard input has ended: how long to wait while nothing comes of what was asked for (10 by default), or,
    /// with --classic, for the silence that ends the session (1 by default; after five times that it ends in any case)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) linger: Option<Duration>,

    /// Speak TLS with the server
    #[arg(long)]
    pub(crate) tls: bool,

    /// With --tls: trust the certificates in this file (PEM) instead of those that this machine trusts
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub(crate) ca: Option<PathBuf>,

    /// With --tls: what the server's certificate is for; without it the host of HOST:PORT
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub(crate) tls_name: Option<String>,

    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

fn address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("a port is missing: HOST:PORT")?;
    if host.is_empty() {
        return Err("a host is missing: HOST:PORT".to_owned());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err("a port is a number from 1 to 65535".to_owned()),
    }
}

fn user(text: &str) -> Result<String, String> {
    UserName::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn group(text: &str) -> Result<String, String> {
    GroupName::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|linger| *linger <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| "seconds from 0 to 86400, such as 2.5".to_owned())
}

/// What `--help` says last.
const AFTER_HELP: &str = "\
Commands (also with a slash before them):
  join GROUP [--last N], leave [GROUP], post GROUP TEXT, say TEXT, members [GROUP], groups [PREFIX],
  history [GROUP] [N], remove [GROUP] [SEQ], help, quit
  Any other line is posted to the current group: the one joined or posted to last.
  A group name with blanks is put in double quotes; a text that begins with a slash is typed with two.

Output: on a terminal, messages with local time, group and sender. Elsewhere one record a line on standard
output, its fields separated by tabs, and everything else on standard error:
  message  GROUP  SEQ  TIME  SENDER  TEXT
  history  GROUP  SEQ  TIME  SENDER  TEXT
  missing  GROUP  FIRST  LAST          (messages that the server no longer keeps)
  member   GROUP  USER
  group    GROUP  MEMBERS  HEAD
TIME is UTC. Control characters are written as escapes (\\n, \\t, \\u{1b}), so that no message can drive a terminal; in
records a backslash is written as two.

With --state a group that was joined by an earlier run is joined after the last message that was printed, and what was
missed follows; also with --last on the command line, while `join GROUP --last N` shows the newest N. The file never says
more than was printed: after an orderly end nothing is missing or there twice; after a kill or a power cut, what was
printed in the last second comes again, and after an output that failed (as on a full disk), what of its last piece came
through. A file is for one server, and for one run at a time, which FILE.lock beside it sees to. One that cannot be
written at the start is an error; later on it is told, and the session goes on.

With --raw every line is posted to the group of --join as it stands, an empty one too. Only a carriage return at its end
and a byte order mark at the start of the input are no part of it.

The connection is made again whenever it is lost: every group is resumed after the last message seen, and posts without
an answer are posted again under the same id, so that nothing is missing or there twice. A group that is full or closed
by then, or out of which a moderator holds one, is asked for again until it lets one in. A connection whose token has
expired is made again with what --token-file has by then; a token that is refused then is told once, and the file is
read again until the server takes what it has. A token that is refused at first ends the session; a server that cannot
check a password just now is asked again, also at first. A post is given up as unknown
where the server may have forgotten its id (4 minutes after it was sent, or 3072 messages of the group) and it cannot be
looked for among the group's messages. Where one is no member the messages are not counted. A post that the server does
not take for now is tried again later and later, every ten seconds in the end or when the server asks for it, and given
up once no post to its group was taken for ten minutes on one connection (never, if there are only too many posts); so
is one on which twenty connections broke within ten minutes or more. Posts wait for a join that is put off. What was not
posted is told with how it begins. Posts to a group keep the order in which they were typed, except that ones on their
way may be stored before one that is refused for now (the log is not available, or there are too many). Leaving a group,
and questions about it, wait for the posts typed before them. When standard input ends, the session ends once every post
is answered and every message known of is printed. A moderator who closes the connection ends the session.

With --follow the session ends with 1 once no group is left and no command can come that joins one, since the input has
ended or --raw makes every line a text: the join was refused, a moderator took one out, the group was closed or deleted.

With --classic, a server that has not closed the connection when the session ends may not have done all: that is told.

Exit status: 0 if all went well; 1 if the server could not be reached or did not let one in, a moderator closed the
connection, it was lost (with --no-reconnect; with --classic, before the end of the input or before all was sent), what
was asked for did not come in time (with --classic: the server still spoke after five times the --linger, or a line was
skipped), nobody reads the output or it cannot be written, the output was cut off (by a signal or an error; else it
is waited for), the file of --state could not be written in the end, --follow has no group left, or, when standard input
is no terminal, a command failed or a post was refused (not with --classic, which prints that and ends as the book's
client does); 2 for a wrong command line; 128 and the number of the signal that ended it (one that was
ignored from the start, as with nohup, does not). One line on standard error says why.
";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["localhost:8088", "127.0.0.1:1", "[::1]:8088"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in ["localhost", ":8088", "localhost:", "localhost:0", "localhost:65536", "localhost:x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_within_a_day() {
        assert_eq!(seconds("2.5"), Ok(Duration::from_millis(2_500)));
        for bad in ["-1", "x", "inf", "NaN", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
