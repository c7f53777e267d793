//! `docs/protocol.md`, from which others write clients, says what the types say: lines, kinds, fields and codes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking, its helpers too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tertulia_protocol::extended::{CLIENT_KINDS, LeftReason, SERVER_KINDS};
use tertulia_protocol::{Code, classic, extended};

const CLASSIC: &str = "## Classic dialect\n";
const EXTENDED: &str = "## Extended dialect\n";
const CLIENT_SENDS: &str = "### What a client sends\n";
const SERVER_SENDS: &str = "### What a server sends\n";
const CODES: &str = "### Codes\n";

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between a heading and the next one of its rank or above.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) = document.split_once(heading).unwrap_or_else(|| panic!("no section {heading:?}"));
    let rank = heading.bytes().take_while(|byte| *byte == b'#').count();
    let ends = (2..=rank).filter_map(|rank| rest.find(&format!("\n{} ", "#".repeat(rank))));
    &rest[..ends.min().unwrap_or(rest.len())]
}

/// The example lines of a section in one direction, `> ` or `< `.
fn examples<'a>(section: &'a str, direction: &str) -> Vec<&'a str> {
    let blocks = section.split("\n```\n").skip(1).step_by(2);
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix(direction)).collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the rows of a table, without its head.
fn rows(section: &str) -> Vec<Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells =
        |row: &str| row.replace("\\|", ",").trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// A row of a table of lines: the fields, with whether they may be left out, and what is said of the line.
type Row = (BTreeMap<String, bool>, String);

/// The kinds of lines in a table.
fn told(section: &str) -> BTreeMap<String, Row> {
    let mut kinds = BTreeMap::new();
    for row in rows(section) {
        let line = quoted(&row[0]).next().unwrap_or_else(|| panic!("no line in the first cell of {row:?}"));
        let (kind, fields) = line.split_once(' ').unwrap_or_else(|| panic!("no fields: {line}"));
        let fields = fields.strip_prefix('{').and_then(|fields| fields.strip_suffix('}')).unwrap_or_default();
        let fields = fields.split(',').map(str::trim).filter(|field| !field.is_empty());
        let fields = fields.map(|field| (field.trim_end_matches('?').to_owned(), field.ends_with('?'))).collect();
        assert!(kinds.insert(kind.to_owned(), (fields, row[1].clone())).is_none(), "{kind} stands twice in the table");
    }
    kinds
}

/// One line of each kind with all fields that it can have. There is no `..` here, so that a new field does not compile without its place.
fn whole_lines_of_clients() -> Vec<extended::FromClient<'static>> {
    use extended::FromClient::{Groups, Hello, History, Join, Leave, Members, Ping, Pong, Post, Refresh, Remove};
    use extended::{GroupsRequest, HistoryRequest, MembersRequest};
    let (name, number) = ("x", Some(1));
    let text = || Some(name.into());
    vec![
        Hello(extended::Hello { version: 1, user: text(), token: text(), password: text() }),
        Join(extended::Join { group_name: name.into(), after: number, last: number, epoch: number }),
        Leave { group_name: name.into() },
        Post(extended::Post { group_name: name.into(), message: name.into(), id: text(), traceparent: text() }),
        History(HistoryRequest { group_name: name.into(), after: number, before: number, limit: number }),
        Members(MembersRequest { group_name: name.into(), after: text(), limit: number }),
        Groups(GroupsRequest { prefix: text(), after: text(), limit: number }),
        Refresh { token: name.into() },
        Remove(extended::Remove { group_name: name.into(), seq: 1, epoch: number }),
        Ping {},
        Pong {},
    ]
}

