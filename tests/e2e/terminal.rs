//! The built `tertulia` in the extended dialect, in pipes: what is typed arrives once, what is there is printed, and the exit code tells.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::deadline::PATIENCE;
use harness::process::{Process, binary};
use harness::proxy::{Carriage, Proxy};
use harness::terminal::Terminal;
use harness::{Client, Event, Server, ServerOptions, within};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{ChildStdout, Command};
use tokio::time::sleep;

const GROUP: &str = "Dogs";
const END: Duration = Duration::from_secs(20);

/// Group, sender and text of a record.
fn record(line: &str) -> Option<(&str, &str, &str)> {
    let fields: Vec<_> = line.split('\t').collect();
    match fields[..] {
        ["message", group, _seq, _time, sender, text] => Some((group, sender, text)),
        _ => None,
    }
}

async fn expect_text(terminal: &mut Terminal, wanted: &str) -> Result<()> {
    let line = terminal.line().await.with_context(|| format!("expected {wanted:?}"))?;
    assert_eq!(record(&line).map(|(_, _, text)| text), Some(wanted), "{line:?}");
    Ok(())
}

/// A member of the group, and a terminal there, whose first message both have seen.
async fn two(server: &Server, address: &str, arguments: &[&str]) -> Result<(Client, Terminal)> {
    let mut bob = server.connector().extended("bob").await?;
    bob.join(GROUP).await?;
    let mut ada = Terminal::start(&[&[address, "--user", "ada", "--join", GROUP], arguments].concat())?;
    ada.types("first").await?;
    expect_text(&mut ada, "first").await?;
    bob.reader.until_text(GROUP, "first").await?;
    Ok((bob, ada))
}

/// Posts texts, each with its id.
async fn post_all(client: &mut Client, posts: impl Iterator<Item = (String, String)>) -> Result<()> {
    let mut last = String::new();
    for (id, text) in posts {
        client.writer.post(GROUP, &text, Some(&id)).await?;
        last = id;
    }
    let is_last = |event: &Event| match event {
        Event::Posted(it) => (it.id.as_deref() == Some(&last)).then_some(()),
        _ => None,
    };
    client.reader.until("the last Posted", is_last).await
}

/// The texts in the log.
async fn stored(client: &mut Client) -> Result<Vec<String>> {
    let log = client.read_log(GROUP).await?;
    Ok(log.messages.iter().map(|message| message.text.to_string()).collect())
}

#[tokio::test]
async fn a_reader_that_takes_its_time_gets_all_of_the_output() -> Result<()> {
    const MESSAGES: usize = 1_000;
    let server = Server::start().await?;
    let mut bob = server.connector().extended("bob").await?;
    bob.join(GROUP).await?;
    post_all(&mut bob, (0..MESSAGES).map(|number| (number.to_string(), format!("{number:0500}")))).await?;
    let last = MESSAGES.to_string();
    let mut ada = Terminal::start(&[&server.chat().to_string(), "--join", GROUP, "--last", &last])?;
    ada.hang_up();
    // All has come by then, and far more is left than a pipe holds.
    sleep(Duration::from_secs(7)).await;
    for number in 0..MESSAGES {
        expect_text(&mut ada, &format!("{number:0500}")).await?;
    }
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(0), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn posts_that_a_limit_slows_down_are_all_stored_however_long_it_takes() -> Result<()> {
    const POSTS: usize = 300;
    let options = ServerOptions::new().set("limits.posts_per_second", 20).set("limits.posts_burst", 1);
    let server = options.start().await?;
    let mut ada = Terminal::start(&[&server.chat().to_string(), "--user", "ada", "--join", GROUP])?;
    for number in 0..POSTS {
        ada.types(&format!("text {number}")).await?;
    }
    ada.hang_up();
    for number in 0..POSTS {
        expect_text(&mut ada, &format!("text {number}")).await?;
    }
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(0), "{complaints}");
    assert_eq!(complaints.matches("not yet").count(), 1, "the wait is told once: {complaints}");
    let mut bob = server.connector().extended("bob").await?;
    assert_eq!(stored(&mut bob).await?.len(), POSTS);
    Ok(())
}

