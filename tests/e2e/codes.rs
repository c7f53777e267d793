//! Every code of `Rejected` that can be provoked from outside, and what stays of the connection. (`draining` cannot: connections end before
//! what they talk to does. `services/server/tests/stopping.rs` has it.)

use std::net::Ipv4Addr;

use anyhow::Result;
use harness::{RawClient, Server, ServerOptions};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::extended::{ask, hello, join};

/// What is refused has left nothing behind and the connection lives on.
async fn lives(client: &mut RawClient) -> Result<()> {
    ask(client, json!({"Ping": {}}), json!({"Pong": {}})).await?;
    Ok(())
}

fn rejected(code: &str, more: Value) -> Value {
    let mut fields = json!({"code": code});
    for (key, value) in more.as_object().into_iter().flatten() {
        fields[key] = value.clone();
    }
    json!({ "Rejected": fields })
}

fn post(group: &str, message: &str, id: &str) -> Value {
    json!({"Post": {"group_name": group, "message": message, "id": id}})
}

#[tokio::test]
async fn malformed_and_unknown_kind() -> Result<()> {
    let server = ServerOptions::new().set("limits.malformed_lines", 100).start().await?;
    let mut client = hello(&server, "ada").await?;
    let lines: [&[u8]; 5] = [
        b"{\"Post\":{\"group_name\":\"Dogs\"}}",
        b"{\"Join\":{\"group_name\":\"Dogs\",\"after\":-1}}",
        b"{\"Join\":{\"group_name\":\"Dogs\",\"after\":1.5}}",
        b"not json",
        b"{\"Join\":{\"group_name\":\"\xff\"}}",
    ];
    for line in lines {
        client.send([line, b"\n"].concat()).await?;
        let answer = client.expect_json(&rejected("malformed", json!({}))).await?;
        let text = answer["Rejected"]["message"].as_str().unwrap_or_default();
        assert!(text.contains("column "), "{answer}");
        lives(&mut client).await?;
    }
    for line in [json!({"Dance": {}}), json!({"Welcome": {}}), json!({"join": {"group_name": "Dogs"}})] {
        ask(&mut client, line, rejected("unknown_kind", json!({}))).await?;
        lives(&mut client).await?;
    }
    Ok(())
}

#[tokio::test]
async fn protocol_after_too_many_malformed_lines() -> Result<()> {
    let server = ServerOptions::new().set("limits.malformed_lines", 3).start().await?;
    let mut client = hello(&server, "ada").await?;
    client.send("x\n{\"Dance\":{}}\ny\n{\"Ping\":{}}\n").await?;
    for code in ["malformed", "unknown_kind", "malformed", "protocol"] {
        client.expect_json(&rejected(code, json!({}))).await?;
    }
    client.expect_closed().await
}

#[tokio::test]
async fn line_too_long() -> Result<()> {
    let server = ServerOptions::new().set("limits.line_bytes", 2500).set("limits.message_bytes", 100).start().await?;
    for ended in [true, false] {
        let mut client = hello(&server, "ada").await?;
        let line = "x".repeat(2502);
        client.send(if ended { line + "\n" } else { line }).await?;
        client.expect_json(&rejected("line_too_long", json!({}))).await?;
        client.expect_closed().await?;
    }
    Ok(())
}

#[tokio::test]
async fn message_too_long() -> Result<()> {
    let server = ServerOptions::new().set("limits.message_bytes", 4).start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "Dogs").await?;
    let refusal = rejected("message_too_long", json!({"request": "Post", "group_name": "Dogs", "id": "1"}));
    ask(&mut client, post("Dogs", "12345", "1"), refusal).await?;
    // It was not stored, so its id is free.
    client.line(&post("Dogs", "1234", "1").to_string()).await?;
    let answers = [client.json().await?, client.json().await?];
    assert!(answers.iter().any(|answer| answer["Posted"]["seq"] == json!(1)), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn bad_names() -> Result<()> {
    let server = ServerOptions::new().set("limits.group_name_bytes", 8).start().await?;
    let mut client = hello(&server, "ada").await?;
    for name in ["", "ninebytes", " Dogs", "Dogs\u{a0}", "a\u{7}b", "a\u{202e}b", "a\u{200b}b"] {
        for request in ["Join", "Leave", "History", "Members"] {
            let refusal = rejected("bad_group_name", json!({"request": request}));
            ask(&mut client, json!({request: {"group_name": name}}), refusal).await?;
        }
        ask(&mut client, post(name, "x", "1"), rejected("bad_group_name", json!({"request": "Post", "id": "1"})))
            .await?;
    }
    // Eight bytes.
    join(&mut client, "kö 犬!").await?;
    Ok(())
}

#[tokio::test]
async fn bad_post_id() -> Result<()> {
    let server = Server::start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "Dogs").await?;
    for id in ["", "a\nb", &"x".repeat(65)] {
        let refusal = rejected("bad_post_id", json!({"request": "Post", "group_name": "Dogs"}));
        ask(&mut client, post("Dogs", "x", id), refusal).await?;
    }
    lives(&mut client).await
}

