use super::*;
use crate::log::conformance::group;

const SECOND: Duration = Duration::from_secs(1);

/// What comes from there on is in memory.
const MEMORY: u64 = 1000;

fn bad() -> TableError {
    TableError::Redb(Box::new(redb::Error::Io(std::io::Error::other("bad"))))
}

/// A read that the disk failed under at once.
fn quick(now: Instant) -> Failed {
    Failed { begun: now, now }
}

fn whole(begin: u64) -> Span {
    Span { begin, end: u64::MAX }
}

#[test]
fn a_place_that_failed_is_left_alone_and_then_passed_over() {
    let (mut state, dogs, mut now) = (State::default(), group("Dogs"), Instant::now());
    state.failed_after(&dogs, 7, 100, MEMORY, &"bad", quick(now));
    assert!(matches!(state.after(&dogs, 7, 100, MEMORY, now), Err(TableError::Avoided)));
    assert_eq!(
        state.after(&dogs, 7, 7, MEMORY, now).unwrap(),
        Span { begin: 7, end: 100 },
        "what is before it is read"
    );
    assert_eq!(state.after(&dogs, 7, 101, MEMORY, now).unwrap(), whole(101), "and what is after it");
    assert_eq!(state.after(&group("Cats"), 7, 100, MEMORY, now).unwrap(), whole(100), "and other groups");
    for (failures, pause) in [(2, AGAIN), (3, 2 * AGAIN)] {
        now += pause;
        assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(100), "try {failures}");
        assert!(matches!(state.after(&dogs, 7, 100, MEMORY, now), Err(TableError::Avoided)), "one tries, no more");
        state.failed_after(&dogs, 7, 100, MEMORY, &"bad", quick(now));
    }
    for passed in [STRIDE, 0, 2 * STRIDE, 0] {
        now += 4 * AGAIN;
        assert_eq!(
            state.after(&dogs, 7, 100, MEMORY, now).unwrap(),
            whole(100 + passed),
            "every second one tries all of it"
        );
        state.failed_after(&dogs, 7, 100 + passed, MEMORY, &"bad", quick(now));
    }
    now += 4 * AGAIN;
    let begin = state.after(&dogs, 7, 103, MEMORY, now).unwrap().begin;
    assert_eq!(begin, 100 + 4 * STRIDE);
    state.read_after(&dogs, begin);
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(begin));
    assert_eq!(state.after(&dogs, 7, begin, MEMORY, now).unwrap(), whole(begin));
    now += 4 * AGAIN;
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(100), "a last time");
    state.failed_after(&dogs, 7, 100, MEMORY, &"bad", quick(now));
    now += 4 * AGAIN;
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(begin));
    assert_eq!(
        state.after(&dogs, 7, 100, MEMORY, now + KNOWN).unwrap(),
        whole(100),
        "the disk may have been put right"
    );
}

/// A group in which a place failed so often that it is passed over.
fn failed_thrice(dogs: &GroupName, at: u64, memory_first: u64, now: Instant) -> State {
    let mut state = State::default();
    (0..TRIES).for_each(|_| state.failed_after(dogs, 7, at, memory_first, &"bad", quick(now)));
    state
}

#[test]
fn what_is_in_memory_is_not_passed_over_and_not_tried() {
    let (dogs, now) = (group("Dogs"), Instant::now());
    let mut state = failed_thrice(&dogs, 190, 201, now);
    for _ in 0..2 {
        assert_eq!(state.after(&dogs, 7, 190, 201, now).unwrap(), whole(201), "nobody waits for anything");
    }
    assert_eq!(state.tried, None);
    assert_eq!(state.after(&dogs, 7, 190, 261, now).unwrap(), whole(201), "nor once it has left memory");
    assert_eq!(state.after(&dogs, 7, 201, 261, now).unwrap(), whole(201));

    // Also where it leaves memory before anybody reads again.
    let mut state = failed_thrice(&dogs, 190, 201, now);
    assert_eq!(state.after(&dogs, 7, 190, 261, now + 4 * AGAIN).unwrap(), whole(201));
}

