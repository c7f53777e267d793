//! The session against a server that is played by hand.

use super::*;
use crate::session::membership::Position;

mod doubt;
mod kicked;
mod open;
mod order;
mod own;
mod places;
mod proof;
mod refusals;

const EPOCH: u64 = 77;

/// A session, and the clock it sees.
struct Play {
    state: State,
    now: Instant,
}

impl Play {
    fn offline(user: Option<&str>) -> Self {
        Self { state: State::new(user.map(str::to_owned), 0xa1, Places::new()), now: Instant::now() }
    }

    /// A session of `ada` past its greeting.
    fn online() -> Self {
        let mut play = Self::offline(Some("ada"));
        play.connect("ada");
        play
    }

    /// A member of Dogs that has seen up to 7.
    fn in_dogs() -> Self {
        let mut play = Self::online();
        play.type_in(Command::Join { group: "Dogs".into(), last: None });
        play.hear(&joined(EPOCH, 7, true));
        play.sent();
        play.shown();
        play
    }

    fn connect(&mut self, user: &str) {
        self.state.connected();
        self.sent();
        self.hear(&welcome(user, 0));
        self.shown();
    }

    fn reconnect(&mut self) {
        self.state.disconnected(self.now);
        self.connect("ada");
    }

    fn type_in(&mut self, command: Command) {
        self.state.command(command, self.now);
    }

    fn post(&mut self, text: &str) {
        self.post_to("Dogs", text);
    }

    fn post_to(&mut self, group: &str, text: &str) {
        self.type_in(Command::Post { group: group.into(), text: text.into() });
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.state.tick(self.now);
    }

    /// How many posts are not answered.
    fn unanswered(&self) -> usize {
        self.state.outbox.posts().len()
    }

    fn hear(&mut self, line: &str) {
        self.state.line(line.as_bytes(), self.now).unwrap();
    }

    /// What was written for the server since the last time.
    fn sent(&mut self) -> Vec<String> {
        let wire = std::mem::take(self.state.wire());
        String::from_utf8(wire).unwrap().lines().map(str::to_owned).collect()
    }

    fn shown(&mut self) -> Vec<Event> {
        self.state.take_events()
    }

    /// The messages and gaps among what was shown.
    fn seqs(&mut self) -> Vec<String> {
        let tell = |event| match event {
            Event::Message(line) => Some(line.seq.to_string()),
            Event::Missing { first, last, .. } => Some(format!("{first}..{last} missing")),
            _ => None,
        };
        self.shown().into_iter().filter_map(tell).collect()
    }
}

fn welcome(user: &str, posts_per_second: u64) -> String {
    format!(
        r#"{{"Welcome":{{"version":1,"server":"test","session":"c-1","user":"{user}","limits":{{"line_bytes":200,"posts_per_second":{posts_per_second}}},"heartbeat":30000}}}}"#
    )
}

