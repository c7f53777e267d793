//! `--classic`: what the client of the async chat in *Programming Rust*, chapter 20, does, line for line.
//!
//! Commands are `join GROUP` and `post GROUP MESSAGE...`; replies are printed as `message posted to G: M` and
//! `error from server: E`. Three things differ, none of which a well-meant script can see:
//!
//! * When standard input ends, the book's client ends at once, and what it asked for last may be lost on the way. This
//!   one sends what it still has, tells the server that nothing more will come (it shuts down its write side) and prints
//!   what still arrives, until the server closes the connection, nothing came for the linger time (1 s, `--linger`), or
//!   five times that passed. So `printf 'join Dogs\npost Dogs hi\n' | tertulia --classic HOST:PORT` prints the message.
//! * Control characters other than tab are printed as escapes, so that nobody can take over a reader's terminal.
//! * A line that is too long, or a reply that is not understood, ends neither the process nor its memory without a word.

use std::io;
use std::time::{Duration, Instant};

use tertulia_protocol::classic::{FromClient, FromServer};
use tertulia_protocol::{Fault, codec};
use tertulia_tls_client::Security;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::input::lines::{self, LineError};
use crate::screen::escape::{Backslash, escape};
use crate::screen::{Lines, Over, Screen};
use crate::session::connection::{Connection, Transfer};
use crate::session::dial::Host;

/// What the book's client prints first.
const COMMANDS: &str = "Commands:\n\
                        join GROUP\n\
                        post GROUP MESSAGE...\n\
                        Type Control-D (on Unix) or Control-Z (on Windows) to close the connection.\n";

/// After all was sent, the session lasts at most so many times the linger time.
const LINGER_TIMES: u32 = 5;
/// A server that takes nothing of what is left for so long will not take it.
const TAKES_NOTHING: Duration = Duration::from_secs(60);

/// Why a classic session failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is nobody.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection is lost: {0}")]
    Lost(io::Error),
    /// The server ended the connection before all was said.
    #[error(
        "the connection is lost: the server closed it before the end of the input, or before it had taken all of it"
    )]
    Closed,
    /// The server takes nothing.
    #[error("gave up: the server has taken nothing for {} s, {bytes} bytes are not sent", TAKES_NOTHING.as_secs())]
    NotTaken {
        /// What waits.
        bytes: usize,
    },
    /// The server said something else.
    #[error("the reply of the server is not understood: {0}")]
    Reply(Fault),
    /// The input cannot be read.
    #[error(transparent)]
    Input(LineError),
    /// Nothing more can be printed.
    #[error(transparent)]
    Output(#[from] Over),
    /// The thread that reads the input could not be started.
    #[error("cannot start to read the input: {0}")]
    Thread(io::Error),
}

/// Runs a classic session to its end.
pub(crate) async fn run(
    address: &str,
    security: Option<&Security>,
    linger: Duration,
    screen: &Screen,
) -> Result<(), Error> {
    let connect = |source| Error::Connect { address: address.to_owned(), source };
    let mut host = Host::new(address.to_owned());
    let mut connection = Connection::open(&mut host, security).await.map_err(connect)?;
    screen.print(Lines { out: COMMANDS.to_owned(), err: String::new() });
    let mut input = read_lines().map_err(Error::Thread)?;
    let mut ending: Option<Ending> = None;
    loop {
        if let Some(ending) = &mut ending {
            ending.screen(Instant::now(), screen.is_behind());
            if connection.is_flushed() && !ending.is_told() {
                connection.shut_down().await.map_err(Error::Lost)?;
                ending.told(Instant::now());
            }
        }
        let takes_input = ending.is_none() && !connection.is_congested() && !screen.is_behind();
        let deadline = ending.as_ref().and_then(Ending::deadline);
        let until = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            transfer = connection.transfer(screen) => match transfer.map_err(Error::Lost)? {
                Transfer::Wrote => {
                    if let Some(ending) = &mut ending {
                        ending.wrote(Instant::now());
                    }
                }
                Transfer::Ended if ending.as_ref().is_some_and(Ending::is_told) => return Ok(()),
                Transfer::Ended => return Err(Error::Closed),
                Transfer::Read => {
                    if let Some(ending) = &mut ending {
                        ending.heard(Instant::now());
                    }
                    replies(&mut connection, screen)?;
                }
            },
            over = screen.over() => return Err(over.into()),
            () = screen.room(), if screen.is_behind() => {}
            line = input.recv(), if takes_input => match line {
                Some(Ok(line)) => {
                    let mut bytes = Vec::new();
                    match parse(&line) {
                        Some(request) => codec::encode(&request, &mut bytes),
                        None if is_unrecognized(&line) => {
                            let err = format!("Unrecognized command: {line:?}\n");
                            screen.print(Lines { out: String::new(), err });
                        }
                        None => {}
                    }
                    connection.queue(&mut bytes);
                }
                Some(Err(error)) => return Err(Error::Input(error)),
                None => ending = Some(Ending::new(linger, Instant::now())),
            },
            () = sleep_until(until.into()) => {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return match ending.as_ref().is_some_and(Ending::is_told) {
                        true => Ok(()),
                        false => Err(Error::NotTaken { bytes: connection.unsent() }),
                    };
                }
            }
        }
    }
}

