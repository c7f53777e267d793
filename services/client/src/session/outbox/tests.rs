//! The outbox, and the clock it sees.

use super::*;

fn outbox(texts: &[&str]) -> Outbox {
    let mut outbox = Outbox::new(0xa1);
    for text in texts {
        outbox.push("Dogs".into(), (*text).into());
    }
    outbox
}

fn one(outbox: &mut Outbox, now: Instant, window: usize) -> Option<(String, String)> {
    match outbox.next(now, Window::OfEach(window), |_| true)? {
        Next::Send(post) => Some((post.id.clone(), post.text.clone())),
        Next::Forgotten(post) => panic!("forgotten: {post:?}"),
    }
}

fn sent(outbox: &mut Outbox, now: Instant, window: usize) -> Vec<(String, String)> {
    std::iter::from_fn(|| one(outbox, now, window)).collect()
}

fn texts(sent: &[(String, String)]) -> Vec<&str> {
    sent.iter().map(|(_, text)| text.as_str()).collect()
}

#[test]
fn what_was_sent_and_not_answered_is_sent_again_in_order_with_its_id() {
    let now = Instant::now();
    let mut outbox = outbox(&["one", "two", "three"]);
    let first = sent(&mut outbox, now, 9);
    assert_eq!(first[0], ("00000000000000a1-1".into(), "one".into()));
    assert_eq!(outbox.stored(&first[1].0).unwrap().text, "two");
    assert!(outbox.disconnected(now).is_empty());
    assert_eq!(sent(&mut outbox, now, 9), [first[0].clone(), first[2].clone()]);
}

#[test]
fn a_window_is_kept_for_each_group() {
    let now = Instant::now();
    let mut outbox = outbox(&["one", "two"]);
    outbox.push("Cats".into(), "meow".into());
    let first = sent(&mut outbox, now, 1);
    assert_eq!(texts(&first), ["one", "meow"]);
    outbox.stored(&first[0].0).unwrap();
    assert_eq!(texts(&sent(&mut outbox, now, 1)), ["two"]);
}

#[test]
fn where_one_is_in_flight_the_order_of_typing_holds_over_all_groups() {
    let now = Instant::now();
    let mut outbox = outbox(&["one"]);
    outbox.push("Cats".into(), "meow".into());
    outbox.push("Dogs".into(), "two".into());
    let mut order = Vec::new();
    while let Some(Next::Send(post)) = outbox.next(now, Window::One, |_| true) {
        let (id, text) = (post.id.clone(), post.text.clone());
        assert_eq!(outbox.next(now, Window::One, |_| true), None, "one at a time");
        outbox.stored(&id).unwrap();
        order.push(text);
    }
    assert_eq!(order, ["one", "meow", "two"]);
}

const SECOND: Duration = Duration::from_secs(1);

/// What comes of a refusal for now after which the server asks to wait for a second.
fn refused(outbox: &mut Outbox, id: &str, now: Instant) -> Again {
    outbox.refused_for_now(id, Code::Unavailable, now, SECOND)
}

#[test]
fn a_refused_post_holds_those_behind_it_in_its_group() {
    let now = Instant::now();
    let later = now + SECOND;
    let mut outbox = outbox(&["one", "two"]);
    outbox.push("Cats".into(), "meow".into());
    let (id, _) = one(&mut outbox, now, 1).unwrap();
    assert_eq!(refused(&mut outbox, &id, now), Again::Later { news: true, wait: SECOND });
    assert_eq!(outbox.deadline(), Some(later));
    assert_eq!(texts(&sent(&mut outbox, now, 9)), ["meow"]);
    assert_eq!(texts(&sent(&mut outbox, later, 9)), ["one"], "one at a time, until one is stored");
    assert_eq!(refused(&mut outbox, &id, now), Again::Later { news: false, wait: SECOND });
    assert_eq!(texts(&sent(&mut outbox, later, 9)), ["one"]);
    outbox.stored(&id).unwrap();
    assert_eq!(texts(&sent(&mut outbox, later, 9)), ["two"]);
}