#[tokio::test]
async fn no_such_group() -> Result<()> {
    let server = Server::start().await?;
    let mut client = hello(&server, "ada").await?;
    let refusal = rejected("no_such_group", json!({"request": "Post", "group_name": "Cats", "id": "1"}));
    ask(&mut client, post("Cats", "x", "1"), refusal).await?;
    // A group outlives its members.
    join(&mut client, "Cats").await?;
    ask(&mut client, json!({"Leave": {"group_name": "Cats"}}), json!({"Left": {}})).await?;
    ask(&mut client, post("Cats", "x", "1"), json!({"Posted": {"seq": 1, "id": "1"}})).await?;
    Ok(())
}

#[tokio::test]
async fn not_a_member() -> Result<()> {
    let server = ServerOptions::new().set("chat.post_without_join", false).start().await?;
    let mut host = hello(&server, "host").await?;
    join(&mut host, "Dogs").await?;
    let mut client = hello(&server, "ada").await?;
    let refusal = rejected("not_a_member", json!({"request": "Post", "group_name": "Dogs", "id": "1"}));
    ask(&mut client, post("Dogs", "x", "1"), refusal).await?;
    // Pipelined with its join it is one.
    client.send(format!("{}\n{}\n", json!({"Join": {"group_name": "Dogs"}}), post("Dogs", "x", "1"))).await?;
    client.expect_json(&json!({"Joined": {"head": 0}})).await?;
    let answers = [client.json().await?, client.json().await?];
    assert!(answers.iter().any(|answer| answer["Posted"]["seq"] == json!(1)), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn too_many_groups() -> Result<()> {
    let server = ServerOptions::new().set("limits.groups_per_connection", 2).start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "a").await?;
    join(&mut client, "b").await?;
    let refusal = rejected("too_many_groups", json!({"request": "Join", "group_name": "c"}));
    ask(&mut client, json!({"Join": {"group_name": "c"}}), refusal).await?;
    join(&mut client, "b").await?;
    ask(&mut client, json!({"Leave": {"group_name": "a"}}), json!({"Left": {"group_name": "a"}})).await?;
    join(&mut client, "c").await?;
    Ok(())
}

#[tokio::test]
async fn too_many_groups_counts_who_leaves_as_gone() -> Result<()> {
    let server = ServerOptions::new().set("limits.groups_per_connection", 2).start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "a").await?;
    join(&mut client, "b").await?;
    let leave = |group: &str| json!({"Leave": {"group_name": group}}).to_string();
    let join = |group: &str| json!({"Join": {"group_name": group}}).to_string();
    // All in one write: nothing of it is answered when the last line is looked at.
    let lines = [leave("a"), leave("a"), join("c"), join("d"), leave("c"), join("e"), join("f")];
    client.send(lines.join("\n") + "\n").await?;
    // Owners answer in any order.
    let (mut joined, mut refused) = (Vec::new(), Vec::new());
    for _ in lines {
        let answer = client.json().await?;
        let group = |kind: &str| answer[kind]["group_name"].as_str().map(str::to_owned);
        joined.extend(group("Joined"));
        if answer["Rejected"]["code"] == "too_many_groups" {
            refused.extend(group("Rejected"));
        }
    }
    joined.sort();
    refused.sort();
    assert_eq!((joined, refused), (vec!["c".into(), "e".into()], vec!["d".into(), "f".into()]));
    lives(&mut client).await
}

