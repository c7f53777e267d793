//! Groups that are not in memory, where the log is far or silent.

use super::*;

const GROUPS: u64 = 50;

pub(super) fn name(number: u64) -> GroupName {
    GroupName::new(&format!("G{number}")).unwrap()
}

fn world() -> World {
    World::new(Config::default(), Bounds { groups: 100, ..BOUNDS })
}

/// Stores a message in each of so many groups.
pub(super) async fn store(log: &Shared) {
    for number in 0..GROUPS {
        let sender = UserName::new("eve").unwrap();
        let record = crate::log::Record { seq: 1, at: 1, sender, id: None, message: "x".into() };
        let batch = Batch { group: name(number), epoch: 1, records: vec![record] };
        log.append(0, vec![Arc::new(batch)]).await.unwrap();
    }
}

/// Joins as many groups, each with a connection of its own, without waiting.
async fn send_joins(world: &World) -> Vec<Arc<Session>> {
    let mut sessions = Vec::new();
    for number in 0..GROUPS {
        let (group, session) = (name(number), session(number, "ada"));
        let join = Request::Join { group, session: Arc::clone(&session), from: JoinFrom::Now };
        assert!(world.shards.send(0, join).await);
        sessions.push(session);
    }
    sessions
}

/// One request with a post to each of the groups.
pub(super) fn posts(session: &Arc<Session>) -> Request {
    let post = |number| NewPost { group: name(number), message: "m".into(), id: None, trace: None, weight: None };
    let (session, posts) = (Arc::clone(session), (0..GROUPS).map(post).collect());
    Request::Post(Posts { session, posts, received: Instant::now(), in_doubt: false })
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_many_groups_does_not_wait_for_one_after_the_other() {
    // Some groups are in the log, and the others come to be.
    for is_stored in [true, false] {
        let world = world();
        if is_stored {
            store(&world.log).await;
        }
        world.mood(FAR);
        let begun = tokio::time::Instant::now();
        for session in send_joins(&world).await {
            assert!(
                matches!(next_event(&session.inbox).await, Event::Joined(joined) if (joined.head == 1) == is_stored)
            );
        }
        // The first may be taken before the others are there.
        assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn nor_do_posts_to_many_groups_that_come_together() {
    let world = world();
    store(&world.log).await;
    world.mood(FAR);
    let (ada, begun) = (session(1, "ada"), tokio::time::Instant::now());
    assert!(world.shards.send(0, posts(&ada)).await);
    assert_eq!(answers(&ada, GROUPS as usize).await, vec![Ok(2); GROUPS as usize]);
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_log_is_waited_for_once() {
    let world = world();
    let ada = session(100, "ada");
    world.join(&ada).await.unwrap();
    world.mood(SILENT);
    let begun = tokio::time::Instant::now();
    let joining = send_joins(&world).await;
    assert_eq!(world.post(&ada, &[""]).await, [Ok(1)], "what is in memory needs no head");
    for session in joining {
        let told = next_event(&session.inbox).await;
        assert!(matches!(told, Event::JoinRefused { refusal: Refusal::Unavailable { .. }, .. }), "{told:?}");
    }
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
    // For as long again nobody waits for it, and then it may have come back.
    let bob = session(101, "bob");
    assert!(matches!(world.join_group(&name(0), &bob).await, Err(Refusal::Unavailable { .. })));
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
    world.mood(WELL);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.join_group(&name(0), &bob).await.unwrap();
}

/// Joins these groups, so that the one who looks for the first sees that the others are waited for; answers how it went.
async fn join_together(world: &World, groups: &[&str]) -> Vec<Event> {
    let mut sessions = Vec::new();
    for (number, group) in (200..).zip(groups) {
        let (group, session) = (GroupName::new(group).unwrap(), session(number, "ada"));
        let join = Request::Join { group, session: Arc::clone(&session), from: JoinFrom::Now };
        assert!(world.shards.send(0, join).await);
        sessions.push(session);
    }
    let mut told = Vec::new();
    for session in sessions {
        told.push(next_event(&session.inbox).await);
    }
    told
}

#[tokio::test(start_paused = true)]
async fn that_a_log_is_silent_is_not_hidden_by_heads_that_are_known_without_asking() {
    for (silent, seconds) in [(&["K1", "G1", "G2"], 2), (&["K1", "K2", "G1"], 4)] {
        let world = world();
        world.mood(SILENT);
        let begun = tokio::time::Instant::now();
        let told = join_together(&world, silent).await;
        let joined = told.iter().filter(|told| matches!(told, Event::Joined(_))).count();
        assert_eq!(joined, silent.iter().filter(|name| name.starts_with(KNOWN)).count(), "{told:?}");
        // One that is not told may be damaged; of two it is the log.
        for others in [["K3", "G3"], ["K4", "G4"], ["K5", "G5"]] {
            let told = join_together(&world, &others).await;
            assert!(matches!(told[1], Event::JoinRefused { .. }), "{told:?}");
        }
        let took = begun.elapsed();
        assert!(took <= Duration::from_secs(seconds), "{silent:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_for_a_group_that_is_not_told_keeps_nobody_waiting() {
    let world = world();
    world.mood(FAR);
    *world.log.0.damaged.lock().unwrap() = Some(name(1));
    let told = join_together(&world, &["G1", "G2"]).await;
    assert!(matches!(told[..], [Event::JoinRefused { .. }, Event::Joined(_)]), "{told:?}");
    let begun = tokio::time::Instant::now();
    let bob = session(101, "bob");
    assert!(matches!(world.join_group(&name(1), &bob).await, Err(Refusal::Unavailable { .. })));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // Nor are others refused for it.
    world.join_group(&name(3), &bob).await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    *world.log.0.damaged.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.join_group(&name(1), &bob).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_read_is_not_taken_for_a_silent_log() {
    let world = world();
    store(&world.log).await;
    world.mood(FAR);
    *world.log.0.damaged.lock().unwrap() = Some(name(7));
    for (number, session) in send_joins(&world).await.into_iter().enumerate() {
        let told = next_event(&session.inbox).await;
        assert_eq!(matches!(told, Event::Joined(_)), number != 7, "{told:?}");
    }
    let other = GroupName::new("other").unwrap();
    world.join_group(&other, &session(101, "bob")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_told_of_a_group_does_not_outlive_it() {
    let world = World::new(Config::default(), Bounds { members_per_group: 10, groups: 100, ..BOUNDS });
    world.store_elsewhere(1, 1).await;
    world.mood(FAR);
    // While the first is looked for, the others wait.
    let (other, first) = (GroupName::new("other").unwrap(), session(1, "ada"));
    let join = Request::Join { group: other, session: Arc::clone(&first), from: JoinFrom::Now };
    assert!(world.shards.send(0, join).await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.mood(WELL);
    let (before, after) = (session(2, "bob"), session(3, "cat"));
    let join = |session: &Arc<Session>| {
        let (group, session) = (world.group.clone(), Arc::clone(session));
        world.shards.send(0, Request::Join { group, session, from: JoinFrom::Now })
    };
    let deleting = async {
        assert!(join(&before).await);
        let deleted = world.delete(None);
        let joining = async {
            tokio::task::yield_now().await;
            assert!(join(&after).await);
        };
        tokio::join!(deleted, joining).0.unwrap().unwrap();
    };
    deleting.await;
    let Event::Joined(joined) = next_event(&after.inbox).await else { panic!("not joined") };
    assert!(joined.head == 0 && joined.epoch > 1, "{joined:?}");
}
