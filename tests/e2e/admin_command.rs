//! `tertulia-server admin`: the admin API of the real server, called with nothing but the server's own program.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use harness::certificates::{Authority, Certified, Secret};
use harness::deadline::{PATIENCE, poll_until, within};
use harness::metrics::Metrics;
use harness::{Build, Server, ServerOptions};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

const YEAR: i32 = 2_099;
/// Of the first nobody may do more than read; the command is to take the second.
const TOKENS: &str = "grafana read w4tch\nada s3cret\n";

/// The command, in an environment that says nothing of servers.
fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(Build::This.server()?);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("TERTULIA_") {
            command.env_remove(variable);
        }
    }
    command.arg("admin").args(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// How the command ended, and what it wrote to stdout and stderr.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// What was answered, which is all that was written.
    fn answer(&self) -> Result<Value> {
        ensure!(self.code == Some(0) && self.stderr.is_empty(), "{self:?}");
        serde_json::from_str(&self.stdout).with_context(|| format!("{self:?}"))
    }

    /// Whether it failed in this way, and said so on one line.
    fn failed(&self, code: i32, words: &[&str]) -> Result<()> {
        let is_one_line = self.stderr.starts_with("tertulia-server: ") && self.stderr.lines().count() == 1;
        ensure!(self.code == Some(code) && self.stdout.is_empty() && is_one_line, "{self:?}");
        for word in words {
            ensure!(self.stderr.contains(word), "it does not say '{word}': {self:?}");
        }
        Ok(())
    }
}

async fn end(mut command: Command) -> Result<Ended> {
    let Output { status, stdout, stderr } =
        within(PATIENCE, "the command admin", async { Ok(command.output().await?) }).await?;
    Ok(Ended { code: status.code(), stdout: String::from_utf8(stdout)?, stderr: String::from_utf8(stderr)? })
}

async fn run(arguments: &[&str]) -> Result<Ended> {
    end(command(arguments)?).await
}

/// Runs the command as beside the server: with the options that the server has.
async fn beside(options: &[&str], call: &[&str]) -> Result<Ended> {
    run(&[options, call].concat()).await
}

