//! Whom moderators hold where they could not be taken out at once.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// Waits until it learns that it is no member any more; answers why.
async fn removed(session: &Session) -> Removal {
    let removed = async {
        loop {
            for event in poll_fn(|cx| session.inbox.poll_take(cx)).await {
                if let Event::Removed { removal, .. } = event {
                    return removal;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, removed).await.expect("it is a member still")
}

#[tokio::test(start_paused = true)]
async fn who_was_held_while_its_node_was_apart_goes_when_that_has_the_shard_again() {
    for is_closed in [false, true] {
        let pair = Pair::new().await;
        let (ada, bob) = (session(1, "ada"), session(2, "bob"));
        pair.one.join(&ada).await.unwrap();
        pair.one.join(&bob).await.unwrap();
        assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
        // The second node takes the shard, and hears nothing of the first.
        pair.air.held.store(true, Ordering::Relaxed);
        pair.own(&pair.two, pair.reign + 1, Vec::new()).await;
        pair.one.shards.order(0, Order::Lost).await;
        while pair.one.shards.is_owned(0) {
            tokio::task::yield_now().await;
        }
        // What was held there meanwhile the first one learns as soon as it hears again.
        let target = (!is_closed).then(|| Target::User(bob.user.clone()));
        pair.one.shards.holds().apply(Hold::new(Some(pair.one.group.clone()), target, HOUR));
        let mut events = pair.one.shards.events().watch();
        pair.own(&pair.one, pair.reign + 2, Vec::new()).await;
        let told = events.try_recv().unwrap().what.clone();
        if is_closed {
            assert_eq!((removed(&ada).await, removed(&bob).await), (Removal::Closed, Removal::Closed));
            assert!(matches!(told, What::Closed { members: 2, .. }), "{told:?}");
        } else {
            assert_eq!(removed(&bob).await, Removal::Kicked);
            assert!(matches!(told, What::Kicked { members: 1, .. }), "{told:?}");
            assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
            assert!(matches!(pair.one.post(&bob, &["c"]).await[..], [Err(Refusal::Kicked { .. })]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_held_and_was_not_taken_out_goes_also_later_and_wherever_it_is_connected() {
    let pair = Pair::new().await;
    let (ada, bob, cyd) = (session(1, "ada"), session(2, "bob"), session(3, "cyd"));
    pair.one.join(&ada).await.unwrap();
    pair.one.join(&bob).await.unwrap();
    pair.two.join(&cyd).await.unwrap();
    for session in [&bob, &cyd] {
        // As if it had been made on another node, which did not reach this one.
        let target = Some(Target::User(session.user.clone()));
        pair.one.shards.holds().apply(Hold::new(None, target, HOUR));
        pair.one.shards.order(0, Order::Held(None)).await;
        assert_eq!(removed(session).await, Removal::Kicked);
    }
    let users = pair.one.shards.users(pair.one.group.clone(), None, 10).await.unwrap().unwrap().0;
    assert_eq!(users.iter().map(UserName::as_str).collect::<Vec<_>>(), ["ada"]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_holds_whom_another_node_holds_unless_it_has_heard_that_that_was_ended() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    let (group, target) = (pair.two.group.clone(), Target::User(bob.user.clone()));
    let keep = async |time| {
        let hold = Hold::new(Some(group.clone()), Some(target.clone()), time);
        pair.two.shards.holds().keep(hold).await.unwrap()
    };
    let (kept, ended) = (keep(HOUR).await, keep(Duration::ZERO).await);
    let kick = async |kept: &Hold| {
        pair.two.join(&bob).await.unwrap();
        let (group, target, hold) = (Some(group.clone()), target.clone(), Term::of(kept, HOUR));
        let ask = |reply| Admin::Kick { group, target, reason: None, hold, reply };
        let kicked = pair.two.shards.ask(0, ask).await.unwrap().unwrap().unwrap();
        assert!(kicked.contains(&bob.id), "{kicked:?}");
        assert_eq!(removed(&bob).await, Removal::Kicked);
        pair.one.join(&session(3, "bob")).await
    };
    // As it follows what is kept.
    pair.one.shards.holds().apply(ended);
    kick(&kept).await.unwrap();
    // Of this one it has not heard.
    let again = keep(HOUR).await;
    assert!(matches!(kick(&again).await, Err(Refusal::Kicked { .. })));
    let found = pair.one.shards.holds().find((again.group.clone(), again.target.clone()));
    assert_eq!(found, Some(again), "it ends there when it ends elsewhere");
}
