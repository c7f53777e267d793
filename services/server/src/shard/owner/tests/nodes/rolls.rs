//! Who is a member, as a node tells whoever has the shard.

use super::*;

/// More members than one part of a roll has.
const MANY: u64 = 2_001;

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_where_a_roll_of_many_members_is_not_answered() {
    let pair = Pair::within(Bounds { members_per_group: 3_000, ..BOUNDS }).await;
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
