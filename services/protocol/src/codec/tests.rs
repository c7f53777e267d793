use proptest::prelude::*;

use super::*;
use crate::extended::*;

fn lines(chunks: &[&[u8]], max: usize) -> Result<Vec<Vec<u8>>, LineTooLong> {
    let mut buffer = LineBuffer::new();
    let mut lines = Vec::new();
    for chunk in chunks {
        buffer.extend(chunk);
        while let Some(line) = buffer.next_line(max)? {
            lines.push(line.to_vec());
        }
    }
    Ok(lines)
}

#[test]
fn lines_end_with_newline_or_carriage_return_and_newline() {
    assert_eq!(lines(&[b"a\nb\r", b"\n\nc"], 10).unwrap(), [b"a".to_vec(), b"b".to_vec(), b"".to_vec()]);
}

#[test]
fn a_line_of_the_limit_passes_and_one_byte_more_does_not() {
    assert_eq!(lines(&[b"12345\n"], 5).unwrap().len(), 1);
    assert_eq!(lines(&[b"12345\r\n"], 5).unwrap().len(), 1);
    assert_eq!(lines(&[b"123456\n"], 5), Err(LineTooLong { max: 5 }));
    assert_eq!(lines(&[b"1234567"], 5), Err(LineTooLong { max: 5 }));
}

