//! Plain lines from standard input.

use std::io::{self, BufRead, Read};
use std::thread;

/// A longer line is not taken.
const MAX_LINE: usize = 1024 * 1024;

/// What some programs put before a text to say that it is UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a line is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// Too long.
    #[error("a line of the input has at most {MAX_LINE} bytes; a longer one was skipped")]
    TooLong,
    /// Not text.
    #[error("a line of the input is not UTF-8 and was skipped")]
    NotUtf8,
    /// Nothing more can be read.
    #[error("cannot read the input: {0}")]
    Io(#[from] io::Error),
}

/// Gives each line of standard input, without its end, to `take`, on a thread of its own; ends with the input, on an
/// error of it, or when `take` returns false. A byte order mark before the first line is no part of it. At the end of the
/// input, `at_end` is called.
pub(crate) fn spawn(
    take: impl FnMut(Result<&str, LineError>) -> bool + Send + 'static,
    at_end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        if read(io::stdin().lock(), take) {
            at_end();
        }
    };
    thread::Builder::new().name("input".into()).spawn(run)?;
    Ok(())
}

/// Whether the input ended.
fn read(mut input: impl BufRead, mut take: impl FnMut(Result<&str, LineError>) -> bool) -> bool {
    let mut line = Vec::new();
    let mut skipping = false;
    let mut is_first = true;
    loop {
        line.clear();
        match input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                take(Err(error.into()));
                return false;
            }
        }
        let whole = line.ends_with(b"\n") || line.len() <= MAX_LINE;
        let text = if is_first { line.strip_prefix(MARK).unwrap_or(&line) } else { &line };
        is_first = false;
        let go_on = match (skipping, whole) {
            (false, true) => take(self::text(text)),
            (false, false) => take(Err(LineError::TooLong)),
            (true, _) => true,
        };
        if !go_on {
            return false;
        }
        skipping = !whole;
    }
}

fn text(line: &[u8]) -> Result<&str, LineError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        read(input, |line| {
            lines.push(line.map_or_else(|error| format!("error: {error}"), str::to_owned));
            true
        });
        lines
    }

    #[test]
    fn lines_end_in_all_the_usual_ways() {
        assert_eq!(all(b"one\ntwo\r\n\nlast"), ["one", "two", "", "last"]);
        assert_eq!(all(b""), [""; 0]);
    }

    #[test]
    fn a_line_too_long_is_told_once_and_the_next_is_read() {
        for extra in [1, 2, MAX_LINE, MAX_LINE + 5] {
            let mut input = vec![b'x'; MAX_LINE + extra];
            input.extend_from_slice(b"\nnext\n");
            assert_eq!(
                all(&input),
                [format!("error: {}", LineError::TooLong), "next".into()],
                "{extra} bytes too long"
            );
        }
        let mut input = vec![b'x'; MAX_LINE];
        input.extend_from_slice(b"\nnext\n");
        assert_eq!(all(&input).len(), 2);
        assert_eq!(all(&input)[0].len(), MAX_LINE, "that is not too long");
    }

    #[test]
    fn what_is_not_text_is_skipped() {
        assert_eq!(all(b"\xff\nnext\n"), [format!("error: {}", LineError::NotUtf8), "next".into()]);
    }

    #[test]
    fn a_byte_order_mark_is_taken_off_the_first_line_alone() {
        assert_eq!(all("\u{feff}one\n\u{feff}two\n".as_bytes()), ["one", "\u{feff}two"]);
        assert_eq!(all("\u{feff}".as_bytes()), [""]);
    }

    #[test]
    fn the_end_of_the_input_is_told_from_any_other() {
        assert!(read(&b"1\n"[..], |_| true));
        assert!(!read(&b"1\n"[..], |_| false));
    }

    #[test]
    fn reading_stops_when_nobody_wants_more() {
        let mut count = 0;
        read(&b"1\n2\n3\n"[..], |_| {
            count += 1;
            count < 2
        });
        assert_eq!(count, 2);
    }
}
