//! Clients that prove who they are by passwords.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::deadline::{PATIENCE, poll_until};
use harness::metrics::Metrics;
use harness::process::binary;
use harness::{RawClient, Server, ServerOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::extended::{ask, join};

/// Of the password `password`, at little cost: the reference implementation's own test.
const HASH: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
/// Of no password that is known, at a great cost.
const DEAR: &str = "$argon2id$v=19$m=65536,t=12,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

/// A file of users.
struct Users(TempDir);

impl Users {
    fn new(content: &str) -> Result<Self> {
        let users = Self(tempfile::tempdir()?);
        users.write(content)?;
        Ok(users)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("users")
    }

    /// Replaces the file.
    fn write(&self, content: &str) -> Result<()> {
        let next = self.0.path().join("next");
        fs::write(&next, content)?;
        Ok(fs::rename(next, self.file())?)
    }

    /// A server that asks for their passwords.
    fn server(&self) -> ServerOptions {
        ServerOptions::new().set("auth.users_file", self.file().display())
    }
}

fn hello(user: &str, password: &str) -> Value {
    json!({"Hello": {"version": 1, "user": user, "password": password}})
}

/// The answer to a `Hello` on a connection of its own.
async fn answer(server: &Server, hello: Value) -> Result<(RawClient, Value)> {
    let mut client = server.connector().raw().await?;
    client.line(&hello.to_string()).await?;
    let answer = client.json().await?;
    Ok((client, answer))
}

async fn welcome(server: &Server, user: &str) -> Result<RawClient> {
    let (client, answer) = answer(server, hello(user, "password")).await?;
    ensure!(answer["Welcome"]["user"] == user, "{answer}");
    Ok(client)
}

async fn refused(server: &Server, hello: Value, code: &str, text: &str) -> Result<()> {
    let (mut client, answer) = answer(server, hello).await?;
    let rejected = json!({"Rejected": {"code": code, "message": text, "request": "Hello"}});
    ensure!(answer == rejected, "expected {rejected}, came {answer}");
    client.expect_closed().await
}

#[tokio::test]
async fn only_who_has_the_password_of_a_user_is_let_in() -> Result<()> {
    let users = Users::new(&format!("# the team\nada {HASH}\nbob {HASH}\n"))?;
    let server = users.server().start().await?;
    let mut ada = welcome(&server, "ada").await?;
    join(&mut ada, "Dogs").await?;
    let mut bob = welcome(&server, "bob").await?;
    join(&mut bob, "Dogs").await?;
    let post = json!({"Post": {"group_name": "Dogs", "message": "Woof"}});
    bob.line(&post.to_string()).await?;
    bob.expect_all(&[json!({"Posted": {"group_name": "Dogs"}}), json!({"Message": {"message": "Woof"}})]).await?;
    ada.expect_json(&json!({"Message": {"sender": "bob", "message": "Woof"}})).await?;
    let answer = json!({"Rejected": {"code": "bad_request", "message": "this server asks for no token"}});
    ask(&mut ada, json!({"Refresh": {"token": "x"}}), answer).await?;

    let secret = "s3cret-and-wrong";
    for user in ["ada", "nobody"] {
        refused(&server, hello(user, secret), "unauthenticated", "user and password do not match").await?;
    }
    let asks = "this server asks for a user and a password in Hello";
    refused(&server, json!({"Hello": {"version": 1, "user": "ada"}}), "unauthenticated", asks).await?;
    refused(&server, json!({"Hello": {"version": 1}}), "unauthenticated", asks).await?;
    let token = json!({"Hello": {"version": 1, "token": "x"}});
    refused(&server, token, "unauthenticated", "this server takes no tokens").await?;
    let both = json!({"Hello": {"version": 1, "user": "ada", "token": "x", "password": "password"}});
    refused(&server, both, "bad_request", "give a token or a password, not both").await?;
    let mut classic = server.connector().raw().await?;
    classic.line(r#"{"Join":{"group_name":"Dogs"}}"#).await?;
    classic.expect(&json!({"Error": asks}).to_string()).await?;
    classic.expect_closed().await?;

    let metrics = Metrics::scrape(server.http()).await?;
    let logins = |result| metrics.sum("tertulia_logins_total", &[("way", "password"), ("result", result)]);
    assert_eq!([logins("accepted"), logins("refused")], [Some(2.0), Some(3.0)]);
    assert_eq!(metrics.sum("tertulia_password_checks_waiting", &[]), Some(0.0));
    let log = server.log()?;
    assert!(log.contains("a client does not prove who it is"), "{log}");
    assert!(!log.contains(secret) && !log.contains(HASH), "that is nothing for the log");
    Ok(())
}

#[tokio::test]
async fn the_line_of_a_user_says_which_groups_it_may_use() -> Result<()> {
    let users = Users::new(&format!("ada {HASH}\nbob {HASH} read=\"News*, Book Club\" post=\"Book Club\"\n"))?;
    let server = users.server().start().await?;
    let mut ada = welcome(&server, "ada").await?;
    for group in ["Dogs", "Book Club", "News of today"] {
        join(&mut ada, group).await?;
    }
    let forbidden = json!({"Rejected": {"code": "forbidden"}});
    let ask_to_join = |group: &str| json!({"Join": {"group_name": group}});
    let ask_to_post = |group: &str| json!({"Post": {"group_name": group, "message": "Woof"}});
    let mut bob = welcome(&server, "bob").await?;
    ask(&mut bob, ask_to_join("Dogs"), forbidden.clone()).await?;
    for group in ["Book Club", "News of today"] {
        join(&mut bob, group).await?;
    }
    ask(&mut bob, ask_to_post("News of today"), forbidden.clone()).await?;
    bob.line(&ask_to_post("Book Club").to_string()).await?;
    bob.expect_all(&[json!({"Posted": {"group_name": "Book Club"}}), json!({"Message": {"message": "Woof"}})]).await?;

    // Other rights are of who logs in from then on.
    users.write(&format!("ada {HASH}\nbob {HASH} read=Dogs\n"))?;
    server.hang_up()?;
    server.until_logged("the passwords of clients are held against new ones").await?;
    join(&mut welcome(&server, "bob").await?, "Dogs").await?;
    ask(&mut bob, ask_to_join("Dogs"), forbidden).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_sent_behind_a_password_is_carried_out_when_that_is_checked() -> Result<()> {
    let users = Users::new(&format!("ada {HASH}"))?;
    let server = users.server().start().await?;
    let lines = [
        hello("ada", "password"),
        json!({"Join": {"group_name": "Dogs"}}),
        json!({"Post": {"group_name": "Dogs", "message": "Woof", "id": "1"}}),
    ];
    let mut client = server.connector().raw().await?;
    client.send(lines.map(|line| format!("{line}\n")).concat()).await?;
    client.stream().shutdown().await?;
    client.expect_json(&json!({"Welcome": {"user": "ada"}})).await?;
    client.expect_json(&json!({"Joined": {"group_name": "Dogs"}})).await?;
    let both = [client.json().await?, client.json().await?];
    assert!(both.iter().any(|line| line["Posted"]["seq"] == 1), "{both:?}");
    assert!(both.iter().any(|line| line["Message"]["message"] == "Woof"), "{both:?}");
    client.expect_closed().await?;
    // Of who is not let in, nothing.
    let lines = [hello("ada", "wrong"), json!({"Post": {"group_name": "Dogs", "message": "Meow"}})];
    let mut client = server.connector().raw().await?;
    client.send(lines.map(|line| format!("{line}\n")).concat()).await?;
    client.expect_json(&json!({"Rejected": {"code": "unauthenticated"}})).await?;
    client.expect_closed().await?;
    let mut ada = welcome(&server, "ada").await?;
    let page = ask(&mut ada, json!({"History": {"group_name": "Dogs"}}), json!({"History": {}})).await?;
    assert_eq!(page["History"]["messages"].as_array().map(Vec::len), Some(1), "{page}");
    Ok(())
}

#[tokio::test]
async fn who_tries_many_passwords_keeps_out_nobody_elsewhere() -> Result<()> {
    const GUESSES: usize = 50;
    let users = Users::new(&format!("root {DEAR}\nada {HASH}"))?;
    let server = users.server().set("auth.password_checks", 1).start().await?;
    let mut guessing = Vec::new();
    for number in 0..GUESSES {
        let mut client = server.connector().raw().await?;
        client.line(&hello("root", &format!("guess {number}")).to_string()).await?;
        guessing.push(client);
    }
    let many = async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let waiting = metrics.sum("tertulia_password_checks_waiting", &[]).unwrap_or_default();
        Ok((waiting < GUESSES as f64 / 2.0).then(|| format!("{waiting} wait")))
    };
    poll_until(PATIENCE, "many passwords wait to be checked", many).await?;
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())?;
    let mut ada = RawClient::new(socket.connect(server.chat()).await?);
    ask(&mut ada, hello("ada", "password"), json!({"Welcome": {"user": "ada"}})).await?;
    let metrics = Metrics::scrape(server.http()).await?;
    let refused = metrics.sum("tertulia_logins_total", &[("way", "password"), ("result", "refused")]);
    assert!(refused.is_some_and(|refused| refused < GUESSES as f64 / 2.0), "{refused:?} came first");
    // A stop waits for none of them.
    server.terminate()?;
    ada.expect_json(&json!({"GoingAway": {}})).await?;
    Ok(())
}

#[tokio::test]
async fn users_are_replaced_while_the_server_runs() -> Result<()> {
    let users = Users::new(&format!("ada {HASH}"))?;
    let server = users.server().set("tls.reload_interval", "1h").start().await?;
    let mut ada = welcome(&server, "ada").await?;
    users.write(&format!("bob {HASH}"))?;
    server.hang_up()?;
    server.until_logged("the passwords of clients are held against new ones").await?;
    welcome(&server, "bob").await?;
    refused(&server, hello("ada", "password"), "unauthenticated", "user and password do not match").await?;
    // Who was let in before stays.
    ask(&mut ada, json!({"Ping": {}}), json!({"Pong": {}})).await?;
    fs::write(users.file(), "eve s3cret")?;
    server.hang_up()?;
    server.until_logged("the new users and their passwords cannot be used").await?;
    let failing = async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let told = ["users", "keys"].map(|file| metrics.sum("tertulia_auth_reload_failing", &[("file", file)]));
        Ok((told != [Some(1.0), Some(0.0)]).then(|| format!("they are {told:?}")))
    };
    poll_until(PATIENCE, "the gauge tells", failing).await?;
    assert!(!server.log()?.contains("s3cret"), "it may be a password");
    welcome(&server, "bob").await?;
    Ok(())
}