#[tokio::test]
async fn what_does_not_come_is_named() -> Result<()> {
    let server = Server::start().await?;
    let proxy = Proxy::start(server.chat()).await?;
    let (_bob, mut ada) = two(&server, &proxy.address().to_string(), &["--linger", "1"]).await?;
    proxy.set(Carriage::Held);
    ada.types("members").await?;
    ada.hang_up();
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(1));
    assert!(complaints.contains("did not come in time: the members of Dogs"), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_post_whose_answer_was_lost_is_stored_once_though_the_server_forgot_its_id() -> Result<()> {
    let server = ServerOptions::new().set("shard.dedup_time", "100ms").start().await?;
    let proxy = Proxy::start(server.chat()).await?;
    let (mut bob, mut ada) = two(&server, &proxy.address().to_string(), &[]).await?;
    proxy.set(Carriage::Slow(Duration::from_millis(500)));
    ada.types("once").await?;
    bob.reader.until_text(GROUP, "once").await?;
    // The answer is on its way back, and never comes.
    proxy.set(Carriage::Closed);
    sleep(Duration::from_millis(500)).await;
    proxy.set(Carriage::Open);
    expect_text(&mut ada, "once").await?;
    ada.types("twice").await?;
    expect_text(&mut ada, "twice").await?;
    ada.hang_up();
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(0), "{complaints}");
    assert_eq!(stored(&mut bob).await?, ["first", "once", "twice"]);
    Ok(())
}