fn admin(server: &Server) -> Result<String> {
    Ok(server.listening().admin.context("no admin port")?.to_string())
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn calls_are_made_with_what_the_server_is_configured_with() -> Result<()> {
    let tokens = Secret::new(&[("token", TOKENS), ("wrong", "wr0ng\n"), ("reader", "grafana read w4tch\n")])?;
    let file = |name: &str| text(&tokens.path(name));
    let server = ServerOptions::new().set("admin.token_file", file("token")).start().await?;
    let mut ada = server.connector().extended("ada").await?;
    for group in ["Cats", "Dachshunds", "Dogs"] {
        ada.join(group).await?;
    }
    let (address, token) = (admin(&server)?, file("token"));
    let own = ["--admin", &address, "--admin-token-file", &token];
    let names = |answer: &Value| -> Vec<String> {
        let groups = answer["groups"].as_array().into_iter().flatten();
        groups.filter_map(|group| group["name"].as_str()).map(str::to_owned).collect()
    };
    let answer = beside(&own, &["ListGroups", r#"{"prefix":"D"}"#]).await?.answer()?;
    ensure!(names(&answer) == ["Dachshunds", "Dogs"], "{answer}");

    // Every page, one after the other.
    let all = beside(&own, &["list-groups", r#"{"page_size":1}"#, "--all"]).await?;
    ensure!(all.code == Some(0), "{all:?}");
    let pages = serde_json::Deserializer::from_str(&all.stdout).into_iter::<Value>().collect::<Result<Vec<_>, _>>()?;
    ensure!(pages.iter().flat_map(names).collect::<Vec<_>>() == ["Cats", "Dachshunds", "Dogs"], "{all:?}");
    beside(&own, &["GetGroup", "--all"]).await?.failed(2, &["GetGroup has no pages"])?;

    // The request from stdin.
    let mut asking = command(&[&own[..], &["GetGroup", "-"]].concat())?;
    let mut asking = asking.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the command")?;
    let mut stdin = asking.stdin.take().context("no stdin")?;
    stdin.write_all(br#"{"groupName": "Dogs"}"#).await?;
    drop(stdin);
    let output = within(PATIENCE, "an answer", async { Ok(asking.wait_with_output().await?) }).await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(answer["group"]["members"] == json!(1), "{answer}");

    let unknown = beside(&own, &["GetGroup", r#"{"group_name":"Birds"}"#]).await?;
    unknown.failed(1, &["NOT_FOUND: ", "Birds"])?;
    beside(&own, &["ListGroup"]).await?.failed(2, &["'ListGroup' (is it ListGroups?)"])?;
    beside(&own, &["ListGroups", r#"{"prefix":7}"#]).await?.failed(2, &["field 'prefix': "])?;

    for (call, request) in
        [("DeleteGroup", r#"{"group_name":"Dogs"}"#), ("RemoveMessages", r#"{"group_name":"Dogs","first_seq":1}"#)]
    {
        let refused = beside(&own, &["--token-file", &file("reader"), call, request]).await?;
        refused.failed(1, &["PERMISSION_DENIED: ", "grafana"])?;
    }
    let wrong = beside(&own, &["--token-file", &file("wrong"), "ListGroups"]).await?;
    wrong.failed(1, &["UNAUTHENTICATED: ", &file("wrong")])?;
    // Who is named is not told the token of another, though it be the same.
    let untold = beside(&own, &["--address", &address, "ListGroups"]).await?;
    untold.failed(1, &["UNAUTHENTICATED: ", "--token-file"])?;
    let told = run(&["--address", &address, "--token-file", &token, "ListGroups", r#"{"prefix":"C"}"#]).await?;
    ensure!(names(&told.answer()?) == ["Cats"], "{told:?}");
    Ok(())
}

#[tokio::test]
async fn what_happens_is_watched_line_by_line() -> Result<()> {
    let mut server = Server::start().await?;
    let mut ada = server.connector().extended("ada").await?;
    let address = admin(&server)?;
    let mut watch = command(&["--admin", &address, "WatchEvents", r#"{"group_prefix":"D"}"#, "--timeout", "30s"])?;
    let mut watching = watch.stdout(Stdio::piped()).spawn().context("start the command")?;
    let mut lines = BufReader::new(watching.stdout.take().context("no stdout")?).lines();
    poll_until(PATIENCE, "a watcher", || async {
        let watchers = Metrics::scrape(server.http()).await?.sum("tertulia_admin_watchers", &[]);
        Ok((watchers != Some(1.0)).then(|| format!("{watchers:?}")))
    })
    .await?;
    // Whoever reads no more is no watcher any more, though nothing happens.
    let mut unread = command(&["--admin", &address, "WatchEvents"])?;
    let mut unread = unread.stdout(Stdio::piped()).spawn().context("start the command")?;
    poll_until(PATIENCE, "another watcher", || async {
        let watchers = Metrics::scrape(server.http()).await?.sum("tertulia_admin_watchers", &[]);
        Ok((watchers != Some(2.0)).then(|| format!("{watchers:?}")))
    })
    .await?;
    drop(unread.stdout.take());
    let ended =
        within(PATIENCE, "the end of what nobody reads", async { Ok(unread.wait_with_output().await?) }).await?;
    ensure!(ended.status.code() == Some(1) && ended.stderr.is_empty(), "{ended:?}");

    ada.join("Dogs").await?;
    let mut next = async |kind: &str| -> Result<Value> {
        loop {
            let line = within(PATIENCE, kind, async { Ok(lines.next_line().await?) }).await?;
            let mut event: Value = serde_json::from_str(&line.with_context(|| format!("no {kind} came"))?)?;
            if event["event"].get(kind).is_some() {
                return Ok(event["event"][kind].take());
            }
        }
    };
    // It is there before the stream is over.
    ensure!(next("join").await?["user"] == "ada");
    let kick = r#"{"group_name":"Dogs","user":"ada","reason":"spam","hold_seconds":60}"#;
    let answer = run(&["--admin", &address, "KickMember", kick]).await?.answer()?;
    ensure!(answer["kicked"] == json!(1) && answer["connectionIds"].is_array(), "{answer}");
    let kicked = next("kick").await?;
    ensure!(kicked["reason"] == "spam" && kicked["holdSeconds"] == json!(60), "{kicked}");

    server.terminate()?;
    next("drain").await?;
    let status = within(PATIENCE, "the end of the watch", async { Ok(watching.wait().await?) }).await?;
    ensure!(status.success(), "a watch that the server ended in order fails: {status}");
    ensure!(server.wait(PATIENCE).await?.success(), "the server did not stop cleanly");
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named() -> Result<()> {
    // Nobody listens where this is bound, and nobody else takes the port.
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    bound.bind(&"127.0.0.1:0".parse::<SocketAddr>()?.into())?;
    let address = bound.local_addr()?.as_socket().context("no address")?.to_string();
    let told = run(&["--admin", &address, "ListGroups"]).await?;
    told.failed(1, &[&format!("cannot connect to {address}: "), "is the server running", "--address"])?;

    let server = Server::start().await?;
    let address = admin(&server)?;
    server.pause()?;
    let told = run(&["--admin", &address, "ListGroups", "--timeout", "100ms"]).await?;
    server.resume()?;
    told.failed(1, &[&format!("no answer from {address} within 100ms (--timeout)")])?;
    // Another port than that of the admin API.
    let http = server.http().to_string();
    run(&["--address", &http, "ListGroups"]).await?.failed(1, &[&format!("the connection to {http} failed: ")])
}

#[tokio::test]
async fn tls_is_spoken_with_the_configured_server_and_no_other() -> Result<()> {
    let authority = Authority::new("the authority")?;
    let pair = |certified: &Certified| Secret::new(&[("crt", &certified.certificate), ("key", &certified.key)]);
    // For a name that is not the one at which it is reached from beside it.
    let (mine, other) =
        (authority.certify("mine", &["chat.example"], YEAR)?, authority.certify("other", &["chat.example"], YEAR)?);
    let (mine, other) = (pair(&mine)?, pair(&other)?);
    let caller = pair(&authority.certify("ops", &[], YEAR)?)?;
    let stranger = Authority::new("a stranger")?;
    let trust = Secret::new(&[("ca", authority.certificate()), ("stranger", stranger.certificate())])?;
    let (ca, strange) = (text(&trust.path("ca")), text(&trust.path("stranger")));
    let (crt, key) = (text(&mine.path("crt")), text(&mine.path("key")));
    let secured = || ServerOptions::new().set("admin.tls.cert_file", &crt).set("admin.tls.key_file", &key);
    let server = secured().start().await?;
    let address = admin(&server)?;
    let configured = |secret: &Secret| {
        let set = |what: &str, name: &str| format!("admin.tls.{what}={}", text(&secret.path(name)));
        (set("cert_file", "crt"), set("key_file", "key"))
    };
    let (cert_option, key_option) = configured(&mine);
    let own = ["--admin", &address, "--set", &cert_option, "--set", &key_option];
    beside(&own, &["ListGroups"]).await?.answer()?;
    let (cert_option, key_option) = configured(&other);
    let wrong = ["--admin", &address, "--set", &cert_option, "--set", &key_option];
    let told = beside(&wrong, &["ListGroups"]).await?;
    told.failed(1, &["no TLS connection to ", &text(&other.path("crt")), "(admin.tls.cert_file)"])?;

    let url = format!("https://{address}");
    let named = |ca: &str, name: &str| {
        let arguments = ["--address", &url, "--ca", ca, "--tls-name", name, "ListGroups"].map(str::to_owned);
        async move { run(&arguments.each_ref().map(String::as_str)).await }
    };
    named(&ca, "chat.example").await?.answer()?;
    named(&strange, "chat.example").await?.failed(1, &["UnknownIssuer", "--ca names whom to trust"])?;
    named(&ca, "elsewhere.example").await?.failed(1, &["not valid for name", "--tls-name"])?;
    run(&["--address", &address, "ListGroups"]).await?.failed(1, &["https://"])?;
    run(&["--address", &format!("http://{address}"), "--ca", &ca, "ListGroups"]).await?.failed(2, &["without TLS"])?;

    // Callers who must show a certificate.
    let server = secured().set("admin.client_ca_file", &ca).start().await?;
    let address = admin(&server)?;
    let (cert_option, key_option) = configured(&mine);
    let own = ["--admin", &address, "--set", &cert_option, "--set", &key_option];
    let shown = ["--cert", &text(&caller.path("crt")), "--key", &text(&caller.path("key")), "ListGroups"];
    beside(&own, &shown).await?.answer()?;
    beside(&own, &["ListGroups"]).await?.failed(1, &["the connection to ", "--cert and --key"])?;
    Ok(())
}
