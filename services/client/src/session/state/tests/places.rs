//! How far groups were seen, from one run to the next.

use super::*;

fn place(seen: u64) -> Position {
    Position { epoch: EPOCH, seen }
}

/// ada, who had seen so much of Dogs and of Cats in an earlier run.
fn back() -> Play {
    let places = [("Cats".to_owned(), place(3)), ("Dogs".to_owned(), place(7))].into();
    let state = State::new(Some("ada".into()), 0xa1, places);
    let mut play = Play { state, now: Instant::now() };
    play.connect("ada");
    play
}

/// The join of Dogs that goes on there.
const RESUME: &str = r#"{"Join":{"group_name":"Dogs","after":7,"epoch":77}}"#;

fn join(last: Option<u64>) -> Command {
    Command::Join { group: "Dogs".into(), last }
}

#[test]
fn the_first_join_goes_on_where_the_earlier_run_was() {
    let mut play = back();
    play.type_in(join(None));
    assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#)]);
    play.hear(&joined(EPOCH, 8, true));
    play.hear(&message(8));
    assert_eq!(play.seqs(), ["8"]);
    assert!(play.state.has_moved());
    assert_eq!(play.state.places().clone().into_values().collect::<Vec<_>>(), [place(3), place(8)]);
    assert!(!play.state.has_moved());
}

#[test]
fn who_asks_for_the_newest_few_gets_them() {
    let mut play = back();
    play.type_in(join(Some(2)));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":2}}"#]);
}

#[test]
fn what_was_left_is_kept_for_the_next_run_and_joined_as_of_now_in_this_one() {
    let mut play = back();
    play.type_in(join(None));
    play.hear(&joined(EPOCH, 7, true));
    play.hear(&message(8));
    play.type_in(Command::Leave { group: "Dogs".into() });
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"leave"}}"#);
    play.sent();
    assert_eq!(play.state.places().get("Dogs"), Some(&place(8)));
    play.type_in(join(None));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs"}}"#]);
}

#[test]
fn a_join_that_was_refused_has_seen_nothing() {
    let mut play = back();
    play.type_in(join(None));
    let refused = r#","request":"Join","group_name":"Dogs""#;
    play.hear(&rejected("kicked", refused));
    assert_eq!(play.state.failures(), 1);
    play.sent();
    play.type_in(join(None));
    assert_eq!(play.sent(), [RESUME]);
    play.hear(&joined(EPOCH, 9, true));
    play.hear(&message(8));
    assert_eq!(play.seqs(), ["8"]);
}

#[test]
fn who_left_before_the_join_was_answered_has_seen_nothing() {
    let mut play = back();
    play.type_in(join(None));
    play.type_in(Command::Leave { group: "Dogs".into() });
    play.sent();
    play.type_in(join(None));
    assert_eq!(play.sent(), [RESUME]);
    play.hear(&joined(EPOCH, 9, true));
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"leave"}}"#);
    play.hear(&joined(EPOCH, 9, true));
    play.hear(&message(8));
    assert_eq!(play.seqs(), ["8"]);
}

#[test]
fn how_far_a_group_was_seen_outlives_leaves_and_joins_that_come_to_nothing() {
    let mut play = Play::in_dogs();
    play.type_in(Command::Leave { group: "Dogs".into() });
    play.hear(&message(8));
    play.state.disconnected(play.now);
    assert_eq!(play.state.places().get("Dogs"), Some(&place(8)));

    let mut play = Play::in_dogs();
    play.type_in(Command::Leave { group: "Dogs".into() });
    play.hear(&message(8));
    play.hear(&rejected("unavailable", r#","request":"Leave","group_name":"Dogs""#));
    assert_eq!(play.state.places().get("Dogs"), Some(&place(8)));

    let mut play = Play::in_dogs();
    play.hear(&message(8));
    play.reconnect();
    play.hear(&rejected("kicked", r#","request":"Join","group_name":"Dogs""#));
    assert_eq!(play.state.places().get("Dogs"), Some(&place(8)));
}
