//! Messages whose text a moderator removes by way of another node.

use super::*;

fn is_removed(texts: &[(String, bool, Option<u64>)], seq: usize) -> bool {
    texts.get(seq - 1).is_some_and(|(text, removed, _)| text.is_empty() && *removed)
}

#[tokio::test(start_paused = true)]
async fn members_of_all_nodes_are_told_and_the_answer_goes_to_whoever_asked() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let mut here = pair.one.join(&ada).await.unwrap();
    let mut there = pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a", "b"]).await, [Ok(1), Ok(2)]);
    assert_eq!(pair.two.redact(there.epoch + 1, 1).await, Ok(None));
    assert_eq!(pair.two.redact(there.epoch, 3).await, Ok(None));
    for world in [&pair.two, &pair.one] {
        assert_eq!(world.redact(there.epoch, 1).await, Ok(Some(3)), "the same, whoever asks again");
    }
    for joined in [&mut here, &mut there] {
        let mut removes = None;
        while removes.is_none() {
            let delivery = joined.subscription.recv().await.unwrap();
            removes = delivery.batch.records.iter().find_map(|record| record.removes().map(|it| it.first));
        }
        assert_eq!(removes, Some(1));
    }
    assert_eq!(pair.two.post(&bob, &["a", "c"]).await, [Ok(1), Ok(4)]);
}

#[tokio::test(start_paused = true)]
async fn what_an_owner_did_and_did_not_say_is_not_done_twice_by_the_next() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    let epoch = pair.two.join(&bob).await.unwrap().epoch;
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    let elsewhere = async {
        while pair.one.texts().await.len() < 2 {
            tokio::task::yield_now().await;
        }
        let held = pair.release(&pair.one).await;
        pair.own(&pair.two, pair.reign + 1, held).await;
        pair.air.lose_answers.store(0, Ordering::Relaxed);
    };
    let (told, ()) = tokio::join!(pair.two.redact(epoch, 1), elsewhere);
    assert_eq!(told, Ok(Some(2)));
    let texts = pair.one.texts().await;
    assert!(texts.len() == 2 && is_removed(&texts, 1), "{texts:?}");
}

/// What nodes say to each other stays as it is.
#[test]
fn a_removal_is_asked_for_in_these_words() {
    let redact =
        json!({"do": "redact", "group": "G", "first": 3, "last": 9, "sender": "@system", "epoch": 7, "reason": null});
    let selection = Selection { first: 3, last: 9, sender: Some("@system".into()) };
    let item =
        wire::Item::Redact { group: GroupName::new("G").unwrap(), selection, epoch: 7, telling: Telling::default() };
    assert_eq!(serde_json::from_value::<wire::Item>(redact.clone()).unwrap(), item);
    assert_eq!(serde_json::to_value(&item).unwrap(), redact);
    let told = wire::Outcome::Redacted { told: wire::RedactionTold::NoSuchMessage };
    assert_eq!(serde_json::to_value(&told).unwrap(), json!({"was": "redacted", "told": "no_such_message"}));
    let stored = crate::shard::session::Stored { epoch: 7, seq: 4, at: 5 };
    let told = wire::Outcome::Redacted { told: wire::RedactionTold::Removed { messages: 2, told: Ok(stored) } };
    let line = serde_json::to_value(&told).unwrap();
    assert_eq!(serde_json::from_value::<wire::Outcome>(line).unwrap(), told);
    // An older build, which does not know of steps, tells of each.
    let removed = crate::shard::request::RemovedBefore { messages: 2, last: 9 };
    let telling = Telling { reason: Some("spam".into()), quietly: true, removed: Some(removed) };
    let selection = Selection { first: 3, last: 9, sender: None };
    let item = wire::Item::Redact { group: GroupName::new("G").unwrap(), selection, epoch: 7, telling };
    let line = serde_json::to_value(&item).unwrap();
    assert_eq!(line["quietly"], json!(true));
    assert_eq!(line["removed"], json!({"messages": 2, "last": 9}));
    assert_eq!(serde_json::from_value::<wire::Item>(line).unwrap(), item);
    let told = wire::Outcome::Redacted { told: wire::RedactionTold::RemovedQuietly(removed) };
    let line = json!({"was": "redacted", "told": {"removed_quietly": {"messages": 2, "last": 9}}});
    assert_eq!(serde_json::to_value(&told).unwrap(), line);
}