#[tokio::test]
async fn a_moderator_who_closes_the_connection_ends_the_session() -> Result<()> {
    let server = Server::start().await?;
    let (_bob, mut ada) = two(&server, &server.chat().to_string(), &["--follow"]).await?;
    ada.hang_up();
    server.admin("Disconnect", json!({"user": "ada", "reason": "enough"})).await?;
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(1), "{complaints}");
    assert!(complaints.contains("A moderator closed this connection: enough"), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn raw_lines_are_posted_as_they_stand() -> Result<()> {
    let server = Server::start().await?;
    let mut ada = Terminal::start(&[&server.chat().to_string(), "--join", GROUP, "--raw"])?;
    let lines = ["quit", "/leave", "//", "", "  join us  "];
    ada.types(&format!("\u{feff}{}", lines.join("\n"))).await?;
    ada.hang_up();
    for line in lines {
        expect_text(&mut ada, line).await?;
    }
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(0), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_follower_that_is_started_again_misses_and_repeats_nothing() -> Result<()> {
    let server = Server::start().await?;
    let home = tempfile::tempdir()?;
    let (address, state) = (server.chat().to_string(), home.path().join("state").display().to_string());
    let mut bob = server.connector().extended("bob").await?;
    bob.join(GROUP).await?;
    let mut posts = (1_u32..).map(|number| (number.to_string(), number.to_string()));
    let arguments = ["--follow", "--join", GROUP, "--last", "2", "--state", &state, &address];
    let mut seen = 0;
    // Once quit, twice told to end.
    for round in 0..3 {
        // What comes while nobody is there.
        post_all(&mut bob, posts.by_ref().take(5)).await?;
        let mut ada = Terminal::start(&arguments)?;
        let first = if round == 0 { 4 } else { seen + 1 };
        for number in first..=5 * (2 * round + 1) {
            expect_text(&mut ada, &number.to_string()).await?;
        }
        // And while somebody is.
        post_all(&mut bob, posts.by_ref().take(5)).await?;
        seen = 5 * (2 * round + 2);
        for number in seen - 4..=seen {
            expect_text(&mut ada, &number.to_string()).await?;
        }
        if round == 0 {
            ada.types("quit").await?;
        } else {
            ada.signal(Signal::TERM)?;
        }
        let (code, complaints) = ada.end(END).await?;
        assert_eq!(code, Some(if round == 0 { 0 } else { 128 + 15 }), "{complaints}");
    }
    Ok(())
}

#[tokio::test]
async fn a_follower_learns_of_what_was_removed_while_it_was_away() -> Result<()> {
    let server = Server::start().await?;
    let home = tempfile::tempdir()?;
    let (address, state) = (server.chat().to_string(), home.path().join("state").display().to_string());
    let mut bob = server.connector().extended("bob").await?;
    bob.join(GROUP).await?;
    let arguments = ["--follow", "--join", GROUP, "--last", "9", "--state", &state, &address];
    let post = |text: &str| (text.to_owned(), text.to_owned());
    post_all(&mut bob, ["one", "two"].map(post).into_iter()).await?;
    let mut ada = Terminal::start(&arguments)?;
    for text in ["one", "two"] {
        expect_text(&mut ada, text).await?;
    }
    ada.types("quit").await?;
    assert_eq!(ada.end(END).await?.0, Some(0));
    post_all(&mut bob, ["three", "four"].map(post).into_iter()).await?;
    let removal = json!({"group_name": GROUP, "first_seq": 2, "last_seq": 3, "reason": "spam"});
    assert_eq!(server.admin("RemoveMessages", removal).await?, json!({"removedMessages": 2, "seq": "5"}));

    let mut ada = Terminal::start(&arguments)?;
    for wanted in [
        vec!["removed", GROUP, "3", "bob"],
        vec!["message", GROUP, "4", "bob", "four"],
        vec!["message", GROUP, "5", "@system", "2 messages were removed: spam"],
        vec!["removal", GROUP, "2", "3", ""],
    ] {
        let line = ada.line().await?;
        let mut fields: Vec<&str> = line.split('\t').collect();
        if wanted[0] != "removal" {
            // When it was posted.
            fields.remove(3);
        }
        assert_eq!(fields, wanted);
    }
    post_all(&mut bob, ["five"].map(post).into_iter()).await?;
    expect_text(&mut ada, "five").await?;
    ada.types("quit").await?;
    let (code, complaints) = ada.end(END).await?;
    assert!(code == Some(0) && !complaints.contains("missing"), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_state_file_is_for_one_run_at_a_time() -> Result<()> {
    let server = Server::start().await?;
    let home = tempfile::tempdir()?;
    let (address, state) = (server.chat().to_string(), home.path().join("state").display().to_string());
    let (_bob, _ada) = two(&server, &address, &["--state", &state]).await?;
    let second = Terminal::start(&[&address, "--join", GROUP, "--state", &state])?;
    let (code, complaints) = second.end(END).await?;
    assert_eq!(code, Some(1), "{complaints}");
    assert!(complaints.contains("is in use by another tertulia"), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_state_file_that_cannot_be_written_ends_no_session_and_fails_it() -> Result<()> {
    let server = Server::start().await?;
    let home = tempfile::tempdir()?;
    let (address, state) = (server.chat().to_string(), home.path().join("state").display().to_string());
    let (_bob, mut ada) = two(&server, &address, &["--state", &state]).await?;
    // It is written there first.
    std::fs::create_dir(home.path().join("state.new"))?;
    for text in ["second", "third"] {
        ada.types(text).await?;
        expect_text(&mut ada, text).await?;
        // It is written once a second.
        sleep(Duration::from_millis(1_500)).await;
    }
    ada.types("quit").await?;
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(1), "{complaints}");
    assert_eq!(complaints.matches("cannot write").count(), 2, "once at the time and once at the end: {complaints}");
    Ok(())
}

#[tokio::test]
async fn posts_without_an_answer_are_told_when_the_connection_is_not_made_again() -> Result<()> {
    let server = Server::start().await?;
    let proxy = Proxy::start(server.chat()).await?;
    let (mut bob, mut ada) = two(&server, &proxy.address().to_string(), &["--no-reconnect"]).await?;
    proxy.set(Carriage::Slow(Duration::from_millis(500)));
    ada.types("once").await?;
    bob.reader.until_text(GROUP, "once").await?;
    // The answer is on its way back, and never comes.
    proxy.set(Carriage::Closed);
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(1), "{complaints}");
    assert!(complaints.contains("it is unknown whether 1 post came through; the first: once"), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_reset_before_the_welcome_is_not_made_again() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut ada = Terminal::start(&[&listener.local_addr()?.to_string(), "--join", GROUP])?;
    ada.hang_up();
    let (mut peer, _) = within(PATIENCE, "a connection", async { Ok(listener.accept().await?) }).await?;
    within(PATIENCE, "a greeting", async { Ok(peer.read_u8().await?) }).await?;
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO))?;
    drop(peer);
    let (code, complaints) = ada.end(Duration::from_secs(5)).await?;
    assert_eq!(code, Some(1), "{complaints}");
    assert!(complaints.contains("is lost"), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn what_is_typed_is_heard_as_soon_as_the_output_was_taken() -> Result<()> {
    const BYTES: usize = 3 * 1024 * 1024;
    let options = ServerOptions::new().set("limits.message_bytes", "4MiB").set("shard.append_bytes", "4MiB");
    let options = options.set("limits.line_bytes", "32MiB").set("limits.outbound_bytes", "32MiB");
    // Nothing that the server says wakes the client.
    let server = options.set("chat.heartbeat", "60s").start().await?;
    let (mut bob, mut ada) = two(&server, &server.chat().to_string(), &[]).await?;
    post_all(&mut bob, std::iter::once(("1".into(), "x".repeat(BYTES)))).await?;
    // All has come by then, and far more is left than a pipe holds.
    sleep(Duration::from_secs(2)).await;
    expect_text(&mut ada, &"x".repeat(BYTES)).await?;
    ada.types("heard").await?;
    within(Duration::from_secs(10), "the answer", expect_text(&mut ada, "heard")).await
}

#[tokio::test]
async fn who_follows_can_quit() -> Result<()> {
    let server = Server::start().await?;
    let (_bob, mut ada) = two(&server, &server.chat().to_string(), &["--follow"]).await?;
    ada.types("quit").await?;
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(0), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn messages_of_control_characters_alone_are_no_line_too_long() -> Result<()> {
    const BYTES: usize = 3 * 1024 * 1024;
    let options = ServerOptions::new().set("limits.message_bytes", "4MiB").set("shard.append_bytes", "4MiB");
    let options = options.set("limits.line_bytes", "32MiB").set("limits.outbound_bytes", "32MiB");
    let server = options.start().await?;
    let mut bob = server.connector().extended("bob").await?;
    bob.join(GROUP).await?;
    // Each takes six bytes in JSON.
    post_all(&mut bob, std::iter::once(("1".into(), "\u{1}".repeat(BYTES)))).await?;
    let mut ada = Terminal::start(&[&server.chat().to_string(), "--join", GROUP, "--last", "1"])?;
    ada.hang_up();
    let line = ada.line().await?;
    assert_eq!(line.matches("\\u{1}").count(), BYTES);
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(0), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn outputs_that_nobody_reads_end_it_without_a_panic() -> Result<()> {
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = Command::new(binary("tertulia", "TERTULIA_BIN")?);
    command.arg(closed.to_string()).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut ada = Process::spawn("tertulia", &mut command)?;
    drop(command);
    assert_eq!(ada.wait(END).await?.code(), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_hangup_that_is_ignored_from_the_start_stays_ignored() -> Result<()> {
    let server = Server::start().await?;
    let mut command = Process::piped("sh".as_ref());
    command.args(["-c", r#"trap "" HUP; exec "$0" "$@""#]).arg(binary("tertulia", "TERTULIA_BIN")?);
    command.args([&server.chat().to_string(), "--join", GROUP, "--follow"]).stdin(Stdio::null());
    let mut ada = Process::spawn("tertulia", &mut command)?;
    let screen = ada.child().stdout.take().context("no output")?;
    let mut screen: Lines<BufReader<ChildStdout>> = BufReader::new(screen).lines();
    let mut bob = server.connector().extended("bob").await?;
    bob.join(GROUP).await?;
    let mut complaints = ada.child().stderr.take().context("no complaints")?;
    within(PATIENCE, "ada to join", async {
        let mut said = String::new();
        while !said.contains("joined Dogs") {
            let mut bytes = [0; 1024];
            let count = complaints.read(&mut bytes).await?;
            anyhow::ensure!(count > 0, "it ended: {said}");
            said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        Ok(())
    })
    .await?;
    ada.signal(Signal::HUP)?;
    bob.post(GROUP, "still there?", "1").await?;
    let line = within(PATIENCE, "a message", async { Ok(screen.next_line().await?) }).await?.unwrap_or_default();
    assert_eq!(record(&line), Some((GROUP, "bob", "still there?")), "{line:?}");
    ada.signal(Signal::TERM)?;
    assert_eq!(ada.wait(END).await?.code(), Some(128 + 15));
    Ok(())
}

/// A server that takes what it is sent when it likes, and little at a time.
async fn slow_server() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let socket = socket2::SockRef::from(&listener);
    // Short segments keep also the buffers of the one who sends small.
    socket.set_tcp_mss(536)?;
    socket.set_recv_buffer_size(4096)?;
    Ok(listener)
}

#[tokio::test]
async fn classic_posts_that_wait_to_be_sent_are_sent_though_the_input_has_ended() -> Result<()> {
    const POSTS: usize = 600;
    let listener = slow_server().await?;
    let mut ada = Terminal::start(&["--classic", &listener.local_addr()?.to_string()])?;
    let (mut peer, _) = within(PATIENCE, "a connection", async { Ok(listener.accept().await?) }).await?;
    for _ in 0..POSTS {
        ada.types(&format!("post Dogs {}", "x".repeat(1000))).await?;
    }
    ada.hang_up();
    // Longer than silence may last once all is said.
    sleep(Duration::from_secs(4)).await;
    let mut came = String::new();
    within(PATIENCE, "the end of the posts", async { Ok(peer.read_to_string(&mut came).await?) }).await?;
    assert_eq!(came.lines().filter(|line| line.ends_with("\"}}")).count(), POSTS);
    let (code, complaints) = ada.end(END).await?;
    // As the book's own server, this one does not close the connection.
    assert_eq!(code, Some(0), "{complaints}");
    assert!(complaints.contains("the server had not finished"), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_reader_of_a_classic_session_may_take_its_time_too() -> Result<()> {
    const POSTS: usize = 400;
    let server = Server::start().await?;
    let mut ada = Terminal::start(&["--classic", &server.chat().to_string()])?;
    ada.types("join Dogs").await?;
    for number in 0..POSTS {
        ada.types(&format!("post Dogs {number:0500}")).await?;
    }
    ada.hang_up();
    sleep(Duration::from_secs(8)).await;
    for number in 0..POSTS {
        ada.expect_in_session(&format!("message posted to Dogs: {number:0500}")).await?;
    }
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(0), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_classic_connection_that_ends_before_the_input_is_lost() -> Result<()> {
    let listener = slow_server().await?;
    let mut ada = Terminal::start(&["--classic", &listener.local_addr()?.to_string()])?;
    let (peer, _) = within(PATIENCE, "a connection", async { Ok(listener.accept().await?) }).await?;
    ada.types("join Dogs").await?;
    drop(peer);
    let (code, complaints) = ada.end(END).await?;
    assert_eq!(code, Some(1), "{complaints}");
    assert!(complaints.contains("the connection is lost"), "{complaints}");
    Ok(())
}
