//! The built `tertulia` in the extended dialect: what it does when its connection is lost, what it shows first, and how it ends.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::deadline::{PATIENCE, within};
use harness::terminal::Terminal;
use harness::{RawClient, Server, ServerOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Somebody in `Dogs` who stays until told otherwise.
fn follower(address: &str, more: &[&str]) -> Result<Terminal> {
    Terminal::start(&[&["--user", "ada", "--join", "Dogs", "--follow"][..], more, &[address]].concat())
}

/// `seq` and text of the next line, which is a message of `Dogs`.
async fn message(terminal: &mut Terminal) -> Result<(u64, String)> {
    let line = terminal.line().await?;
    let fields: Vec<&str> = line.split('\t').collect();
    let ["message", "Dogs", seq, _, _, text] = fields[..] else { anyhow::bail!("not a message of Dogs: {line:?}") };
    Ok((seq.parse().with_context(|| line.clone())?, text.to_owned()))
}

/// Whether the tests, and so what they start, are to ignore a signal: a shell has what it runs in the background ignore interrupts.
fn is_ignored(number: i32) -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).context("no SigIgn")?;
    Ok(u64::from_str_radix(ignored.trim(), 16)? >> (number - 1) & 1 == 1)
}

/// The next connection to a server that the test plays, after `Hello` and `Welcome`.
async fn welcomed(listener: &TcpListener) -> Result<RawClient> {
    let (stream, _) = within(PATIENCE, "a connection", async { Ok(listener.accept().await?) }).await?;
    let mut peer = RawClient::new(stream);
    peer.expect_json(&json!({"Hello": {"user": "ada"}})).await?;
    let limits = json!({"line_bytes": 131_072, "message_bytes": 16_384, "group_name_bytes": 128, "groups": 1000,
        "posts_per_second": 0, "page": 200});
    let welcome = json!({"version": 1, "server": "a test", "session": "c-1", "user": "ada", "limits": limits,
        "heartbeat": 30_000});
    peer.line(&json!({"Welcome": welcome}).to_string()).await?;
    Ok(peer)
}

fn joined(head: u64) -> String {
    json!({"Joined": {"group_name": "Dogs", "epoch": 77, "head": head, "members": 1, "recovered": true}}).to_string()
}

fn told(seq: u64, text: &str, id: &Value) -> String {
    let message = json!({"group_name": "Dogs", "message": text, "seq": seq, "sender": "ada", "at": 1, "id": id});
    json!({ "Message": message }).to_string()
}

#[tokio::test]
async fn a_lost_connection_is_resumed_and_what_was_not_answered_is_posted_again() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut ada = follower(&listener.local_addr()?.to_string(), &[])?;
    let mut peer = welcomed(&listener).await?;
    peer.expect_json(&json!({"Join": {"group_name": "Dogs"}})).await?;
    peer.line(&joined(6)).await?;
    ada.types("post Dogs one").await?;
    let one = peer.expect_json(&json!({"Post": {"group_name": "Dogs", "message": "one"}})).await?;
    let one = &one["Post"]["id"];
    ensure!(one.is_string(), "a post without an id");
    peer.line(&json!({"Posted": {"group_name": "Dogs", "id": one, "epoch": 77, "seq": 7, "at": 1}}).to_string())
        .await?;
    peer.line(&told(7, "one", one)).await?;
    ensure!(message(&mut ada).await? == (7, "one".to_owned()));
    ada.types("post Dogs two").await?;
    let two = peer.expect_json(&json!({"Post": {"group_name": "Dogs", "message": "two"}})).await?;
    let two = &two["Post"]["id"];
    ensure!(two != one, "two posts with one id");
    // It may have been stored.
    drop(peer);

    let mut peer = welcomed(&listener).await?;
    let resumed = json!({"Join": {"group_name": "Dogs", "after": 7, "epoch": 77}});
    peer.expect_json(&resumed).await.context("the group is resumed after what was seen")?;
    // The group has no more than was seen: it was not stored.
    peer.line(&joined(7)).await?;
    let again = json!({"Post": {"group_name": "Dogs", "message": "two", "id": two}});
    peer.expect_json(&again).await.context("under the same id")?;
    peer.line(&told(8, "two", two)).await?;
    peer.line(&json!({"Posted": {"group_name": "Dogs", "id": two, "epoch": 77, "seq": 8, "at": 1}}).to_string())
        .await?;
    ensure!(message(&mut ada).await? == (8, "two".to_owned()));
    // What is answered is not posted a third time.
    drop(peer);
    let mut peer = welcomed(&listener).await?;
    peer.expect_json(&json!({"Join": {"group_name": "Dogs", "after": 8, "epoch": 77}})).await?;
    peer.line(&joined(8)).await?;
    ada.types("post Dogs three").await?;
    peer.expect_json(&json!({"Post": {"message": "three"}})).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_costs_nothing() -> Result<()> {
    // Nobody connects from there, so that its port is free when it is back.
    let host = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
    let mut server = ServerOptions::new().on_disk().host(host).start().await?;
    let mut ada = follower(&server.chat().to_string(), &[])?;
    ada.types("post Dogs here").await?;
    ensure!(message(&mut ada).await? == (1, "here".to_owned()));
    for round in 0..3 {
        server.kill().await?;
        server.restart_in_place().await?;
        // Most of it is posted before she is back.
        let mut bob = server.connector().extended("bob").await?;
        let texts: Vec<_> = (0..5).map(|number| format!("{round} {number}")).collect();
        for text in &texts {
            bob.post("Dogs", text, text).await?;
        }
        ada.types(&format!("post Dogs {round} is over")).await?;
        for (seq, text) in (6 * round + 2..).zip(texts.into_iter().chain([format!("{round} is over")])) {
            ensure!(message(&mut ada).await? == (seq, text));
        }
    }
    ada.types("post Dogs the end").await?;
    ensure!(message(&mut ada).await? == (20, "the end".to_owned()));
    Ok(())
}

