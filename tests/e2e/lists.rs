//! `History`, `Members` and `Groups`, and their pages.

use std::ops::Range;

use anyhow::Result;
use harness::{RawClient, Server, ServerOptions};
use serde_json::{Value, json};

use crate::extended::{ask, hello, join};

/// No messages.
const NONE: Range<u64> = 0..0;

async fn with_messages(server: &Server, count: u64) -> Result<RawClient> {
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    for number in 1..=count {
        ada.post("Dogs", &number.to_string(), &format!("a{number}")).await?;
    }
    hello(server, "bob").await
}

/// Asks for history and expects exactly these `seq`.
async fn history(client: &mut RawClient, fields: Value, seqs: Range<u64>, more: bool) -> Result<()> {
    let mut request = json!({"group_name": "Dogs"});
    for (key, value) in fields.as_object().into_iter().flatten() {
        request[key] = value.clone();
    }
    let message = |seq: u64| json!({"message": seq.to_string(), "seq": seq, "sender": "ada", "id": format!("a{seq}")});
    let messages: Vec<_> = seqs.map(message).collect();
    let answer = json!({"History": {"group_name": "Dogs", "messages": messages, "more": more}});
    ask(client, json!({"History": request}), answer).await?;
    Ok(())
}

#[tokio::test]
async fn history_is_read_in_both_directions() -> Result<()> {
    let server = Server::start().await?;
    let mut client = with_messages(&server, 10).await?;
    history(&mut client, json!({}), 1..11, false).await?;
    history(&mut client, json!({"limit": 3}), 8..11, true).await?;
    history(&mut client, json!({"before": 8, "limit": 3}), 5..8, true).await?;
    history(&mut client, json!({"before": 5}), 1..5, false).await?;
    history(&mut client, json!({"before": 1}), NONE, false).await?;
    history(&mut client, json!({"before": 1000, "limit": 1}), 10..11, true).await?;
    history(&mut client, json!({"after": 0, "limit": 4}), 1..5, true).await?;
    history(&mut client, json!({"after": 4, "limit": 6}), 5..11, false).await?;
    history(&mut client, json!({"after": 10}), NONE, false).await?;
    history(&mut client, json!({"after": 1000}), NONE, false).await?;
    history(&mut client, json!({"after": 2, "limit": 1_000_000}), 3..11, false).await
}

#[tokio::test]
async fn history_that_cannot_be_had() -> Result<()> {
    let server = Server::start().await?;
    let mut client = with_messages(&server, 1).await?;
    let refusal = json!({"Rejected": {"code": "bad_request", "request": "History", "group_name": "Dogs"}});
    ask(&mut client, json!({"History": {"group_name": "Dogs", "after": 1, "before": 2}}), refusal).await?;
    for request in ["History", "Members"] {
        let refusal = json!({"Rejected": {"code": "no_such_group", "request": request, "group_name": "Cats"}});
        ask(&mut client, json!({request: {"group_name": "Cats"}}), refusal).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_group_without_messages_has_an_empty_history() -> Result<()> {
    let server = Server::start().await?;
    let mut client = hello(&server, "ada").await?;
    let joined = join(&mut client, "Dogs").await?;
    let empty =
        json!({"History": {"group_name": "Dogs", "epoch": joined["Joined"]["epoch"], "messages": [], "more": false}});
    ask(&mut client, json!({"History": {"group_name": "Dogs"}}), empty).await?;
    Ok(())
}

#[tokio::test]
async fn pages_are_as_long_as_the_server_allows() -> Result<()> {
    let server = ServerOptions::new().set("limits.page", 3).start().await?;
    let mut client = with_messages(&server, 8).await?;
    history(&mut client, json!({"after": 0, "limit": 100}), 1..4, true).await?;
    history(&mut client, json!({"after": 3}), 4..7, true).await?;
    history(&mut client, json!({"after": 6}), 7..9, false).await?;
    history(&mut client, json!({}), 6..9, true).await
}

#[tokio::test]
async fn members_are_users_each_once_and_in_order() -> Result<()> {
    let server = ServerOptions::new().set("limits.page", 3).start().await?;
    let mut clients = Vec::new();
    for user in ["dan", "ada", "éva", "bob", "ada", "Zoe", "carol"] {
        let mut client = hello(&server, user).await?;
        join(&mut client, "Dogs").await?;
        clients.push(client);
    }
    let mut client = hello(&server, "asker").await?;
    let members =
        |members: &[&str], more: bool| json!({"Members": {"group_name": "Dogs", "members": members, "more": more}});
    let request = |after: Option<&str>, limit: Option<u64>| json!({"Members": {"group_name": "Dogs", "after": after, "limit": limit}});
    ask(&mut client, request(None, None), members(&["Zoe", "ada", "bob"], true)).await?;
    ask(&mut client, request(Some("bob"), Some(50)), members(&["carol", "dan", "éva"], false)).await?;
    ask(&mut client, request(Some("b"), Some(1)), members(&["bob"], true)).await?;
    ask(&mut client, request(Some("éva"), None), members(&[], false)).await?;
    // One of ada's two connections leaves, and she is still there; then the other.
    for still_there in [true, false] {
        let ada = clients.remove(clients.len() - if still_there { 3 } else { 5 });
        drop(ada);
        let seen = if still_there { members(&["ada"], true) } else { members(&["bob"], true) };
        harness::deadline::poll_until(std::time::Duration::from_secs(10), "ada's connection to be gone", async || {
            let mut client = hello(&server, "asker").await?;
            let joined = ask(&mut client, json!({"Groups": {"prefix": "Dogs"}}), json!({"Groups": {}})).await?;
            let wanted = if still_there { 6 } else { 5 };
            Ok((joined["Groups"]["groups"][0]["members"] != json!(wanted)).then(|| joined.to_string()))
        })
        .await?;
        ask(&mut client, request(Some("a"), Some(1)), seen).await?;
    }
    Ok(())
}

#[tokio::test]
async fn groups_are_listed_by_prefix_and_in_order() -> Result<()> {
    let server = ServerOptions::new().set("limits.page", 3).start().await?;
    let mut client = server.connector().extended("ada").await?;
    for group in ["b", "a/2", "a/1", "ab", "a/10", "ä", "B"] {
        client.join(group).await?;
    }
    client.post("a/1", "one", "1").await?;
    client.post("a/1", "two", "2").await?;
    let mut client = hello(&server, "bob").await?;
    let names = |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"group_name": name})).collect() };
    let groups = |groups: Vec<Value>, more: bool| json!({"Groups": {"groups": groups, "more": more}});
    ask(&mut client, json!({"Groups": {}}), groups(names(&["B", "a/1", "a/10"]), true)).await?;
    ask(&mut client, json!({"Groups": {"after": "a/10"}}), groups(names(&["a/2", "ab", "b"]), true)).await?;
    ask(&mut client, json!({"Groups": {"after": "b"}}), groups(names(&["ä"]), false)).await?;
    let first = json!({"group_name": "a/1", "members": 1, "head": 2});
    ask(&mut client, json!({"Groups": {"prefix": "a/", "limit": 1}}), groups(vec![first], true)).await?;
    ask(&mut client, json!({"Groups": {"prefix": "a/", "after": "a/1"}}), groups(names(&["a/10", "a/2"]), false))
        .await?;
    ask(&mut client, json!({"Groups": {"prefix": "nothing"}}), groups(vec![], false)).await?;
    Ok(())
}