/// As [`whole_lines_of_clients`]; lists have one entry.
fn whole_lines_of_servers() -> Vec<extended::FromServer<'static>> {
    use extended::FromServer::{
        Error, GoingAway, Groups, History, Joined, Lagged, Left, Members, Message, Ping, Pong, Posted, Refreshed,
        Rejected, Removed, Welcome,
    };
    use extended::{GroupSummary, Limits, PastMessage};
    let name = "x";
    let text = || Some(name.into());
    let limits =
        Limits { line_bytes: 1, message_bytes: 1, group_name_bytes: 1, groups: 1, posts_per_second: 1, page: 1 };
    let (server, session, user) = (name.into(), name.into(), name.into());
    let removal = || Some(extended::Removal { first: 1, last: 1, sender: text() });
    let past = PastMessage {
        message: name.into(),
        seq: 1,
        sender: name.into(),
        at: 1,
        id: text(),
        removed: true,
        removes: removal(),
    };
    let group = GroupSummary { group_name: name.into(), members: 1, head: 1 };
    vec![
        Welcome(extended::Welcome { version: 1, server, session, user, limits, heartbeat: 1, expires_at: Some(1) }),
        Joined(extended::Joined { group_name: name.into(), epoch: 1, head: 1, members: 1, recovered: true }),
        Left(extended::Left { group_name: name.into(), reason: LeftReason::Kicked, detail: text() }),
        Posted(extended::Posted { group_name: name.into(), id: text(), epoch: 1, seq: 1, at: 1 }),
        Message(extended::Message {
            group_name: name.into(),
            message: name.into(),
            seq: 1,
            sender: name.into(),
            at: 1,
            id: text(),
            removed: true,
            removes: removal(),
        }),
        Lagged(extended::Lagged { group_name: name.into(), first: 1, last: 1 }),
        History(extended::History { group_name: name.into(), epoch: 1, messages: vec![past], more: true }),
        Members(extended::Members { group_name: name.into(), members: vec![name.into()], more: true }),
        Groups(extended::Groups { groups: vec![group], more: true }),
        Refreshed { expires_at: Some(1) },
        Removed(extended::Removed { group_name: name.into(), epoch: 1, seq: 1, told_by: 1 }),
        Ping {},
        Pong {},
        GoingAway(extended::GoingAway { reason: name.into(), reconnect_after_ms: 1 }),
        Rejected(extended::Rejected {
            code: Code::Unavailable,
            message: name.into(),
            request: text(),
            group_name: text(),
            id: text(),
            retry_after_ms: Some(1),
            outcome_unknown: true,
        }),
        Error(name.into()),
    ]
}

/// Kind and fields of a line.
fn parts(line: &impl Serialize) -> (String, Value) {
    let Value::Object(line) = serde_json::to_value(line).unwrap() else { panic!("a line is an object") };
    line.into_iter().next().unwrap()
}

/// The names of the fields of objects that a field holds, by itself or in a list.
fn inner(fields: &Value) -> BTreeSet<String> {
    let values = fields.as_object().into_iter().flat_map(|fields| fields.values());
    let objects = values.flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
    objects.filter_map(Value::as_object).flat_map(|object| object.keys().cloned()).collect()
}

/// Holds a table against the types: the kinds are the same and the fields, and those with a `?` are those that may be missing.
fn compare(heading: &str, kinds: &[&str], lines: &[impl Serialize], reads: impl Fn(&str) -> bool, nulls: bool) {
    let document = document();
    let mut table = told(section(&document, heading));
    let types: Vec<String> = lines.iter().map(|line| parts(line).0).collect();
    assert_eq!(types, kinds, "the lines of this test are not those of the list of kinds");
    for line in lines {
        let (kind, fields) = parts(line);
        let (listed, said) = table.remove(&kind).unwrap_or_else(|| panic!("{heading}{kind} is not in the table"));
        let names: BTreeSet<&String> = fields.as_object().into_iter().flatten().map(|(name, _)| name).collect();
        assert_eq!(listed.keys().collect::<BTreeSet<_>>(), names, "{heading}fields of {kind}");
        for (name, optional) in &listed {
            let mut changed = json!({ &kind: fields });
            changed[&kind][name] = Value::Null;
            assert!(!nulls || reads(&changed.to_string()) == *optional, "{heading}{kind}: whether {name} may be null");
            changed[&kind].as_object_mut().unwrap().remove(name);
            assert_eq!(reads(&changed.to_string()), *optional, "{heading}{kind}: whether {name} may be left out");
        }
        let words: BTreeSet<&str> = quoted(&said).flat_map(|text| text.split([',', '?', ' '])).collect();
        for name in inner(&fields) {
            assert!(words.contains(&*name), "{heading}{kind}: nothing is said of {name}");
        }
    }
    assert!(table.is_empty(), "{heading}not in the types: {:?}", table.keys());
}

