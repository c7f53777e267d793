//! Redis: `SUBSCRIBE` and `PUBLISH`, over RESP 3, in which one connection may do both.

use super::{Event, Groups, Nonsense, Sink, excerpt, is_quiet, number, put_number};

const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n";

fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'$');
    put_number(out, bytes.len());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn open(out: &mut Vec<u8>, groups: &Groups<'_>) {
    out.extend_from_slice(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n");
    for group in groups.all() {
        out.extend_from_slice(b"*2\r\n$9\r\nSUBSCRIBE\r\n");
        bulk(out, group.as_bytes());
    }
}

pub(super) fn publish(out: &mut Vec<u8>, group: &str, size: usize, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
    bulk(out, group.as_bytes());
    out.push(b'$');
    put_number(out, size);
    out.extend_from_slice(b"\r\n");
    write(out);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn scan(bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Nonsense> {
    let mut taken = 0;
    loop {
        let rest = &bytes[taken..];
        if let Some(after) = rest.strip_prefix(MESSAGE) {
            let Some((_, after)) = read_bulk(after)? else { break };
            let Some((text, after)) = read_bulk(after)? else { break };
            sink.message(text, None);
            taken = bytes.len() - after.len();
            continue;
        }
        let Some(length) = whole(rest)? else { break };
        match rest.first() {
            Some(b'%') => sink.event(Event::Ready),
            Some(b'>') if is_quiet(&rest[..length]) => sink.event(Event::JoinedQuiet),
            Some(b'>') => sink.event(Event::Joined(None)),
            Some(b':') => sink.event(Event::Acked),
            _ => sink.event(Event::Refused(excerpt(&rest[..length]))),
        }
        taken += length;
    }
    Ok(taken)
}

/// A line without its end, and what follows.
fn read_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

/// A string with a length, and what follows.
type Bulk<'a> = (&'a [u8], &'a [u8]);

fn read_bulk(bytes: &[u8]) -> Result<Option<Bulk<'_>>, Nonsense> {
    let Some((line, rest)) = read_line(bytes) else { return Ok(None) };
    let size = line.strip_prefix(b"$").and_then(number).ok_or_else(|| excerpt(line))?;
    let size_and_end = size.checked_add(2).ok_or_else(|| excerpt(line))?;
    Ok(rest.get(size_and_end..).map(|after| (&rest[..size], after)))
}

/// The length of the value at the start, if it is there as a whole.
fn whole(bytes: &[u8]) -> Result<Option<usize>, Nonsense> {
    let (mut rest, mut values) = (bytes, 1);
    while values > 0 {
        let Some((line, after)) = read_line(rest) else { return Ok(None) };
        let (kind, argument) = line.split_first().ok_or_else(|| excerpt(bytes))?;
        rest = after;
        values -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' => {}
            b'$' | b'=' => {
                let size = number(argument).ok_or_else(|| excerpt(line))?;
                let size_and_end = size.checked_add(2).ok_or_else(|| excerpt(line))?;
                let Some(after) = rest.get(size_and_end..) else { return Ok(None) };
                rest = after;
            }
            b'*' | b'>' | b'~' | b'%' => {
                let each = if *kind == b'%' { 2 } else { 1 };
                let more = number(argument).and_then(|number| number.checked_mul(each));
                values = more.and_then(|more| more.checked_add(values)).ok_or_else(|| excerpt(line))?;
            }
            _ => return Err(excerpt(line)),
        }
    }
    Ok(Some(bytes.len() - rest.len()))
}
