//! Who is a member, as a node tells whoever has the shard.

use super::*;

/// More members than one part of a roll has.
const MANY: u64 = 2_001;

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_where_a_roll_of_many_members_is_not_answered() {
    let pair = Pair::within(Bounds { members_per_group: 3_000, ..BOUNDS }, FRAME_BYTES).await;
    for number in 0..MANY {
        pair.two.join(&session(number, &format!("user-{number}"))).await.unwrap();
    }
    let bob = session(MANY, "bob");
    pair.air.owners.lock().unwrap().clear();
    pair.two.shards.order(0, Order::Follow).await;
    let begun = tokio::time::Instant::now();
    for text in ["a", "b"] {
        pair.two.send_posts(&bob, &[text]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let answers = tokio::time::timeout(2 * PATIENCE, answers(&bob, 2)).await.expect("they are refused");
    assert!(answers.iter().all(|answer| matches!(answer, Err(Refusal::Unanswered { .. }))), "{answers:?}");
    let took = begun.elapsed();
    assert!((PATIENCE..PATIENCE + Duration::from_secs(2)).contains(&took), "{took:?}");
    // At most ten times a second.
    let asked = pair.air.in_vain.load(Ordering::Relaxed);
    assert!(asked < 300, "asked {asked} times in {took:?}");

    // Once somebody has the shard, that one learns of all members.
    pair.own(&pair.one, pair.reign + 1, Vec::new()).await;
    assert_eq!(pair.two.post(&bob, &["c"]).await, [Ok(1)]);
    let users = pair.one.shards.users(pair.one.group.clone(), None, 3_000).await.unwrap().unwrap().0;
    assert_eq!(users.len() as u64, MANY);
}

#[tokio::test(start_paused = true)]
async fn who_is_forgotten_for_a_list_that_came_late_is_a_member_again() {
    for (deaf, back) in [(false, false), (false, true), (true, true)] {
        let pair = Pair::new().await;
        let (ada, bob) = (session(1, "ada"), session(2, "bob"));
        pair.one.join(&ada).await.unwrap();
        let mut there = pair.two.join(&bob).await.unwrap();
        assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
        assert_eq!(delivered(&mut there, 1).await, [1]);
        // `deaf`: that it is called is lost.
        pair.air.deaf.store(deaf, Ordering::Relaxed);
        let mut events = pair.one.shards.events().watch();
        pair.one.shards.order(0, nodes(&[("one", "one")])).await;
        while !matches!(events.recv().await.unwrap().what, What::Left { .. }) {}
        // By then it has told what it had to tell.
        pair.one.shards.users(pair.one.group.clone(), None, 10).await.unwrap().unwrap();
        pair.air.deaf.store(false, Ordering::Relaxed);
        if back {
            pair.one.shards.order(0, nodes(&[("one", "one"), ("two", "two")])).await;
        }
        let returned = async {
            while pair.one.shards.directory().get("G").is_none_or(|status| status.members() < 2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, returned).await.unwrap_or_else(|_| panic!("deaf: {deaf}, back: {back}"));
        assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
        let delivered = tokio::time::timeout(PATIENCE, delivered(&mut there, 2)).await;
        assert_eq!(delivered.expect("it is told what is posted"), [2]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_told_that_nobody_answered_is_no_member_either() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.two.join(&ada).await.unwrap();
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    let members = || pair.one.shards.directory().get("G").map_or(0, |status| status.members());
    let taken = async {
        while members() != 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (refused, ()) = tokio::join!(pair.two.join(&bob), taken);
    assert!(matches!(refused, Err(Refusal::Unanswered { .. })), "{refused:?}");
    pair.air.lose_answers.store(0, Ordering::Relaxed);
    let gone = async {
        while members() != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the owner learns that it is none");
}

#[tokio::test(start_paused = true)]
async fn who_was_connected_to_a_node_before_it_was_started_again_is_no_member() {
    for is_listed_first in [true, false] {
        let pair = Pair::new().await;
        let ada = session(1, "ada");
        pair.one.join(&ada).await.unwrap();
        pair.two.join(&session(2, "bob")).await.unwrap();
        // Its lease has not ended when it is there again, so that no list is without it.
        pair.two.shards.stop().await;
        let again = start(&pair.air, &pair.one.log, BOUNDS, ("two", "two again"), pair.cut[1].subscribe());
        let list = || nodes(&[("one", "one"), ("two", "two again")]);
        if is_listed_first {
            pair.one.shards.order(0, list()).await;
            until_members(&pair.one, 1, "of the list").await;
        }
        let cyd = session(3, "cyd");
        let mut there = again.join(&cyd).await.unwrap();
        until_members(&pair.one, 2, "bob is gone, and cyd is there").await;
        let mut events = pair.one.shards.events().watch();
        pair.one.shards.order(0, list()).await;
        assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
        assert_eq!(delivered(&mut there, 1).await, [1]);
        assert_eq!(members(&pair.one), 2);
        assert!(events.try_recv().is_err(), "who came since is not forgotten");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_start_before_of_a_node_asks_late_does_not_end_memberships_of_the_next_one() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&session(2, "bob")).await.unwrap();
    pair.two.shards.stop().await;
    let late = pair.air.frames.lock().unwrap().back().cloned().unwrap();
    let again = start(&pair.air, &pair.one.log, BOUNDS, ("two", "two again"), pair.cut[1].subscribe());
    let mut there = again.join(&session(3, "cyd")).await.unwrap();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let to: AnswerTo = Box::new(|bytes| drop(answer.send(bytes)));
    let owner = pair.air.owners.lock().unwrap().last().cloned().unwrap();
    owner.send(Asked { frame: serde_json::to_vec(&late).unwrap().into(), answer: to }).unwrap();
    answered.await.unwrap();
    let is_right = async || {
        let users = pair.one.shards.users(pair.one.group.clone(), None, 10).await.unwrap().unwrap().0;
        users.iter().map(UserName::as_str).eq(["ada", "cyd"])
    };
    let righted = async {
        while !is_right().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, righted).await.expect("cyd is a member, and bob is not");
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    assert_eq!(tokio::time::timeout(PATIENCE, delivered(&mut there, 1)).await.expect("it is told"), [1]);
}

#[tokio::test(start_paused = true)]
async fn who_missed_that_the_shard_has_another_owner_hears_of_it_later() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let mut there = pair.two.join(&bob).await.unwrap();
    // What the log knows of goes on under another owner.
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    assert_eq!(delivered(&mut there, 1).await, [1]);
    pair.air.deaf.store(true, Ordering::Relaxed);
    pair.own(&pair.one, pair.reign + 1, Vec::new()).await;
    // By then it has said more than once that it is there.
    tokio::time::sleep(Duration::from_secs(60)).await;
    pair.air.deaf.store(false, Ordering::Relaxed);
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
    let delivered = tokio::time::timeout(Duration::from_secs(10), delivered(&mut there, 2)).await;
    // What it has already it skips.
    assert_eq!(delivered.expect("bob is told what is posted").last(), Some(&2));
}

#[tokio::test(start_paused = true)]
async fn who_was_forgotten_by_the_owner_may_post_again_as_a_member() {
    let pair = Pair::within(Bounds { post_without_join: false, ..BOUNDS }, FRAME_BYTES).await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    // Its node is taken for dead, and what it asks next overtakes that it is called.
    pair.air.deaf.store(true, Ordering::Relaxed);
    pair.one.shards.order(0, nodes(&[("one", "one")])).await;
    until_members(&pair.one, 1, "bob is forgotten").await;
    let told = pair.two.post(&bob, &["b"]).await;
    assert!(matches!(told[..], [Err(Refusal::Unavailable { .. })]), "{told:?}");
    assert_eq!(pair.two.post(&bob, &["b"]).await, [Ok(2)]);
    // Who is none is told so.
    let told = pair.two.post(&session(3, "cyd"), &["c"]).await;
    assert!(matches!(told[..], [Err(Refusal::NotAMember(_))]), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_comes_again_forgets_who_came_late_and_not_what_was_asked() {
    let pair = Pair::new().await;
    pair.one.join(&session(1, "ada")).await.unwrap();
    pair.two.join(&session(2, "bob")).await.unwrap();
    pair.two.shards.stop().await;
    let list = || nodes(&[("one", "one")]);
    pair.one.shards.order(0, list()).await;
    until_members(&pair.one, 1, "bob is gone").await;
    // Something that its node asked comes only now.
    let mut late = pair.air.frames.lock().unwrap().back().cloned().unwrap();
    late["content"]["number"] = json!(late["content"]["number"].as_u64().unwrap() + 1);
    let ask = async || {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let to: AnswerTo = Box::new(|bytes| drop(answer.send(bytes)));
        let owner = pair.air.owners.lock().unwrap().last().cloned().unwrap();
        owner.send(Asked { frame: serde_json::to_vec(&late).unwrap().into(), answer: to }).unwrap();
        answered.await.unwrap();
    };
    ask().await;
    assert_eq!(members(&pair.one), 2);
    pair.one.shards.order(0, list()).await;
    until_members(&pair.one, 1, "who came late is gone").await;
    // It is carried out once, however often it comes.
    ask().await;
    assert_eq!(members(&pair.one), 1);
}

/// As one whose answer is too large to get through, whoever has the shard.
#[tokio::test(start_paused = true)]
async fn a_roll_that_is_never_answered_is_made_anew_and_tells_what_was_missed() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.two.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.kick(&bob.user, Duration::ZERO).await, [bob.id]);
    pair.air.frames.lock().unwrap().clear();
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    pair.air.deaf.store(false, Ordering::Relaxed);
    // Nobody asks for anything but its node, which learns from a beat that it missed something.
    tokio::time::sleep(3 * PATIENCE).await;
    let rolls: std::collections::BTreeSet<u64> = {
        let frames = pair.air.frames.lock().unwrap();
        frames.iter().map(|frame| frame["content"]["number"].as_u64().unwrap()).collect()
    };
    assert!((2..=3).contains(&rolls.len()), "{rolls:?}");
    pair.air.lose_answers.store(0, Ordering::Relaxed);
    let told = tokio::time::timeout(PATIENCE, next_event(&bob.inbox)).await.expect("bob is told");
    assert!(matches!(told, Event::Removed { removal: Removal::Kicked, .. }), "{told:?}");
    until_members(&pair.one, 1, "ada is there, and bob is not").await;
}

/// As one of whose parts the first is answered, and the others are not sent yet.
#[tokio::test(start_paused = true)]
async fn a_roll_that_is_called_anew_before_all_of_it_is_told_tells_what_was_missed_all_the_same() {
    const MEMBERS: u64 = 200;
    // Too small for all members.
    let pair = Pair::within(Bounds { members_per_group: 300, ..BOUNDS }, 16 * 1024).await;
    let ada = session(MEMBERS, "ada");
    for number in 0..MEMBERS {
        pair.two.join(&session(number, &format!("user-{number}"))).await.unwrap();
    }
    assert_eq!(pair.two.post(&ada, &["a"]).await, [Ok(1)]);
    pair.air.deaf.store(true, Ordering::Relaxed);
    let (group, target) = (Some(pair.one.group.clone()), Target::Address(ada.address));
    let ask = |reply| Admin::Kick { group, target, reason: None, hold: Duration::ZERO.into(), reply };
    assert_eq!(pair.one.shards.ask(0, ask).await.unwrap().unwrap().unwrap().len() as u64, MEMBERS);
    pair.air.frames.lock().unwrap().clear();
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    pair.air.deaf.store(false, Ordering::Relaxed);
    // The node learns from a beat that it missed something, and is called while the first part is under way.
    let rolls = || pair.air.frames.lock().unwrap().len();
    let told = pair.told_number().await;
    let sent = async |count: usize| {
        while rolls() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    sent(1).await;
    let call = json!({"version": 1, "needs": 1, "content": {
        "reign": pair.reign, "number": told + 1, "rolls": ["two"]}});
    pair.air.live.lock().unwrap().send(serde_json::to_vec(&call).unwrap().into()).unwrap();
    sent(3).await;
    pair.air.lose_answers.store(0, Ordering::Relaxed);
    until_members(&pair.two, 0, "its own node takes somebody for a member").await;
    assert_eq!(members(&pair.one), 0, "who was removed is a member again");
}
