//! A log that is far away, and what is not to be found there.

use super::*;

const GROUPS: u64 = 300;

/// Each of so many groups is a question to the log, and the shard is served by nobody until all are answered.
#[tokio::test(start_paused = true)]
async fn a_shard_of_many_groups_is_taken_in_no_time_also_where_the_log_is_far() {
    let pair = Pair::within(Bounds { groups: 300, ..BOUNDS }, FRAME_BYTES).await;
    let bob = session(2, "bob");
    let group = |number: u64| GroupName::new(&format!("G{number}")).unwrap();
    for number in 0..GROUPS {
        pair.two.join_group(&group(number), &bob).await.unwrap();
    }
    pair.two.mood(FAR);
    let begun = tokio::time::Instant::now();
    pair.hand_over().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "taken after {:?}", begun.elapsed());

    // Nor does it take long to learn who is a member elsewhere.
    let held = pair.release(&pair.two).await;
    let begun = tokio::time::Instant::now();
    pair.own(&pair.one, pair.reign + 2, held).await;
    while pair.one.shards.groups_here() < GROUPS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "known after {:?}", begun.elapsed());
    let users = pair.one.shards.users(group(0), None, 10).await.unwrap().unwrap().0;
    assert_eq!(users, [bob.user.clone()]);
}
