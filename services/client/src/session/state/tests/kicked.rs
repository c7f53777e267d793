//! Who is put out of a group, also while something about it is on its way.

use super::*;

#[test]
fn kicked_is_told_and_not_resumed() {
    let mut play = Play::in_dogs();
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"kicked","detail":"spam"}}"#);
    assert_eq!(play.shown(), [Event::Problem("you were kicked from Dogs: spam".into())]);
    play.reconnect();
    assert!(play.sent().is_empty());
}

#[test]
fn who_is_kicked_while_a_join_is_on_its_way_is_a_member_once_that_is_answered() {
    let mut play = Play::in_dogs();
    play.type_in(Command::Join { group: "Dogs".into(), last: Some(2) });
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"kicked"}}"#);
    play.hear(&joined(EPOCH, 9, true));
    for seq in 8..=10 {
        play.hear(&message(seq));
    }
    assert_eq!(play.seqs(), ["8", "9", "10"]);
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"kicked"}}"#);
    play.hear(&message(11));
    assert!(play.seqs().is_empty(), "nothing is on its way now");
    assert!(play.state.is_settled());
}

#[test]
fn who_is_kicked_while_leaving_and_coming_back_is_back_after_the_answers_to_all_of_it() {
    let left = r#"{"Left":{"group_name":"Dogs","reason":"leave"}}"#;
    for answer in [&rejected("not_a_member", r#","request":"Leave","group_name":"Dogs""#), left] {
        let mut play = Play::in_dogs();
        play.type_in(Command::Join { group: "Dogs".into(), last: Some(2) });
        play.type_in(Command::Leave { group: "Dogs".into() });
        play.hear(r#"{"Left":{"group_name":"Dogs","reason":"kicked"}}"#);
        play.type_in(Command::Join { group: "Dogs".into(), last: None });
        // Of the first join, of the leave, and of the second join.
        play.hear(&joined(EPOCH, 8, true));
        play.hear(answer);
        play.hear(&joined(EPOCH, 9, true));
        play.hear(&message(10));
        assert_eq!(play.seqs(), ["10"]);
    }
}

#[test]
fn who_is_banned_while_a_join_is_on_its_way_is_no_member_once_that_is_refused() {
    let mut play = Play::in_dogs();
    play.type_in(Command::Join { group: "Dogs".into(), last: Some(2) });
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"banned"}}"#);
    play.hear(&rejected("kicked", r#","request":"Join","group_name":"Dogs""#));
    assert!(play.state.is_settled());
    play.sent();
    play.reconnect();
    assert!(play.sent().is_empty());
}