/// The time after the input ended: first the rest is sent, then the server is told, then its last replies are waited for.
#[derive(Debug)]
struct Ending {
    /// When this stage began.
    since: Instant,
    /// When the server last took or said something.
    last: Instant,
    linger: Duration,
    /// Whether the server was told that nothing more will come.
    is_told: bool,
    /// Since when the screen is behind: nothing is read then, which is no silence of the server.
    behind: Option<Instant>,
}

impl Ending {
    fn new(linger: Duration, now: Instant) -> Self {
        Self { since: now, last: now, linger, is_told: false, behind: None }
    }

    fn is_told(&self) -> bool {
        self.is_told
    }

    fn told(&mut self, now: Instant) {
        (self.is_told, self.since, self.last) = (true, now, now);
    }

    fn wrote(&mut self, now: Instant) {
        self.last = now;
    }

    fn heard(&mut self, now: Instant) {
        // Replies are no sign that the server takes what is left for it.
        if self.is_told {
            self.last = now;
        }
    }

    /// The clock stands while the screen is behind; then the server has its time anew.
    fn screen(&mut self, now: Instant, is_behind: bool) {
        match self.behind {
            None if is_behind => self.behind = Some(now),
            Some(since) if !is_behind => {
                let stood = now.saturating_duration_since(since);
                (self.since, self.last, self.behind) = (self.since + stood, now, None);
            }
            _ => {}
        }
    }

    /// When the session is over; `None` while the clock stands.
    fn deadline(&self) -> Option<Instant> {
        if self.behind.is_some() {
            return None;
        }
        Some(match self.is_told {
            true => (self.last + self.linger).min(self.since + self.linger * LINGER_TIMES),
            false => self.last + TAKES_NOTHING,
        })
    }
}

fn read_lines() -> io::Result<mpsc::Receiver<Result<String, LineError>>> {
    let (typed, receiver) = mpsc::channel(64);
    let take = move |line: Result<&str, LineError>| {
        let failed = line.is_err();
        typed.blocking_send(line.map(str::to_owned)).is_ok() && !failed
    };
    lines::spawn(take, || {})?;
    Ok(receiver)
}

fn replies(connection: &mut Connection, screen: &Screen) -> Result<(), Error> {
    let mut lines = Lines::default();
    while let Some(line) = connection.next_line().map_err(Error::Lost)? {
        if line.is_empty() {
            continue;
        }
        let reply = codec::decode_classic_server(line).map_err(Error::Reply)?;
        print(&reply, &mut lines.out);
    }
    screen.print(lines);
    Ok(())
}

fn print(reply: &FromServer<'_>, out: &mut String) {
    let text = |text: &str, out: &mut String| {
        for (at, part) in text.split('\t').enumerate() {
            if at > 0 {
                out.push('\t');
            }
            escape(part, Backslash::Keep, out);
        }
    };
    match reply {
        FromServer::Message { group_name, message } => {
            out.push_str("message posted to ");
            text(group_name, out);
            out.push_str(": ");
            text(message, out);
        }
        FromServer::Error(error) => {
            out.push_str("error from server: ");
            text(error, out);
        }
    }
    out.push('\n');
}

