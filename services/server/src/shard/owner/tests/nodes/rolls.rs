//! Who is a member, as a node tells whoever has the shard.

use super::*;
use crate::shard::events::What;

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
        let nodes = |names: &[&str]| Order::Nodes(Arc::new(names.iter().map(|name| (*name).to_owned()).collect()));
        let mut events = pair.one.shards.events().watch();
        pair.one.shards.order(0, nodes(&["one"])).await;
        while !matches!(events.recv().await.unwrap().what, What::Left { .. }) {}
        // By then it has told what it had to tell.
        pair.one.shards.users(pair.one.group.clone(), None, 10).await.unwrap().unwrap();
        pair.air.deaf.store(false, Ordering::Relaxed);
        if back {
            pair.one.shards.order(0, nodes(&["one", "two"])).await;
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