#[test]
fn what_was_passed_over_and_can_be_read_again_is_no_hole_any_more() {
    let (dogs, mut now) = (group("Dogs"), Instant::now());
    let mut state = failed_thrice(&dogs, 100, MEMORY, now);
    now += 4 * AGAIN;
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(100 + STRIDE));
    state.read_after(&dogs, 100 + STRIDE);
    now += 4 * AGAIN;
    assert_eq!(state.after(&dogs, 7, 105, MEMORY, now).unwrap(), whole(105));
    state.read_after(&dogs, 105);
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(105));
    assert_eq!(state.after(&dogs, 7, 105, MEMORY, now).unwrap(), whole(105));
}

#[test]
fn what_some_meet_at_the_same_time_is_one_failure() {
    let (mut state, dogs, begun) = (State::default(), group("Dogs"), Instant::now());
    // A disk takes some time to say that it cannot read.
    for second in 1..=5 {
        let failed = Failed { begun, now: begun + second * SECOND };
        state.failed_after(&dogs, 7, 100, MEMORY, &"bad", failed);
        state.failed_before(&dogs, 7, 100, &"bad", failed);
    }
    // Nor is it one of the place where somebody begins before it.
    for at in (90..100).rev() {
        state.failed_after(&dogs, 7, at, MEMORY, &"bad", quick(begun + 6 * SECOND));
    }
    let now = begun + 10 * SECOND + AGAIN;
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(100), "it is tried again, and soon");
    let again = now + BETWEEN;
    assert_eq!(state.before(&dogs, 7, 100, again).unwrap(), 0);
    let tries = &state.groups[&dogs].forward[0].tries;
    assert_eq!((state.groups[&dogs].forward.len(), tries.failures), (1, 1));
}

#[test]
fn what_failed_once_is_not_passed_over_for_what_can_be_read_after_it() {
    let (mut state, dogs, mut now) = (State::default(), group("Dogs"), Instant::now());
    state.failed_after(&dogs, 7, 100, MEMORY, &"bad", quick(now));
    state.failed_after(&dogs, 7, 95, MEMORY, &"bad", quick(now));
    now += 4 * AGAIN;
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(100));
    state.read_after(&dogs, 100);
    assert!(state.after(&dogs, 7, 95, MEMORY, now).is_err());
    now += 4 * AGAIN;
    assert_eq!(state.after(&dogs, 7, 95, MEMORY, now).unwrap(), whole(95));
}

#[test]
fn what_failed_once_far_before_a_place_makes_that_no_larger() {
    let (mut state, dogs, mut now) = (State::default(), group("Dogs"), Instant::now());
    for at in [300, 300, 60, 300] {
        state.failed_after(&dogs, 7, at, MEMORY, &"bad", quick(now));
    }
    now += 4 * AGAIN;
    assert_eq!(state.after(&dogs, 7, 300, MEMORY, now).unwrap(), whole(300 + STRIDE));

    let mut state = failed_thrice(&dogs, 300, MEMORY, now);
    now += 4 * AGAIN;
    let begin = state.after(&dogs, 7, 300, MEMORY, now).unwrap().begin;
    state.read_after(&dogs, begin);
    state.failed_after(&dogs, 7, 200, MEMORY, &"bad", quick(now));
    assert!(matches!(state.after(&dogs, 7, 200, MEMORY, now), Err(TableError::Avoided)), "it is tried again first");
    assert_eq!(state.after(&dogs, 7, 300, MEMORY, now).unwrap(), whole(begin));
}

#[test]
fn what_can_be_read_again_is_no_hole_any_more() {
    let (mut state, dogs, mut now) = (State::default(), group("Dogs"), Instant::now());
    state.failed_after(&dogs, 7, 100, MEMORY, &"bad", quick(now));
    now += AGAIN;
    assert_eq!(state.after(&dogs, 7, 100, MEMORY, now).unwrap(), whole(100));
    state.read_after(&dogs, 100);
    assert_eq!(state.after(&dogs, 7, 90, MEMORY, now).unwrap(), whole(90));
    state.failed_before(&dogs, 7, 100, &"bad", quick(now));
    now += AGAIN;
    assert_eq!(state.before(&dogs, 7, 100, now).unwrap(), 0);
    state.read_before(&dogs, 100);
    assert_eq!(state.before(&dogs, 7, 200, now).unwrap(), 0);
    assert_eq!(state.before(&dogs, 7, 100, now).unwrap(), 0);
}