fn joined(epoch: u64, head: u64, recovered: bool) -> String {
    format!(r#"{{"Joined":{{"group_name":"Dogs","epoch":{epoch},"head":{head},"members":2,"recovered":{recovered}}}}}"#)
}

fn message(seq: u64) -> String {
    format!(r#"{{"Message":{{"group_name":"Dogs","message":"woof","seq":{seq},"sender":"bob","at":1}}}}"#)
}

/// A message that ada posted.
fn own(seq: u64, id: u64) -> String {
    format!(
        r#"{{"Message":{{"group_name":"Dogs","message":"woof","seq":{seq},"sender":"ada","at":1,"id":"00000000000000a1-{id}"}}}}"#
    )
}

fn posted(id: u64, seq: u64) -> String {
    format!(r#"{{"Posted":{{"group_name":"Dogs","id":"00000000000000a1-{id}","epoch":{EPOCH},"seq":{seq},"at":1}}}}"#)
}

fn rejected(code: &str, fields: &str) -> String {
    format!(r#"{{"Rejected":{{"code":"{code}","message":"no"{fields}}}}}"#)
}

fn post_line(text: &str, id: u64) -> String {
    format!(r#"{{"Post":{{"group_name":"Dogs","message":"{text}","id":"00000000000000a1-{id}"}}}}"#)
}

#[test]
fn a_greeting_comes_first_and_nothing_is_sent_before_its_answer() {
    let mut play = Play::offline(Some("ada"));
    play.type_in(Command::Join { group: "Dogs".into(), last: Some(3) });
    play.post("hi");
    assert!(play.sent().is_empty());
    play.state.connected();
    assert_eq!(play.sent(), [r#"{"Hello":{"version":1,"user":"ada"}}"#]);
    play.hear(&welcome("ada", 0));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":3}}"#.to_owned(), post_line("hi", 1)]);
}

#[test]
fn after_a_broken_connection_there_is_no_gap_and_no_repeat() {
    let mut play = Play::in_dogs();
    play.hear(&message(8));
    play.hear(&message(9));
    assert_eq!(play.seqs(), ["8", "9"]);
    play.reconnect();
    assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":9,"epoch":{EPOCH}}}}}"#)]);
    play.hear(&joined(EPOCH, 11, true));
    for seq in [9, 10, 11, 11, 12] {
        play.hear(&message(seq));
    }
    assert_eq!(play.seqs(), ["10", "11", "12"]);
}

#[test]
fn a_connection_that_breaks_before_joined_loses_nothing() {
    let mut play = Play::in_dogs();
    play.reconnect();
    play.sent();
    play.reconnect();
    assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#)]);
}

#[test]
fn what_is_gone_is_told_with_or_without_lagged() {
    let mut play = Play::in_dogs();
    play.reconnect();
    play.hear(&joined(EPOCH, 20, false));
    play.hear(r#"{"Lagged":{"group_name":"Dogs","first":8,"last":15}}"#);
    play.hear(&message(16));
    play.hear(&message(19));
    assert_eq!(play.seqs(), ["8..15 missing", "16", "17..18 missing", "19"]);
}

#[test]
fn a_new_life_of_the_group_is_shown_from_its_beginning() {
    let mut play = Play::in_dogs();
    play.reconnect();
    play.hear(&joined(EPOCH + 1, 2, false));
    let shown = play.shown();
    assert!(matches!(&shown[0], Event::Note(text) if text.contains("began anew")), "{shown:?}");
    play.hear(&message(1));
    play.hear(&message(2));
    assert_eq!(play.seqs(), ["1", "2"]);
}

#[test]
fn a_post_is_kept_until_it_is_answered_and_repeated_with_its_id() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.post("two");
    assert_eq!(play.sent(), [post_line("one", 1), post_line("two", 2)]);
    play.hear(&posted(1, 8));
    assert_eq!(play.unanswered(), 1);
    play.reconnect();
    play.sent();
    play.hear(&joined(EPOCH, 8, true));
    play.hear(&own(8, 1));
    assert_eq!(play.sent(), [post_line("two", 2)]);
    play.hear(&posted(2, 10));
    assert_eq!(play.unanswered(), 0);
    assert!(!play.state.is_settled(), "9 and 10 were not shown yet");
    play.hear(&message(9));
    play.hear(&own(10, 2));
    assert!(play.state.is_settled());
    assert_eq!(play.state.failures(), 0);
}

#[test]
fn a_refused_post_is_a_failure_and_is_not_repeated() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.hear(&rejected("message_too_long", r#","request":"Post","group_name":"Dogs","id":"00000000000000a1-1""#));
    assert_eq!(play.shown(), [Event::Problem("not posted to Dogs: no; the text: one".into())]);
    assert_eq!(play.state.failures(), 1);
    play.sent();
    play.reconnect();
    assert!(!play.sent().iter().any(|line| line.contains("Post")));
}

#[test]
fn where_posts_are_limited_one_is_in_flight() {
    let mut play = Play::offline(Some("ada"));
    play.state.connected();
    play.hear(&welcome("ada", 5));
    play.sent();
    play.post("one");
    play.post("two");
    assert_eq!(play.sent(), [post_line("one", 1)]);
    play.hear(&posted(1, 1));
    assert_eq!(play.sent(), [post_line("two", 2)]);
}

#[test]
fn a_line_that_would_cost_the_connection_is_not_sent() {
    let mut play = Play::in_dogs();
    play.post(&"x".repeat(200));
    play.post("short");
    let told = format!(
        "not posted to Dogs: a line has at most 200 bytes on this server, this one has 269; the text: {}",
        "x".repeat(40)
    );
    assert_eq!(play.shown(), [Event::Problem(told)]);
    assert_eq!(play.sent(), [post_line("short", 2)]);
    assert_eq!((play.state.failures(), play.unanswered()), (1, 1));
}

#[test]
fn a_guest_comes_back_under_its_name() {
    let mut play = Play::offline(None);
    play.state.connected();
    assert_eq!(play.sent(), [r#"{"Hello":{"version":1}}"#]);
    play.hear(&welcome("guest-1", 0));
    play.state.disconnected(play.now);
    play.state.connected();
    assert_eq!(play.sent(), [r#"{"Hello":{"version":1,"user":"guest-1"}}"#]);
}

#[test]
fn a_guest_whose_name_is_refused_repeats_nothing_that_may_be_stored() {
    let mut play = Play::offline(None);
    play.connect("guest-1");
    play.post("one");
    play.state.disconnected(play.now);
    play.post("two");
    play.state.connected();
    play.sent();
    let refused = play.state.line(rejected("bad_user_name", "").as_bytes(), play.now);
    assert!(matches!(refused, Err(Refusal::GuestName(_))), "{refused:?}");
    assert_eq!(play.state.failures(), 1);
    play.state.disconnected(play.now);
    play.state.connected();
    assert_eq!(play.sent(), [r#"{"Hello":{"version":1}}"#]);
    play.hear(&welcome("guest-2", 0));
    assert_eq!(play.sent(), [post_line("two", 2)]);
}

#[test]
fn refusals_of_the_greeting_are_final_or_passing() {
    let refusal = |line: &str| {
        let mut play = Play::offline(Some("ada"));
        play.state.connected();
        play.state.line(line.as_bytes(), play.now)
    };
    for code in ["unauthenticated", "unsupported_version", "bad_user_name"] {
        assert!(matches!(refusal(&rejected(code, "")), Err(Refusal::Final(_))), "{code}");
    }
    assert!(matches!(refusal(&rejected("draining", "")), Err(Refusal::Later(_))));
    assert!(matches!(refusal(r#"{"Error":"too many connections"}"#), Err(Refusal::TurnedAway(_))));
    assert!(matches!(refusal("HTTP/1.1 400 Bad Request"), Err(Refusal::NotTertulia(_))));
}

#[test]
fn a_server_that_goes_away_gets_nothing_new_and_is_left_when_it_has_answered() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.sent();
    play.hear(r#"{"GoingAway":{"reason":"restart","reconnect_after_ms":1500}}"#);
    play.post("two");
    assert!(play.sent().is_empty());
    assert!(!play.state.has_departed(), "one is not answered");
    play.hear(&posted(1, 8));
    assert!(play.state.has_departed());
    assert_eq!(play.state.take_reconnect_after(), Some(Duration::from_millis(1500)));
    play.reconnect();
    assert_eq!(play.sent().last(), Some(&post_line("two", 2)));
}

#[test]
fn leaving_and_coming_back() {
    let mut play = Play::in_dogs();
    play.type_in(Command::Leave { group: "Dogs".into() });
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    assert_eq!(play.sent(), [r#"{"Leave":{"group_name":"Dogs"}}"#, r#"{"Join":{"group_name":"Dogs"}}"#]);
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"leave"}}"#);
    play.hear(&joined(EPOCH, 9, true));
    play.hear(&message(10));
    assert_eq!(play.seqs(), ["10"]);
    play.type_in(Command::Leave { group: "Cats".into() });
    assert_eq!(play.state.failures(), 1, "that one was never joined");
}

#[test]
fn pings_are_answered_and_unknown_kinds_ignored() {
    let mut play = Play::in_dogs();
    play.hear(r#"{"Ping":{}}"#);
    assert_eq!(play.sent(), [r#"{"Pong":{}}"#]);
    play.hear(r#"{"Reaction":{"group_name":"Dogs","emoji":"x"}}"#);
    play.hear("");
    assert!(play.shown().is_empty());
    play.hear("{\"Message\":");
    assert!(matches!(play.shown().as_slice(), [Event::Problem(_)]));
}

#[test]
fn messages_of_groups_that_were_not_joined_are_not_shown() {
    let mut play = Play::online();
    play.hear(&message(1));
    assert!(play.shown().is_empty());
}

#[test]
fn commands_wait_when_there_is_no_room() {
    let mut play = Play::offline(Some("ada"));
    let mut taken = 0;
    while play.state.has_room() {
        play.post("x");
        taken += 1;
        assert!(taken < 10_000, "there is always room");
    }
    assert!(taken >= 100);
}

#[test]
fn history_beyond_what_is_shown_at_once_is_told() {
    let mut play = Play::online();
    play.type_in(Command::History { group: "Dogs".into(), count: 5_000 });
    assert_eq!(play.sent(), [r#"{"History":{"group_name":"Dogs","limit":1000}}"#]);
    assert!(matches!(&play.shown()[..], [Event::Note(text)] if text.contains("1000")));
}

#[test]
fn a_server_with_long_messages_has_long_lines() {
    assert_eq!(Play::online().state.longest_line(), LONGEST_LINE);
    let longest = |limits: Limits| {
        let mut play = Play::online();
        play.state.limits = limits;
        play.state.longest_line()
    };
    let mib = 1024 * 1024;
    assert_eq!(longest(Limits { message_bytes: 10 * mib, ..Limits::default() }), 60 * 1024 * 1024 + 4 * 1024);
    assert_eq!(longest(Limits { line_bytes: 10 * mib, ..Limits::default() }), 60 * 1024 * 1024 + 4 * 1024);
    assert_eq!(longest(Limits { message_bytes: u64::MAX, ..Limits::default() }), 1024 * 1024 * 1024);
}
