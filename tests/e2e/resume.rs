//! Joining with what one missed, and what retention does to it.

use std::ops::Range;

use anyhow::Result;
use harness::{Event, Server, ServerOptions, check};
use serde_json::{Value, json};

use crate::extended::{ask, hello, join};

/// No messages.
const NONE: Range<u64> = 0..0;

/// A server on which `ada` has posted "1", "2", … in `Dogs`; answers the epoch.
async fn posted(options: ServerOptions, count: u64) -> Result<(Server, u64)> {
    let server = options.start().await?;
    let mut ada = server.connector().extended("ada").await?;
    let epoch = ada.join("Dogs").await?.epoch;
    for number in 1..=count {
        ada.post("Dogs", &number.to_string(), &format!("a{number}")).await?;
    }
    Ok((server, epoch))
}

fn joined(head: u64, recovered: bool) -> Value {
    json!({"Joined": {"group_name": "Dogs", "head": head, "recovered": recovered}})
}

/// Joins as `ask` says, expects `answer`, then these `seq` and no others before what is posted next.
async fn follow(server: &Server, question: Value, answer: Value, expected: Range<u64>) -> Result<()> {
    let mut client = hello(server, "bob").await?;
    let head = answer["Joined"]["head"].as_u64().unwrap_or_default();
    ask(&mut client, json!({"Join": question}), answer).await?;
    for seq in expected {
        client.expect_json(&json!({"Message": {"seq": seq, "message": seq.to_string(), "sender": "ada"}})).await?;
    }
    let next = head + 1;
    let mut ada = server.connector().extended("ada").await?;
    ada.post("Dogs", &next.to_string(), &format!("a{next}")).await?;
    client.expect_json(&json!({"Message": {"seq": next, "message": next.to_string()}})).await?;
    Ok(())
}

#[tokio::test]
async fn what_one_missed_comes_first() -> Result<()> {
    let (server, epoch) = posted(ServerOptions::new(), 5).await?;
    follow(&server, json!({"group_name": "Dogs"}), joined(5, true), NONE).await?;
    follow(&server, json!({"group_name": "Dogs", "after": 2, "epoch": epoch}), joined(6, true), 3..7).await?;
    follow(&server, json!({"group_name": "Dogs", "after": 0, "epoch": epoch}), joined(7, true), 1..8).await?;
    follow(&server, json!({"group_name": "Dogs", "after": 8, "epoch": epoch}), joined(8, true), NONE).await?;
    // The epoch may be left out.
    follow(&server, json!({"group_name": "Dogs", "after": 7}), joined(9, true), 8..10).await
}

#[tokio::test]
async fn the_newest_few_come_first() -> Result<()> {
    let (server, _) = posted(ServerOptions::new(), 5).await?;
    follow(&server, json!({"group_name": "Dogs", "last": 2}), joined(5, true), 4..6).await?;
    follow(&server, json!({"group_name": "Dogs", "last": 0}), joined(6, true), NONE).await?;
    // There are not so many: that is no loss.
    follow(&server, json!({"group_name": "Dogs", "last": 100}), joined(7, true), 1..8).await
}

#[tokio::test]
async fn another_epoch_begins_at_the_beginning() -> Result<()> {
    let (server, epoch) = posted(ServerOptions::new(), 3).await?;
    follow(&server, json!({"group_name": "Dogs", "after": 2, "epoch": epoch + 1}), joined(3, false), 1..4).await?;
    // A place beyond the head is of another life too.
    follow(&server, json!({"group_name": "Dogs", "after": 9, "epoch": epoch}), joined(4, false), 1..5).await
}

#[tokio::test]
async fn after_and_last_do_not_go_together() -> Result<()> {
    let (server, _) = posted(ServerOptions::new(), 1).await?;
    let mut client = hello(&server, "bob").await?;
    let refusal = json!({"Rejected": {"code": "bad_request", "request": "Join", "group_name": "Dogs"}});
    ask(&mut client, json!({"Join": {"group_name": "Dogs", "after": 0, "last": 1}}), refusal).await?;
    let refusal = json!({"Rejected": {"code": "not_a_member"}});
    ask(&mut client, json!({"Leave": {"group_name": "Dogs"}}), refusal).await?;
    Ok(())
}