#[tokio::test]
async fn who_does_not_want_to_connect_again_ends_with_the_connection() -> Result<()> {
    let mut server = Server::start().await?;
    let address = server.chat().to_string();
    let mut ada = follower(&address, &["--no-reconnect"])?;
    ada.types("post Dogs here").await?;
    ensure!(message(&mut ada).await? == (1, "here".to_owned()));
    server.kill().await?;
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains(&format!("the connection to {address} is lost")), "{code:?}: {said}");
    Ok(())
}

/// The end of a membership that nobody asked for.
fn put_out(group: &str, reason: &str) -> String {
    json!({"Left": {"group_name": group, "reason": reason}}).to_string()
}

#[tokio::test]
async fn who_follows_ends_when_no_group_is_left_and_no_command_can_come() -> Result<()> {
    let refused = |code: &str| {
        json!({"Rejected": {"code": code, "message": "no", "request": "Join", "group_name": "Dogs"}}).to_string()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    for (arguments, lines) in [
        (&[][..], vec![refused("group_full")]),
        (&[], vec![joined(6), put_out("Dogs", "kicked")]),
        (&[], vec![joined(6), put_out("Dogs", "deleted")]),
        (&["--raw"], vec![joined(6), put_out("Dogs", "closed")]),
    ] {
        let mut ada = follower(&address, arguments)?;
        // With --raw no line is a command, also of an input that has not ended.
        if arguments.is_empty() {
            ada.hang_up();
        }
        let mut peer = welcomed(&listener).await?;
        peer.expect_json(&json!({"Join": {"group_name": "Dogs"}})).await?;
        for line in &lines {
            peer.line(line).await?;
        }
        let (code, said) = ada.end(PATIENCE).await?;
        ensure!(code == Some(1) && said.contains("no group is left to follow"), "{lines:?}: {code:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn who_follows_stays_while_a_group_is_left_or_a_command_can_come() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut ada = follower(&address, &["--join", "Cats"])?;
    ada.hang_up();
    let mut peer = welcomed(&listener).await?;
    peer.line(&joined(6)).await?;
    peer.line(&joined(6).replace("Dogs", "Cats")).await?;
    peer.line(&put_out("Cats", "kicked")).await?;
    peer.line(&told(7, "woof", &Value::Null)).await?;
    ensure!(message(&mut ada).await? == (7, "woof".to_owned()));
    peer.line(&told(8, "woof", &Value::Null)).await?;
    ensure!(message(&mut ada).await? == (8, "woof".to_owned()), "it went on");

    let mut ada = follower(&address, &[])?;
    let mut peer = welcomed(&listener).await?;
    peer.expect_json(&json!({"Join": {"group_name": "Dogs"}})).await?;
    peer.line(&joined(6)).await?;
    peer.line(&put_out("Dogs", "kicked")).await?;
    // What answers this was said after she was put out.
    ada.types("members Dogs").await?;
    peer.expect_json(&json!({"Members": {"group_name": "Dogs"}})).await?;
    peer.line(&json!({"Members": {"group_name": "Dogs", "members": ["bob"], "more": false}}).to_string()).await?;
    ensure!(ada.line().await? == "member\tDogs\tbob");
    ada.types("join Dogs").await?;
    peer.expect_json(&json!({"Join": {"group_name": "Dogs"}})).await?;
    Ok(())
}

#[tokio::test]
async fn a_peer_that_says_anything_but_a_welcome_is_not_heard_for_ever() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ada = follower(&listener.local_addr()?.to_string(), &[])?;
    let (stream, _) = within(PATIENCE, "a connection", async { Ok(listener.accept().await?) }).await?;
    let mut peer = RawClient::new(stream);
    peer.expect_json(&json!({"Hello": {"user": "ada"}})).await?;
    let speak = async {
        while peer.line(&json!({"Ping": {}}).to_string()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    };
    // A welcome may take ten seconds.
    let ((code, said), ()) = tokio::try_join!(ada.end(Duration::from_secs(20)), speak)?;
    ensure!(code == Some(1) && said.contains("no welcome in time"), "{code:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn the_newest_few_are_shown_first() -> Result<()> {
    let server = Server::start().await?;
    let mut bob = server.connector().extended("bob").await?;
    bob.join("Dogs").await?;
    for number in 1..=5 {
        bob.post("Dogs", &number.to_string(), &number.to_string()).await?;
    }
    let address = server.chat().to_string();
    let mut ada = Terminal::start(&["--user", "ada", "--join", "Dogs", "--last", "2", &address])?;
    ada.hang_up();
    for number in [4, 5] {
        ensure!(message(&mut ada).await? == (number, number.to_string()));
    }
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(0), "{code:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn the_exit_code_tells_what_went_wrong() -> Result<()> {
    let mut server = Server::start().await?;
    let address = server.chat().to_string();
    let mut refused = Terminal::start(&["--user", "ada", &address])?;
    refused.types("post Nowhere hello").await?;
    refused.hang_up();
    let (code, said) = refused.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("1 of the commands failed"), "{code:?}: {said}");
    let mut turned_away = Terminal::start(&["--user", "eve", &address])?;
    turned_away.types("join Dogs").await?;
    turned_away.types("post Dogs hello").await?;
    turned_away.hang_up();
    let (code, said) = turned_away.end(PATIENCE).await?;
    ensure!(code == Some(0), "{code:?}: {said}");
    for (signal, number) in [(Signal::HUP, 1), (Signal::INT, 2), (Signal::TERM, 15)] {
        let mut ada = follower(&address, &[])?;
        ada.types("post Dogs here").await?;
        message(&mut ada).await?;
        ada.signal(signal)?;
        let mut ended_by = number;
        if is_ignored(number)? {
            ada.types("post Dogs still here").await?;
            ensure!(message(&mut ada).await?.1 == "still here", "{signal:?} is ignored by who started it");
            ada.signal(Signal::TERM)?;
            ended_by = 15;
        }
        let (code, said) = ada.end(PATIENCE).await?;
        ensure!(code == Some(128 + ended_by), "{signal:?}: {code:?}: {said}");
    }
    for wrong in [&[][..], &["--no-such-flag", &address], &["--user", "two words", &address], &["127.0.0.1"]] {
        let (code, said) = Terminal::start(wrong)?.end(PATIENCE).await?;
        ensure!(code == Some(2) && !said.is_empty(), "{wrong:?}: {code:?}: {said}");
    }
    server.kill().await?;
    let (code, said) = follower(&address, &[])?.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains(&format!("cannot connect to {address}")), "{code:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn answers_that_do_not_come_are_not_waited_for_for_ever() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut ada = Terminal::start(&["--user", "ada", "--linger", "0.2", &address])?;
    let mut peer = welcomed(&listener).await?;
    ada.types("post Dogs hello").await?;
    peer.expect_json(&json!({"Post": {"message": "hello"}})).await?;
    ada.hang_up();
    let (code, said) = ada.end(Duration::from_secs(20)).await?;
    ensure!(code == Some(1) && said.contains("it is unknown whether 1 post came through"), "{code:?}: {said}");
    Ok(())
}