#[test]
fn a_fault_names_what_and_where() {
    let message = |line: &[u8]| decode_extended(line).unwrap_err().message;
    assert_eq!(message(b"{\"Join\":{}}"), "the line is not valid: missing field `group_name` at column 10");
    assert_eq!(message(b"{\"Join\":"), "the line is not valid: EOF while parsing a value at column 8");
    assert_eq!(message(b"\xff"), "the line is not UTF-8 at column 1");
    let shape = "expected an object with one key, one of Hello, Join, Leave, Post, History, Members, Groups, Refresh, Remove, Ping, Pong, at column 1";
    for line in ["[]", "{}", "\"Join\"", "1", "{\"Join\":{},\"Post\":{}}"] {
        assert_eq!(message(line.as_bytes()), shape);
    }
    assert_eq!(
        message(b"{\"Ping\":null}"),
        "the line is not valid: invalid type: null, expected an object at column 12"
    );
    assert_eq!(decode_extended(b"{\"Post\":{}}").unwrap_err().kind, Some("Post"));
    // What serde would take.
    assert_eq!(
        message(b" {\"Post\" : [\"Dogs\",\"Hi\",null,null]}"),
        "the line is not valid: expected an object with the fields, not an array, at column 12"
    );
    assert_eq!(decode_classic(b"{\"Join\":[\"Dogs\"]}").unwrap_err().kind, Some("Join"));
    assert_eq!(decode_extended(b"{\"Ping\":[]}").unwrap_err().kind, Some("Ping"));
    let unknown = decode_extended(br#"{"Dance":{"with":"me"}}"#).unwrap_err();
    assert_eq!(unknown.code, Code::UnknownKind);
    assert!(unknown.message.contains("'Dance'"), "{unknown}");
    assert!(message(format!("{{\"{}\":1}}", "x".repeat(5000)).as_bytes()).len() < 400);
}

#[test]
fn a_fault_says_which_group_and_id_the_line_was_about_as_far_as_they_can_be_read() {
    let about = |line: &[u8]| {
        let fault = decode_extended(line).unwrap_err();
        assert_eq!(fault.code, Code::Malformed);
        (fault.group_name, fault.id)
    };
    let (dogs, a7) = (Some("Dogs".to_owned()), Some("a7".to_owned()));
    let post = br#"{"Post":{"group_name":"Dogs","message":"half \ud83d","id":"a7"}}"#;
    assert_eq!(about(post), (dogs.clone(), a7.clone()));
    assert_eq!(about(br#"{"Post":{"id":"a7","group_name":"half \ud83d","message":""}}"#), (None, a7));
    assert_eq!(about(br#"{"Join":{"group_name":"Dogs","after":1.0}}"#), (dogs.clone(), None));
    assert_eq!(about(br#"{"Post":{"group_name":"Dogs","message":"","id":7}}"#), (dogs, None));
    assert_eq!(about(br#"{"Post":["Dogs"]}"#), (None, None));
    assert_eq!(about(br#"{"Post":{"group_name":"Dogs","id":"a7","#), (None, None));
}

#[test]
fn unknown_fields_are_ignored_and_missing_ones_have_defaults() {
    let frame = decode_extended(br#"{"Join":{"group_name":"G","colour":[1,{"a":2}],"after":null}}"#).unwrap();
    assert_eq!(frame, FromClient::Join(Join { group_name: "G".into(), ..Join::default() }));
}

#[test]
fn a_client_skips_kinds_of_a_newer_server() {
    assert_eq!(decode_server(br#"{"Reaction":{"seq":1}}"#).unwrap(), None);
    assert!(decode_server(br#"{"Message":{"seq":1}}"#).is_err());
}

fn text() -> impl Strategy<Value = std::borrow::Cow<'static, str>> {
    any::<String>().prop_map(Into::into)
}

fn client_frame() -> impl Strategy<Value = FromClient<'static>> {
    let number = || proptest::option::of(0..1u64 << 53);
    prop_oneof![
        (any::<u32>(), proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(text()))
            .prop_map(|(version, user, token, password)| FromClient::Hello(Hello { version, user, token, password })),
        (text(), number(), number(), number()).prop_map(|(group_name, after, last, epoch)| FromClient::Join(Join {
            group_name,
            after,
            last,
            epoch
        })),
        text().prop_map(|group_name| FromClient::Leave { group_name }),
        (text(), text(), proptest::option::of(text()), proptest::option::of(text())).prop_map(
            |(group_name, message, id, traceparent)| FromClient::Post(Post { group_name, message, id, traceparent })
        ),
        (text(), number(), number(), number()).prop_map(|(group_name, after, before, limit)| {
            FromClient::History(HistoryRequest { group_name, after, before, limit })
        }),
        (text(), proptest::option::of(text()), number())
            .prop_map(|(group_name, after, limit)| FromClient::Members(MembersRequest { group_name, after, limit })),
        (proptest::option::of(text()), proptest::option::of(text()), number())
            .prop_map(|(prefix, after, limit)| FromClient::Groups(GroupsRequest { prefix, after, limit })),
        text().prop_map(|token| FromClient::Refresh { token }),
        (text(), 0..1u64 << 53, number()).prop_map(|(group_name, seq, epoch)| FromClient::Remove(Remove {
            group_name,
            seq,
            epoch
        })),
        Just(FromClient::Ping {}),
        Just(FromClient::Pong {}),
    ]
}

fn server_frame() -> impl Strategy<Value = FromServer<'static>> {
    let number = || 0..1u64 << 53;
    let removal = || {
        let parts = (number(), number(), proptest::option::of(text()));
        proptest::option::of(parts.prop_map(|(first, last, sender)| Removal { first, last, sender }))
    };
    let fate = || (any::<bool>(), removal());
    let past = (text(), number(), text(), number(), proptest::option::of(text()), fate()).prop_map(
        |(message, seq, sender, at, id, (removed, removes))| PastMessage {
            message,
            seq,
            sender,
            at,
            id,
            removed,
            removes,
        },
    );
    prop_oneof![
        (text(), text(), text(), number(), proptest::option::of(number())).prop_map(
            |(server, session, user, heartbeat, expires_at)| {
                let limits = Limits::default();
                FromServer::Welcome(Welcome { version: 1, server, session, user, limits, heartbeat, expires_at })
            }
        ),
        proptest::option::of(number()).prop_map(|expires_at| FromServer::Refreshed { expires_at }),
        (text(), number(), number(), number()).prop_map(|(group_name, epoch, seq, told_by)| {
            FromServer::Removed(Removed { group_name, epoch, seq, told_by })
        }),
        (text(), number(), number(), number(), any::<bool>()).prop_map(
            |(group_name, epoch, head, members, recovered)| FromServer::Joined(Joined {
                group_name,
                epoch,
                head,
                members,
                recovered
            })
        ),
        (text(), proptest::option::of(text())).prop_map(|(group_name, detail)| {
            FromServer::Left(Left { group_name, reason: LeftReason::Kicked, detail })
        }),
        (text(), proptest::option::of(text()), number(), number(), number())
            .prop_map(|(group_name, id, epoch, seq, at)| FromServer::Posted(Posted { group_name, id, epoch, seq, at })),
        (text(), text(), number(), text(), number(), proptest::option::of(text()), fate()).prop_map(
            |(group_name, message, seq, sender, at, id, (removed, removes))| FromServer::Message(Message {
                group_name,
                message,
                seq,
                sender,
                at,
                id,
                removed,
                removes
            })
        ),
        (text(), number(), number()).prop_map(|(group_name, first, last)| FromServer::Lagged(Lagged {
            group_name,
            first,
            last
        })),
        (text(), number(), proptest::collection::vec(past, 0..4), any::<bool>()).prop_map(
            |(group_name, epoch, messages, more)| FromServer::History(History { group_name, epoch, messages, more })
        ),
        (text(), proptest::collection::vec(text(), 0..4), any::<bool>())
            .prop_map(|(group_name, members, more)| FromServer::Members(Members { group_name, members, more })),
        (text(), number(), number(), any::<bool>()).prop_map(|(group_name, members, head, more)| {
            FromServer::Groups(Groups { groups: vec![GroupSummary { group_name, members, head }], more })
        }),
        Just(FromServer::Ping {}),
        Just(FromServer::Pong {}),
        (text(), number()).prop_map(|(reason, reconnect_after_ms)| {
            FromServer::GoingAway(GoingAway { reason, reconnect_after_ms })
        }),
        (
            proptest::sample::select(Code::ALL),
            text(),
            proptest::option::of(text()),
            proptest::option::of(number()),
            any::<bool>()
        )
            .prop_map(|(code, message, id, retry_after_ms, outcome_unknown)| FromServer::Rejected(Rejected {
                code,
                message,
                request: Some("Post".into()),
                group_name: id.clone(),
                id,
                retry_after_ms,
                outcome_unknown
            })),
        text().prop_map(FromServer::Error),
    ]
}

proptest! {
    #[test]
    fn every_client_frame_round_trips(frame in client_frame()) {
        let mut line = Vec::new();
        encode(&frame, &mut line);
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        line.pop();
        prop_assert_eq!(decode_extended(&line).unwrap(), frame);
    }

    #[test]
    fn every_server_frame_round_trips(frame in server_frame()) {
        let mut line = Vec::new();
        encode(&frame, &mut line);
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        line.pop();
        prop_assert_eq!(decode_server(&line).unwrap(), Some(frame));
    }

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_lines_and_stay_bounded(
        bytes in proptest::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\r')], 0..400),
        cuts in proptest::collection::vec(1usize..40, 0..40),
        max in 0usize..60,
    ) {
        let whole = lines(&[&bytes], max);
        let mut buffer = LineBuffer::new();
        let mut taken = Vec::new();
        let mut failed = None;
        let mut rest = &bytes[..];
        let mut cuts = cuts.into_iter();
        while !rest.is_empty() && failed.is_none() {
            let (chunk, tail) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
            rest = tail;
            buffer.extend(chunk);
            loop {
                match buffer.next_line(max) {
                    Ok(Some(line)) => taken.push(line.to_vec()),
                    Ok(None) => break,
                    Err(error) => { failed = Some(error); break }
                }
            }
            prop_assert!(failed.is_some() || buffer.len() <= max + 1);
        }
        match whole {
            Ok(lines) => { prop_assert_eq!(failed, None); prop_assert_eq!(taken, lines) }
            Err(error) => prop_assert_eq!(failed, Some(error)),
        }
    }

    #[test]
    fn no_line_panics_the_decoders(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (decode_extended(&line).is_ok(), decode_classic(&line).is_ok(), decode_server(&line).is_ok());
    }

    #[test]
    fn a_damaged_frame_never_panics(frame in client_frame(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut line = Vec::new();
        encode(&frame, &mut line);
        let at = at.index(line.len());
        line[at] = byte;
        if let Err(fault) = decode_extended(&line) {
            prop_assert!(fault.message.len() < 600, "{}", fault);
        }
    }
}