#[tokio::test]
async fn group_full() -> Result<()> {
    let server = ServerOptions::new().set("limits.members_per_group", 2).start().await?;
    let mut one = hello(&server, "one").await?;
    let mut two = hello(&server, "two").await?;
    let mut three = hello(&server, "three").await?;
    join(&mut one, "Dogs").await?;
    join(&mut two, "Dogs").await?;
    let refusal = rejected("group_full", json!({"request": "Join", "group_name": "Dogs"}));
    ask(&mut three, json!({"Join": {"group_name": "Dogs"}}), refusal).await?;
    join(&mut three, "Cats").await?;
    ask(&mut one, json!({"Leave": {"group_name": "Dogs"}}), json!({"Left": {}})).await?;
    join(&mut three, "Dogs").await?;
    Ok(())
}

#[tokio::test]
async fn server_full() -> Result<()> {
    let server = ServerOptions::new().set("limits.groups", 2).start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "a").await?;
    join(&mut client, "b").await?;
    let refusal = rejected("server_full", json!({"request": "Join", "group_name": "c"}));
    ask(&mut client, json!({"Join": {"group_name": "c"}}), refusal).await?;
    let mut other = hello(&server, "bob").await?;
    join(&mut other, "a").await?;
    Ok(())
}

#[tokio::test]
async fn rate_limited() -> Result<()> {
    const BURST: usize = 5;
    const SENT: usize = 8;
    let options = ServerOptions::new().set("limits.posts_per_second", 1).set("limits.posts_burst", BURST);
    let server = options.start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "Dogs").await?;
    ask(&mut client, json!({"Leave": {"group_name": "Dogs"}}), json!({"Left": {}})).await?;
    let lines: String = (0..SENT).map(|number| format!("{}\n", post("Dogs", "x", &number.to_string()))).collect();
    client.send(lines).await?;
    let mut posted = Vec::new();
    let mut refused = Vec::new();
    for _ in 0..SENT {
        let answer = client.json().await?;
        if let Some(answer) = answer.get("Posted") {
            posted.push(answer["id"].clone());
            continue;
        }
        let refusal = &answer["Rejected"];
        assert_eq!(refusal["code"], json!("rate_limited"), "{answer}");
        let wait = refusal["retry_after_ms"].as_u64();
        assert!(wait.is_some_and(|wait| (1..=1000).contains(&wait)), "{answer}");
        refused.push(refusal["id"].clone());
    }
    // The line may have come in pieces, but not so slowly that more than one token was made meanwhile.
    assert!(posted.len() == BURST || posted.len() == BURST + 1, "{posted:?} {refused:?}");
    assert_eq!(posted[..BURST], (0..BURST).map(|number| json!(number.to_string())).collect::<Vec<_>>());
    lives(&mut client).await
}

#[tokio::test]
async fn rate_limited_who_makes_groups_under_ever_new_names() -> Result<()> {
    let server = ServerOptions::new().set("limits.new_groups_per_address", 2).start().await?;
    for (user, group) in [("ada", "a"), ("bob", "b")] {
        join(&mut hello(&server, user).await?, group).await?;
    }
    let mut client = hello(&server, "cyd").await?;
    let refusal = rejected("rate_limited", json!({"request": "Join", "group_name": "c"}));
    let answer = ask(&mut client, json!({"Join": {"group_name": "c"}}), refusal).await?;
    let wait = answer["Rejected"]["retry_after_ms"].as_u64();
    assert!(wait.is_some_and(|wait| (1..=3_600_000).contains(&wait)), "{answer}");
    join(&mut client, "b").await?;
    // Where somebody else comes from, groups can be made.
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())?;
    let mut other = RawClient::new(socket.connect(server.chat()).await?);
    ask(&mut other, json!({"Hello": {"version": 1, "user": "cyd"}}), json!({"Welcome": {}})).await?;
    join(&mut other, "c").await?;
    Ok(())
}

#[tokio::test]
async fn too_many_connections_from_one_address() -> Result<()> {
    let server = ServerOptions::new().set("limits.connections_per_address", 1).start().await?;
    let _one = hello(&server, "one").await?;
    let mut two = server.connector().raw().await?;
    let line = two.json().await?;
    assert!(line["Error"].as_str().is_some_and(|text| text.contains("Too many connections")), "{line}");
    two.expect_closed().await
}