/// The request that a line stands for. As in the book, a known command with arguments that do not fit is passed over in
/// silence.
fn parse(line: &str) -> Option<FromClient<'_>> {
    let (command, rest) = next_token(line)?;
    let (group, rest) = next_token(rest)?;
    let message = rest.trim_start();
    match command {
        "post" => Some(FromClient::Post { group_name: group.into(), message: message.into() }),
        "join" if message.is_empty() => Some(FromClient::Join { group_name: group.into() }),
        _ => None,
    }
}

fn is_unrecognized(line: &str) -> bool {
    next_token(line).is_some_and(|(command, _)| !matches!(command, "post" | "join"))
}

/// The first run of characters that are no white space, and what follows it.
fn next_token(input: &str) -> Option<(&str, &str)> {
    let input = input.trim_start();
    if input.is_empty() {
        return None;
    }
    Some(input.split_at(input.find(char::is_whitespace).unwrap_or(input.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_the_book() {
        let join = || Some(FromClient::Join { group_name: "Dogs".into() });
        assert_eq!(parse("join Dogs"), join());
        assert_eq!(parse("  join   Dogs  "), join());
        assert_eq!(parse("join Dogs Cats"), None);
        let post =
            |message: &'static str| Some(FromClient::Post { group_name: "Dogs".into(), message: message.into() });
        assert_eq!(parse("post Dogs  Samoyeds   rock! "), post("Samoyeds   rock! "));
        assert_eq!(parse("post Dogs"), post(""));
        assert_eq!(parse("post"), None);
        for (line, unrecognized) in [("", false), ("  ", false), ("join", false), ("post", false), ("leave Dogs", true)]
        {
            assert_eq!(parse(line), None);
            assert_eq!(is_unrecognized(line), unrecognized, "{line:?}");
        }
    }

    #[test]
    fn replies_are_printed_as_in_the_book() {
        let mut out = String::new();
        print(&FromServer::Message { group_name: "Dogs".into(), message: "a\tb \\ c".into() }, &mut out);
        print(&FromServer::Error("Group 'Cats' does not exist".into()), &mut out);
        assert_eq!(out, "message posted to Dogs: a\tb \\ c\nerror from server: Group 'Cats' does not exist\n");
    }

    #[test]
    fn a_reply_cannot_drive_the_terminal() {
        let mut out = String::new();
        print(&FromServer::Error("\u{1b}[2J\n\u{9b}x".into()), &mut out);
        assert_eq!(out, "error from server: \\u{1b}[2J\\n\\u{9b}x\n");
    }

    #[test]
    fn the_end_comes_after_silence_or_five_times_that() {
        let (linger, now) = (Duration::from_secs(1), Instant::now());
        let mut ending = Ending::new(linger, now);
        ending.told(now);
        assert_eq!(ending.deadline(), Some(now + linger));
        ending.heard(now + linger * 3);
        assert_eq!(ending.deadline(), Some(now + linger * 4));
        ending.heard(now + linger * 9);
        assert_eq!(ending.deadline(), Some(now + linger * 5));
    }

    #[test]
    fn as_long_as_the_server_takes_what_is_left_there_is_no_end() {
        let (linger, now) = (Duration::from_secs(1), Instant::now());
        let mut ending = Ending::new(linger, now);
        assert_eq!(ending.deadline(), Some(now + TAKES_NOTHING));
        ending.heard(now + linger * 30);
        assert_eq!(ending.deadline(), Some(now + TAKES_NOTHING), "it says much and takes nothing");
        ending.wrote(now + linger * 50);
        assert_eq!(ending.deadline(), Some(now + linger * 50 + TAKES_NOTHING));
        ending.told(now + linger * 80);
        assert_eq!(ending.deadline(), Some(now + linger * 81));
    }

    #[test]
    fn a_screen_that_is_behind_is_no_silence_of_the_server() {
        let (linger, now) = (Duration::from_secs(1), Instant::now());
        let mut ending = Ending::new(linger, now);
        ending.told(now);
        ending.screen(now, true);
        assert_eq!(ending.deadline(), None);
        ending.screen(now + linger * 60, false);
        assert_eq!(ending.deadline(), Some(now + linger * 61));
    }
}
