//! Requests that are sent without waiting for answers are carried out in their order, also those that ask and those that leave.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::deadline::{PATIENCE, poll_until};
use harness::metrics::Metrics;
use harness::{RawClient, Server, ServerOptions};
use serde_json::{Value, json};

use crate::extended::{hello, join};

/// Sends lines in one write.
async fn pipeline(client: &mut RawClient, lines: &[Value]) -> Result<()> {
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    client.send(lines.concat()).await
}

#[tokio::test]
async fn what_is_asked_after_a_request_knows_of_it() -> Result<()> {
    for options in [ServerOptions::new().in_memory(), ServerOptions::new().on_disk()] {
        let server = options.start().await?;
        let mut ada = hello(&server, "ada").await?;
        for round in 0..20 {
            let group = format!("G{round}.");
            let lines = [
                json!({"Join": {"group_name": group}}),
                json!({"History": {"group_name": group}}),
                json!({"Post": {"group_name": group, "message": "one", "id": "1"}}),
                json!({"History": {"group_name": group}}),
                json!({"Groups": {"prefix": group, "limit": 1}}),
                json!({"Members": {"group_name": group}}),
            ];
            pipeline(&mut ada, &lines).await?;
            ada.expect_json(&json!({"Joined": {"group_name": group, "head": 0}})).await?;
            ada.expect_json(&json!({"History": {"group_name": group, "messages": []}})).await?;
            // The message comes when it comes; the answers, in their order.
            let mut answers = Vec::new();
            let mut told = 0;
            while answers.len() < 4 || told == 0 {
                let line = ada.json().await?;
                if line.get("Message").is_some() {
                    told += 1;
                } else {
                    answers.push(line);
                }
            }
            assert_eq!(told, 1);
            assert_eq!(answers[0]["Posted"]["seq"], json!(1), "{answers:?}");
            assert_eq!(answers[1]["History"]["messages"][0]["message"], json!("one"), "{answers:?}");
            let listed = json!([{"group_name": group, "members": 1, "head": 1}]);
            assert_eq!(answers[2]["Groups"]["groups"], listed, "{answers:?}");
            assert_eq!(answers[3]["Members"]["members"], json!(["ada"]), "{answers:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn who_leaves_after_a_post_has_its_answer_first() -> Result<()> {
    let server = Server::start().await?;
    let mut ada = hello(&server, "ada").await?;
    join(&mut ada, "Dogs").await?;
    for round in 0..30 {
        let lines = [
            json!({"Post": {"group_name": "Dogs", "message": round.to_string(), "id": round.to_string()}}),
            json!({"Leave": {"group_name": "Dogs"}}),
            json!({"Post": {"group_name": "Dogs", "message": "from outside"}}),
            json!({"Join": {"group_name": "Dogs", "last": 2}}),
        ];
        pipeline(&mut ada, &lines).await?;
        let mut seen = Vec::new();
        let head = loop {
            let line = ada.json().await?;
            if let Some(joined) = line.get("Joined") {
                break joined["head"].clone();
            }
            seen.push(line);
        };
        let place = |kind: &str, id: Option<&str>| {
            seen.iter().position(|line| line.get(kind).is_some_and(|it| id.is_none() || it["id"].as_str() == id))
        };
        let left = place("Left", None).with_context(|| format!("no Left: {seen:?}"))?;
        let id = round.to_string();
        assert!(place("Posted", Some(&id)).is_some_and(|posted| posted < left), "{seen:?}");
        assert!(place("Message", None).is_none_or(|message| message < left), "{seen:?}");
        // Both posts were before the join.
        assert_eq!(head, json!(2 * (round + 1)));
        for (seq, message) in [(2 * round + 1, round.to_string()), (2 * round + 2, "from outside".to_owned())] {
            ada.expect_json(&json!({"Message": {"seq": seq, "message": message}})).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn joining_twice_counts_once() -> Result<()> {
    let server = ServerOptions::new().set("limits.groups_per_connection", 2).start().await?;
    let mut ada = hello(&server, "ada").await?;
    let groups = ["A", "A", "B", "A", "B", "C"];
    pipeline(&mut ada, &groups.map(|group| json!({"Join": {"group_name": group}}))).await?;
    let (mut joined, mut refused) = (Vec::new(), Vec::new());
    for _ in groups {
        let line = ada.json().await?;
        match line.get("Joined") {
            Some(answer) => joined.push(answer["group_name"].clone()),
            None => refused.push(line["Rejected"]["group_name"].clone()),
        }
    }
    joined.sort_by_key(ToString::to_string);
    assert_eq!((joined, refused), (vec![json!("A"), json!("A"), json!("A"), json!("B"), json!("B")], vec![json!("C")]));
    Ok(())
}

/// Only a line that is itself too long under way is too late; a sender whose packets end within lines is not.
#[tokio::test]
async fn lines_that_end_in_time_may_follow_each_other_closely() -> Result<()> {
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let server = ServerOptions::new().set("limits.line_timeout", "1500ms").start().await?;
    let mut ada = server.connector().raw().await?;
    ada.send(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    let began = tokio::time::Instant::now();
    let mut posts = 0;
    let mut pace = tokio::time::interval(TIMEOUT / 15);
    while began.elapsed() < 2 * TIMEOUT {
        pace.tick().await;
        ada.send(format!("\n{{\"Post\":{{\"group_name\":\"Dogs\",\"message\":\"{posts}\"}}}}")).await?;
        posts += 1;
    }
    ada.send("\n").await?;
    for post in 0..posts {
        ada.expect(&format!(r#"{{"Message":{{"group_name":"Dogs","message":"{post}"}}}}"#)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_takes_nothing_is_seen_to_lag() -> Result<()> {
    let server = Server::start().await?;
    let mut stuck = server.connector().raw().await?;
    stuck.line(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    // One at a time, so that nothing but its socket holds the stuck member up.
    let text = |post: u32| format!("{post} {}", "x".repeat(16_000));
    let lagging = || async {
        let metrics = Metrics::scrape(server.http()).await?;
        anyhow::Ok(metrics.sum("tertulia_members_lagging", &[]) == Some(1.0))
    };
    let mut posts = 0;
    while !lagging().await? {
        for _ in 0..8 {
            posts += 1;
            ada.writer.post("Dogs", &text(posts), None).await?;
            ada.reader.until_text("Dogs", &text(posts)).await?;
        }
        assert!(posts < 900, "no socket takes so much, and the log keeps no more");
    }
    // It reads again, and misses nothing.
    for post in 1..=posts {
        stuck.expect(&format!(r#"{{"Message":{{"group_name":"Dogs","message":"{}"}}}}"#, text(post))).await?;
    }
    poll_until(PATIENCE, "nobody lags", || async {
        let metrics = Metrics::scrape(server.http()).await?;
        let nobody = metrics.sum("tertulia_members_lagging", &[]) == Some(0.0);
        Ok((!nobody).then(|| metrics.describe("tertulia_members_lagging")))
    })
    .await
}
