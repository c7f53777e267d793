//! Lines in, lines out.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::code::Code;
use crate::extended::{CLIENT_KINDS, SERVER_KINDS};
use crate::{classic, extended};

mod plain;

pub use plain::{classic_message, extended_message};

/// What a classic client may send.
const CLASSIC_KINDS: &[&str] = &["Join", "Post"];

/// A line that could not be understood. The text is fit for the peer that sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// [`Code::Malformed`] or [`Code::UnknownKind`].
    pub code: Code,
    /// What is wrong, and at which column (from 1, in bytes).
    pub message: String,
    /// The kind of line, if it could be told and is known.
    pub kind: Option<&'static str>,
    /// The `group_name` of a line of a known kind, if there is one that can be read: so that its sender finds what was refused.
    pub group_name: Option<String>,
    /// As `group_name`, the `id`.
    pub id: Option<String>,
}

/// Reads a line of a classic client, without its line end.
///
/// # Errors
/// What is wrong with the line, and where.
pub fn decode_classic(line: &[u8]) -> Result<classic::FromClient<'_>, Fault> {
    if let Some(post) = plain::classic_post(line) {
        return Ok(post);
    }
    let frame = serde_json::from_slice(line).map_err(|error| fault(line, &error, CLASSIC_KINDS))?;
    in_an_object(line, CLASSIC_KINDS).map(|()| frame)
}

/// Reads a line of an extended client, without its line end.
///
/// # Errors
/// What is wrong with the line, and where.
pub fn decode_extended(line: &[u8]) -> Result<extended::FromClient<'_>, Fault> {
    if let Some(post) = plain::extended_post(line) {
        return Ok(post);
    }
    let frame = serde_json::from_slice(line).map_err(|error| fault(line, &error, CLIENT_KINDS))?;
    in_an_object(line, CLIENT_KINDS).map(|()| frame)
}

/// Refuses an array in place of the object with the fields, which serde would take in the order of our types: that is no part of the protocol.
/// The line is otherwise right, so before its first colon there is nothing but a known kind.
fn in_an_object(line: &[u8], kinds: &[&'static str]) -> Result<(), Fault> {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let fields = line[colon..].strip_prefix(b":").unwrap_or_default().trim_ascii_start();
    if fields.first() != Some(&b'[') {
        return Ok(());
    }
    let column = line.len() - fields.len() + 1;
    let message =
        format!("the line is not valid: expected an object with the fields, not an array, at column {column}");
    let outer = serde_json::from_slice::<Outer<'_>>(line).ok();
    let kind = outer.and_then(|Outer(outer)| kinds.iter().copied().find(|kind| outer.contains_key(*kind)));
    Err(Fault { code: Code::Malformed, message, kind, group_name: None, id: None })
}

/// Reads a line that a server sent to an extended client; `None` for a kind that this version does not know.
///
/// # Errors
/// What is wrong with the line, and where.
pub fn decode_server(line: &[u8]) -> Result<Option<extended::FromServer<'_>>, Fault> {
    match serde_json::from_slice(line) {
        Ok(frame) => Ok(Some(frame)),
        Err(error) => match fault(line, &error, SERVER_KINDS) {
            fault if fault.code == Code::UnknownKind => Ok(None),
            fault => Err(fault),
        },
    }
}

/// Reads a line that a server sent to a classic client.
///
/// # Errors
/// What is wrong with the line, and where.
pub fn decode_classic_server(line: &[u8]) -> Result<classic::FromServer<'_>, Fault> {
    serde_json::from_slice(line).map_err(|error| fault(line, &error, &["Message", "Error"]))
}

/// Appends `frame` and a line end to `out`.
pub fn encode(frame: &impl Serialize, out: &mut Vec<u8>) {
    if append(frame, out) {
        out.push(b'\n');
    }
}

/// Appends `value` as JSON; nothing, and `false`, if that is not possible.
fn append(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) -> bool {
    let before = out.len();
    // A frame of this crate has no map with keys that are not strings and no fallible part, and a `Vec` takes all.
    let written = serde_json::to_writer(&mut *out, value).is_ok();
    if !written {
        out.truncate(before);
    }
    written
}

/// The outermost object of a line, whatever is in it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Outer<'a>(#[serde(borrow)] std::collections::BTreeMap<std::borrow::Cow<'a, str>, &'a RawValue>);

/// Whether a line is a `Hello`, be its fields right or wrong.
#[must_use]
pub fn is_hello(line: &[u8]) -> bool {
    serde_json::from_slice::<Outer<'_>>(line).is_ok_and(|Outer(outer)| outer.len() == 1 && outer.contains_key("Hello"))
}

