//! What is refused, for good and for now.

use super::*;

fn problems(play: &mut Play) -> Vec<String> {
    let tell = |event| match event {
        Event::Problem(text) => Some(text),
        _ => None,
    };
    play.shown().into_iter().filter_map(tell).collect()
}

fn join_refused(code: &str, fields: &str) -> String {
    rejected(code, &format!(r#","request":"Join","group_name":"Dogs"{fields}"#))
}

fn post_refused(code: &str, id: u64) -> String {
    let about = format!(r#","request":"Post","group_name":"Dogs","id":"00000000000000a1-{id}","retry_after_ms":2000"#);
    rejected(code, &about)
}

#[test]
fn a_post_refused_for_now_is_told_and_repeated_in_time_and_before_those_behind_it() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.sent();
    play.hear(&post_refused("unavailable", 1));
    assert_eq!(problems(&mut play), ["not yet: no; trying again in 2.0 s"]);
    play.post("two");
    assert!(play.sent().is_empty());
    assert_eq!(play.state.deadline(), Some(play.now + Duration::from_secs(2)));
    play.wait(2);
    assert_eq!(play.sent(), [post_line("one", 1)]);
    play.hear(&post_refused("unavailable", 1));
    assert!(problems(&mut play).is_empty(), "that was told");
    play.wait(2);
    play.hear(&posted(1, 8));
    assert_eq!(play.sent(), [post_line("one", 1), post_line("two", 2)]);
    assert_eq!(play.state.failures(), 0);
}

#[test]
fn a_post_that_the_server_cannot_read_is_settled_if_it_is_named() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.type_in(Command::Groups { prefix: None });
    play.hear(&rejected("malformed", r#","request":"Post","group_name":"Dogs","id":"00000000000000a1-1""#));
    assert_eq!(problems(&mut play), ["not posted to Dogs: no; the text: one"]);
    assert_eq!((play.unanswered(), play.state.failures()), (0, 1));
    assert!(!play.state.is_settled(), "the question is still to be answered");
}

#[test]
fn a_group_that_is_not_available_holds_up_no_other() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.hear(&post_refused("unavailable", 1));
    play.sent();
    play.post_to("Cats", "meow");
    assert!(matches!(&play.sent()[..], [line] if line.contains("meow")));
}

#[test]
fn a_refused_join_is_a_failure_and_a_passing_refusal_is_told() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.sent();
    play.hear(&join_refused("unavailable", r#","retry_after_ms":1000"#));
    assert_eq!(problems(&mut play), ["not yet: no; trying again in 1.0 s"]);
    assert_eq!(play.state.failures(), 0);
    play.wait(1);
    assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs"}}"#]);
    play.hear(&join_refused("group_full", ""));
    assert_eq!(problems(&mut play), ["not joined Dogs: no"]);
    assert_eq!(play.state.failures(), 1);
    assert!(play.state.is_settled());
}

#[test]
fn a_join_that_may_succeed_in_an_hour_is_a_failure() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.hear(&join_refused("rate_limited", r#","retry_after_ms":10001"#));
    assert_eq!(play.state.failures(), 1);
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.hear(&join_refused("rate_limited", r#","retry_after_ms":10000"#));
    assert_eq!(play.state.failures(), 1);
    assert!(!play.state.is_settled(), "it is tried again");
}

#[test]
fn who_was_a_member_comes_back_as_soon_as_there_is_room() {
    for code in ["group_full", "server_full"] {
        let mut play = Play::in_dogs();
        play.reconnect();
        play.sent();
        play.hear(&join_refused(code, ""));
        assert_eq!(problems(&mut play).len(), 1, "{code}");
        play.wait(1);
        assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#)], "{code}");
        assert_eq!(play.state.failures(), 0);
    }
}

#[test]
fn who_was_a_member_comes_back_as_soon_as_a_moderator_lets_it() {
    for code in ["closed", "kicked"] {
        let mut play = Play::in_dogs();
        play.reconnect();
        play.post("one");
        play.sent();
        play.hear(&join_refused(code, r#","retry_after_ms":6000"#));
        // It was on its way behind the join.
        play.hear(&post_refused(code, 1));
        let told = problems(&mut play);
        assert_eq!(told, ["not yet: no; trying again in 6.0 s", "not yet: no; trying again in 2.0 s"], "{code}");
        play.wait(5);
        assert!(play.sent().is_empty(), "{code}");
        play.wait(1);
        assert_eq!(play.sent(), [format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#)], "{code}");
        play.hear(&joined(EPOCH, 9, true));
        assert_eq!(play.sent(), [post_line("one", 1)], "{code}");
        play.hear(&message(8));
        play.hear(&message(9));
        assert_eq!(play.seqs(), ["8", "9"], "{code}");
        assert_eq!(play.state.failures(), 0, "{code}");
    }
}

#[test]
fn a_first_join_of_a_closed_group_is_a_failure_and_so_is_a_post_to_one() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.hear(&join_refused("closed", r#","retry_after_ms":1000"#));
    assert_eq!((play.state.failures(), play.state.is_in_no_group()), (1, true));
    let mut play = Play::in_dogs();
    play.post("one");
    play.hear(&post_refused("closed", 1));
    assert_eq!(problems(&mut play), ["not posted to Dogs: no; the text: one"]);
}

#[test]
fn a_moderator_ends_the_session_whatever_was_asked() {
    let mut play = Play::in_dogs();
    play.type_in(Command::Groups { prefix: None });
    let ended = play.state.line(rejected("kicked", "").as_bytes(), play.now);
    assert!(matches!(ended, Err(Refusal::Dismissed(text)) if text == "no"));
    assert_eq!(play.state.failures(), 0, "the question was not refused");
    let mut play = Play::in_dogs();
    play.hear(&join_refused("kicked", r#","retry_after_ms":1000"#));
    assert_eq!(play.state.failures(), 1, "that is about a group");
}

#[test]
fn a_question_that_the_server_does_not_know_holds_up_nothing() {
    let mut play = Play::online();
    play.type_in(Command::Groups { prefix: None });
    play.type_in(Command::Members { group: "Dogs".into() });
    play.hear(&rejected("unknown_kind", ""));
    assert_eq!(play.sent(), [r#"{"Groups":{}}"#, r#"{"Members":{"group_name":"Dogs"}}"#]);
    assert_eq!(play.state.failures(), 1);
}

#[test]
fn what_is_refused_without_a_word_of_what_is_no_answer_to_a_question() {
    let mut play = Play::online();
    play.type_in(Command::Groups { prefix: None });
    play.hear(&rejected("protocol", ""));
    assert!(!play.state.is_settled());
}

#[test]
fn posts_wait_for_a_join_that_is_refused_for_now() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.post("one");
    play.post("two");
    assert_eq!(play.sent().len(), 3);
    play.hear(&join_refused("unavailable", ""));
    play.hear(&post_refused("unavailable", 1));
    // The server was back when that one came, and there was no member.
    play.hear(&post_refused("not_a_member", 2));
    for _ in 0..6 {
        play.post("three");
        play.wait(60);
        assert_eq!(play.sent(), [r#"{"Join":{"group_name":"Dogs"}}"#]);
        play.hear(&join_refused("unavailable", ""));
    }
    play.wait(60);
    play.sent();
    play.hear(&joined(EPOCH, 7, true));
    assert_eq!(play.sent(), [post_line("one", 1)]);
    play.hear(&posted(1, 8));
    assert_eq!(play.sent()[0], post_line("two", 2));
    assert_eq!(play.state.failures(), 0);
}

#[test]
fn who_is_not_let_in_for_good_is_told_so_of_the_posts_too() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.hear(&join_refused("unavailable", ""));
    play.post("one");
    play.wait(1);
    play.sent();
    play.hear(&join_refused("group_full", ""));
    assert_eq!(play.sent(), [post_line("one", 1)]);
    play.hear(&post_refused("not_a_member", 1));
    assert_eq!(problems(&mut play).last().unwrap(), "not posted to Dogs: no; the text: one");
}
