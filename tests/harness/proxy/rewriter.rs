//! Changes what a client of NATS publishes, on its way to the server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Change = dyn Fn(&str, &[u8]) -> Option<Vec<u8>> + Send + Sync;

/// Makes another message of one: given its subject and its content, `None` leaves it as it is.
#[derive(Clone)]
pub struct Rewrite {
    change: Arc<Change>,
    changed: Arc<AtomicU64>,
}

impl Rewrite {
    /// Changes messages by `change`.
    pub fn new(change: impl Fn(&str, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { change: Arc::new(change), changed: Arc::default() }
    }

    /// How many messages were changed.
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rewrite")
    }
}

/// The bytes of one connection.
pub(super) struct Rewriter {
    rewrite: Rewrite,
    /// What came of an operation that is not whole.
    rest: Vec<u8>,
}

impl Rewriter {
    pub(super) fn new(rewrite: Rewrite) -> Self {
        Self { rewrite, rest: Vec::new() }
    }

    /// Takes what was read, and gives what is to be sent.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(length) = self.operation(&mut out) {
            self.rest.drain(..length);
        }
        out
    }

    /// Appends the first operation to `out`, if it is whole; answers how long it was.
    fn operation(&self, out: &mut Vec<u8>) -> Option<usize> {
        const END: &[u8] = b"\r\n";
        let line_end = self.rest.windows(2).position(|pair| pair == END)?;
        let line = String::from_utf8_lossy(&self.rest[..line_end]).into_owned();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // PUB subject [reply] bytes, HPUB subject [reply] bytes-of-headers bytes
        let (with_headers, subject) = match words.as_slice() {
            ["PUB", subject, ..] => (false, *subject),
            ["HPUB", subject, ..] => (true, *subject),
            _ => {
                out.extend_from_slice(&self.rest[..line_end + 2]);
                return Some(line_end + 2);
            }
        };
        let number = |from_end: usize| words.iter().rev().nth(from_end).and_then(|word| word.parse::<usize>().ok());
        let total = number(0)?;
        let headers = if with_headers { number(1)? } else { 0 };
        let begin = line_end + 2;
        let end = begin + total;
        if self.rest.len() < end + 2 {
            return None;
        }
        let (head, content) = self.rest[begin..end].split_at(headers);
        let Some(changed) = (self.rewrite.change)(subject, content) else {
            out.extend_from_slice(&self.rest[..end + 2]);
            return Some(end + 2);
        };
        self.rewrite.changed.fetch_add(1, Ordering::Relaxed);
        let numbers = if with_headers { 2 } else { 1 };
        let kept = words[..words.len() - numbers].join(" ");
        let sizes = match with_headers {
            true => format!("{headers} {}", headers + changed.len()),
            false => changed.len().to_string(),
        };
        out.extend_from_slice(format!("{kept} {sizes}\r\n").as_bytes());
        out.extend_from_slice(head);
        out.extend_from_slice(&changed);
        out.extend_from_slice(END);
        Some(end + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_changed_whole_and_nothing_else_is() {
        let rewrite = Rewrite::new(|subject, content| {
            (subject == "a.b").then(|| [content, b"!"].concat()).filter(|_| content != b"as it is")
        });
        let sent = b"CONNECT {\"verbose\":false}\r\nPING\r\nPUB a.b 5\r\nhello\r\nPUB a.b reply 2\r\n\r\n\r\n\
            HPUB a.b reply 12 15\r\nNATS/1.0\r\n\r\nabc\r\nPUB other 2\r\nhi\r\nPUB a.b 8\r\nas it is\r\nSUB a.b 1\r\n";
        let wanted = b"CONNECT {\"verbose\":false}\r\nPING\r\nPUB a.b 6\r\nhello!\r\nPUB a.b reply 3\r\n\r\n!\r\n\
            HPUB a.b reply 12 16\r\nNATS/1.0\r\n\r\nabc!\r\nPUB other 2\r\nhi\r\nPUB a.b 8\r\nas it is\r\nSUB a.b 1\r\n";
        for size in [1, 2, 7, 1_000] {
            let mut rewriter = Rewriter::new(rewrite.clone());
            let passed: Vec<u8> = sent.chunks(size).flat_map(|chunk| rewriter.feed(chunk)).collect();
            assert_eq!(String::from_utf8_lossy(&passed), String::from_utf8_lossy(wanted), "in pieces of {size}");
        }
    }
}
