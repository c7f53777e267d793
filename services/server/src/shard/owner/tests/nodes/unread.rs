//! A group whose head the log does not tell, in a shard with others.

use super::*;

/// The first group and another one in the same shard, as a node sees them.
fn both(world: &World) -> [World; 2] {
    ["G", "H"].map(|name| World {
        shards: world.shards.clone(),
        log: world.log.clone(),
        group: GroupName::new(name).unwrap(),
    })
}

impl Pair {
    fn damage(&self, group: Option<&GroupName>) {
        *self.one.log.0.damaged.lock().unwrap() = group.cloned();
    }

    /// A node takes the shard, and tries again as it does where that fails.
    async fn own_at_last(&self, world: &World) {
        for _ in 0..5 {
            if self.take(world, self.reign + 1, Vec::new()).await {
                return;
            }
        }
        panic!("the shard has no owner");
    }
}

fn is_unavailable(told: &[Result<u64, Refusal>]) -> bool {
    matches!(told, [Err(Refusal::Unavailable { .. })])
}

#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_read_does_not_keep_its_shard_without_an_owner() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    let [damaged, sound] = both(&pair.two);
    let mut there = damaged.join(&bob).await.unwrap();
    sound.join(&bob).await.unwrap();
    assert_eq!((damaged.post(&bob, &["a"]).await, sound.post(&bob, &["a"]).await), (vec![Ok(1)], vec![Ok(1)]));
    assert_eq!(delivered(&mut there, 1).await, [1]);
    // This one the second node does not hear of.
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
    pair.damage(Some(&damaged.group));
    pair.release(&pair.one).await;
    pair.air.deaf.store(false, Ordering::Relaxed);
    pair.own_at_last(&pair.two).await;
    assert_eq!(sound.post(&bob, &["b"]).await, [Ok(2)]);
    let told = damaged.post(&bob, &["c"]).await;
    assert!(is_unavailable(&told), "{told:?}");
    assert!(matches!(damaged.join(&session(3, "cat")).await, Err(Refusal::Unavailable { .. })));
    let announce = |reply| Admin::Announce { group: None, message: "we close".into(), id: None, reply };
    let announced = pair.two.shards.ask(0, announce).await.unwrap().unwrap().unwrap();
    let mut told = Vec::new();
    for answer in announced {
        told.push(answer.await.unwrap().is_ok());
    }
    told.sort_unstable();
    assert_eq!(told, [false, true], "one group has it");
    assert!(pair.two.shards.is_owned(0));

    // As soon as it can be read, who is in it is sent what it missed, also if nobody asks for anything.
    pair.damage(None);
    let seen = tokio::time::timeout(Duration::from_secs(5), delivered(&mut there, 2)).await.expect("bob misses one");
    assert_eq!(seen.last(), Some(&2));
    assert_eq!(damaged.post(&bob, &["a", "c"]).await, [Ok(1), Ok(3)]);
    assert_eq!(pair.one.post(&ada, &["d"]).await, [Ok(4)]);
}

#[tokio::test(start_paused = true)]
async fn who_is_in_a_group_that_turns_out_to_be_gone_is_told_so() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    let [damaged, _] = both(&pair.two);
    damaged.join(&bob).await.unwrap();
    assert_eq!(damaged.post(&bob, &["a"]).await, [Ok(1)]);
    pair.damage(Some(&damaged.group));
    pair.release(&pair.one).await;
    pair.own_at_last(&pair.two).await;
    assert_eq!(pair.two.shards.directory().totals().groups, 1);
    pair.one.log.delete(0, &damaged.group).await.unwrap();
    pair.damage(None);
    let told = tokio::time::timeout(Duration::from_secs(5), next_event(&bob.inbox)).await.expect("bob is told");
    assert!(matches!(told, Event::Removed { removal: Removal::Deleted, .. }), "{told:?}");
    assert_eq!(pair.two.shards.groups_here(), 0);
    assert_eq!(damaged.join(&bob).await.unwrap().head, 0);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_read_does_not_keep_a_node_from_other_groups() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let [damaged, sound] = both(&pair.two);
    let mut there = damaged.join(&bob).await.unwrap();
    sound.join(&bob).await.unwrap();
    assert_eq!((damaged.post(&bob, &["a"]).await, sound.post(&bob, &["a"]).await), (vec![Ok(1)], vec![Ok(1)]));
    // Of this node nobody is in any group: it learns from the other who is.
    pair.release(&pair.one).await;
    pair.damage(Some(&damaged.group));
    pair.own(&pair.one, pair.reign + 1, Vec::new()).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(sound.post(&bob, &["b"]).await, [Ok(2)]);
    let told = damaged.post(&bob, &["b"]).await;
    assert!(is_unavailable(&told), "{told:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    pair.damage(None);
    until_members(&pair.one, 1, "bob is a member still").await;
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
    let seen = tokio::time::timeout(Duration::from_secs(5), delivered(&mut there, 2)).await.expect("bob misses one");
    assert_eq!(seen.last(), Some(&2));
}

/// Nor does its node know that it was told less than there is: the owner of now has heard no more than it.
#[tokio::test(start_paused = true)]
async fn who_is_in_it_on_another_node_is_sent_what_it_missed_as_well() {
    let pair = Pair::new().await;
    let (ada, bob, cat) = (session(1, "ada"), session(2, "bob"), session(3, "cat"));
    let cut_off = watch::Sender::new(false);
    let three = start(&pair.air, &pair.one.log, BOUNDS, ("three", "three"), cut_off.subscribe());
    let (mut here, mut there) = (pair.two.join(&bob).await.unwrap(), three.join(&cat).await.unwrap());
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    assert_eq!((delivered(&mut here, 1).await, delivered(&mut there, 1).await), (vec![1], vec![1]));
    // This one neither of the others hears of.
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
    pair.damage(Some(&pair.two.group));
    pair.release(&pair.one).await;
    pair.air.deaf.store(false, Ordering::Relaxed);
    pair.own_at_last(&pair.two).await;
    until_members(&pair.two, 2, "the third node has not told who is a member there").await;

    pair.damage(None);
    for joined in [&mut here, &mut there] {
        let seen = tokio::time::timeout(Duration::from_secs(5), delivered(joined, 2)).await.expect("it misses one");
        assert_eq!(seen.last(), Some(&2));
    }
}
