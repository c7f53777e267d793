//! The terminal chat client of tertulia.
//!
//! `tertulia HOST:PORT` talks the extended dialect ([`session`]), `tertulia --classic HOST:PORT` the one of the book
//! ([`classic`]). What is typed is read by [`input`], what is shown is printed by [`screen`].
//!
//! Exit status: 0 fine, 1 failed at run time, 2 wrong usage, 128 + n ended by signal n; see `--help`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use args::{Args, Color};
use clap::Parser;
use input::editor::{self, Restore};
use jiff::tz::TimeZone;
use screen::escape::Backslash;
use screen::{Screen, Style};
use session::{Options, Outcome};
use signals::Signals;
use tertulia_tls_client::Security;

mod args;
mod classic;
mod input;
mod screen;
mod session;
mod signals;

/// How long the rest of the output may take to print when the session is over.
const PRINT: Duration = Duration::from_secs(5);

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
            eprintln!("tertulia: {text}");
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
    screen.finish(PRINT);
    result?;
    Ok(Outcome::Done)
}

async fn talk(args: Args) -> anyhow::Result<Outcome> {
    let (typing, showing) = (std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
    let security = security(&args)?;
    let signals = Signals::new().context("listen for signals")?;
    let style = match showing {
        true => Style::Terminal { color: use_color(args.color), zone: TimeZone::system() },
        false => Style::Record,
    };
    let current = args.join.last().cloned();
    let edited = if typing && showing { editor::start(current.clone()).ok() } else { None };
    let (input, above) = match edited {
        Some((input, above)) => (input, Some(above)),
        // Also on a terminal that can do nothing but print.
        None => (input::from_lines(current).context("start to read the input")?, None),
    };
    let screen = Screen::start(style, above).context("start to print")?;
    let options = Options {
        address: args.address,
        security,
        user: args.user,
        join: args.join,
        last: args.last,
        reconnect: !args.no_reconnect,
        linger: args.linger.unwrap_or(Duration::from_secs(10)),
        follow: args.follow,
        interactive: typing,
    };
    let result = Box::pin(session::run(options, input, signals, &screen)).await;
    screen.finish(PRINT);
    Ok(result?)
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
