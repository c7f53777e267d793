use super::*;

#[derive(Debug, Default, PartialEq)]
struct Told {
    messages: Vec<(Vec<u8>, Option<u64>)>,
    events: Vec<Event>,
}

impl Sink for Told {
    fn message(&mut self, text: &[u8], seq: Option<u64>) {
        self.messages.push((text.to_vec(), seq));
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
    }
}

const TEXT: &[u8] = b"0123456789";

/// What the server's bytes mean, when they come in pieces of `piece` bytes.
fn told(protocol: Protocol, stream: &[u8], piece: usize) -> Told {
    let (mut told, mut held) = (Told::default(), Vec::new());
    for piece in stream.chunks(piece) {
        held.extend_from_slice(piece);
        let taken = protocol.scan(&held, TEXT.len(), &mut told).unwrap();
        held.drain(..taken);
    }
    assert_eq!(held, b"", "the stream ends with a whole item");
    told
}

/// However the bytes are cut, the same is told.
fn check(protocol: Protocol, stream: &[u8], messages: usize, seq: Option<u64>, events: &[Event]) {
    for piece in [1, 2, 3, 7, 16, 61, stream.len()] {
        let told = told(protocol, stream, piece);
        assert_eq!(told.messages, vec![(TEXT.to_vec(), seq); messages], "{protocol:?} in pieces of {piece}");
        assert_eq!(told.events, events, "{protocol:?} in pieces of {piece}");
    }
}

/// Whatever a server says of how long something is.
#[test]
fn lengths_that_cannot_be_are_nonsense() {
    for length in ["18446744073709551615", "18446744073709551614"] {
        let message = format!(">3\r\n$7\r\nmessage\r\n${length}\r\nx");
        assert!(Protocol::Redis.scan(message.as_bytes(), 40, &mut Told::default()).is_err(), "{length}");
        for kind in ["$", "*", "%"] {
            let value = format!("{kind}{length}\r\n*{length}\r\n%{length}\r\n");
            assert!(Protocol::Redis.scan(value.as_bytes(), 40, &mut Told::default()).is_err(), "{value}");
        }
    }
}

#[test]
fn classic() {
    let stream = br#"{"Message":{"group_name":"g","message":"0123456789"}}
{"Error":"Dropped 11 messages from g."}
{"Message":{"group_name":"g","message":"0123456789"}}
{"Error":"Group 'h' does not exist"}
"#;
    let refused = Event::Refused("Group 'h' does not exist".to_owned());
    check(Protocol::Classic, stream, 2, None, &[Event::Dropped { count: 11, last: None }, refused]);
}

#[test]
fn extended() {
    let stream = br#"{"Welcome":{"version":1,"server":"t","session":"c","user":"u","limits":{"line_bytes":1,"message_bytes":1,"group_name_bytes":1,"groups":1,"posts_per_second":0,"page":1},"heartbeat":30000}}
{"Joined":{"group_name":"g","epoch":5,"head":7,"members":3,"recovered":true}}
{"Message":{"group_name":"g","message":"0123456789","seq":8,"sender":"u","at":1764064800000}}
{"Posted":{"group_name":"g","epoch":5,"seq":8,"at":1764064800000}}
{"Lagged":{"group_name":"g","first":9,"last":11}}
{"Novelty":{"of":"a newer server"}}
{"Ping":{}}
"#;
    let joined = Event::Joined(Some(Head { seq: 7, epoch: 5 }));
    check(
        Protocol::Extended,
        stream,
        1,
        Some(8),
        &[Event::Ready, joined, Event::Acked, Event::Dropped { count: 3, last: Some(11) }, Event::Ping],
    );
}

#[test]
fn a_message_of_another_shape_is_a_message_that_is_not_ours() {
    for stream in [
        &br#"{"Message":{"group_name":"g","message":"short"}}"#[..],
        br#"{"Message":{"message":"x","group_name":"g"}}"#,
    ] {
        let mut told = Told::default();
        Protocol::Classic.scan(&[stream, b"\n"].concat(), TEXT.len(), &mut told).unwrap();
        assert_eq!(told.messages, [(Vec::new(), None)]);
    }
}

