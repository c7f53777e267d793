//! The programs for people, where a server asks for tokens: the lines of docs/authentication.md, and what becomes of a terminal whose token
//! ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use harness::deadline::{PATIENCE, within};
use harness::issuer::Issuer;
use harness::process::binary;
use harness::terminal::Terminal;
use harness::{RawClient, ServerOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::loadgen::load;

const MARK: &str = "<!-- tests/e2e/bearers.rs runs these lines -->";
const DEFAULT_ADDRESS: &str = "127.0.0.1:8088";
const SERVER: &str = "tertulia-server --auth-keys-file keys.json";

/// The commands in the marked block.
fn commands() -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authentication.md");
    let page = fs::read_to_string(path).context("read docs/authentication.md")?;
    let (_, block) =
        page.split_once(MARK).and_then(|(_, rest)| rest.split_once("```sh\n")).context("no marked block")?;
    let (block, _) = block.split_once("\n```").context("the block does not end")?;
    let lines = block.lines().map(|line| line.split(" #").next().unwrap_or_default().trim_end().to_owned());
    Ok(lines.filter(|line| !line.is_empty()).collect())
}

/// What a command writes that is run in a directory, with the built programs in its path; `typed` is its input.
async fn run(command: &str, directory: &Path, typed: &str) -> Result<String> {
    let programs = [("tertulia-server", "TERTULIA_SERVER_BIN"), ("tertulia", "TERTULIA_BIN")];
    let mut places = Vec::new();
    for (name, variable) in programs {
        places.extend(binary(name, variable)?.parent().map(Path::to_owned));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(places.into_iter().chain(std::env::split_paths(&path)))?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(directory).env("PATH", path).kill_on_drop(true);
    shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut running = shell.spawn().context("start sh")?;
    let mut keyboard = running.stdin.take().context("no input")?;
    keyboard.write_all(typed.as_bytes()).await?;
    drop(keyboard);
    let output = within(PATIENCE, command, async { Ok(running.wait_with_output().await?) }).await?;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(output.status.success(), "{command}: {}\n{stdout}{stderr}", output.status);
    Ok(stdout)
}

#[tokio::test]
async fn the_lines_to_try_it_do_what_they_say() -> Result<()> {
    let (directory, commands) = (tempfile::tempdir()?, commands()?);
    let [key, server, token, client] = &commands[..] else { anyhow::bail!("other lines: {commands:?}") };
    run(key, directory.path(), "").await?;
    ensure!(server == SERVER, "{server}");
    let keys = directory.path().join("keys.json");
    let server = ServerOptions::new().argument("--auth-keys-file").argument(keys).start().await?;
    run(token, directory.path(), "").await?;
    let address = server.chat().to_string();
    let printed = run(&client.replace(DEFAULT_ADDRESS, &address), directory.path(), "Woof\n").await?;
    let fields: Vec<&str> = printed.trim_end().split('\t').collect();
    ensure!(matches!(fields[..], ["message", "Dogs", "1", _, "ada", "Woof"]), "{printed:?}");
    Ok(())
}

#[tokio::test]
async fn the_load_generator_shows_a_token() -> Result<()> {
    let (issuer, directory) = (Issuer::new()?, tempfile::tempdir()?);
    let server = issuer.server().start().await?;
    let file = directory.path().join("token");
    fs::write(&file, issuer.token("load", 3_600, json!({}))?)?;
    for scenario in ["groups", "churn", "catchup"] {
        // All are the same user: members that come and go, and those who read, are still told apart.
        let arguments = format!("{scenario} --prefix {scenario} --dialect extended --groups 4 --members 4 --rate 100");
        let measured = load(server.chat(), &format!("{arguments} --token-file {}", file.display())).await?;
        ensure!(measured["latency"]["count"].as_u64() > Some(0), "{scenario}: {measured}");
    }
    let refused = load(server.chat(), "groups --dialect extended --groups 4 --members 4 --rate 100").await;
    let refused = refused.err().context("it is let in without a token")?.to_string();
    ensure!(refused.contains("asks for a token in Hello"), "{refused}");
    Ok(())
}

/// A file with a token, and a server that the test plays.
struct Stage {
    directory: TempDir,
    listener: TcpListener,
}

impl Stage {
    async fn new(token: &str) -> Result<Self> {
        let stage = Self { directory: tempfile::tempdir()?, listener: TcpListener::bind("127.0.0.1:0").await? };
        stage.issue(token)?;
        Ok(stage)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    /// Replaces the file.
    fn issue(&self, token: &str) -> Result<()> {
        let next = self.directory.path().join("next");
        fs::write(&next, format!("{token}\n"))?;
        Ok(fs::rename(next, self.file())?)
    }

    fn terminal(&self, arguments: &[&str]) -> Result<Terminal> {
        let (address, file) = (self.listener.local_addr()?.to_string(), self.file().display().to_string());
        Terminal::start(&[&[address.as_str(), "--token-file", &file, "--join", "Dogs"], arguments].concat())
    }

    /// The next connection, whose `Hello` holds that.
    async fn greeted(&self, hello: Value) -> Result<RawClient> {
        let (stream, _) = within(PATIENCE, "a connection", async { Ok(self.listener.accept().await?) }).await?;
        let mut peer = RawClient::new(stream);
        peer.expect_json(&json!({ "Hello": hello })).await?;
        Ok(peer)
    }
}

/// Lets somebody in as ada, whose token ends then, and takes its `Join`, which must hold `join`.
async fn let_in(peer: &mut RawClient, ends_at: u64, join: Value, head: u64) -> Result<()> {
    let welcome = json!({"version": 1, "server": "a test", "session": "c-1", "user": "ada", "limits": {},
        "heartbeat": 30_000, "expires_at": ends_at});
    peer.line(&json!({ "Welcome": welcome }).to_string()).await?;
    peer.expect_json(&json!({ "Join": join })).await?;
    let joined = json!({"group_name": "Dogs", "epoch": 77, "head": head, "members": 1, "recovered": true});
    peer.line(&json!({ "Joined": joined }).to_string()).await
}

fn message(seq: u64, text: &str) -> String {
    json!({"Message": {"group_name": "Dogs", "message": text, "seq": seq, "sender": "bob", "at": 1}}).to_string()
}

fn unauthenticated(text: &str, request: Option<&str>) -> String {
    json!({"Rejected": {"code": "unauthenticated", "message": text, "request": request}}).to_string()
}

async fn expect_text(ada: &mut Terminal, wanted: &str) -> Result<()> {
    let line = ada.line().await?;
    ensure!(line.ends_with(&format!("\t{wanted}")), "{line:?} and not {wanted:?}");
    Ok(())
}

/// An hour from now.
fn later() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())? + 3_600_000)
}

