//! Both dialects of tertulia: JSON lines.

use tertulia_protocol::classic::FromServer as ClassicFromServer;
use tertulia_protocol::codec::{decode_classic_server, decode_server};
use tertulia_protocol::extended::FromServer;

use super::{After, Event, Head, Nonsense, Sink, Who, excerpt, is_quiet, put_number};

const MESSAGE: &[u8] = br#"{"Message":{"group_name":""#;
const TEXT: &[u8] = br#"","message":""#;
const SEQ: &[u8] = br#"","seq":"#;
const POSTED: &[u8] = br#"{"Posted":"#;

/// Names of groups and users in this program need no escaping, nor do tokens.
fn put_name(out: &mut Vec<u8>, before: &[u8], name: &str) {
    out.extend_from_slice(before);
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
}

pub(super) fn hello(out: &mut Vec<u8>, who: Who<'_>) {
    match who.token {
        Some(token) => put_name(out, br#"{"Hello":{"version":1,"token":""#, token),
        None => put_name(out, br#"{"Hello":{"version":1,"user":""#, who.name),
    }
    out.extend_from_slice(b"}}\n");
}

pub(super) fn join(out: &mut Vec<u8>, group: &str, after: Option<After>) {
    put_name(out, br#"{"Join":{"group_name":""#, group);
    if let Some(After { seq, epoch }) = after {
        out.extend_from_slice(br#","after":"#);
        put_number(out, seq as usize);
        out.extend_from_slice(br#","epoch":"#);
        put_number(out, epoch as usize);
    }
    out.extend_from_slice(b"}}\n");
}

pub(super) fn leave(out: &mut Vec<u8>, group: &str) {
    put_name(out, br#"{"Leave":{"group_name":""#, group);
    out.extend_from_slice(b"}}\n");
}

pub(super) fn post(out: &mut Vec<u8>, group: &str, write: impl FnOnce(&mut Vec<u8>)) {
    put_name(out, br#"{"Post":{"group_name":""#, group);
    out.extend_from_slice(br#","message":""#);
    write(out);
    out.extend_from_slice(b"\"}}\n");
}

pub(super) fn scan(bytes: &[u8], size: usize, extended: bool, sink: &mut impl Sink) -> Result<usize, Nonsense> {
    let mut start = 0;
    // All line ends are looked for in one pass.
    for end in memchr::memchr_iter(b'\n', bytes) {
        let line = &bytes[start..end];
        start = end + 1;
        match message(line, size) {
            Some((text, seq)) => sink.message(text, seq),
            None if line.starts_with(POSTED) => sink.event(Event::Acked),
            None if extended => other(line, sink)?,
            None => classic(line, sink)?,
        }
    }
    Ok(start)
}

/// The text and the `seq` of a `Message` whose text has `size` bytes and no escapes.
fn message(line: &[u8], size: usize) -> Option<(&[u8], Option<u64>)> {
    let rest = line.strip_prefix(MESSAGE)?;
    let rest = rest[memchr::memchr(b'"', rest)?..].strip_prefix(TEXT)?;
    let (text, rest) = rest.split_at_checked(size)?;
    let Some(digits) = rest.strip_prefix(SEQ) else {
        return rest.starts_with(b"\"").then_some((text, None));
    };
    let mut seq = 0u64;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        seq = seq.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
    }
    Some((text, Some(seq)))
}

/// A line that is seldom.
fn other(line: &[u8], sink: &mut impl Sink) -> Result<(), Nonsense> {
    let frame = decode_server(line).map_err(|fault| format!("{fault}: {}", excerpt(line)))?;
    let event = match frame {
        Some(FromServer::Welcome(_)) => Event::Ready,
        Some(FromServer::Joined(joined)) if is_quiet(joined.group_name.as_bytes()) => Event::JoinedQuiet,
        Some(FromServer::Joined(joined)) => Event::Joined(Some(Head { seq: joined.head, epoch: joined.epoch })),
        Some(FromServer::Posted(_)) => Event::Acked,
        Some(FromServer::Left(_)) => Event::Left,
        Some(FromServer::Ping {}) => Event::Ping,
        Some(FromServer::Lagged(lagged)) => {
            let count = lagged.last.saturating_add(1).saturating_sub(lagged.first);
            Event::Dropped { count, last: Some(lagged.last) }
        }
        Some(FromServer::Message(_)) => {
            sink.message(b"", None);
            return Ok(());
        }
        None | Some(FromServer::Pong {}) => return Ok(()),
        Some(_) => Event::Refused(excerpt(line)),
    };
    sink.event(event);
    Ok(())
}

fn classic(line: &[u8], sink: &mut impl Sink) -> Result<(), Nonsense> {
    match decode_classic_server(line).map_err(|fault| format!("{fault}: {}", excerpt(line)))? {
        ClassicFromServer::Message { .. } => sink.message(b"", None),
        ClassicFromServer::Error(text) => {
            let dropped = text.strip_prefix("Dropped ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            let dropped = dropped.map(|count| Event::Dropped { count, last: None });
            sink.event(dropped.unwrap_or_else(|| Event::Refused(text.clone().into_owned())));
        }
    }
    Ok(())
}