#[tokio::test]
async fn joining_again_goes_on_or_begins_again() -> Result<()> {
    let (server, _) = posted(ServerOptions::new(), 3).await?;
    let mut client = hello(&server, "bob").await?;
    join(&mut client, "Dogs").await?;
    ask(&mut client, json!({"Join": {"group_name": "Dogs", "after": 1}}), joined(3, true)).await?;
    for seq in 2..=3 {
        client.expect_json(&json!({"Message": {"seq": seq}})).await?;
    }
    ask(&mut client, json!({"Join": {"group_name": "Dogs", "last": 1}}), joined(3, true)).await?;
    client.expect_json(&json!({"Message": {"seq": 3}})).await?;
    let again = json!({"Joined": {"head": 3, "members": 1}});
    // Ada has gone; one connection is one member however often it joins.
    harness::deadline::poll_until(std::time::Duration::from_secs(10), "ada to be gone", async || {
        let mut looker = server.connector().extended("looker").await?;
        let joined = looker.join("Dogs").await?;
        Ok((joined.members != 2).then(|| format!("{joined:?}")))
    })
    .await?;
    harness::deadline::poll_until(std::time::Duration::from_secs(10), "the looker to be gone", async || {
        let mut asker = hello(&server, "asker").await?;
        let groups = ask(&mut asker, json!({"Groups": {}}), json!({"Groups": {}})).await?;
        let members = groups["Groups"]["groups"][0]["members"].as_u64();
        Ok((members != Some(1)).then(|| groups.to_string()))
    })
    .await?;
    ask(&mut client, json!({"Join": {"group_name": "Dogs"}}), again).await?;
    ask(&mut client, json!({"Ping": {}}), json!({"Pong": {}})).await?;
    Ok(())
}

#[tokio::test]
async fn what_retention_removed_is_told() -> Result<()> {
    let (server, epoch) = posted(ServerOptions::new().set("log.retention.messages", 5), 12).await?;
    let mut client = hello(&server, "bob").await?;
    ask(&mut client, json!({"Join": {"group_name": "Dogs", "after": 3, "epoch": epoch}}), joined(12, false)).await?;
    client.expect_json(&json!({"Lagged": {"group_name": "Dogs", "first": 4, "last": 7}})).await?;
    for seq in 8..=12 {
        client.expect_json(&json!({"Message": {"seq": seq}})).await?;
    }
    ask(&mut client, json!({"Join": {"group_name": "Dogs", "after": 7}}), joined(12, true)).await?;
    for seq in 8..=12 {
        client.expect_json(&json!({"Message": {"seq": seq}})).await?;
    }
    // What is left of the newest ten.
    ask(&mut client, json!({"Join": {"group_name": "Dogs", "last": 10}}), joined(12, false)).await?;
    let first = client.json().await?;
    let first = match first.get("Lagged") {
        Some(lagged) => {
            assert_eq!((&lagged["first"], &lagged["last"]), (&json!(3), &json!(7)));
            client.json().await?
        }
        None => first,
    };
    assert_eq!(first["Message"]["seq"], json!(8), "{first}");
    for seq in 9..=12 {
        client.expect_json(&json!({"Message": {"seq": seq}})).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_comes_back_reads_on_where_it_stopped() -> Result<()> {
    const ROUNDS: u64 = 20;
    const POSTS: u64 = 25;
    let server = Server::start().await?;
    let connector = server.connector();
    let mut ada = connector.extended("ada").await?;
    ada.join("Dogs").await?;
    let mut recordings = Vec::new();
    let mut place = None;
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..ROUNDS {
        let mut bob = connector.extended("bob").await?;
        let joined = match place {
            None => bob.join("Dogs").await?,
            Some((after, epoch)) => bob.join_from("Dogs", Some(after), None, Some(epoch)).await?,
        };
        assert!(joined.recovered);
        for number in 0..POSTS {
            let id = format!("{round}-{number}");
            ada.post("Dogs", &id, &id).await?;
            // Sometimes it goes before it has read all.
            if number == random.u64(..POSTS) {
                break;
            }
        }
        let wanted = 1 + random.u64(..3);
        for _ in 0..wanted {
            let seen = bob.reader.until("a message", |event| matches!(event, Event::Message(_)).then_some(()));
            seen.await?;
            if bob.resume_point("Dogs").is_some_and(|(seq, _)| seq >= joined.head.max(1)) {
                break;
            }
        }
        place = bob.resume_point("Dogs");
        recordings.push(bob.cut());
    }
    let mut bob = connector.extended("bob").await?;
    let (after, epoch) = place.unwrap_or_default();
    bob.join_from("Dogs", Some(after), None, Some(epoch)).await?;
    ada.post("Dogs", "curtain", "curtain").await?;
    bob.reader.until_text("Dogs", "curtain").await?;
    let log = bob.read_log("Dogs").await?;
    recordings.push(bob.settled());
    ada.reader.until_text("Dogs", "curtain").await?;
    recordings.push(ada.settled());
    check(&recordings, &[log]).assert_clean();
    Ok(())
}