#[test]
fn the_tables_of_lines_are_the_types() {
    let by_server = |line: &str| serde_json::from_str::<extended::FromClient<'_>>(line).is_ok();
    compare(CLIENT_SENDS, CLIENT_KINDS, &whole_lines_of_clients(), by_server, true);
    // A server leaves out what it does not say.
    let by_client = |line: &str| serde_json::from_str::<extended::FromServer<'_>>(line).is_ok();
    compare(SERVER_SENDS, SERVER_KINDS, &whole_lines_of_servers(), by_client, false);
}

#[test]
fn the_reasons_for_an_end_are_told() {
    use LeftReason::{Banned, Closed, Deleted, Forbidden, Kicked, Leave};
    let document = document();
    let said = &told(section(&document, SERVER_SENDS))["Left"].1;
    for reason in [Leave, Kicked, Banned, Closed, Deleted, Forbidden] {
        let reason = serde_json::to_value(reason).unwrap();
        assert!(quoted(said).any(|word| reason == word), "{reason} is not told");
    }
}

#[test]
fn the_table_of_codes_is_the_set_of_codes() {
    let document = document();
    let rows = rows(section(&document, CODES));
    let told: Vec<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(told, codes);
    for named in document.split("code:\"").skip(1) {
        let named = named.split('"').next().unwrap_or_default();
        assert!(codes.contains(&named), "no such code: {named}");
    }
}

/// Checks that a line is one of the type, byte for byte; answers its kind.
fn kind_of<'a, L: Serialize + Deserialize<'a>>(line: &'a str) -> String {
    let read: L = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}\n{error}"));
    assert_eq!(serde_json::to_string(&read).unwrap(), line);
    parts(&read).0
}

#[test]
fn the_lines_of_the_classic_dialect_are_lines() {
    let document = document();
    let section = section(&document, CLASSIC);
    let (sent, came) = (examples(section, "> "), examples(section, "< "));
    assert!(!sent.is_empty() && !came.is_empty());
    for line in sent {
        kind_of::<classic::FromClient<'_>>(line);
    }
    let between = quoted(section).filter(|text| text.starts_with("{\""));
    for line in came.into_iter().chain(between) {
        kind_of::<classic::FromServer<'_>>(line);
    }
    for text in [classic::no_such_group("Cats"), classic::dropped(11, "Dogs")] {
        let line = serde_json::to_string(&classic::FromServer::Error(text.into())).unwrap();
        assert!(section.contains(&line), "not told: {line}");
    }
}

#[test]
fn each_kind_of_the_extended_dialect_has_a_line_for_example() {
    let document = document();
    let section = section(&document, EXTENDED);
    let sent: BTreeSet<_> = examples(section, "> ").into_iter().map(kind_of::<extended::FromClient<'_>>).collect();
    let came: BTreeSet<_> = examples(section, "< ").into_iter().map(kind_of::<extended::FromServer<'_>>).collect();
    assert_eq!(sent, CLIENT_KINDS.iter().map(|kind| (*kind).to_owned()).collect());
    assert_eq!(came, SERVER_KINDS.iter().map(|kind| (*kind).to_owned()).collect());
}
