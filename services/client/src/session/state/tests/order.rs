//! What was typed first is done first.

use super::*;

fn leave() -> Command {
    Command::Leave { group: "Dogs".into() }
}

const LEAVE: &str = r#"{"Leave":{"group_name":"Dogs"}}"#;

#[test]
fn who_posts_and_leaves_is_a_member_until_the_post_is_answered() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.type_in(leave());
    assert_eq!(play.sent(), [post_line("one", 1)]);
    play.hear(&posted(1, 8));
    assert_eq!(play.sent(), [LEAVE]);
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"leave"}}"#);
    assert!(play.state.is_settled());
}

#[test]
fn what_is_typed_after_a_leave_comes_after_it() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.type_in(leave());
    play.post("two");
    play.type_in(Command::Join { group: "Dogs".into(), last: Some(1) });
    assert_eq!(play.sent(), [post_line("one", 1)]);
    play.hear(&posted(1, 8));
    assert_eq!(
        play.sent(),
        [LEAVE.to_owned(), r#"{"Join":{"group_name":"Dogs","last":1}}"#.into(), post_line("two", 2)]
    );
}

#[test]
fn who_leaves_offline_is_back_for_what_was_posted_before() {
    let mut play = Play::in_dogs();
    play.state.disconnected(play.now);
    play.post("one");
    play.type_in(leave());
    play.connect("ada");
    let resume = format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#);
    assert_eq!(play.sent(), [resume, post_line("one", 1)]);
    play.hear(&joined(EPOCH, 7, true));
    play.hear(&posted(1, 8));
    assert_eq!(play.sent(), [LEAVE]);
}

#[test]
fn who_leaves_offline_and_has_nothing_to_post_has_left() {
    let mut play = Play::in_dogs();
    play.state.disconnected(play.now);
    play.type_in(leave());
    assert_eq!(play.shown(), [Event::Note("left Dogs".into())]);
    play.type_in(leave());
    assert_eq!(play.state.failures(), 1);
    play.connect("ada");
    assert!(play.sent().is_empty());
}

#[test]
fn a_question_shows_what_the_posts_before_it_have_done() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.type_in(Command::History { group: "Dogs".into(), count: 1 });
    assert_eq!(play.sent(), [post_line("one", 1)]);
    play.hear(&posted(1, 8));
    assert_eq!(play.sent(), [r#"{"History":{"group_name":"Dogs","limit":1}}"#]);
}

fn join(last: u64) -> Command {
    Command::Join { group: "Dogs".into(), last: Some(last) }
}

#[test]
fn the_newest_few_that_are_asked_for_while_a_join_is_on_its_way_come_after_it() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.type_in(join(3));
    play.type_in(join(2));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs"}}"#]);
    play.hear(&joined(EPOCH, 7, true));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":2}}"#], "as was said last");
    assert!(!play.state.is_settled());
    play.hear(&joined(EPOCH, 7, true));
    play.hear(&message(6));
    play.hear(&message(7));
    assert_eq!(play.seqs(), ["6", "7"]);
    assert!(play.state.is_settled());
    assert_eq!(play.state.failures(), 0);
}

#[test]
fn what_was_missed_comes_before_the_newest_few() {
    let mut play = Play::in_dogs();
    play.state.disconnected(play.now);
    play.type_in(join(1));
    play.connect("ada");
    assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#)]);
    play.hear(&joined(EPOCH, 9, true));
    play.hear(&message(8));
    assert!(play.sent().is_empty(), "9 is still to come");
    play.hear(&message(9));
    assert_eq!(play.seqs(), ["8", "9"]);
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":1}}"#]);
}

/// The server would begin with the newest few and send no more of the rest.
#[test]
fn the_newest_few_wait_for_what_a_member_was_promised() {
    let mut play = Play::in_dogs();
    play.reconnect();
    play.sent();
    play.hear(&joined(EPOCH, 10, true));
    play.hear(&message(8));
    play.type_in(join(1));
    assert!(play.sent().is_empty(), "9 and 10 are still to come");
    assert!(!play.state.is_settled());
    play.hear(&message(9));
    play.hear(&message(10));
    assert_eq!(play.seqs(), ["8", "9", "10"]);
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":1}}"#]);
}

/// More was posted than a member has heard of.
#[test]
fn what_a_member_had_not_seen_comes_before_the_newest_few_that_it_asks_for() {
    let mut play = Play::in_dogs();
    play.type_in(join(2));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":2}}"#]);
    play.hear(&message(8));
    play.hear(&joined(EPOCH, 12, true));
    assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":8,"epoch":{EPOCH}}}}}"#)]);
    play.hear(&message(11));
    assert_eq!(play.state.places().get("Dogs"), Some(&Position { epoch: EPOCH, seen: 8 }));
    play.hear(&joined(EPOCH, 12, true));
    for seq in 9..=12 {
        play.hear(&message(seq));
    }
    assert_eq!(play.seqs(), ["8", "9", "10", "11", "12"]);
    assert!(play.state.is_settled());
}

#[test]
fn the_newest_few_are_asked_for_again_after_a_connection_that_broke_before_they_came() {
    let mut play = Play::in_dogs();
    play.type_in(join(2));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":2}}"#]);
    play.state.disconnected(play.now);
    play.connect("ada");
    assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#)]);
    play.hear(&joined(EPOCH, 7, true));
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs","last":2}}"#]);
}

#[test]
fn a_join_that_fails_or_is_taken_back_takes_the_newest_few_with_it() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.type_in(join(2));
    play.hear(&rejected("group_full", r#","request":"Join","group_name":"Dogs""#));
    assert!(play.state.is_settled());
    assert_eq!(play.state.failures(), 1);

    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.type_in(join(2));
    play.type_in(leave());
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs"}}"#, LEAVE]);
    play.hear(&joined(EPOCH, 7, true));
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"leave"}}"#);
    assert!(play.sent().is_empty());
    assert!(play.state.is_settled());
}
