//! MQTT 3.1.1 at QoS 0.

use super::{Event, Groups, Nonsense, Sink, excerpt};

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        out.push(if length > 0 { byte | 128 } else { byte });
        if length == 0 {
            return;
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A clean session without keep-alive, and the subscriptions.
pub(super) fn open(out: &mut Vec<u8>, user: &str, groups: &Groups<'_>) {
    out.push(0x10);
    put_length(out, 10 + 2 + user.len());
    put_string(out, "MQTT");
    out.extend_from_slice(&[4, 2, 0, 0]);
    put_string(out, user);
    let filters = || groups.all().map(|group| 2 + group.len() + 1);
    if filters().next().is_some() {
        out.push(0x82);
        put_length(out, 2 + filters().sum::<usize>());
        out.extend_from_slice(&[0, 1]);
        for group in groups.all() {
            put_string(out, group);
            out.push(0);
        }
    }
}

pub(super) fn publish(out: &mut Vec<u8>, group: &str, size: usize, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(0x30);
    put_length(out, 2 + group.len() + size);
    put_string(out, group);
    write(out);
}

pub(super) fn scan(bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Nonsense> {
    let mut taken = 0;
    while let Some((kind, body, length)) = packet(&bytes[taken..])? {
        match kind >> 4 {
            3 => {
                let name = body.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
                sink.message(body.get(2 + name..).ok_or_else(|| excerpt(body))?, None);
            }
            2 if body.get(1) == Some(&0) => sink.event(Event::Ready),
            9 if body.len() > 2 && body[2..].iter().all(|code| *code < 0x80) => sink.event(Event::Joined(None)),
            13 => {}
            _ => sink.event(Event::Refused(format!("packet {kind:#04x} {body:02x?}"))),
        }
        taken += length;
    }
    Ok(taken)
}

/// Its first byte, what it holds, and its length as a whole.
type Packet<'a> = (u8, &'a [u8], usize);

fn packet(bytes: &[u8]) -> Result<Option<Packet<'_>>, Nonsense> {
    let Some((kind, rest)) = bytes.split_first() else { return Ok(None) };
    let (mut length, mut shift) = (0, 0);
    for (at, byte) in rest.iter().enumerate() {
        length |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            let body = at + 1;
            return Ok(rest.get(body..body + length).map(|found| (*kind, found, 1 + body + length)));
        }
        if shift > 21 {
            return Err(excerpt(bytes));
        }
    }
    Ok(None)
}
