//! What is typed and printed, and how a session ends, against a server that is played by hand.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::screen::Style;

/// So long that a test on a busy machine is no silence.
const LINGER: Duration = Duration::from_millis(500);
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A session with these lines of input, and the other end of its connection.
async fn session(lines: Vec<Result<String, LineError>>) -> (impl Future<Output = Result<(), Error>>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut host = Host::new(listener.local_addr().unwrap().to_string());
    let connection = Connection::open(&mut host, None).await.unwrap();
    let (typed, input) = mpsc::channel(lines.len().max(1));
    for line in lines {
        typed.send(line).await.unwrap();
    }
    let run = async {
        let screen = Screen::start(Style::Record, None).unwrap();
        timeout(PATIENCE, converse(connection, input, LINGER, &screen)).await.unwrap()
    };
    (run, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn a_bad_line_is_skipped_and_those_after_it_are_sent() {
    let lines = vec![Ok("join Dogs".to_owned()), Err(LineError::NotUtf8), Ok("post Dogs hi".to_owned())];
    let (run, mut peer) = session(lines).await;
    let serve = async {
        let mut came = String::new();
        peer.read_to_string(&mut came).await.unwrap();
        // It closes, as one that has done all does.
        drop(peer);
        came
    };
    let (ended, came) = tokio::join!(run, serve);
    assert!(matches!(ended, Err(Error::Input)), "{ended:?}");
    let lines: Vec<_> = came.lines().collect();
    assert_eq!(lines, [r#"{"Join":{"group_name":"Dogs"}}"#, r#"{"Post":{"group_name":"Dogs","message":"hi"}}"#]);
}

#[tokio::test]
async fn a_server_that_speaks_on_is_not_taken_for_one_that_has_finished() {
    let (run, mut peer) = session(vec![Ok("join Dogs".to_owned())]).await;
    let speak = async {
        while peer.write_all(b"{\"Message\":{\"group_name\":\"Dogs\",\"message\":\"woof\"}}\n").await.is_ok() {
            tokio::time::sleep(LINGER / 10).await;
        }
    };
    let ended = tokio::select! {
        ended = run => ended,
        () = speak => panic!("it closed the connection without a word"),
    };
    assert!(matches!(ended, Err(Error::Unfinished)), "{ended:?}");
}

#[tokio::test]
async fn a_server_that_does_not_close_the_connection_fails_nothing() {
    let (run, _peer) = session(vec![Ok("join Dogs".to_owned())]).await;
    let ended = run.await;
    assert!(matches!(ended, Ok(())), "{ended:?}");
}

#[test]
fn commands_are_those_of_the_book() {
    let join = || Some(FromClient::Join { group_name: "Dogs".into() });
    assert_eq!(parse("join Dogs"), join());
    assert_eq!(parse("  join   Dogs  "), join());
    assert_eq!(parse("join Dogs Cats"), None);
    let post = |message: &'static str| Some(FromClient::Post { group_name: "Dogs".into(), message: message.into() });
    assert_eq!(parse("post Dogs  Samoyeds   rock! "), post("Samoyeds   rock! "));
    assert_eq!(parse("post Dogs"), post(""));
    assert_eq!(parse("post"), None);
    for (line, unrecognized) in [("", false), ("  ", false), ("join", false), ("post", false), ("leave Dogs", true)] {
        assert_eq!(parse(line), None);
        assert_eq!(is_unrecognized(line), unrecognized, "{line:?}");
    }
}

#[test]
fn replies_are_printed_as_in_the_book() {
    let mut out = String::new();
    print(&FromServer::Message { group_name: "Dogs".into(), message: "a\tb \\ c".into() }, &mut out);
    print(&FromServer::Error("Group 'Cats' does not exist".into()), &mut out);
    assert_eq!(out, "message posted to Dogs: a\tb \\ c\nerror from server: Group 'Cats' does not exist\n");
}

#[test]
fn a_reply_cannot_drive_the_terminal() {
    let mut out = String::new();
    print(&FromServer::Error("\u{1b}[2J\n\u{9b}x".into()), &mut out);
    assert_eq!(out, "error from server: \\u{1b}[2J\\n\\u{9b}x\n");
}
