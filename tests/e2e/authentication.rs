//! Clients that prove who they are: tokens, what these allow, until when they count, and those who have none.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use harness::deadline::{PATIENCE, poll_until};
use harness::issuer::Issuer;
use harness::metrics::Metrics;
use harness::{RawClient, Server, ServerOptions};
use serde_json::{Value, json};

use crate::extended::{ask, join};

/// A connection with that token, and its `Welcome`.
async fn welcome(server: &Server, token: &str) -> Result<(RawClient, Value)> {
    let mut client = server.connector().raw().await?;
    let hello = json!({"Hello": {"version": 1, "token": token}});
    let welcome = ask(&mut client, hello, json!({"Welcome": {"version": 1}})).await?;
    Ok((client, welcome["Welcome"].clone()))
}

#[tokio::test]
async fn only_who_shows_a_token_is_let_in_and_is_who_it_says() -> Result<()> {
    let issuer = Issuer::new()?;
    let server = issuer.server().start().await?;
    let token = issuer.token("ada", 3_600, json!({}))?;
    let (mut ada, welcome) = welcome(&server, &token).await?;
    assert_eq!(welcome["user"], "ada");
    let expires_at = welcome["expires_at"].as_u64().context("no expires_at")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    assert!((3_500_000..3_600_001).contains(&(expires_at - now)), "{welcome}");
    join(&mut ada, "Dogs").await?;
    let post = json!({"Post": {"group_name": "Dogs", "message": "Woof"}});
    ada.line(&post.to_string()).await?;
    let posted = json!({"Posted": {"group_name": "Dogs"}});
    ada.expect_all(&[posted, json!({"Message": {"sender": "ada", "message": "Woof"}})]).await?;

    let forged = token.rsplit_once('.').context("no signature")?.0.to_owned() + ".AAAA";
    for (hello, text) in [
        (json!({"version": 1, "user": "ada"}), "this server asks for a token in Hello"),
        (json!({"version": 1}), "this server asks for a token in Hello"),
        (json!({"version": 1, "token": forged}), "the token's signature is wrong"),
        (json!({"version": 1, "user": "bob", "token": token}), "the token is of user 'ada', not of 'bob'"),
        (
            json!({"version": 1, "token": issuer.token("ada", 0, json!({"exp": 1}))?}),
            "the token has expired: get a new one",
        ),
    ] {
        let mut stranger = server.connector().raw().await?;
        let answer = json!({"Rejected": {"code": "unauthenticated", "request": "Hello", "message": text}});
        ask(&mut stranger, json!({"Hello": hello}), answer).await?;
        stranger.expect_closed().await?;
    }
    // A classic client is told in its own dialect.
    let mut classic = server.connector().raw().await?;
    classic.line(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    classic.expect(r#"{"Error":"this server asks for a token in Hello"}"#).await?;
    classic.expect_closed().await?;
    let metrics = Metrics::scrape(server.http()).await?;
    assert_eq!(metrics.sum("tertulia_logins_total", &[("way", "token"), ("result", "accepted")]), Some(1.0));
    assert_eq!(metrics.sum("tertulia_logins_total", &[("result", "refused")]), Some(6.0));
    assert!(server.log()?.contains("a client does not prove who it is"), "{}", server.log()?);
    assert!(!server.log()?.contains(&token), "a token is nothing for the log");
    Ok(())
}

#[tokio::test]
async fn a_token_says_which_groups_its_bearer_may_use() -> Result<()> {
    let issuer = Issuer::new()?;
    let server = issuer.server().set("limits.page", 3).start().await?;
    let (mut all, _) = welcome(&server, &issuer.token("root", 60, json!({}))?).await?;
    let groups = ["a-secret", "team-1", "team-2", "team-3", "team-4", "x-lobby", "zoo"];
    for group in groups {
        join(&mut all, group).await?;
    }
    let told = json!({"tertulia": {"read": ["x-lobby", "nowhere"], "read_prefixes": ["team-"], "post": ["x-lobby", "a-secret"]}});
    let (mut ada, _) = welcome(&server, &issuer.token("ada", 60, told)?).await?;
    join(&mut ada, "team-1").await?;
    let refused = |request: &str, group: &str| json!({"Rejected": {"code": "forbidden", "request": request, "group_name": group}});
    for request in ["Join", "Members", "History"] {
        for group in ["a-secret", "team", "zoo"] {
            ask(&mut ada, json!({request: {"group_name": group}}), refused(request, group)).await?;
        }
    }
    let post = |group: &str| json!({"Post": {"group_name": group, "message": "hi", "id": group}});
    let rejected = json!({"Rejected": {"code": "forbidden", "request": "Post", "group_name": "team-1", "id": "team-1",
        "message": "You may not post to group 'team-1'"}});
    ask(&mut ada, post("team-1"), rejected).await?;
    ask(&mut ada, post("a-secret"), json!({"Posted": {"group_name": "a-secret"}})).await?;
    // The list goes on where the page before ended, over what is not to be seen.
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = ask(&mut ada, json!({"Groups": {"after": after}}), json!({"Groups": {}})).await?;
        let names = page["Groups"]["groups"].as_array().context("no groups")?;
        let names: Vec<String> =
            names.iter().filter_map(|group| group["group_name"].as_str().map(str::to_owned)).collect();
        let more = page["Groups"]["more"] == json!(true);
        assert!(names.len() <= 3 && (!names.is_empty() || !more), "{page}");
        after = names.last().cloned().unwrap_or_default();
        seen.extend(names);
        if !more {
            break;
        }
    }
    assert_eq!(seen, ["team-1", "team-2", "team-3", "team-4", "x-lobby"]);
    let page = ask(&mut ada, json!({"Groups": {"prefix": "team-2"}}), json!({"Groups": {"more": false}})).await?;
    assert_eq!(page["Groups"]["groups"].as_array().map(Vec::len), Some(1), "{page}");
    Ok(())
}

#[tokio::test]
async fn a_connection_ends_with_its_token_unless_that_is_refreshed() -> Result<()> {
    let issuer = Issuer::new()?;
    let server = issuer.server().start().await?;
    let short = issuer.token("ada", 5, json!({}))?;
    let (mut ends, _) = welcome(&server, &short).await?;
    let (mut stays, _) = welcome(&server, &short).await?;
    for client in [&mut ends, &mut stays] {
        join(client, "Dogs").await?;
    }
    let refresh = |token: &str| json!({"Refresh": {"token": token}});
    let rejected = |text: &str| json!({"Rejected": {"code": "unauthenticated", "request": "Refresh", "message": text}});
    ask(&mut stays, refresh("nonsense"), rejected("the token is no signed JSON Web Token")).await?;
    let others = issuer.token("bob", 60, json!({}))?;
    ask(&mut stays, refresh(&others), rejected("the token is of user 'bob', not of 'ada'")).await?;
    let answer = ask(&mut stays, refresh(&issuer.token("ada", 60, json!({}))?), json!({"Refreshed": {}})).await?;
    assert!(answer["Refreshed"]["expires_at"].is_u64(), "{answer}");
    let over = "the token has expired; the connection is closed: come back with a new one";
    ends.expect_json(&json!({"Rejected": {"code": "unauthenticated", "message": over}})).await?;
    ends.expect_closed().await?;
    // The other one is still there.
    ask(&mut stays, json!({"Ping": {}}), json!({"Pong": {}})).await?;
    poll_until(PATIENCE, "one member is left", async || {
        let group = server.admin("GetGroup", json!({"group_name": "Dogs"})).await?;
        Ok((group["group"]["members"] != json!(1)).then(|| group.to_string()))
    })
    .await?;
    let metrics = Metrics::scrape(server.http()).await?;
    assert_eq!(metrics.sum("tertulia_connections_closed_total", &[("reason", "token_expired")]), Some(1.0));
    Ok(())
}

#[tokio::test]
async fn who_shows_a_token_that_allows_less_leaves_what_it_may_not_read() -> Result<()> {
    let issuer = Issuer::new()?;
    let server = issuer.server().start().await?;
    let (mut root, _) = welcome(&server, &issuer.token("root", 60, json!({}))?).await?;
    let (mut ada, _) = welcome(&server, &issuer.token("ada", 60, json!({}))?).await?;
    for group in ["Dogs", "Cats"] {
        join(&mut ada, group).await?;
    }
    let less = issuer.token("ada", 60, json!({"tertulia": {"read": ["Cats", "Birds"]}}))?;
    // What is asked for before it is still granted, or taken back.
    let lines = [
        json!({"Join": {"group_name": "Fish"}}),
        json!({"Refresh": {"token": less}}),
        json!({"Join": {"group_name": "Birds"}}),
    ];
    ada.send(lines.map(|line| format!("{line}\n")).concat()).await?;
    let (mut left, mut may) = (Vec::new(), false);
    // The answers are of the owners of different shards.
    while !may || left.len() < 2 {
        let line = ada.json().await?;
        may |= line["Joined"]["group_name"] == "Birds";
        for (kind, told) in [("Left", "reason"), ("Rejected", "code")] {
            if line[kind][told] == "forbidden" {
                left.extend(line[kind]["group_name"].as_str().map(str::to_owned));
            }
        }
    }
    left.sort();
    assert_eq!(left, ["Dogs", "Fish"]);
    for (group, text) in [("Dogs", "not for ada"), ("Fish", "not for ada"), ("Cats", "for ada")] {
        join(&mut root, group).await?;
        root.line(&json!({"Post": {"group_name": group, "message": text}}).to_string()).await?;
        root.expect_all(&[json!({"Posted": {"group_name": group}}), json!({"Message": {"group_name": group}})]).await?;
    }
    ada.expect_json(&json!({"Message": {"group_name": "Cats", "message": "for ada"}})).await?;
    let group = server.admin("ListMembers", json!({"group_name": "Fish"})).await?;
    assert_eq!(group["members"].as_array().map(Vec::len), Some(1), "{group}");
    Ok(())
}

/// The owner of a group and the connection agree about who is in it, however tokens follow each other.
#[tokio::test]
async fn less_and_then_more_leaves_nobody_half_in_a_group() -> Result<()> {
    let issuer = Issuer::new()?;
    let server = issuer.server().set("chat.post_without_join", false).start().await?;
    let (mut root, _) = welcome(&server, &issuer.token("root", 60, json!({}))?).await?;
    let all = issuer.token("ada", 60, json!({}))?;
    let less = issuer.token("ada", 60, json!({"tertulia": {"read": ["Cats"]}}))?;
    let (mut ada, _) = welcome(&server, &all).await?;
    join(&mut root, "Dogs").await?;
    join(&mut ada, "Dogs").await?;
    let lines = [
        json!({"Post": {"group_name": "Dogs", "message": "still allowed", "id": "1"}}),
        json!({"Join": {"group_name": "Dogs"}}),
        json!({"Refresh": {"token": less}}),
        json!({"Refresh": {"token": all}}),
        json!({"Ping": {}}),
    ];
    ada.send(lines.map(|line| format!("{line}\n")).concat()).await?;
    let mut kinds = Vec::new();
    while !kinds.iter().any(|kind| kind == "Pong") {
        let line = ada.json().await?;
        let kind = line.as_object().and_then(|line| line.keys().next()).cloned().context("no kind")?;
        if kind != "Message" {
            kinds.push(kind);
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["Joined", "Left", "Pong", "Posted", "Refreshed", "Refreshed"]);
    root.expect_json(&json!({"Message": {"message": "still allowed"}})).await?;
    poll_until(PATIENCE, "the owner knows", async || {
        let members = server.admin("ListMembers", json!({"group_name": "Dogs"})).await?;
        Ok((members["members"].as_array().map(Vec::len) != Some(1)).then(|| members.to_string()))
    })
    .await?;
    root.line(r#"{"Post":{"group_name":"Dogs","message":"who is there?"}}"#).await?;
    root.expect_all(&[json!({"Posted": {}}), json!({"Message": {"message": "who is there?"}})]).await?;
    // Nothing of it before the answer.
    ask(&mut ada, json!({"Ping": {}}), json!({"Pong": {}})).await?;
    Ok(())
}

#[tokio::test]
async fn who_takes_nothing_is_gone_soon_after_its_token() -> Result<()> {
    const MESSAGES: usize = 1_000;
    let issuer = Issuer::new()?;
    let server = issuer.server().start().await?;
    let (mut root, _) = welcome(&server, &issuer.token("root", 60, json!({}))?).await?;
    join(&mut root, "Logs").await?;
    root.line(r#"{"Leave":{"group_name":"Logs"}}"#).await?;
    root.expect_json(&json!({"Left": {}})).await?;
    let text = "x".repeat(10_000);
    for _ in 0..MESSAGES {
        root.line(&json!({"Post": {"group_name": "Logs", "message": text}}).to_string()).await?;
        root.expect_json(&json!({"Posted": {}})).await?;
    }
    let (mut slow, _) = welcome(&server, &issuer.token("ada", 2, json!({}))?).await?;
    slow.line(r#"{"Join":{"group_name":"Logs","after":0}}"#).await?;
    poll_until(PATIENCE, "it is closed", async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let closed = metrics.sum("tertulia_connections_closed_total", &[("reason", "token_expired")]);
        Ok((closed != Some(1.0)).then(|| metrics.describe("tertulia_connections_closed_total")))
    })
    .await
}

#[tokio::test]
async fn keys_are_replaced_while_the_server_runs() -> Result<()> {
    let mut issuer = Issuer::new()?;
    let server = issuer.server().set("tls.reload_interval", "1h").start().await?;
    let (mut ada, _) = welcome(&server, &issuer.token("ada", 60, json!({}))?).await?;
    issuer.replace_key(b'n')?;
    server.hang_up()?;
    server.until_logged("the tokens of clients are held against new keys").await?;
    welcome(&server, &issuer.token("bob", 60, json!({}))?).await?;
    // Who was let in before stays.
    ask(&mut ada, json!({"Ping": {}}), json!({"Pong": {}})).await?;
    fs::write(issuer.file(), "nonsense")?;
    server.hang_up()?;
    server.until_logged("the new keys for the tokens of clients cannot be used").await?;
    let failing = async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let told = metrics.sum("tertulia_auth_reload_failing", &[("file", "keys")]);
        Ok((told != Some(1.0)).then(|| format!("it is {told:?}")))
    };
    poll_until(PATIENCE, "the gauge tells", failing).await?;
    welcome(&server, &issuer.token("eve", 60, json!({}))?).await?;
    Ok(())
}

#[tokio::test]
async fn guests_get_what_is_for_guests() -> Result<()> {
    let issuer = Issuer::new()?;
    let options = issuer.server().set("auth.guests", true).set("auth.guest_read", "News*, Lobby");
    let server = options.set("auth.guest_post", "Lobby").start().await?;
    let (mut ada, _) = welcome(&server, &issuer.token("ada", 60, json!({}))?).await?;
    join(&mut ada, "Lobby").await?;
    // No token can be of the name that a guest was given.
    let mut named = server.connector().raw().await?;
    ask(&mut named, json!({"Hello": {"version": 1}}), json!({"Welcome": {}})).await?;
    let answer = json!({"Rejected": {"code": "bad_request", "request": "Refresh"}});
    ask(&mut named, json!({"Refresh": {"token": issuer.token("ada", 60, json!({}))?}}), answer).await?;
    // The client of the book knows nothing of all this.
    let mut guest = server.connector().raw().await?;
    guest.line(r#"{"Join":{"group_name":"Secrets"}}"#).await?;
    guest.expect(r#"{"Error":"You may not join or read group 'Secrets'"}"#).await?;
    guest.line(r#"{"Post":{"group_name":"News","message":"fake"}}"#).await?;
    guest.expect(r#"{"Error":"You may not post to group 'News'"}"#).await?;
    guest.line(r#"{"Join":{"group_name":"Lobby"}}"#).await?;
    guest.line(r#"{"Post":{"group_name":"Lobby","message":"hello?"}}"#).await?;
    guest.expect(r#"{"Message":{"group_name":"Lobby","message":"hello?"}}"#).await?;
    let message = ada.expect_json(&json!({"Message": {"group_name": "Lobby", "message": "hello?"}})).await?;
    assert!(message["Message"]["sender"].as_str().is_some_and(|sender| sender.starts_with("guest-")), "{message}");
    let mut pretender = server.connector().raw().await?;
    let text = "this server asks for a token in Hello; otherwise you may be a guest, and then without a user";
    let answer = json!({"Rejected": {"code": "unauthenticated", "message": text}});
    ask(&mut pretender, json!({"Hello": {"version": 1, "user": "ada"}}), answer).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_whose_keys_cannot_be_used_does_not_start() -> Result<()> {
    let issuer = Issuer::new()?;
    fs::write(issuer.file(), "{\"keys\":[]}")?;
    let (status, log) = issuer.server().refused().await?;
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cannot tell who clients are: there is no key for signatures in"), "{log}");
    let options = ServerOptions::new().set("auth.guests", true);
    let (status, log) = options.refused().await?;
    assert_eq!(status.code(), Some(2));
    assert!(log.contains("auth.guests") && log.contains("needs auth.keys_file"), "{log}");
    // What they can be used for otherwise is as before.
    let server = Server::start().await?;
    let mut client = crate::extended::hello(&server, "ada").await?;
    let answer =
        json!({"Rejected": {"code": "bad_request", "message": "this server asks for no token", "request": "Refresh"}});
    ask(&mut client, json!({"Refresh": {"token": "x"}}), answer).await?;
    tokio::time::timeout(Duration::from_secs(30), ask(&mut client, json!({"Ping": {}}), json!({"Pong": {}}))).await??;
    Ok(())
}
