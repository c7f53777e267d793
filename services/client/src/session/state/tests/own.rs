//! What one posted is taken back.

use super::*;

fn remove(seq: Option<u64>) -> Command {
    Command::Remove { group: "Dogs".into(), seq }
}

fn line(seq: u64) -> String {
    format!(r#"{{"Remove":{{"group_name":"Dogs","seq":{seq},"epoch":{EPOCH}}}}}"#)
}

fn removed(seq: u64) -> String {
    format!(r#"{{"Removed":{{"group_name":"Dogs","epoch":{EPOCH},"seq":{seq},"told_by":20}}}}"#)
}

fn told(text: &str) -> [Event; 1] {
    [Event::Note(text.into())]
}

#[test]
fn the_last_post_is_taken_back_once_its_place_is_known() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.post("two");
    play.type_in(remove(None));
    play.post("three");
    assert_eq!(play.sent(), [post_line("one", 1), post_line("two", 2), post_line("three", 3)]);
    play.hear(&posted(1, 8));
    assert!(play.sent().is_empty());
    assert!(play.state.has_unanswered(), "who quits waits for it");
    play.hear(&posted(2, 9));
    assert_eq!(play.sent(), [line(9)], "what was typed after it is not meant");
    play.hear(&posted(3, 10));
    play.hear(&removed(9));
    assert_eq!(play.shown(), told("removed from Dogs: two"));
    assert!(!play.state.has_unanswered());
    // One after the other; what is taken back already is not the last one any more.
    play.type_in(remove(None));
    assert_eq!(play.sent(), [line(10)]);
    play.hear(&removed(10));
    play.shown();
    play.type_in(remove(None));
    assert!(play.sent().is_empty() && play.state.failures() == 1);
}

#[test]
fn a_message_is_taken_back_by_its_number() {
    let mut play = Play::in_dogs();
    play.type_in(remove(Some(5)));
    assert_eq!(play.sent(), [r#"{"Remove":{"group_name":"Dogs","seq":5}}"#]);
    play.hear(&rejected("no_such_message", r#","request":"Remove","group_name":"Dogs""#));
    assert_eq!((play.shown(), play.state.failures()), (vec![Event::Problem("no".into())], 1));
    play.type_in(remove(Some(6)));
    play.sent();
    // What nobody asked for changes nothing.
    play.hear(&removed(6).replace("Dogs", "Cats"));
    assert!(play.shown().is_empty());
    play.hear(&removed(6));
    assert_eq!(play.shown(), told("message 6 of Dogs is removed"));
    play.hear(&removed(6));
    assert!(play.shown().is_empty() && play.state.is_settled());
}

#[test]
fn what_was_not_posted_is_not_taken_back_and_what_was_before_it_stays() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.hear(&posted(1, 8));
    play.hear(&own(8, 1));
    play.post("two");
    play.type_in(remove(None));
    play.sent();
    play.hear(&rejected("forbidden", r#","request":"Post","group_name":"Dogs","id":"00000000000000a1-2""#));
    assert!(play.sent().is_empty());
    assert_eq!(play.state.failures(), 2, "that it was not posted, and not removed");
    assert!(play.state.is_settled());
    play.type_in(remove(None));
    assert!(play.sent().is_empty());
    assert_eq!(play.state.failures(), 3);
}

#[test]
fn a_connection_that_breaks_does_not_change_what_is_meant() {
    let mut play = Play::in_dogs();
    play.post("one");
    play.type_in(remove(None));
    play.sent();
    // The post was stored; the message itself tells where, by the next connection.
    play.reconnect();
    play.sent();
    play.hear(&joined(EPOCH, 8, true));
    play.hear(&own(8, 1));
    assert_eq!(play.sent(), [line(8)]);
    play.reconnect();
    play.hear(&joined(EPOCH, 9, true));
    assert!(play.sent().contains(&line(8)), "it is asked for again");
    play.hear(&removed(8));
    assert!(play.shown().contains(&Event::Note("removed from Dogs: one".into())));
}
