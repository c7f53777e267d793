//! Whole sessions, against a server that is played by hand.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::screen::Style;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const WELCOME: &str =
    r#"{"Welcome":{"version":1,"server":"test","session":"c-1","user":"ada","limits":{},"heartbeat":30000}}"#;
const UNAVAILABLE: &str =
    r#"{"Rejected":{"code":"unavailable","message":"later","request":"Hello","retry_after_ms":1}}"#;

/// A script that does nothing by itself.
fn options(listener: &TcpListener) -> Options {
    Options {
        address: listener.local_addr().unwrap().to_string(),
        security: None,
        user: Some("ada".into()),
        proof: None,
        join: Vec::new(),
        last: None,
        places: Places::new(),
        reconnect: true,
        linger: 2 * PATIENCE,
        follow: false,
        commands: true,
        interactive: false,
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn session(options: Options, input: mpsc::Receiver<Typed>) -> Ended {
    let screen = Screen::start(Style::Record, None).unwrap();
    let mut signals = Signals::none();
    Box::pin(run(options, input, &mut signals, &screen, None)).await
}

/// How the session ends, and what the server it talks to comes to.
async fn played<T>(session: impl Future<Output = Ended>, server: impl Future<Output = T>) -> (Ended, T) {
    timeout(PATIENCE, async { tokio::join!(session, server) }).await.unwrap()
}

/// An input that has ended.
fn nothing() -> mpsc::Receiver<Typed> {
    mpsc::channel(1).1
}

/// The next connection, whose `Hello` is answered so.
async fn answer(listener: &TcpListener, line: &str) -> TcpStream {
    let mut peer = BufReader::new(listener.accept().await.unwrap().0);
    let mut hello = String::new();
    peer.read_line(&mut hello).await.unwrap();
    assert!(hello.starts_with(r#"{"Hello":"#), "{hello}");
    say(peer.get_mut(), line).await;
    peer.into_inner()
}

async fn say(peer: &mut TcpStream, line: &str) {
    peer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn who_is_to_come_later_at_first_comes_later() {
    let listener = listen().await;
    let serve = async {
        for _ in 0..2 {
            answer(&listener, UNAVAILABLE).await;
        }
        // Whatever happens before it is let in: it was told that it will be.
        drop(listener.accept().await.unwrap());
        answer(&listener, r#"{"Rejected":{"code":"draining","message":"gone","request":"Hello"}}"#).await;
        answer(&listener, WELCOME).await
    };
    let (ended, _peer) = played(session(options(&listener), nothing()), serve).await;
    assert!(matches!(ended, Ok(Outcome::Done)), "{ended:?}");
}

#[tokio::test]
async fn who_does_not_come_again_does_not_come_later() {
    let listener = listen().await;
    let options = Options { reconnect: false, ..options(&listener) };
    let (ended, _peer) = played(session(options, nothing()), answer(&listener, UNAVAILABLE)).await;
    assert!(matches!(ended, Err(Error::Refused(Refusal::Later(_)))), "{ended:?}");
}

/// Joins Dogs, and is put out because its token has expired; then it waits for another one, and `remains` is what of its input was not
/// taken.
async fn script_without_a_token(remains: Option<Command>) -> Ended {
    let (listener, directory) = (listen().await, tempfile::tempdir().unwrap());
    let file = directory.path().join("token");
    std::fs::write(&file, "one").unwrap();
    let join = vec!["Dogs".to_owned()];
    let proof = Some(Proof::Token(file));
    let options = Options { user: None, proof, join, linger: Duration::from_millis(100), ..options(&listener) };
    let (typed, input) = mpsc::channel(1);
    let serve = async {
        let mut peer = answer(&listener, WELCOME).await;
        say(&mut peer, r#"{"Joined":{"group_name":"Dogs","epoch":7,"head":0,"members":1,"recovered":true}}"#).await;
        say(&mut peer, r#"{"Rejected":{"code":"unauthenticated","message":"expired"}}"#).await;
        drop(peer);
        answer(&listener, r#"{"Rejected":{"code":"unauthenticated","message":"expired","request":"Hello"}}"#).await;
        if let Some(command) = remains {
            typed.send(Typed::Command(command)).await.unwrap();
        }
        drop((typed, listener));
    };
    played(session(options, input), serve).await.0
}

#[tokio::test]
async fn a_script_whose_token_has_expired_ends_with_its_input() {
    let ended = script_without_a_token(None).await;
    assert!(matches!(&ended, Err(Error::Late(open)) if open.contains("joining Dogs")), "{ended:?}");
    let post = Command::Post { group: "Dogs".into(), text: "woof".into() };
    let ended = script_without_a_token(Some(post)).await;
    assert!(matches!(&ended, Err(Error::Unanswered(posts)) if posts.to_string().contains("woof")), "{ended:?}");
}

#[tokio::test]
async fn the_end_of_the_input_does_not_end_the_first_attempt() {
    let listener = listen().await;
    let options = Options { linger: Duration::ZERO, ..options(&listener) };
    let (ended, _peer) = played(session(options, nothing()), answer(&listener, WELCOME)).await;
    assert!(matches!(ended, Ok(Outcome::Done)), "{ended:?}");
}