#[tokio::test]
async fn a_long_history_is_the_log_itself() -> Result<()> {
    const POSTS: usize = 1500;
    let server = Server::start().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    // Long ones, so that pages are also bounded by bytes.
    let text = |number: usize| format!("{number} {}", "x".repeat(number % 50 * 100));
    for number in 0..POSTS {
        ada.writer.post("Dogs", &text(number), Some(&number.to_string())).await?;
    }
    ada.post("Dogs", "curtain", "curtain").await?;
    let log = ada.read_log("Dogs").await?;
    assert_eq!(log.messages.len(), POSTS + 1);
    for (number, message) in log.messages.iter().take(POSTS).enumerate() {
        assert_eq!(*message.text, text(number));
    }
    harness::check(&[ada.cut()], &[log]).assert_clean();
    Ok(())
}

/// A control character takes six bytes in JSON: what is bounded is what is sent.
#[tokio::test]
async fn a_page_of_history_is_bounded_as_it_is_written() -> Result<()> {
    const POSTS: u64 = 20;
    const LINE: usize = 6 * 16_000;
    let server = Server::start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "Dogs").await?;
    for number in 1..=POSTS {
        let post = json!({"Post": {"group_name": "Dogs", "message": "\u{1}".repeat(16_000), "id": number.to_string()}});
        client.line(&post.to_string()).await?;
        while client.json().await?.get("Posted").is_none() {}
    }
    // The last one of her own may be behind its acknowledgement.
    client.line(r#"{"Leave":{"group_name":"Dogs"}}"#).await?;
    while client.json().await?.get("Left").is_none() {}
    for backward in [false, true] {
        let mut seen = Vec::new();
        loop {
            let edge = seen.last().copied().unwrap_or(if backward { POSTS + 1 } else { 0 });
            let range = if backward { "before" } else { "after" };
            client.line(&json!({"History": {"group_name": "Dogs", range: edge}}).to_string()).await?;
            let line = client.next_line().await?.unwrap_or_default();
            assert!(line.len() <= 256 * 1024 + 1024 && line.len() > LINE, "{} bytes", line.len());
            let answer: serde_json::Value = serde_json::from_str(&line)?;
            let messages = answer["History"]["messages"].as_array().cloned().unwrap_or_default();
            let mut seqs: Vec<u64> = messages.iter().filter_map(|message| message["seq"].as_u64()).collect();
            assert!(seqs.len() > 1 && seqs.is_sorted(), "{seqs:?}");
            if backward {
                seqs.reverse();
            }
            seen.extend(seqs);
            if answer["History"]["more"] == false {
                break;
            }
        }
        if backward {
            seen.reverse();
        }
        assert_eq!(seen, (1..=POSTS).collect::<Vec<_>>());
    }
    Ok(())
}