/// Says what is wrong with a line that is known to be wrong; only here is the time spent to find out.
fn fault(line: &[u8], error: &serde_json::Error, kinds: &[&'static str]) -> Fault {
    let malformed = |message| Fault { code: Code::Malformed, message, kind: None, group_name: None, id: None };
    if let Err(utf8) = std::str::from_utf8(line) {
        return malformed(format!("the line is not UTF-8 at column {}", utf8.valid_up_to() + 1));
    }
    let start = line.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    let shape = || {
        let kinds = kinds.join(", ");
        malformed(format!("expected an object with one key, one of {kinds}, at column {}", start + 1))
    };
    if line.get(start) != Some(&b'{') {
        return shape();
    }
    let mut fault = malformed(format!("the line is not valid: {}", describe(error)));
    if let Ok(Outer(outer)) = serde_json::from_slice::<Outer<'_>>(line) {
        let mut entries = outer.iter();
        let (Some((kind, fields)), None) = (entries.next(), entries.next()) else { return shape() };
        fault.kind = kinds.iter().copied().find(|known| known == kind);
        if fault.kind.is_none() {
            fault.code = Code::UnknownKind;
            let kind = shorten(kind);
            fault.message = format!("unknown kind of line '{kind}': expected one of {}", kinds.join(", "));
        } else if let Ok(Outer(fields)) = serde_json::from_str::<Outer<'_>>(fields.get()) {
            let text = |name| serde_json::from_str(fields.get(name)?.get()).ok();
            (fault.group_name, fault.id) = (text("group_name"), text("id"));
        }
    }
    fault
}

/// `serde_json` speaks of lines, where there is only one, and of our types, which no peer knows.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let what = what.split_once("expected struct ").map_or(what.into(), |(what, _)| format!("{what}expected an object"));
    format!("{} at column {}", shorten(&what), error.column())
}

/// Keeps an error line short whatever the peer sent.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 160;
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// A line grew past the limit before its end came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line has at most {max} bytes")]
pub struct LineTooLong {
    /// The limit, in bytes, without the line end.
    pub max: usize,
}

/// Cuts a stream of bytes into lines and holds at most one unfinished line.
///
/// Feed it with [`LineBuffer::extend`], then take lines until there is none. `\r\n` ends a line too.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Start of the first line that was not taken.
    start: usize,
    /// Up to here no line end was found.
    scanned: usize,
}

impl LineBuffer {
    /// An empty buffer, which owns no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), start: 0, scanned: 0 }
    }

    /// Adds bytes as they came.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.compact();
        self.bytes.extend_from_slice(bytes);
    }

    /// The buffer to read into directly: append only.
    pub fn spare(&mut self, capacity: usize) -> &mut Vec<u8> {
        self.compact();
        self.bytes.reserve(capacity);
        &mut self.bytes
    }

    /// Takes the next whole line, without its end.
    ///
    /// # Errors
    /// If the line, whole or not, is longer than `max` bytes. The buffer is then of no further use.
    pub fn next_line(&mut self, max: usize) -> Result<Option<&[u8]>, LineTooLong> {
        let from = self.scanned.max(self.start);
        let Some(end) = memchr_newline(&self.bytes[from..]).map(|at| from + at) else {
            self.scanned = self.bytes.len();
            // One byte more is allowed for a `\r` whose `\n` has not come yet.
            if self.bytes.len() - self.start > max + 1 {
                return Err(LineTooLong { max });
            }
            return Ok(None);
        };
        let line = self.start..end;
        self.start = end + 1;
        self.scanned = self.start;
        let line = &self.bytes[line];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > max { Err(LineTooLong { max }) } else { Ok(Some(line)) }
    }

    /// Takes what is left when no more will come: a last line without an end.
    ///
    /// # Errors
    /// As [`LineBuffer::next_line`].
    pub fn last_line(&mut self, max: usize) -> Result<Option<&[u8]>, LineTooLong> {
        if !self.has_partial() {
            return Ok(None);
        }
        self.bytes.push(b'\n');
        self.next_line(max)
    }

    /// Whether the start of a line is waiting for its end.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        self.start < self.bytes.len()
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives memory back, all of it if nothing waits.
    pub fn shrink(&mut self) {
        self.compact();
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        } else {
            self.bytes.shrink_to_fit();
        }
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.scanned -= self.start.min(self.scanned);
            self.start = 0;
        }
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

#[cfg(test)]
mod tests;
