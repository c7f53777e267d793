//! NATS core: `SUB`, `PUB` and `MSG`.

use super::{Event, Groups, Nonsense, Sink, excerpt, number, put_number};

/// Who it is, its subscriptions, and a ping whose answer tells that all of that is done.
pub(super) fn open(out: &mut Vec<u8>, user: &str, groups: &Groups<'_>) {
    out.extend_from_slice(br#"CONNECT {"verbose":false,"pedantic":false,"echo":true,"protocol":1,"lang":"loadgen","version":"1","name":""#);
    out.extend_from_slice(user.as_bytes());
    out.extend_from_slice(b"\"}\r\n");
    for (number, group) in (1..).zip(groups.all()) {
        out.extend_from_slice(b"SUB ");
        out.extend_from_slice(group.as_bytes());
        out.push(b' ');
        put_number(out, number);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"PING\r\n");
}

pub(super) fn publish(out: &mut Vec<u8>, group: &str, size: usize, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"PUB ");
    out.extend_from_slice(group.as_bytes());
    out.push(b' ');
    put_number(out, size);
    out.extend_from_slice(b"\r\n");
    write(out);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn scan(bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Nonsense> {
    let mut taken = 0;
    while let Some(end) = memchr::memchr(b'\n', &bytes[taken..]) {
        let line = &bytes[taken..taken + end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let after = taken + end + 1;
        if let Some(arguments) = line.strip_prefix(b"MSG ") {
            let size = arguments.rsplit(|byte| *byte == b' ').next().and_then(number);
            let size = size.ok_or_else(|| excerpt(line))?;
            let Some(text) = bytes.get(after..after + size) else { break };
            if bytes.len() < after + size + 2 {
                break;
            }
            sink.message(text, None);
            taken = after + size + 2;
            continue;
        }
        match line {
            b"PING" => sink.event(Event::Ping),
            // The only ping of ours follows the subscriptions.
            b"PONG" => {
                sink.event(Event::Ready);
                sink.event(Event::Joined(None));
            }
            b"+OK" => {}
            _ if line.starts_with(b"INFO ") => {}
            _ if line.starts_with(b"-ERR") => sink.event(Event::Refused(excerpt(line))),
            _ => return Err(excerpt(line)),
        }
        taken = after;
    }
    Ok(taken)
}
