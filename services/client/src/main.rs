//! The terminal chat client of tertulia.
//!
//! `tertulia HOST:PORT` talks the extended dialect ([`session`]), `tertulia --classic HOST:PORT` the one of the book
//! ([`classic`]). What is typed is read by [`input`], what is shown is printed by [`screen`].
//!
//! Exit status: 0 fine, 1 failed at run time, 2 wrong usage, 128 + n ended by signal n; see `--help`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use args::{Args, Color};
use bookmarks::{Bookmarks, Places};
use clap::Parser;
use input::editor::{self, Restore};
use input::{End, Reader};
use jiff::tz::TimeZone;
use screen::escape::Backslash;
use screen::{Screen, Style};
use session::proof::Proof;
use session::{Options, Outcome};
use signals::Signals;
use tertulia_tls_client::Security;

mod args;
mod bookmarks;
mod classic;
mod input;
mod screen;
mod session;
mod signals;

/// How long the rest of the output may take to print when the session was ended by a signal or an error.
const PRINT: Duration = Duration::from_secs(5);

/// What is said if that was not enough.
const CUT_OFF: &str = "output cut off";

fn main() -> ExitCode {
    let args = Args::parse();
    let restore = Restore::remember();
    let result = run(args);
    restore.restore();
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Signal(number)) => ExitCode::from(128_u8.saturating_add(number)),
        Err(error) => {
            let mut text = String::new();
            // It may be of whoever answers at that port.
            screen::escape::escape(&told(&error), Backslash::Keep, &mut text);
            // Standard error may be closed as well, as where both outputs go into a pipe.
            writeln!(std::io::stderr(), "tertulia: {text}").ok();
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line, each said once: most of ours say their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(args: Args) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    let outcome = if args.classic { runtime.block_on(talk_classic(args)) } else { runtime.block_on(talk(args)) };
    // A look-up of a host name may still be blocked; nobody waits for it.
    runtime.shutdown_background();
    outcome
}

async fn talk_classic(args: Args) -> anyhow::Result<Outcome> {
    let screen = Screen::start(Style::Record, None).context("start to print")?;
    let (security, linger) = (security(&args)?, args.linger.unwrap_or(Duration::from_secs(1)));
    let result = classic::run(&args.address, security.as_ref(), linger, &screen).await;
    // Nothing listens to signals here: they end the process by themselves.
    finish(result.map(|()| Outcome::Done).map_err(Into::into), &screen, std::future::pending()).await
}

async fn talk(args: Args) -> anyhow::Result<Outcome> {
    let (typing, showing) = (std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
    let security = security(&args)?;
    let mut signals = Signals::new().context("listen for signals")?;
    let style = match showing {
        true => Style::Terminal { color: use_color(args.color), zone: TimeZone::system() },
        false => Style::Record,
    };
    let (mut bookmarks, places) = match args.state {
        Some(path) => Bookmarks::open(path).map(|(bookmarks, places)| (Some(bookmarks), places))?,
        None => (None, Places::new()),
    };
    let reader = || match args.join.last() {
        Some(group) if args.raw => Reader::raw(group.clone()),
        current => Reader::new(current.cloned()),
    };
    let edited = if typing && showing { editor::start(reader()).ok() } else { None };
    let (input, above) = match edited {
        Some((input, above)) => (input, Some(above)),
        // Also on a terminal that can do nothing but print.
        None => {
            let at_end = if typing { End::Quit } else { End::Silence };
            (input::from_lines(reader(), at_end).context("start to read the input")?, None)
        }
    };
    let screen = Screen::start(style, above).context("start to print")?;
    let options = Options {
        address: args.address,
        security,
        user: args.user,
        proof: args.token_file.map(Proof::Token).or(args.password_file.map(Proof::Password)),
        join: args.join,
        last: args.last,
        places,
        reconnect: !args.no_reconnect,
        linger: args.linger.unwrap_or(Duration::from_secs(10)),
        follow: args.follow,
        commands: !args.raw,
        interactive: typing,
    };
    let result = Box::pin(session::run(options, input, &mut signals, &screen, bookmarks.as_mut())).await;
    let outcome = finish(result.map_err(Into::into), &screen, signals.next()).await;
    let kept = bookmarks.map_or(Ok(()), |mut bookmarks| bookmarks.keep(screen.printed_bytes(), Instant::now()));
    match (outcome, kept) {
        (outcome, Ok(())) => outcome,
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(outcome), Err(error)) => Err(anyhow::anyhow!("{}; {error}", told(&outcome))),
    }
}

/// Prints the rest. After a session that did all it was asked to, its reader may take as long as it likes, until a signal
/// comes; else there is little time for it, and what is cut off is told.
async fn finish(
    result: anyhow::Result<Outcome>,
    screen: &Screen,
    signal: impl Future<Output = u8>,
) -> anyhow::Result<Outcome> {
    let result = match result {
        Ok(Outcome::Done) => tokio::select! {
            printed = screen.printed() => return Ok(printed.map(|()| Outcome::Done)?),
            number = signal => Ok(Outcome::Signal(number)),
        },
        result => result,
    };
    if tokio::time::timeout(PRINT, screen.printed()).await.is_ok() {
        return result;
    }
    match result {
        Ok(_) => Err(anyhow::anyhow!(CUT_OFF)),
        Err(error) => Err(error.context(CUT_OFF)),
    }
}

fn security(args: &Args) -> anyhow::Result<Option<Security>> {
    let security = || Security::new(&args.address, args.ca.as_deref(), args.tls_name.as_deref());
    Ok(args.tls.then(security).transpose()?)
}

fn use_color(color: Color) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
    }
}
