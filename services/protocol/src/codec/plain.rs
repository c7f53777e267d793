//! The commonest lines, written and read without the generic code: posts and messages, with texts that need no escapes.
//!
//! What is here does exactly what `serde_json` would; whatever is not plain is left to it. Property tests compare the two.

use crate::{classic, extended};

/// Whether a byte may not stand in a JSON string as it is.
const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The place of the first byte that may not stand in a JSON string as it is; the length if there is none.
pub(super) fn special(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The highest bit of each byte that is zero, exact for the lowest such byte and for whether there is one.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, rest) = bytes.as_chunks::<8>();
    let whole = bytes.len() - rest.len();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = zero(word ^ u64::from_ne_bytes([b'"'; 8]));
        let backslash = zero(word ^ u64::from_ne_bytes([b'\\'; 8]));
        let control = word.wrapping_sub(u64::from_ne_bytes([0x20; 8])) & !word;
        let found = (quote | backslash | control) & HIGH;
        if found != 0 {
            return number * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    rest.iter().position(|byte| is_special(*byte)).map_or(bytes.len(), |at| whole + at)
}

/// Takes a text without escapes off the front of `line`, which stands behind its opening quote, with the closing one.
fn text<'a>(line: &mut &'a [u8]) -> Option<&'a str> {
    let (text, rest) = line.split_at(special(line));
    *line = rest.strip_prefix(b"\"")?;
    std::str::from_utf8(text).ok()
}

/// Takes `expected` off the front of `line`.
fn take(line: &mut &[u8], expected: &[u8]) -> Option<()> {
    *line = line.strip_prefix(expected)?;
    Some(())
}

/// The beginning of every post.
fn post<'a>(line: &mut &'a [u8]) -> Option<(&'a str, &'a str)> {
    take(line, br#"{"Post":{"group_name":""#)?;
    let group_name = text(line)?;
    take(line, br#","message":""#)?;
    Some((group_name, text(line)?))
}

/// A post of a classic client, if it is written as the book's client writes it.
pub(super) fn classic_post(mut line: &[u8]) -> Option<classic::FromClient<'_>> {
    let (group_name, message) = post(&mut line)?;
    (line == b"}}").then(|| classic::FromClient::Post { group_name: group_name.into(), message: message.into() })
}

/// A post of an extended client with no more than an id, if it is written as this crate writes it.
pub(super) fn extended_post(mut line: &[u8]) -> Option<extended::FromClient<'_>> {
    let (group_name, message) = post(&mut line)?;
    let id = match take(&mut line, br#","id":""#) {
        Some(()) => Some(text(&mut line)?.into()),
        None => None,
    };
    let post = extended::Post { group_name: group_name.into(), message: message.into(), id, traceparent: None };
    (line == b"}}").then_some(extended::FromClient::Post(post))
}

/// Appends a text with its quotes.
fn put(text: &str, out: &mut Vec<u8>) {
    if special(text.as_bytes()) == text.len() {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        super::append(text, out);
    }
}

/// Appends a message as a line of the classic dialect.
pub fn classic_message(group_name: &str, message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"Message":{"group_name":"#);
    put(group_name, out);
    out.extend_from_slice(br#","message":"#);
    put(message, out);
    out.extend_from_slice(b"}}\n");
}

/// Appends a message as a line of the extended dialect.
pub fn extended_message(message: &extended::Message<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"Message":{"group_name":"#);
    put(&message.group_name, out);
    out.extend_from_slice(br#","message":"#);
    put(&message.message, out);
    out.extend_from_slice(br#","seq":"#);
    super::append(&message.seq, out);
    out.extend_from_slice(br#","sender":"#);
    put(&message.sender, out);
    out.extend_from_slice(br#","at":"#);
    super::append(&message.at, out);
    if let Some(id) = &message.id {
        out.extend_from_slice(br#","id":"#);
        put(id, out);
    }
    if message.removed {
        out.extend_from_slice(br#","removed":true"#);
    }
    if let Some(removes) = &message.removes {
        out.extend_from_slice(br#","removes":"#);
        super::append(removes, out);
    }
    out.extend_from_slice(b"}}\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode;
    use super::*;

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(bytes in proptest::collection::vec(any::<u8>(), 0..40), plain in any::<bool>()) {
            let bytes: Vec<u8> = if plain { bytes.iter().map(|byte| byte | 0x80 | 0x23).collect() } else { bytes };
            let expected = bytes.iter().position(|byte| is_special(*byte)).unwrap_or(bytes.len());
            prop_assert_eq!(special(&bytes), expected);
        }

        #[test]
        fn one_special_byte_is_found_wherever_it_is(length in 1usize..40, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let at = at.index(length);
            let mut bytes = vec![b'x'; length];
            bytes[at] = byte;
            prop_assert_eq!(special(&bytes), if is_special(byte) { at } else { length });
        }

        #[test]
        fn messages_are_written_as_serde_writes_them(
            texts in proptest::collection::vec("[ -~äß狗\u{0}-\u{1f}]{0,30}|\\PC{0,40}", 4),
            (seq, at, with_id) in (any::<u64>(), any::<u64>(), any::<bool>()),
            (removed, removes) in (any::<bool>(), proptest::option::of((any::<u64>(), any::<u64>(), any::<bool>()))),
        ) {
            let [group_name, message, sender, id] = std::array::from_fn(|place| texts[place].as_str());
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            classic_message(group_name, message, &mut ours);
            encode(&classic::FromServer::Message { group_name: group_name.into(), message: message.into() }, &mut theirs);
            prop_assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(theirs).unwrap());
            let message = extended::Message {
                group_name: group_name.into(),
                message: message.into(),
                seq,
                sender: sender.into(),
                at,
                id: with_id.then(|| id.into()),
                removed,
                removes: removes.map(|(first, last, of_one)| {
                    extended::Removal { first, last, sender: of_one.then(|| sender.into()) }
                }),
            };
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            extended_message(&message, &mut ours);
            encode(&extended::FromServer::Message(message), &mut theirs);
            prop_assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(theirs).unwrap());
        }

        /// Posts, and posts with a byte changed, lost or added: what is read here is what `serde_json` reads.
        #[test]
        fn posts_are_read_as_serde_reads_them(
            (group_name, message, id) in ("[ -~ä]{0,20}", "[ -~狗]{0,40}", proptest::option::of("[ -~]{0,10}")),
            change in proptest::option::of((any::<prop::sample::Index>(), 0usize..3, any::<u8>())),
        ) {
            let post = extended::Post {
                group_name: group_name.into(), message: message.into(), id: id.map(Into::into), traceparent: None
            };
            let mut line = serde_json::to_vec(&extended::FromClient::Post(post)).unwrap();
            if let Some((at, how, byte)) = change {
                let at = at.index(line.len());
                match how {
                    0 => line[at] = byte,
                    1 => drop(line.remove(at)),
                    _ => line.insert(at, byte),
                }
            }
            if let Some(read) = classic_post(&line) {
                prop_assert_eq!(read, serde_json::from_slice(&line).unwrap());
            }
            if let Some(read) = extended_post(&line) {
                prop_assert_eq!(read, serde_json::from_slice(&line).unwrap());
            } else if change.is_none() {
                prop_assert!(line.contains(&b'\\'), "a plain line was not taken");
            }
        }
    }
}