#[test]
fn what_is_in_flight_behind_a_refused_post_is_waited_for() {
    let now = Instant::now();
    let mut outbox = outbox(&["one", "two", "three"]);
    let first = sent(&mut outbox, now, 9);
    let later = now + SECOND;
    refused(&mut outbox, &first[0].0, now);
    assert_eq!(sent(&mut outbox, later, 9), []);
    refused(&mut outbox, &first[1].0, now);
    refused(&mut outbox, &first[2].0, now);
    assert_eq!(texts(&sent(&mut outbox, later, 9)), ["one"]);
}

#[test]
fn too_many_posts_hold_all_groups_and_are_never_given_up() {
    let now = Instant::now();
    let mut outbox = outbox(&["one"]);
    outbox.push("Cats".into(), "meow".into());
    let end = now + 2 * PATIENCE;
    let mut now = now;
    while now < end {
        let (id, text) = one(&mut outbox, now, 1).unwrap();
        assert_eq!(text, "one");
        let again = outbox.refused_for_now(&id, Code::RateLimited, now, SECOND);
        assert!(matches!(again, Again::Later { wait: SECOND, .. }));
        assert_eq!(one(&mut outbox, now, 1), None);
        now += SECOND;
    }
    one(&mut outbox, now, 1).unwrap();
    assert!(outbox.disconnected(now).is_empty());
}

#[test]
fn a_post_that_is_refused_is_tried_later_and_later_and_given_up_after_a_long_time() {
    let start = Instant::now();
    let mut now = start;
    let mut outbox = outbox(&["one", "two"]);
    let mut waits = Vec::new();
    loop {
        let (id, text) = one(&mut outbox, now, 1).unwrap();
        assert_eq!(text, "one");
        match refused(&mut outbox, &id, now) {
            Again::Later { wait, .. } => {
                waits.push(wait.as_secs());
                now += wait;
            }
            Again::Never(post) => break assert_eq!(post.text, "one"),
            Again::Nothing => panic!("it is there"),
        }
    }
    assert_eq!(waits[..7], [1, 1, 2, 4, 8, 10, 10]);
    assert!((PATIENCE..PATIENCE + LONGEST_WAIT).contains(&(now - start)), "{:?}", now - start);
    now += LONGEST_WAIT;
    let (id, text) = one(&mut outbox, now, 1).unwrap();
    assert_eq!(text, "two");
    let asked = outbox.refused_for_now(&id, Code::Unavailable, now, Duration::from_secs(30));
    assert!(matches!(asked, Again::Later { wait, .. } if wait == Duration::from_secs(30)), "as the server asks");
}

#[test]
fn those_behind_a_post_that_was_stored_in_the_end_have_all_the_time_again() {
    let now = Instant::now();
    let mut outbox = outbox(&["one", "two"]);
    let first = sent(&mut outbox, now, 9);
    for (id, _) in &first {
        refused(&mut outbox, id, now);
    }
    let late = now + PATIENCE;
    assert_eq!(texts(&sent(&mut outbox, late, 9)), ["one"]);
    outbox.stored(&first[0].0).unwrap();
    assert_eq!(texts(&sent(&mut outbox, late, 9)), ["two"]);
    assert!(matches!(refused(&mut outbox, &first[1].0, late), Again::Later { .. }));
}

#[test]
fn a_post_that_breaks_every_connection_for_a_long_time_is_given_up() {
    let start = Instant::now();
    let breaks = |times: u32, now: Instant| {
        let mut outbox = outbox(&["poison"]);
        for _ in 1..times {
            one(&mut outbox, start, 9).unwrap();
            assert!(outbox.disconnected(start).is_empty());
        }
        outbox.not_stored("Dogs");
        one(&mut outbox, now, 9).unwrap();
        outbox.disconnected(now).len()
    };
    let late = start + PATIENCE;
    assert_eq!(breaks(MOST_BROKEN, late), 1);
    assert_eq!(breaks(MOST_BROKEN - 1, late), 0, "those may have had other reasons");
    assert_eq!(breaks(2 * MOST_BROKEN, late - SECOND), 0, "that may be a bad hour of the network");
}

