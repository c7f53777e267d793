//! What proves who one is, and what it allows.

use super::*;
use crate::session::proof::Shown;

/// Until then the token counts that the server was shown first.
const ENDS_AT: u64 = 1_764_068_400_000;

fn token(text: &str) -> Shown {
    Shown::Token(text.to_owned())
}

fn welcome_until(user: &str) -> String {
    welcome(user, 0).replace(r#""heartbeat""#, &format!(r#""expires_at":{ENDS_AT},"heartbeat""#))
}

/// A member of Dogs, ada by her token `one`.
fn ada() -> Play {
    let mut play = Play::offline(None);
    play.state.show_proof(token("one"));
    play.state.connected();
    assert_eq!(play.sent(), [r#"{"Hello":{"version":1,"token":"one"}}"#]);
    play.hear(&welcome_until("ada"));
    play.type_in(Command::Join { group: "Dogs".into(), last: None });
    play.hear(&joined(EPOCH, 7, true));
    play.sent();
    play.shown();
    play
}

/// The next attempt, up to its greeting.
fn greet(play: &mut Play, shown: Shown) -> Vec<String> {
    play.state.disconnected(play.now);
    play.state.show_proof(shown);
    play.state.connected();
    play.sent()
}

#[test]
fn who_shows_a_token_is_who_it_says_and_comes_back_as_the_same() {
    let mut play = ada();
    assert_eq!(play.state.user(), Some("ada"));
    assert_eq!(play.state.take_ends_at(), Some(ENDS_AT));
    assert_eq!(play.state.take_ends_at(), None, "it is told once");
    assert_eq!(greet(&mut play, token("two")), [r#"{"Hello":{"version":1,"user":"ada","token":"two"}}"#]);
}

#[test]
fn a_password_is_shown_with_the_user() {
    let mut play = Play::offline(Some("ada"));
    play.state.show_proof(Shown::Password("swordfish".into()));
    play.state.connected();
    assert_eq!(play.sent(), [r#"{"Hello":{"version":1,"user":"ada","password":"swordfish"}}"#]);
    // There is nobody who replaces it.
    play.hear(&welcome("ada", 0));
    greet(&mut play, Shown::Password("swordfish".into()));
    let refused = play.state.line(rejected("unauthenticated", "").as_bytes(), play.now);
    assert!(matches!(refused, Err(Refusal::Final(_))), "{refused:?}");
}

#[test]
fn a_token_that_is_refused_is_final_at_first_and_waited_for_later() {
    let mut play = Play::offline(None);
    play.state.show_proof(token("one"));
    play.state.connected();
    let refused = rejected("unauthenticated", r#","request":"Hello""#);
    let first = play.state.line(refused.as_bytes(), play.now);
    assert!(matches!(first, Err(Refusal::Final(_))), "{first:?}");

    let mut play = ada();
    play.post("one");
    for _ in 0..3 {
        greet(&mut play, token("one"));
        let later = play.state.line(refused.as_bytes(), play.now);
        assert!(matches!(later, Err(Refusal::Unproven(_))), "{later:?}");
    }
    greet(&mut play, token("two"));
    play.hear(&welcome_until("ada"));
    assert_eq!(play.sent()[0], format!(r#"{{"Join":{{"group_name":"Dogs","after":7,"epoch":{EPOCH}}}}}"#));
    assert_eq!(play.state.failures(), 0);
}

#[test]
fn an_attempt_that_may_be_made_later_is_not_the_last_one() {
    for shown in [token("one"), Shown::Password("swordfish".into())] {
        let mut play = Play::offline(Some("ada"));
        play.state.show_proof(shown);
        play.state.connected();
        let refused = play.state.line(rejected("unauthenticated", r#","retry_after_ms":3000"#).as_bytes(), play.now);
        assert!(matches!(refused, Err(Refusal::TurnedAway(_))), "{refused:?}");
        assert_eq!(play.state.take_reconnect_after(), Some(Duration::from_secs(3)));
    }
}

#[test]
fn a_connection_whose_token_has_expired_gets_its_answers_and_is_left() {
    let mut play = ada();
    play.post("one");
    play.sent();
    play.hear(&rejected("unauthenticated", ""));
    assert_eq!(play.state.departure(), Some("no"));
    play.post("two");
    assert!(play.sent().is_empty(), "it would not be taken any more");
    assert!(!play.state.has_departed(), "one is not answered");
    play.hear(&posted(1, 8));
    assert!(play.state.has_departed());
    assert_eq!((play.state.failures(), play.state.take_reconnect_after()), (0, None));
}

#[test]
fn another_token_in_the_file_is_shown_once_and_the_same_one_is_not() {
    let mut play = ada();
    play.state.take_ends_at();
    play.state.refresh(token("one"));
    assert!(play.sent().is_empty());
    play.state.refresh(token("two"));
    play.state.refresh(token("two"));
    assert_eq!(play.sent(), [r#"{"Refresh":{"token":"two"}}"#]);
    play.hear(&format!(r#"{{"Refreshed":{{"expires_at":{}}}}}"#, ENDS_AT + 1));
    assert_eq!(play.state.take_ends_at(), Some(ENDS_AT + 1));
    play.state.refresh(token("three"));
    play.sent();
    play.hear(&rejected("unauthenticated", r#","request":"Refresh""#));
    assert_eq!(play.shown(), [Event::Problem("the new token is refused: no".into())]);
    assert_eq!((play.state.departure(), play.state.failures()), (None, 0), "the one before goes on");
    play.state.disconnected(play.now);
    play.state.refresh(token("four"));
    assert!(play.sent().is_empty(), "there is no connection");
}

/// How many times the file is looked at, and still has that, until it is shown to the server again.
fn looks_until_shown(play: &mut Play, shown: &Shown) -> Option<u32> {
    for look in 1..=100 {
        play.state.refresh(shown.clone());
        if !play.sent().is_empty() {
            return Some(look);
        }
    }
    None
}

#[test]
fn a_token_that_is_refused_is_shown_again_more_and_more_rarely_and_told_once() {
    let refused = rejected("unauthenticated", r#","request":"Refresh""#);
    let (mut play, two) = (ada(), token("two"));
    assert_eq!(looks_until_shown(&mut play, &two), Some(1));
    assert_eq!(looks_until_shown(&mut play, &two), None, "it is not answered");
    let mut looks = Vec::new();
    play.hear(&refused);
    while let Some(look) = looks_until_shown(&mut play, &two) {
        looks.push(look);
        play.hear(&refused);
    }
    assert_eq!(looks, [2, 4, 8, 16, 32], "ten of them would end the connection");
    assert_eq!(play.shown(), [Event::Problem("the new token is refused: no".into())]);
    assert_eq!(looks_until_shown(&mut play, &token("one")), None, "that counts");
    assert_eq!(looks_until_shown(&mut play, &token("three")), Some(1), "it is another one");
}

#[test]
fn a_token_whose_key_comes_a_little_later_counts_on_the_same_connection() {
    let (mut play, two) = (ada(), token("two"));
    play.state.take_ends_at();
    assert_eq!(looks_until_shown(&mut play, &two), Some(1));
    play.hear(&rejected("unauthenticated", r#","request":"Refresh""#));
    assert_eq!(looks_until_shown(&mut play, &two), Some(2));
    play.hear(&format!(r#"{{"Refreshed":{{"expires_at":{}}}}}"#, ENDS_AT + 1));
    assert_eq!(play.state.take_ends_at(), Some(ENDS_AT + 1));
    assert_eq!(looks_until_shown(&mut play, &two), None, "it is taken");
}

#[test]
fn what_is_forbidden_is_a_failure_and_not_asked_for_again() {
    let mut play = ada();
    play.post("one");
    play.hear(&rejected("forbidden", r#","request":"Post","group_name":"Dogs","id":"00000000000000a1-1""#));
    assert_eq!(play.shown(), [Event::Problem("not posted to Dogs: no; the text: one".into())]);
    greet(&mut play, token("two"));
    play.hear(&welcome_until("ada"));
    play.sent();
    play.hear(&rejected("forbidden", r#","request":"Join","group_name":"Dogs""#));
    assert_eq!((play.state.failures(), play.state.is_in_no_group()), (2, true));

    let mut play = ada();
    play.hear(r#"{"Left":{"group_name":"Dogs","reason":"forbidden"}}"#);
    assert_eq!(play.shown(), [Event::Problem("you may not be in Dogs any more".into())]);
    assert!(play.state.is_in_no_group());
    greet(&mut play, token("two"));
    play.hear(&welcome_until("ada"));
    assert!(play.sent().is_empty());
}