#[tokio::test]
async fn guests_need_no_password() -> Result<()> {
    let users = Users::new(&format!("ada {HASH}"))?;
    let options = users.server().set("auth.guests", true).set("auth.guest_read", "Lobby");
    let server = options.set("auth.guest_post", "").start().await?;
    let mut ada = welcome(&server, "ada").await?;
    join(&mut ada, "Secrets").await?;
    let mut guest = server.connector().raw().await?;
    guest.line(r#"{"Join":{"group_name":"Secrets"}}"#).await?;
    guest.expect(r#"{"Error":"You may not join or read group 'Secrets'"}"#).await?;
    let text =
        "this server asks for a user and a password in Hello; otherwise you may be a guest, and then without a user";
    refused(&server, json!({"Hello": {"version": 1, "user": "ada"}}), "unauthenticated", text).await?;
    refused(&server, hello("ada", "wrong"), "unauthenticated", "user and password do not match").await?;
    Ok(())
}

#[tokio::test]
async fn the_server_makes_the_hashes_that_it_reads() -> Result<()> {
    let mut command = Command::new(binary("tertulia-server", "TERTULIA_SERVER_BIN")?);
    let command = command.args(["auth", "hash-password"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut hashing = command.spawn()?;
    hashing.stdin.take().context("no stdin")?.write_all(b"password\n")?;
    let output = hashing.wait_with_output()?;
    assert!(output.status.success(), "{output:?}");
    let users = Users::new(&format!("ada {}", String::from_utf8(output.stdout)?))?;
    welcome(&users.server().start().await?, "ada").await?;

    users.write(&format!("ada {}", DEAR.replace("m=65536", "m=65537")))?;
    let (status, log) = users.server().refused().await?;
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cannot tell who clients are: the hash in line 1 of "), "{log}");
    Ok(())
}
