//! What is written to stdout, and whether somebody still reads it.

use std::fmt::Write as _;
use std::future;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::Error;

/// Writes an answer at once, for whoever waits for the next of a stream.
pub(super) fn print(json: serde_json::Result<String>) -> Result<(), Error> {
    let mut text = escaped(json.map_err(|error| Error::Output(error.into()))?);
    text.push('\n');
    write(&text)
}

pub(super) fn write(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

/// The same JSON, without what a terminal would obey, in which it may be looked at: messages are of strangers.
fn escaped(json: String) -> String {
    if !json.contains(is_unsafe) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Outside of texts JSON has nothing of the kind but line feeds.
        if is_unsafe(c) {
            // Writing to a `String` cannot fail.
            write!(out, "\\u{:04x}", u32::from(c)).ok();
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters that JSON may have as they are, line separators, and what turns the direction of text. Each is one unit of UTF-16.
fn is_unsafe(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Waits until nobody is left who reads what is written here; for ever if that is a file, or cannot be known.
pub(super) async fn left(out: impl AsFd + Send + 'static) {
    let (left, waiting) = oneshot::channel();
    let watch = move || {
        // Errors and hang-ups are told though nothing is asked for.
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        let seen = loop {
            match poll(&mut watched, None) {
                Err(Errno::INTR) => {}
                seen => break seen,
            }
        };
        if seen.is_ok() {
            // Nobody may be waiting any more.
            left.send(()).ok();
        }
    };
    // A thread that nobody waits for: the end of the process ends it.
    let started = thread::Builder::new().name("reader".to_owned()).spawn(watch);
    if started.is_err() || waiting.await.is_err() {
        future::pending().await
    }
}

#[cfg(test)]
mod tests;
