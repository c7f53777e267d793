//! Lists of groups while a shard moves.

use super::*;
use crate::shard::{Listed, Untold};

/// What a list tells: each group, and its members as far as they are known.
fn told(groups: &[Listed]) -> Vec<(&str, Option<u64>)> {
    groups.iter().map(|group| (group.name.as_str(), group.status.as_ref().map(|status| status.members()))).collect()
}

/// What a node tells of its shards.
async fn part(world: &World) -> Part {
    world.shards.own_groups("", None, 10).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_tells_of_the_shards_that_it_serves_and_of_no_other() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    let (one, two) = (part(&pair.one).await, part(&pair.two).await);
    assert_eq!((told(&one.groups), one.covers.has(0)), (vec![("G", Some(1))], true));
    assert_eq!((told(&two.groups), two.covers.has(0)), (vec![], false), "the log has it, and the node does not");
    pair.release(&pair.one).await;
    let one = part(&pair.one).await;
    assert_eq!((told(&one.groups), one.covers.has(0)), (vec![], false));
}

#[tokio::test(start_paused = true)]
async fn a_shard_of_which_nobody_tells_is_asked_for_again() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    let whole = part(&pair.one).await;
    let without = Part { groups: whole.groups.clone(), ..Part::default() };
    *pair.air.lists.lock().unwrap() =
        [Part::default(), without, whole, Part::default()].map(|part| (part, None)).into();
    let (groups, more) = pair.two.shards.groups("", None, 10).await.unwrap();
    assert_eq!((told(&groups), more), (vec![("G", Some(1))], false));
    assert_eq!(pair.air.lists.lock().unwrap().len(), 1, "it is asked no longer than until all is told");
}

#[tokio::test(start_paused = true)]
async fn a_list_is_refused_while_nobody_tells_of_a_shard() {
    let pair = Pair::new().await;
    let begun = tokio::time::Instant::now();
    let error = pair.two.shards.groups("", None, 10).await.unwrap_err();
    assert_eq!(error, Untold::Unowned { shards: 1 });
    assert!((2..5).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let silent = Untold::Silent { node: "one".to_owned(), why: "it stands still".to_owned() };
    let asked = vec![(Part::default(), Some(silent.clone())); 200];
    *pair.air.lists.lock().unwrap() = asked.into();
    assert_eq!(pair.two.shards.groups("", None, 10).await.unwrap_err(), silent);
    // Who has all shards needs nobody.
    assert!(pair.one.shards.groups("", None, 10).await.unwrap().0.is_empty());
}