#[test]
fn another_life_of_the_group_has_other_messages_there() {
    let (mut state, dogs, now) = (State::default(), group("Dogs"), Instant::now());
    state.failed_after(&dogs, 7, 100, MEMORY, &"bad", quick(now));
    state.failed_before(&dogs, 7, 100, &"bad", quick(now));
    assert_eq!(state.after(&dogs, 8, 100, MEMORY, now).unwrap(), whole(100));
    assert_eq!(state.before(&dogs, 8, 100, now).unwrap(), 0);
}

#[test]
fn places_are_tried_one_after_the_other() {
    let (mut state, now) = (State::default(), Instant::now());
    let names = [group("A"), group("B")];
    names.iter().for_each(|name| state.failed_after(name, 7, 1, MEMORY, &"bad", quick(now)));
    let later = now + AGAIN;
    assert!(state.after(&names[0], 7, 1, MEMORY, later).is_ok());
    assert!(state.after(&names[1], 7, 1, MEMORY, later).is_err());
    assert!(state.after(&names[1], 7, 1, MEMORY, later + BETWEEN).is_ok());
}

#[test]
fn after_a_try_that_succeeds_the_next_one_does_not_wait() {
    let now = Instant::now();
    let names: Vec<GroupName> = (0..4).map(|number| group(&format!("G{number}"))).collect();
    let holes = Holes::default();
    holes.listed(now, &Err::<(), _>(bad()));
    for name in &names {
        holes.failed_row(name, now, &"bad");
        holes.failed_after(name, 7, 1, MEMORY, now, &"bad");
        holes.failed_before(name, 7, 1, now, &"bad");
    }
    holes.hurry();
    for name in &names {
        holes.may_read_row(name).unwrap();
        holes.read_row(&group("other"));
        assert!(holes.may_list().is_err(), "what was read elsewhere says nothing");
        holes.read_row(name);
        holes.after(name, 7, 1, MEMORY).unwrap();
        holes.read_after(&group("other"), 1);
        assert!(holes.may_list().is_err());
        holes.read_after(name, 1);
        holes.before(name, 7, 1).unwrap();
        holes.read_before(name, 2);
        assert!(holes.may_list().is_err());
        holes.read_before(name, 1);
    }
    holes.may_list().unwrap();
    holes.listed(now, &Ok(()));
    assert_eq!(holes.state().tried, None);
    assert!(now.elapsed() < BETWEEN);
}

#[test]
fn whoever_reads_backward_ends_before_the_place() {
    let (mut state, dogs, now) = (State::default(), group("Dogs"), Instant::now());
    state.failed_before(&dogs, 7, 100, &"bad", quick(now));
    assert_eq!(state.before(&dogs, 7, 200, now).unwrap(), 100);
    assert!(state.before(&dogs, 7, 100, now).is_err());
    assert_eq!(state.before(&dogs, 7, 99, now).unwrap(), 0);
    state.failed_before(&dogs, 7, 90, &"bad", quick(now + SECOND));
    assert!(state.before(&dogs, 7, 95, now + SECOND).is_err(), "it is one place");
}

#[test]
fn a_disk_that_fails_as_a_whole_does_not_fill_the_memory() {
    let (mut state, now) = (State::default(), Instant::now());
    for number in 0..2 * MOST as u64 {
        state.failed_after(&group(&format!("G{}", number / 2)), 7, number * 2 * NEAR, u64::MAX, &"bad", quick(now));
    }
    assert_eq!(state.groups.values().map(Places::count).sum::<usize>(), MOST);
    state.failed_after(&group("Dogs"), 7, 1, MEMORY, &"bad", quick(now + KNOWN));
    assert_eq!(state.groups.len(), 1);
}
