//! What is not done yet, and whether something comes of it.

use super::*;

#[test]
fn where_retention_left_nothing_the_last_few_are_missing_and_no_more_is_waited_for() {
    let mut play = Play::online();
    play.type_in(Command::Join { group: "Dogs".into(), last: Some(3) });
    play.hear(&joined(EPOCH, 10, false));
    assert_eq!(play.state.open(), "messages of Dogs (7 of 10 seen)");
    play.hear(r#"{"Lagged":{"group_name":"Dogs","first":8,"last":10}}"#);
    assert_eq!(play.seqs(), ["8..10 missing"]);
    assert!(play.state.is_settled());
}

#[test]
fn all_that_is_waited_for_is_named() {
    let mut play = Play::in_dogs();
    play.type_in(Command::Leave { group: "Dogs".into() });
    play.type_in(Command::Join { group: "Cats".into(), last: None });
    play.type_in(Command::Members { group: "Dogs".into() });
    play.type_in(Command::Groups { prefix: None });
    assert_eq!(play.state.open(), "joining Cats, leaving Dogs, the members of Dogs, the groups");
    play.state.disconnected(play.now);
    assert_eq!(play.state.open(), "joining Cats, the members of Dogs, the groups, a connection");
}

#[test]
fn posts_never_sent_and_posts_in_doubt_are_counted_apart() {
    let told = |play: &Play| play.state.unanswered().map(|posts| posts.to_string()).unwrap_or_default();
    let mut play = Play::in_dogs();
    assert_eq!(play.state.unanswered(), None);
    play.post("one");
    assert_eq!(told(&play), "it is unknown whether 1 post came through; the first: one");
    play.state.disconnected(play.now);
    play.post("two");
    play.post("three");
    assert_eq!(
        told(&play),
        "2 posts not sent or not taken, and it is unknown whether 1 post came through; the first: one"
    );
    let mut play = Play::offline(None);
    play.post("one");
    assert_eq!(told(&play), "1 post not sent or not taken; the first: one");
}

#[test]
fn only_what_comes_of_what_was_asked_for_is_progress() {
    let mut play = Play::in_dogs();
    play.state.take_progress();
    let mut progress = |line: &str| {
        play.hear(line);
        play.state.take_progress()
    };
    assert!(!progress(&message(8)), "nobody waits for that");
    assert!(!progress(r#"{"Pong":{}}"#));
    play.post("one");
    play.type_in(Command::Members { group: "Dogs".into() });
    let mut progress = |line: &str| {
        play.hear(line);
        play.state.take_progress()
    };
    assert!(progress(&posted(1, 10)));
    assert!(progress(&message(9)), "it is on the way to 10");
    assert!(progress(r#"{"Members":{"group_name":"Dogs","members":["ada"],"more":false}}"#));
}
