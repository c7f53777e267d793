//! The extended dialect: saying hello, joining, posting, leaving, staying alive; and both dialects together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use harness::deadline::{PATIENCE, poll_until};
use harness::metrics::Metrics;
use harness::{Event, RawClient, Server, ServerOptions, check};
use serde_json::{Value, json};

/// A connection that was welcomed as `user`.
pub(crate) async fn hello(server: &Server, user: &str) -> Result<RawClient> {
    let mut client = server.connector().raw().await?;
    client.line(&json!({"Hello": {"version": 1, "user": user}}).to_string()).await?;
    client.expect_json(&json!({"Welcome": {"version": 1, "user": user}})).await?;
    Ok(client)
}

/// Sends a line and expects the next one to hold `answer`.
pub(crate) async fn ask(client: &mut RawClient, line: Value, answer: Value) -> Result<Value> {
    client.line(&line.to_string()).await?;
    client.expect_json(&answer).await
}

/// Joins a group and expects to be in it.
pub(crate) async fn join(client: &mut RawClient, group: &str) -> Result<Value> {
    ask(client, json!({"Join": {"group_name": group}}), json!({"Joined": {"group_name": group}})).await
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[tokio::test]
async fn hello_is_welcome() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    let welcome = ask(&mut client, json!({"Hello": {"version": 1, "user": "ada"}}), json!({"Welcome": {}})).await?;
    let welcome = &welcome["Welcome"];
    let mut names = keys(welcome);
    names.sort_unstable();
    assert_eq!(names, ["heartbeat", "limits", "server", "session", "user", "version"]);
    assert_eq!((&welcome["version"], &welcome["user"]), (&json!(1), &json!("ada")));
    assert!(welcome["server"].as_str().is_some_and(|server| server.starts_with("tertulia/")), "{welcome}");
    assert!(welcome["session"].as_str().is_some_and(|session| !session.is_empty()), "{welcome}");
    assert_eq!(welcome["heartbeat"], json!(30_000));
    let limits = json!({"line_bytes": 131_072, "message_bytes": 16_384, "group_name_bytes": 128, "groups": 1000,
        "posts_per_second": 0, "page": 200});
    assert_eq!(welcome["limits"], limits);
    Ok(())
}

#[tokio::test]
async fn welcome_tells_what_was_configured() -> Result<()> {
    let options = ServerOptions::new().set("limits.line_bytes", 5000).set("limits.message_bytes", 300);
    let options = options.set("limits.group_name_bytes", 20).set("limits.groups_per_connection", 7);
    let options = options.set("limits.posts_per_second", 9).set("limits.page", 11).set("chat.heartbeat", "1500ms");
    let server = options.start().await?;
    let mut client = server.connector().raw().await?;
    let limits = json!({"line_bytes": 5000, "message_bytes": 300, "group_name_bytes": 20, "groups": 7,
        "posts_per_second": 9, "page": 11});
    let welcome = json!({"Welcome": {"limits": limits, "heartbeat": 1500}});
    ask(&mut client, json!({"Hello": {"version": 1}}), welcome).await?;
    Ok(())
}

#[tokio::test]
async fn without_a_user_one_is_a_guest() -> Result<()> {
    let server = Server::start().await?;
    let mut names = Vec::new();
    for hello in [json!({"version": 1}), json!({"version": 1, "user": null})] {
        let mut client = server.connector().raw().await?;
        let welcome = ask(&mut client, json!({"Hello": hello}), json!({"Welcome": {}})).await?;
        names.push(welcome["Welcome"]["user"].as_str().context("no user")?.to_owned());
    }
    for name in &names {
        let rest = name.strip_prefix("guest-").with_context(|| format!("not a guest: {name}"))?;
        assert_eq!(rest.chars().count(), 10, "{name}");
    }
    assert_ne!(names[0], names[1]);
    Ok(())
}

