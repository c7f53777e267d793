//! Posts of which nobody said what became of them.

use super::*;

/// Longer than a server remembers the id of a post.
const LONG: u64 = 300;

/// ada posted "one" to Dogs, where she had seen up to 7, and was not answered; now she is back.
fn back_in_dogs_after(seconds: u64) -> Play {
    let mut play = Play::in_dogs();
    play.post("one");
    play.state.disconnected(play.now);
    play.now += Duration::from_secs(seconds);
    play.connect("ada");
    assert!(!play.sent().iter().any(|line| line.contains("Post")), "the stream of Dogs tells first");
    play
}

#[test]
fn what_is_found_among_the_messages_is_not_repeated() {
    for seconds in [0, LONG] {
        let mut play = back_in_dogs_after(seconds);
        play.hear(&joined(EPOCH, 9, true));
        play.hear(&own(8, 1));
        play.hear(&message(9));
        assert!(play.sent().is_empty());
        assert!(play.state.is_settled());
        assert_eq!(play.state.failures(), 0);
        assert_eq!(play.seqs(), ["8", "9"]);
    }
}

#[test]
fn what_is_not_found_among_the_messages_is_repeated_however_late() {
    for seconds in [0, LONG] {
        let mut play = back_in_dogs_after(seconds);
        play.hear(&joined(EPOCH, 9, true));
        play.hear(&message(8));
        assert!(play.sent().is_empty());
        play.hear(&message(9));
        assert_eq!(play.sent(), [post_line("one", 1)]);
    }
}

#[test]
fn where_nothing_was_missed_it_is_repeated_at_once() {
    let mut play = back_in_dogs_after(LONG);
    play.hear(&joined(EPOCH, 7, true));
    assert_eq!(play.sent(), [post_line("one", 1)]);
}

#[test]
fn another_user_with_the_same_id_is_somebody_else() {
    let mut play = back_in_dogs_after(0);
    play.hear(&joined(EPOCH, 8, true));
    play.hear(&own(8, 1).replace("ada", "bob"));
    assert_eq!(play.sent(), [post_line("one", 1)]);
}

#[test]
fn where_some_messages_are_gone_it_is_repeated_only_while_the_server_remembers() {
    for (seconds, repeated) in [(0, true), (LONG, false)] {
        let mut play = back_in_dogs_after(seconds);
        play.hear(&joined(EPOCH, 9, false));
        play.hear(r#"{"Lagged":{"group_name":"Dogs","first":8,"last":8}}"#);
        play.hear(&message(9));
        let posts: &[String] = if repeated { &[post_line("one", 1)] } else { &[] };
        assert_eq!(play.sent(), posts);
        assert_eq!(play.state.failures(), u64::from(!repeated));
    }
}

#[test]
fn where_more_went_by_than_the_server_remembers_it_is_not_repeated() {
    for (messages, repeated) in [(3_072, true), (3_073, false)] {
        let mut play = back_in_dogs_after(0);
        let head = 7 + messages;
        play.hear(&joined(EPOCH, head, false));
        play.hear(&format!(r#"{{"Lagged":{{"group_name":"Dogs","first":8,"last":{}}}}}"#, head - 1));
        play.hear(&message(head));
        let posts: &[String] = if repeated { &[post_line("one", 1)] } else { &[] };
        assert_eq!(play.sent(), posts);
        assert_eq!(play.state.failures(), u64::from(!repeated));
    }
}

#[test]
fn a_poster_who_is_no_member_repeats_only_while_the_server_remembers() {
    for (seconds, repeated) in [(0, true), (LONG, false)] {
        let mut play = Play::online();
        play.post("one");
        play.state.disconnected(play.now);
        play.post("two");
        play.now += Duration::from_secs(seconds);
        play.connect("ada");
        play.state.tick(play.now);
        play.hear(r#"{"Pong":{}}"#);
        assert_eq!(play.state.failures(), u64::from(!repeated));
        assert_eq!(play.unanswered(), if repeated { 2 } else { 1 });
    }
}

#[test]
fn what_was_typed_behind_a_post_in_doubt_stays_behind_it() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.state.disconnected(play.now);
    play.post("two");
    play.connect("ada");
    assert!(!play.sent().iter().any(|line| line.contains("Post")));
    play.hear(&joined(EPOCH, 8, true));
    play.hear(&message(8));
    assert_eq!(play.sent(), [post_line("one", 1), post_line("two", 2)]);
}

#[test]
fn ones_own_message_is_an_answer() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.hear(&own(8, 1));
    assert_eq!(play.unanswered(), 0);
    play.hear(&posted(1, 8));
    assert!(play.state.is_settled());
    assert_eq!(play.state.failures(), 0);
}