#[test]
fn a_post_whose_id_may_be_forgotten_is_not_repeated() {
    let now = Instant::now();
    let late = now + REMEMBERED;
    let mut outbox = outbox(&["one", "two"]);
    one(&mut outbox, now, 1).unwrap();
    outbox.disconnected(now);
    let forgotten = outbox.next(late, Window::OfEach(9), |_| true);
    assert!(matches!(forgotten, Some(Next::Forgotten(post)) if post.text == "one"));
    assert_eq!(texts(&sent(&mut outbox, late, 9)), ["two"], "that one was never sent");
}

#[test]
fn what_the_server_forgets_while_the_machine_is_asleep_is_forgotten() {
    let now = Instant::now();
    for (asleep, repeated) in [(REMEMBERED - SECOND, true), (REMEMBERED, false)] {
        let mut outbox = outbox(&["one"]);
        outbox.slept(REMEMBERED);
        one(&mut outbox, now, 1).unwrap();
        outbox.slept(asleep);
        outbox.disconnected(now);
        let next = outbox.next(now, Window::OfEach(9), |_| true);
        assert_eq!(matches!(next, Some(Next::Send(_))), repeated, "{next:?}");
    }
}

#[test]
fn a_post_that_came_into_doubt_since_is_not_cleared_by_what_was_missed_before() {
    let now = Instant::now();
    let mut outbox = outbox(&["one"]);
    let (id, _) = one(&mut outbox, now, 1).unwrap();
    outbox.doubt(&id);
    refused(&mut outbox, &id, now);
    outbox.not_stored("Dogs");
    assert!(outbox.posts()[0].is_in_doubt());
}

#[test]
fn a_post_that_was_not_found_in_the_log_is_repeated_at_any_time() {
    let now = Instant::now();
    let mut outbox = outbox(&["one"]);
    one(&mut outbox, now, 1).unwrap();
    outbox.disconnected(now);
    outbox.not_stored("Dogs");
    let late = now + REMEMBERED * 2;
    assert_eq!(texts(&sent(&mut outbox, late, 9)), ["one"]);
    outbox.disconnected(now);
    assert_eq!(texts(&sent(&mut outbox, late + REMEMBERED / 2, 9)), ["one"], "the time counts from the second one");
}

#[test]
fn a_refusal_settles_the_doubt_only_of_the_attempt_that_it_answers() {
    let now = Instant::now();
    let mut outbox = outbox(&["one"]);
    let (id, _) = one(&mut outbox, now, 1).unwrap();
    refused(&mut outbox, &id, now);
    assert_eq!(texts(&sent(&mut outbox, now + REMEMBERED, 9)), ["one"], "it was never in doubt");
    outbox.disconnected(now);
    assert!(outbox.posts()[0].is_in_doubt());
}

#[test]
fn room_is_bounded_by_count_and_bytes() {
    let mut many = outbox(&[""; MOST_POSTS]);
    assert!(many.is_full());
    let (id, _) = one(&mut many, Instant::now(), 9).unwrap();
    many.stored(&id).unwrap();
    assert!(!many.is_full());
    assert!(outbox(&[&"x".repeat(MOST_BYTES)]).is_full());
}

#[test]
fn only_what_was_sent_is_uncertain() {
    let mut outbox = outbox(&["one", "two"]);
    let now = Instant::now();
    one(&mut outbox, now, 1).unwrap();
    outbox.disconnected(now);
    assert_eq!(outbox.take_uncertain().len(), 1);
    assert_eq!(outbox.posts().len(), 1);
}