#[tokio::test]
async fn a_terminal_whose_token_has_expired_comes_back_with_the_one_in_the_file() -> Result<()> {
    let stage = Stage::new("secret-one").await?;
    let mut ada = stage.terminal(&["--follow"])?;
    ada.hang_up();
    let mut peer = stage.greeted(json!({"version": 1, "token": "secret-one"})).await?;
    let_in(&mut peer, later()?, json!({"group_name": "Dogs"}), 6).await?;
    peer.line(&message(7, "seven")).await?;
    expect_text(&mut ada, "seven").await?;
    peer.line(&unauthenticated("the token has expired", None)).await?;
    peer.expect_closed().await?;
    for _ in 0..3 {
        let mut peer = stage.greeted(json!({"version": 1, "user": "ada", "token": "secret-one"})).await?;
        peer.line(&unauthenticated("the token has expired: get a new one", Some("Hello"))).await?;
    }
    // Somebody replaces it, and is not quick.
    fs::remove_file(stage.file())?;
    stage.issue("secret-two")?;
    let mut peer = loop {
        let (stream, _) = within(PATIENCE, "a connection", async { Ok(stage.listener.accept().await?) }).await?;
        let mut peer = RawClient::new(stream);
        if peer.json().await?["Hello"]["token"] == "secret-two" {
            break peer;
        }
        // It had been read before.
        peer.line(&unauthenticated("the token has expired: get a new one", Some("Hello"))).await?;
    };
    let_in(&mut peer, later()?, json!({"group_name": "Dogs", "after": 7, "epoch": 77}), 8).await?;
    peer.line(&message(8, "eight")).await?;
    expect_text(&mut ada, "eight").await?;
    peer.line(&json!({"Left": {"group_name": "Dogs", "reason": "forbidden"}}).to_string()).await?;
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("you may not be in Dogs any more"), "{code:?}: {said}");
    ensure!(said.matches("refused: the token has expired").count() == 1, "it is told once: {said}");
    ensure!(said.contains("connection lost: the token has expired;"), "{said}");
    ensure!(!said.contains("secret"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_terminal_shows_a_token_that_is_replaced_before_it_ends() -> Result<()> {
    let stage = Stage::new("secret-one").await?;
    let mut ada = stage.terminal(&[])?;
    let mut peer = stage.greeted(json!({"version": 1, "token": "secret-one"})).await?;
    stage.issue("secret-two")?;
    // By this clock it is over already, and the server has another one.
    let_in(&mut peer, 1, json!({"group_name": "Dogs"}), 0).await?;
    peer.expect_json(&json!({"Refresh": {"token": "secret-two"}})).await?;
    peer.line(&json!({"Refreshed": {"expires_at": later()?}}).to_string()).await?;
    ada.hang_up();
    peer.expect_closed().await?;
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(0) && !said.contains("secret"), "{code:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn a_terminal_without_a_token_that_counts_at_the_start_ends() -> Result<()> {
    let stage = Stage::new("secret").await?;
    let ada = stage.terminal(&[])?;
    let mut peer = stage.greeted(json!({"version": 1, "token": "secret"})).await?;
    peer.line(&unauthenticated("the token's signature is wrong", Some("Hello"))).await?;
    let (code, said) = ada.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("refused: the token's signature is wrong"), "{code:?}: {said}");
    fs::remove_file(stage.file())?;
    let (code, said) = stage.terminal(&[])?.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("cannot read the token in "), "{code:?}: {said}");
    fs::write(stage.file(), "")?;
    let (code, said) = stage.terminal(&[])?.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("must hold a token") && said.contains("it is empty"), "{code:?}: {said}");
    Ok(())
}
