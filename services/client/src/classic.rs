//! `--classic`: what the client of the async chat in *Programming Rust*, chapter 20, does, line for line.
//!
//! Commands are `join GROUP` and `post GROUP MESSAGE...`; replies are printed as `message posted to G: M` and
//! `error from server: E`. Three things differ, none of which a well-meant script can see:
//!
//! * When standard input ends, the book's client ends at once, and what it asked for last may be lost on the way. This
//!   one sends what it still has, tells the server that nothing more will come (it shuts down its write side) and prints
//!   what still arrives, until the server closes the connection, nothing came for the linger time (1 s, `--linger`), or
//!   five times that passed. So `printf 'join Dogs\npost Dogs hi\n' | tertulia --classic HOST:PORT` prints the message.
//!   tertulia closes once it has done all it was sent; the book's own server never does, so that silence is no failure,
//!   but is told: what came last may be missing. To be cut off while the server still speaks is one.
//! * Control characters other than tab are printed as escapes, so that nobody can take over a reader's terminal.
//! * A line that is too long or not UTF-8 is skipped, which is told, and the session fails in the end; a reply that is not
//!   understood ends it with a word.

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
use ending::{Ending, TAKES_NOTHING};

mod ending;

/// What the book's client prints first.
const COMMANDS: &str = "Commands:\n\
                        join GROUP\n\
                        post GROUP MESSAGE...\n\
                        Type Control-D (on Unix) or Control-Z (on Windows) to close the connection.\n";

/// What is said where the server did not close the connection, as it does once all is done.
const UNFINISHED: &str = "the server had not finished; what came last may be missing";

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
    /// There was still more to come.
    #[error("{UNFINISHED}")]
    Unfinished,
    /// The input could not be read, or not sent, as a whole; each time it was told why.
    #[error("not all of the input was sent")]
    Input,
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
    let connection = loop {
        match Connection::open(&mut host, security).await {
            Ok(connection) => break connection,
            Err(_) if host.has_another() => {}
            Err(source) => return Err(connect(source)),
        }
    };
    screen.print(Lines { out: COMMANDS.to_owned(), err: String::new() });
    let input = read_lines().map_err(Error::Thread)?;
    converse(connection, input, linger, screen).await
}

/// Says what is typed, and prints the replies.
async fn converse(
    mut connection: Connection,
    mut input: mpsc::Receiver<Result<String, LineError>>,
    linger: Duration,
    screen: &Screen,
) -> Result<(), Error> {
    let mut ending: Option<Ending> = None;
    let mut all_sent = true;
    let end = |all_sent| if all_sent { Ok(()) } else { Err(Error::Input) };
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
                Transfer::Ended if ending.as_ref().is_some_and(Ending::is_told) => return end(all_sent),
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
                Some(Err(error)) => {
                    all_sent = false;
                    tell(screen, &error);
                }
                None => ending = Some(Ending::new(linger, Instant::now())),
            },
            () = sleep_until(until.into()) => {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return match &ending {
                        Some(ending) if ending.is_cut_off() => Err(Error::Unfinished),
                        Some(ending) if ending.is_told() => {
                            tell(screen, &UNFINISHED);
                            end(all_sent)
                        }
                        _ => Err(Error::NotTaken { bytes: connection.unsent() }),
                    };
                }
            }
        }
    }
}

fn read_lines() -> io::Result<mpsc::Receiver<Result<String, LineError>>> {
    let (typed, receiver) = mpsc::channel(64);
    lines::spawn(move |line| typed.blocking_send(line.map(str::to_owned)).is_ok(), || {})?;
    Ok(receiver)
}

fn tell(screen: &Screen, what: &impl std::fmt::Display) {
    screen.print(Lines { out: String::new(), err: format!("tertulia: {what}\n") });
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
mod tests;
