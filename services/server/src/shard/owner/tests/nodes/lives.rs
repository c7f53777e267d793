//! Groups that have another life than somebody thinks.

use super::*;

/// The first node has the shard anew, and remembers nothing of before.
async fn have_anew(pair: &Pair, reign: u64) {
    let held = pair.release(&pair.one).await;
    pair.own(&pair.one, reign, held).await;
}

/// The owner does what a moderator asks by way of another node, nobody hears of it, and somebody else has the shard. The life that began
/// meanwhile is not meant.
#[tokio::test(start_paused = true)]
async fn what_a_moderator_asked_of_one_life_is_not_done_to_the_next() {
    // The next owner is another node, or that of the moderator; there is another life by then, or none.
    for (is_far, has_begun_anew) in [(true, true), (true, false), (false, true), (false, false)] {
        let pair = Pair::new().await;
        let (ada, bob) = (session(1, "ada"), session(2, "bob"));
        let epoch = pair.two.join(&bob).await.unwrap().epoch;
        assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
        pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
        let elsewhere = async {
            let event = next_event(&bob.inbox).await;
            assert!(matches!(event, Event::Removed { removal: Removal::Deleted, .. }), "{event:?}");
            have_anew(&pair, pair.reign + 1).await;
            if has_begun_anew {
                assert!(pair.one.join(&ada).await.unwrap().epoch > epoch);
                assert_eq!(pair.one.post(&ada, &["x"]).await, [Ok(1)]);
            }
            if !is_far {
                let held = pair.release(&pair.one).await;
                pair.own(&pair.two, pair.reign + 2, held).await;
            }
            pair.air.lose_answers.store(0, Ordering::Relaxed);
        };
        let (told, ()) = tokio::join!(pair.two.delete(Some(epoch)), elsewhere);
        assert!(matches!(told, Err(Refusal::Unanswered { .. })), "far: {is_far}, anew: {has_begun_anew}: {told:?}");
        if has_begun_anew {
            assert_eq!(pair.one.post(&ada, &["x", "y"]).await, [Ok(1), Ok(2)], "far: {is_far}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_purged_of_one_life_is_not_purged_of_the_next() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let epoch = pair.two.join(&bob).await.unwrap().epoch;
    assert_eq!(pair.two.post(&bob, &["a", "b"]).await, [Ok(1), Ok(2)]);
    assert_eq!(pair.two.purge(Some(epoch + 1), 1).await, Ok(None), "that life it does not have");
    assert_eq!(pair.two.purge(Some(epoch), 1).await, Ok(Some(1)));
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    let elsewhere = async {
        while pair.one.shards.group(&pair.one.group).await.unwrap().unwrap().first() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pair.one.delete(Some(epoch)).await.map(|ended| ended.is_some()), Ok(true));
        have_anew(&pair, pair.reign + 1).await;
        pair.one.join(&ada).await.unwrap();
        assert_eq!(pair.one.post(&ada, &["x", "y"]).await, [Ok(1), Ok(2)]);
        pair.air.lose_answers.store(0, Ordering::Relaxed);
    };
    let (told, ()) = tokio::join!(pair.two.purge(Some(epoch), 2), elsewhere);
    assert!(matches!(told, Err(Refusal::Unanswered { .. })), "{told:?}");
    assert_eq!(pair.one.shards.group(&pair.one.group).await.unwrap().unwrap().first(), 1);
}

#[test]
fn a_node_that_does_not_say_which_life_it_means_means_any() {
    let purge = json!({"do": "purge", "group": "G", "through": 3});
    let item: wire::Item = serde_json::from_value(purge.clone()).unwrap();
    let group = GroupName::new("G").unwrap();
    assert_eq!(item, wire::Item::Purge { group, through: 3, epoch: None });
    assert_eq!(serde_json::to_value(&item).unwrap(), purge);
}

/// A group of which there are members elsewhere and no message begins anew at an owner that does not know of them yet.
async fn twice_begun() -> (Pair, [Arc<Session>; 2], [Joined; 2]) {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let there = pair.two.join(&bob).await.unwrap();
    pair.air.deaf.store(true, Ordering::Relaxed);
    have_anew(&pair, pair.reign + 1).await;
    let here = pair.one.join(&ada).await.unwrap();
    assert!(here.epoch > there.epoch);
    pair.air.deaf.store(false, Ordering::Relaxed);
    (pair, [ada, bob], [here, there])
}

async fn hears_of_the_end(session: &Session) {
    let event = tokio::time::timeout(PATIENCE, next_event(&session.inbox)).await.expect("it is told nothing");
    assert!(matches!(event, Event::Removed { removal: Removal::Deleted, .. }), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn of_two_lives_without_messages_the_older_one_goes_on() {
    let (pair, [ada, bob], [_, mut there]) = twice_begun().await;
    pair.two.shards.order(0, Order::Follow).await;
    hears_of_the_end(&ada).await;
    assert_eq!(pair.one.join(&ada).await.unwrap().epoch, there.epoch);
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    let delivery = there.subscription.recv().await.unwrap();
    assert_eq!((delivery.batch.epoch, delivery.batch.last()), (there.epoch, 1), "it is what its members were told");
    assert_eq!(pair.one.shards.groups_here(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_in_a_life_without_messages_learns_that_there_is_another_with_some() {
    // From the owner, or from the log.
    for takes_it in [false, true] {
        let (pair, [ada, bob], [here, _]) = twice_begun().await;
        assert_eq!(pair.one.post(&ada, &["x"]).await, [Ok(1)]);
        if takes_it {
            let held = pair.release(&pair.one).await;
            pair.own(&pair.two, pair.reign + 2, held).await;
        } else {
            pair.two.shards.order(0, Order::Follow).await;
        }
        hears_of_the_end(&bob).await;
        let again = pair.two.join(&bob).await.unwrap();
        assert_eq!((again.epoch, again.head), (here.epoch, 1), "takes it: {takes_it}");
        assert_eq!(pair.one.post(&ada, &["y"]).await, [Ok(2)]);
    }
}