#[test]
fn redis() {
    let stream =
        b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nmodules\r\n*0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\ng\r\n:1\r\n\
        >3\r\n$7\r\nmessage\r\n$1\r\ng\r\n$10\r\n0123456789\r\n:1\r\n-ERR no\r\n";
    let refused = Event::Refused("-ERR no\r\n".to_owned());
    check(Protocol::Redis, stream, 1, None, &[Event::Ready, Event::Joined(None), Event::Acked, refused]);
}

#[test]
fn nats() {
    let stream =
        b"INFO {\"a\":1}\r\nPONG\r\nMSG g 1 10\r\n0123456789\r\nPING\r\nMSG g 1 10\r\n0123456789\r\n-ERR 'no'\r\n";
    let refused = Event::Refused("-ERR 'no'".to_owned());
    check(Protocol::Nats, stream, 2, None, &[Event::Ready, Event::Joined(None), Event::Ping, refused]);
}

#[test]
fn mqtt() {
    let stream = b"\x20\x02\x00\x00\x90\x03\x00\x01\x00\x30\x0d\x00\x01g0123456789\x30\x0d\x00\x01g0123456789";
    check(Protocol::Mqtt, stream, 2, None, &[Event::Ready, Event::Joined(None)]);
}

#[test]
fn what_mqtt_publishes_has_the_shape_that_it_scans() {
    let mut out = Vec::new();
    Protocol::Mqtt.post(&mut out, "group", 300, |out| out.extend_from_slice(&[b'x'; 300]));
    let mut told = Told::default();
    assert_eq!(Protocol::Mqtt.scan(&out, 300, &mut told), Ok(out.len()));
    assert_eq!(told.messages[0].0, [b'x'; 300]);
}

#[test]
fn a_token_says_who_a_connection_is_instead_of_a_name() {
    let hello = |token| {
        let mut out = Vec::new();
        Protocol::Extended.open(&mut out, Who { name: "user-1", token }, &Groups::default(), None);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(hello(None), "{\"Hello\":{\"version\":1,\"user\":\"user-1\"}}\n");
    assert_eq!(hello(Some("a.b.c")), "{\"Hello\":{\"version\":1,\"token\":\"a.b.c\"}}\n");
}

/// Every protocol asks for all groups, the one that counts last, and what the server says of the others is told apart.
#[test]
fn quiet_groups() {
    let groups = Groups { group: Some("g-7"), quiet: vec!["g-quiet-1".to_owned(), "g-quiet-2".to_owned()] };
    for protocol in [Protocol::Classic, Protocol::Extended, Protocol::Redis, Protocol::Nats, Protocol::Mqtt] {
        let mut out = Vec::new();
        protocol.open(&mut out, Who { name: "user", token: None }, &groups, None);
        let text = String::from_utf8_lossy(&out);
        let places = ["g-quiet-1", "g-quiet-2", "g-7"].map(|name| text.find(name));
        assert!(places.is_sorted() && places[0].is_some(), "{protocol:?}: {text}");
    }
    let joined = br#"{"Joined":{"group_name":"g-quiet-1","epoch":5,"head":7,"members":3,"recovered":true}}"#;
    let stream = [&joined[..], b"\n"].concat();
    assert_eq!(told(Protocol::Extended, &stream, 1).events, [Event::JoinedQuiet]);
    let stream = b">3\r\n$9\r\nsubscribe\r\n$9\r\ng-quiet-1\r\n:1\r\n";
    assert_eq!(told(Protocol::Redis, stream, 1).events, [Event::JoinedQuiet]);
    // Answered together.
    assert_eq!(told(Protocol::Mqtt, b"\x90\x05\x00\x01\x00\x00\x00", 1).events, [Event::Joined(None)]);
}

#[test]
fn numbers() {
    let mut out = Vec::new();
    for value in [0, 7, 10, 12_345, usize::MAX] {
        out.clear();
        put_number(&mut out, value);
        assert_eq!(out, value.to_string().as_bytes());
        assert_eq!(number(&out), Some(value));
    }
    assert_eq!((number(b""), number(b"1x"), number(b"99999999999999999999")), (None, None, None));
}
