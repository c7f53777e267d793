//! `docs/examples/minimal.py`, with which those begin who write a client: it does what `docs/protocol.md` says of clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::deadline::{PATIENCE, within};
use harness::terminal::Terminal;
use harness::{RawClient, ServerOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// `ada` in `Dogs`.
fn start(address: SocketAddr) -> Result<Terminal> {
    start_with(address, &[])
}

fn start_with(address: SocketAddr, more: &[&str]) -> Result<Terminal> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/minimal.py");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    Terminal::run("minimal.py", Path::new("python3"), &[&[script, &host, &port, "ada", "Dogs"], more].concat())
}

/// `seq`, sender and text of the next line.
async fn message(ada: &mut Terminal) -> Result<(u64, String, String)> {
    let line = ada.line().await?;
    let fields: Vec<&str> = line.split('\t').collect();
    let [seq, sender, text] = fields[..] else { anyhow::bail!("not a message: {line:?}") };
    Ok((seq.parse().with_context(|| line.clone())?, sender.to_owned(), text.trim_matches('\'').to_owned()))
}

/// The next `count` messages, which have to follow `seen`; those of `ada` go to the first list, others to the second.
async fn read(ada: &mut Terminal, seen: &mut u64, count: usize, lists: &mut [Vec<String>; 2]) -> Result<()> {
    for _ in 0..count {
        let (seq, sender, text) = message(ada).await?;
        *seen += 1;
        ensure!(seq == *seen, "after {} came {seq}", *seen - 1);
        lists[usize::from(sender != "ada")].push(text);
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_killed_again_and_again_costs_no_message_and_doubles_none() -> Result<()> {
    const ROUNDS: usize = 4;
    const POSTS: usize = 10;
    // Nobody connects from there, so that its port is free when it is back.
    let host = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
    let mut server = ServerOptions::new().on_disk().host(host).start().await?;
    let mut ada = start(server.chat())?;
    let (mut seen, mut lists, mut of_ada, mut of_bob) = (0, Default::default(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for number in 0..POSTS {
            let text = format!("{round} {number}");
            ada.types(&text).await?;
            of_ada.push(text);
        }
        // Then the server dies with a post on its way, or the answer to it.
        read(&mut ada, &mut seen, 3, &mut lists).await?;
        server.kill().await?;
        server.restart_in_place().await?;
        let text = format!("{round}, says bob");
        server.connector().extended("bob").await?.post("Dogs", &text, &text).await?;
        of_bob.push(text);
    }
    ada.hang_up();
    let left = of_ada.len() + of_bob.len() - usize::try_from(seen)?;
    read(&mut ada, &mut seen, left, &mut lists).await?;
    ensure!(lists == [of_ada, of_bob], "{lists:?}");
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(0), "{code:?}: {said}");
    Ok(())
}

/// Her next connection to a server that the test plays, after her `Hello` and a `Join` that holds `join`.
async fn joins(listener: &TcpListener, join: &Value, joined: (u64, u64)) -> Result<RawClient> {
    let (mut peer, _) = greets(listener).await?;
    let_in(&mut peer, join, joined).await?;
    Ok(peer)
}

/// Her next connection, and the token in its `Hello`.
async fn greets(listener: &TcpListener) -> Result<(RawClient, Value)> {
    let (stream, _) = within(PATIENCE, "a connection", async { Ok(listener.accept().await?) }).await?;
    let mut peer = RawClient::new(stream);
    let hello = peer.expect_json(&json!({"Hello": {"version": 1, "user": "ada"}})).await?;
    Ok((peer, hello["Hello"]["token"].clone()))
}

async fn let_in(peer: &mut RawClient, join: &Value, joined: (u64, u64)) -> Result<()> {
    let limits = json!({"line_bytes": 131_072, "message_bytes": 16_384, "group_name_bytes": 128, "groups": 1000,
        "posts_per_second": 0, "page": 200});
    let welcome = json!({"version": 1, "server": "a test", "session": "c-1", "user": "ada", "limits": limits,
        "heartbeat": 30_000});
    peer.line(&json!({ "Welcome": welcome }).to_string()).await?;
    let asked = peer.expect_json(&json!({ "Join": join })).await?;
    ensure!(asked["Join"].get("after").is_some() == join.get("after").is_some(), "{asked}");
    let (epoch, head) = joined;
    let joined = json!({"group_name": "Dogs", "epoch": epoch, "head": head, "members": 1, "recovered": true});
    peer.line(&json!({ "Joined": joined }).to_string()).await
}

/// Her next line, which must be this post; answers the id.
async fn posts(peer: &mut RawClient, text: &str) -> Result<Value> {
    let post = peer.expect_json(&json!({"Post": {"group_name": "Dogs", "message": text}})).await?;
    let id = post["Post"]["id"].clone();
    ensure!(id.is_string(), "a post without an id");
    Ok(id)
}

/// Expects the answer to a `Ping` to be the next that she says.
async fn alive(peer: &mut RawClient) -> Result<()> {
    peer.line(&json!({"Ping": {}}).to_string()).await?;
    peer.expect_json(&json!({"Pong": {}})).await.map(drop)
}

fn told(seq: u64, text: &str, id: &Value) -> String {
    let message = json!({"group_name": "Dogs", "message": text, "seq": seq, "sender": "ada", "at": 1, "id": id});
    json!({ "Message": message }).to_string()
}

fn posted(seq: u64, id: &Value) -> String {
    json!({"Posted": {"group_name": "Dogs", "id": id, "epoch": 77, "seq": seq, "at": 1}}).to_string()
}

fn rejected(code: &str, id: &Value, more: &Value) -> String {
    let mut fields = json!({"code": code, "message": "no", "request": "Post", "group_name": "Dogs", "id": id});
    for (name, value) in more.as_object().into_iter().flatten() {
        fields[name] = value.clone();
    }
    json!({ "Rejected": fields }).to_string()
}

#[tokio::test]
async fn each_post_is_repeated_until_it_is_answered_or_found() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut ada = start(listener.local_addr()?)?;
    let resumed = |after: u64, epoch: u64| json!({"group_name": "Dogs", "after": after, "epoch": epoch});
    let mut peer = joins(&listener, &json!({"group_name": "Dogs"}), (77, 6)).await?;
    ada.types("one").await?;
    let id = posts(&mut peer, "one").await?;
    // It is stored, but its answer does not arrive, and its message arrives in part.
    peer.send(&told(7, "one", &id)[..20]).await?;
    drop(peer);
    let mut peer = joins(&listener, &resumed(6, 77), (77, 7)).await?;
    ada.types("two").await?;
    alive(&mut peer).await.context("nothing is posted before what was missed is there")?;
    peer.line(&told(7, "one", &id)).await?;
    let id = posts(&mut peer, "two").await.context("what is found among the messages is not repeated")?;
    // This one is not stored.
    drop(peer);
    let mut peer = joins(&listener, &resumed(7, 77), (77, 7)).await?;
    ensure!(posts(&mut peer, "two").await? == id, "another id");
    let again = json!({"retry_after_ms": 1, "outcome_unknown": true});
    peer.line(&rejected("unavailable", &id, &again)).await?;
    let mut peer = joins(&listener, &resumed(7, 77), (77, 7)).await?;
    ensure!(posts(&mut peer, "two").await? == id, "another id");
    // The answer to the post before comes after the next one was sent.
    peer.line(&told(8, "two", &id)).await?;
    ada.types("three").await?;
    let next = posts(&mut peer, "three").await?;
    peer.line(&posted(8, &id)).await?;
    ada.types("four").await?;
    peer.line(&rejected("message_too_long", &next, &json!({}))).await?;
    posts(&mut peer, "four").await.context("what can never be posted is given up")?;
    let going = json!({"GoingAway": {"reason": "a test", "reconnect_after_ms": 1}});
    peer.line(&going.to_string()).await?;
    // The group was deleted, and is there again.
    drop(joins(&listener, &resumed(8, 77), (78, 9)).await?);
    let mut peer = joins(&listener, &resumed(0, 78), (78, 9)).await?;
    peer.line(&told(1, "a new life", &Value::Null)).await?;
    alive(&mut peer).await?;
    peer.line(&json!({"Lagged": {"group_name": "Dogs", "first": 2, "last": 9}}).to_string()).await?;
    let id = posts(&mut peer, "four").await?;
    ada.hang_up();
    peer.line(&posted(10, &id)).await?;
    peer.expect_closed().await.context("she has said all")?;
    peer.line(&told(10, "four", &id)).await?;
    drop(peer);
    for expected in [(7, "one"), (8, "two"), (1, "a new life"), (10, "four")] {
        let (seq, _, text) = message(&mut ada).await?;
        ensure!((seq, &*text) == expected, "{seq} {text}, not {expected:?}");
    }
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(0) && said.contains("not posted: no") && said.contains("2 to 9 are gone"), "{code:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn a_token_that_has_expired_is_replaced_by_the_one_in_the_file() -> Result<()> {
    let (listener, directory) = (TcpListener::bind("127.0.0.1:0").await?, tempfile::tempdir()?);
    let file = directory.path().join("token");
    std::fs::write(&file, "one\n")?;
    let shown = file.display().to_string();
    let mut ada = start_with(listener.local_addr()?, &[&shown])?;
    let expired = |request: Option<&str>| {
        json!({"Rejected": {"code": "unauthenticated", "message": "it has expired", "request": request}}).to_string()
    };
    let (mut peer, token) = greets(&listener).await?;
    ensure!(token == "one", "{token}");
    let_in(&mut peer, &json!({"group_name": "Dogs"}), (77, 6)).await?;
    ada.types("seven").await?;
    let id = posts(&mut peer, "seven").await?;
    peer.line(&expired(None)).await?;
    // Nobody has replaced it yet.
    let (mut peer, token) = greets(&listener).await?;
    ensure!(token == "one", "{token}");
    std::fs::write(directory.path().join("next"), "two")?;
    std::fs::rename(directory.path().join("next"), &file)?;
    peer.line(&expired(Some("Hello"))).await?;
    let (mut peer, token) = greets(&listener).await?;
    ensure!(token == "two", "{token}");
    let_in(&mut peer, &json!({"group_name": "Dogs", "after": 6, "epoch": 77}), (77, 6)).await?;
    ensure!(posts(&mut peer, "seven").await? == id, "another id");
    peer.line(&posted(7, &id)).await?;
    ada.hang_up();
    peer.expect_closed().await?;
    drop(peer);
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(0) && said.contains("it has expired"), "{code:?}: {said}");
    // At first it is the end.
    let ada = start_with(listener.local_addr()?, &[&shown])?;
    let (mut peer, _) = greets(&listener).await?;
    peer.line(&expired(Some("Hello"))).await?;
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("unauthenticated: it has expired"), "{code:?}: {said}");
    Ok(())
}