#[tokio::test]
async fn the_version_is_the_newest_that_both_speak() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    let of_the_future = json!({"Hello": {"version": 99, "user": "ada", "color": "red", "token": "t", "password": "p"}});
    ask(&mut client, of_the_future, json!({"Welcome": {"version": 1, "user": "ada"}})).await?;
    let mut client = server.connector().raw().await?;
    let refusal = json!({"Rejected": {"code": "unsupported_version", "request": "Hello"}});
    ask(&mut client, json!({"Hello": {"version": 0}}), refusal).await?;
    client.expect_closed().await
}

#[tokio::test]
async fn a_bad_hello_ends_the_connection() -> Result<()> {
    let server = Server::start().await?;
    for user in ["", "@system", "two words", "tab\tbed", &"x".repeat(65)] {
        let mut client = server.connector().raw().await?;
        let refusal = json!({"Rejected": {"code": "bad_user_name", "request": "Hello"}});
        ask(&mut client, json!({"Hello": {"version": 1, "user": user}}), refusal).await?;
        client.expect_closed().await?;
    }
    for malformed in [json!({}), json!({"version": "one"}), json!([]), json!({"version": 1, "user": 7})] {
        let mut client = server.connector().raw().await?;
        let refusal = json!({"Rejected": {"code": "malformed"}});
        ask(&mut client, json!({"Hello": malformed}), refusal).await?;
        client.expect_closed().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_the_first_line() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    let hello = json!({"Hello": {"version": 1, "user": "ada"}});
    client.line(&format!("\u{feff}{hello}")).await?;
    client.expect_json(&json!({"Welcome": {"user": "ada"}})).await?;
    // Nor of an empty one.
    let mut client = server.connector().raw().await?;
    client.line("\u{feff}").await?;
    client.line(&hello.to_string()).await?;
    client.expect_json(&json!({"Welcome": {"user": "ada"}})).await?;
    Ok(())
}

#[tokio::test]
async fn who_posts_half_a_character_hears_which_post_it_was() -> Result<()> {
    let server = Server::start().await?;
    let mut client = hello(&server, "ada").await?;
    join(&mut client, "Dogs").await?;
    client.line(r#"{"Post":{"group_name":"Dogs","message":"half \ud83d","id":"a7"}}"#).await?;
    let refusal = json!({"Rejected": {"code": "malformed", "request": "Post", "group_name": "Dogs", "id": "a7"}});
    client.expect_json(&refusal).await?;
    Ok(())
}

#[tokio::test]
async fn a_second_hello_is_refused_and_changes_nothing() -> Result<()> {
    let server = Server::start().await?;
    let mut client = hello(&server, "ada").await?;
    let refusal = json!({"Rejected": {"code": "bad_request", "request": "Hello"}});
    ask(&mut client, json!({"Hello": {"version": 1, "user": "bob"}}), refusal).await?;
    join(&mut client, "Dogs").await?;
    ask(
        &mut client,
        json!({"Members": {"group_name": "Dogs"}}),
        json!({"Members": {"group_name": "Dogs", "members": ["ada"], "more": false}}),
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_conversation() -> Result<()> {
    let server = Server::start().await?;
    let mut ada = hello(&server, "ada").await?;
    let joined = json!({"Joined": {"group_name": "Dogs", "head": 0, "members": 1, "recovered": true}});
    let joined = ask(&mut ada, json!({"Join": {"group_name": "Dogs"}}), joined).await?;
    let epoch = joined["Joined"]["epoch"].as_u64().context("no epoch")?;
    assert!(epoch > 0 && epoch < 1 << 53, "JavaScript reads it exactly: {epoch}");
    let mut bob = hello(&server, "bob").await?;
    let joined = json!({"Joined": {"group_name": "Dogs", "head": 0, "members": 2, "epoch": epoch}});
    ask(&mut bob, json!({"Join": {"group_name": "Dogs"}}), joined).await?;

    let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    ada.line(&json!({"Post": {"group_name": "Dogs", "message": "Samoyeds rock!", "id": "a1"}}).to_string()).await?;
    let mut answers = [ada.json().await?, ada.json().await?];
    // They come in either order.
    answers.sort_by_key(|answer| answer.get("Posted").is_none());
    let at = answers[0]["Posted"]["at"].as_u64().context("no time")?;
    let after = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    assert!(before <= at && at <= after, "{before} {at} {after}");
    let posted = json!({"Posted": {"group_name": "Dogs", "id": "a1", "epoch": epoch, "seq": 1, "at": at}});
    let message = json!({"Message": {"group_name": "Dogs", "message": "Samoyeds rock!", "seq": 1, "sender": "ada",
        "at": at, "id": "a1"}});
    assert_eq!(answers, [posted, message.clone()]);
    assert_eq!(bob.json().await?, message);

    // Without an id there is none in the answers; one may post without being a member.
    ask(&mut ada, json!({"Leave": {"group_name": "Dogs"}}), json!({"Left": {"group_name": "Dogs", "reason": "leave"}}))
        .await?;
    let posted = ask(
        &mut ada,
        json!({"Post": {"group_name": "Dogs", "message": "bye"}}),
        json!({"Posted": {"group_name": "Dogs", "seq": 2, "epoch": epoch}}),
    )
    .await?;
    assert!(posted["Posted"].get("id").is_none_or(Value::is_null), "{posted}");
    let message = bob.expect_json(&json!({"Message": {"seq": 2, "sender": "ada", "message": "bye"}})).await?;
    assert!(message["Message"].get("id").is_none_or(Value::is_null), "{message}");

    // After `Left` nothing of the group comes.
    ask(&mut ada, json!({"Ping": {}}), json!({"Pong": {}})).await?;
    let refusal = json!({"Rejected": {"code": "not_a_member", "request": "Leave", "group_name": "Dogs"}});
    ask(&mut ada, json!({"Leave": {"group_name": "Dogs"}}), refusal).await?;
    Ok(())
}

#[tokio::test]
async fn lines_are_written_in_the_documented_order_of_fields() -> Result<()> {
    let server = Server::start().await?;
    let mut client = hello(&server, "ada").await?;
    let joined = join(&mut client, "Dogs").await?;
    let epoch = &joined["Joined"]["epoch"];
    client.line(r#"{"Post":{"group_name":"Dogs","message":"a\u00e9\n","id":"1"}}"#).await?;
    let mut lines = [client.next_line().await?.context("closed")?, client.next_line().await?.context("closed")?];
    lines.sort();
    let at = serde_json::from_str::<Value>(&lines[1])?["Posted"]["at"].clone();
    let message =
        format!(r#"{{"Message":{{"group_name":"Dogs","message":"aé\n","seq":1,"sender":"ada","at":{at},"id":"1"}}}}"#);
    let posted = format!(r#"{{"Posted":{{"group_name":"Dogs","id":"1","epoch":{epoch},"seq":1,"at":{at}}}}}"#);
    assert_eq!(lines, [message, posted]);
    client.line(r#"{"Ping":{"unknown":"field"}}"#).await?;
    client.expect(r#"{"Pong":{}}"#).await
}

#[tokio::test]
async fn an_id_is_stored_once() -> Result<()> {
    let server = Server::start().await?;
    let mut ada = hello(&server, "ada").await?;
    let post = |group: &str, text: &str| json!({"Post": {"group_name": group, "message": text, "id": "x"}});
    let posted = |group: &str, seq: u64| json!({"Posted": {"group_name": group, "id": "x", "seq": seq}});
    for group in ["Dogs", "Cats"] {
        // A group exists once somebody has joined it.
        join(&mut ada, group).await?;
        ask(&mut ada, json!({"Leave": {"group_name": group}}), json!({"Left": {}})).await?;
        let first = ask(&mut ada, post(group, "one"), posted(group, 1)).await?;
        let again = ask(&mut ada, post(group, "one"), posted(group, 1)).await?;
        assert_eq!(first, again);
    }
    // Also over another connection, while the first is open or not.
    let mut elsewhere = hello(&server, "ada").await?;
    ask(&mut elsewhere, post("Dogs", "one"), posted("Dogs", 1)).await?;
    drop(ada);
    ask(&mut elsewhere, post("Dogs", "one"), posted("Dogs", 1)).await?;
    // The ids of others are others.
    let mut bob = hello(&server, "bob").await?;
    ask(&mut bob, post("Dogs", "two"), posted("Dogs", 2)).await?;
    let history = json!({"History": {"group_name": "Dogs", "messages": [{"message": "one", "sender": "ada", "id": "x"},
        {"message": "two", "sender": "bob", "id": "x"}], "more": false}});
    ask(&mut bob, json!({"History": {"group_name": "Dogs"}}), history).await?;
    Ok(())
}

/// Gives so many signs of life, one for each `Ping`: the server's heartbeat as a clock.
async fn answer_pings(client: &mut RawClient, count: usize) -> Result<()> {
    for _ in 0..count {
        client.expect_json(&json!({"Ping": {}})).await?;
        client.line(r#"{"Pong":{}}"#).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_then_closed() -> Result<()> {
    let server = ServerOptions::new().set("chat.heartbeat", "1s").start().await?;
    let mut lively = hello(&server, "lively").await?;
    answer_pings(&mut lively, 3).await?;
    let mut silent = hello(&server, "silent").await?;
    silent.expect_json(&json!({"Ping": {}})).await?;
    silent.expect_json(&json!({"Rejected": {"code": "protocol"}})).await?;
    silent.expect_closed().await
}

#[tokio::test]
async fn a_classic_client_has_no_heartbeat() -> Result<()> {
    let server = ServerOptions::new().set("chat.heartbeat", "1s").start().await?;
    let mut classic = server.connector().raw().await?;
    classic.line(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    let mut clock = hello(&server, "clock").await?;
    answer_pings(&mut clock, 3).await?;
    classic.line(r#"{"Post":{"group_name":"Dogs","message":"still here"}}"#).await?;
    classic.expect(r#"{"Message":{"group_name":"Dogs","message":"still here"}}"#).await
}

#[tokio::test]
async fn whoever_says_nothing_at_all_is_closed() -> Result<()> {
    let options = ServerOptions::new().set("limits.hello_timeout", "2s").set("limits.idle_timeout", "2500ms");
    let server = options.set("limits.line_timeout", "2s").start().await?;
    let mut silent = server.connector().raw().await?;
    let mut groupless = server.connector().raw().await?;
    groupless.line(r#"{"Post":{"group_name":"Dogs","message":"x"}}"#).await?;
    groupless.expect(r#"{"Error":"Group 'Dogs' does not exist"}"#).await?;
    let mut halfway = hello(&server, "halfway").await?;
    join(&mut halfway, "Dogs").await?;
    halfway.send(r#"{"Post":"#).await?;
    for client in [&mut silent, &mut groupless, &mut halfway] {
        while client.next_line().await?.is_some() {}
    }
    // Each for its own reason: sooner or later the heartbeat would have ended the last one, too.
    for reason in ["hello_timeout", "idle", "line_timeout"] {
        poll_until(PATIENCE, reason, async || {
            let metrics = Metrics::scrape(server.http()).await?;
            let closed = metrics.sum("tertulia_connections_closed_total", &[("reason", reason)]);
            Ok((closed != Some(1.0)).then(|| metrics.describe("tertulia_connections_closed_total")))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_loses_its_last_group_has_time_to_join_another() -> Result<()> {
    let options = ServerOptions::new().set("limits.idle_timeout", "2s").set("chat.heartbeat", "1s");
    let server = options.start().await?;
    let mut classic = server.connector().raw().await?;
    classic.line(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    let mut clock = hello(&server, "clock").await?;
    answer_pings(&mut clock, 3).await?;
    server.admin("CloseGroup", json!({"group_name": "Dogs"})).await?;
    classic.expect(r#"{"Error":"Group 'Dogs' was closed."}"#).await?;
    classic.line(r#"{"Join":{"group_name":"Cats"}}"#).await?;
    classic.line(r#"{"Post":{"group_name":"Cats","message":"still here"}}"#).await?;
    classic.expect(r#"{"Message":{"group_name":"Cats","message":"still here"}}"#).await
}

#[tokio::test]
async fn both_dialects_meet_in_a_group() -> Result<()> {
    const POSTS: usize = 50;
    let server = Server::start().await?;
    let connector = server.connector();
    let mut ada = connector.extended("ada").await?;
    ada.join("Dogs").await?;
    let mut classic = connector.classic("classic").await?;
    classic.writer.join("Dogs").await?;
    for number in 0..POSTS {
        ada.writer.post("Dogs", &format!("extended {number}"), Some(&format!("e{number}"))).await?;
        classic.writer.post("Dogs", &format!("classic {number}"), None).await?;
    }
    let mut curtain = connector.extended("curtain").await?;
    let (first, last) = ("extended 0", format!("extended {}", POSTS - 1));
    ada.reader.until_text("Dogs", &last).await?;
    let guests = connector.extended("reader").await?.read_log("Dogs").await?;
    let guest = guests.messages.iter().find(|message| &*message.text == "classic 0").context("not in the log")?;
    assert!(guest.sender.starts_with("guest-") && guest.id.is_none(), "{guest:?}");
    assert!(guests.messages.iter().any(|message| &*message.text == first && &*message.sender == "ada"));
    // Both stay until the last message of all.
    classic.writer.post("Dogs", "classic end", None).await?;
    ada.reader.until_text("Dogs", "classic end").await?;
    curtain.post("Dogs", "curtain", "c").await?;
    ada.reader.until_text("Dogs", "curtain").await?;
    classic.reader.until_text("Dogs", "curtain").await?;
    let log = curtain.read_log("Dogs").await?;
    let verdict = check(&[ada.settled(), classic.settled(), curtain.settled()], &[log]);
    verdict.assert_clean();
    assert_eq!(verdict.facts.messages, 2 * POSTS as u64 + 2);
    Ok(())
}

#[tokio::test]
async fn pipelined_lines_are_carried_out_in_their_order() -> Result<()> {
    const POSTS: usize = 2000;
    let server = Server::start().await?;
    let mut ada = server.connector().extended("ada").await?;
    ada.writer.join("Dogs").await?;
    for number in 0..POSTS {
        ada.writer.post("Dogs", &number.to_string(), Some(&format!("{number}"))).await?;
        if number % 500 == 499 {
            ada.writer.leave("Dogs").await?;
            ada.writer.join("Dogs").await?;
        }
    }
    let last = format!("{}", POSTS - 1);
    let is_last = |event: &Event| matches!(event, Event::Posted(it) if it.id.as_deref() == Some(&*last));
    ada.reader.until("the last Posted", |event| is_last(event).then_some(())).await?;
    ada.post("Dogs", "curtain", "curtain").await?;
    ada.reader.until_text("Dogs", "curtain").await?;
    let log = ada.read_log("Dogs").await?;
    let texts: Vec<_> = log.messages.iter().map(|message| message.text.to_string()).collect();
    let expected: Vec<_> = (0..POSTS).map(|number| number.to_string()).chain(["curtain".to_owned()]).collect();
    assert_eq!(texts, expected);
    check(&[ada.settled()], &[log]).assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_full_house_is_told_before_the_dialect_is_known() -> Result<()> {
    let server = ServerOptions::new().set("limits.connections", 2).start().await?;
    let one = hello(&server, "one").await?;
    let _two = hello(&server, "two").await?;
    let mut three = server.connector().raw().await?;
    let line = three.json().await?;
    assert!(line["Error"].as_str().is_some_and(|text| text.contains("Too many connections")), "{line}");
    three.expect_closed().await?;
    drop(one);
    // Room is made as soon as the server has seen the end of a connection.
    poll_until(Duration::from_secs(10), "room for another", async || {
        let mut client = server.connector().raw().await?;
        client.line(r#"{"Hello":{"version":1}}"#).await?;
        let line = client.json().await?;
        Ok(line.get("Welcome").is_none().then(|| line.to_string()))
    })
    .await
}
