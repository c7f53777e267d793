use std::fs;
use std::time::Duration;

use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use tertulia_protocol::Code;
use tertulia_protocol::extended::Hello;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::*;
use crate::auth::{Config, Decision, Proof, RETRY};
use crate::reload::Reload;

/// Long enough never to pass in a test that works.
const NEVER: Duration = Duration::from_secs(30);
/// Of the password `password`, at little cost: the reference implementation's own test.
const HASH: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

fn auth_of(users: &str, config: Config) -> Auth {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    fs::write(&file, users).unwrap();
    Auth::new(&Config { users_file: Some(file), ..config }).unwrap()
}

/// One that knows ada, and checks one password at a time.
fn auth() -> Auth {
    auth_of(&format!("ada {HASH}"), Config { password_checks: 1, ..Config::default() })
}

/// For tests of those who have passwords checked.
impl Auth {
    /// One that knows ada, whose password is `password`, and checks one at a time.
    pub(crate) fn of_ada() -> Self {
        auth()
    }

    /// No password is checked while this is held.
    pub(crate) async fn hold_checks(&self) -> OwnedSemaphorePermit {
        Arc::clone(&passwords(self).checks).acquire_owned().await.unwrap()
    }

    /// How many passwords are not checked yet.
    pub(crate) fn unchecked(&self) -> usize {
        lock(&passwords(self).turns.lines).values().map(|line| line.length).sum()
    }
}

fn passwords(auth: &Auth) -> Arc<Passwords> {
    Arc::clone(auth.0.passwords.as_ref().unwrap())
}

fn hello<'a>(user: Option<&'a str>, password: Option<&'a str>) -> Hello<'a> {
    Hello { version: 1, user: user.map(Into::into), password: password.map(Into::into), ..Hello::default() }
}

fn login(auth: &Auth, user: &str, password: &str) -> Login {
    match auth.decide(&hello(Some(user), Some(password))) {
        Ok(Decision::Login(login)) => login,
        other => panic!("{other:?}"),
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// A login from there that is under way.
fn coming(auth: &Auth, from: IpAddr) -> JoinHandle<Result<Principal, Refused>> {
    tokio::spawn(login(auth, "ada", "password").check(from))
}

/// Waits until so many wait in the line of an address.
async fn until_waiting(passwords: &Passwords, from: IpAddr, expected: usize) {
    let waiting = async {
        while lock(&passwords.turns.lines).get(&from).map_or(0, |line| line.length) != expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(NEVER, waiting).await.expect("there are never so many");
}

#[tokio::test]
async fn who_has_the_password_of_a_user_is_let_in() {
    let auth = auth();
    let principal = login(&auth, "ada", "password").check(address(1)).await.unwrap();
    assert_eq!((principal.user.as_str(), principal.rights), ("ada", None));
    for (user, password) in [("ada", "Password"), ("ada", ""), ("bob", "password"), ("Ada", "password")] {
        let refused = login(&auth, user, password).check(address(1)).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.to_string().as_str()),
            (Code::Unauthenticated, "user and password do not match")
        );
    }
    let shown = format!("{:?} {auth:?}", login(&auth, "ada", "s3cret"));
    assert!(!shown.contains("s3cret") && !shown.contains("nf65EOg"), "{shown}");
}

#[tokio::test]
async fn a_line_is_no_longer_than_it_may_be_and_who_gives_up_is_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let config = Config { password_checks: 1, password_queue: 3, ..Config::default() };
    let auth = ::metrics::with_local_recorder(&recorder, || auth_of(&format!("ada {HASH}"), config));
    let held = auth.hold_checks().await;
    let mut waiting: Vec<_> = (0..3).map(|_| coming(&auth, address(1))).collect();
    until_waiting(&passwords(&auth), address(1), 3).await;
    let refused = login(&auth, "ada", "password").check(address(1)).await.unwrap_err();
    assert_eq!((refused.code(), refused.retry_after()), (Code::Unavailable, Some(RETRY)));
    let other = coming(&auth, address(2));
    // Who goes makes room for another one.
    let gone = waiting.pop().unwrap();
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    waiting.push(coming(&auth, address(1)));
    until_waiting(&passwords(&auth), address(1), 3).await;
    drop(held);
    for login in waiting.into_iter().chain([other]) {
        assert!(login.await.unwrap().is_ok());
    }
    let text = recorder.handle().render();
    for (result, count) in [("accepted", 4), ("refused", 2)] {
        let expected = format!("tertulia_logins_total{{way=\"password\",result=\"{result}\"}} {count}\n");
        assert!(text.contains(&expected), "{expected}: {text}");
    }
}

#[tokio::test]
async fn whether_there_is_such_a_user_makes_no_difference_to_a_check() {
    for user in ["ada", "nobody"] {
        let auth = auth();
        assert_eq!(login(&auth, user, "wrong").check(address(1)).await.unwrap_err(), Refused::Mismatch);
        // What is left of the check: the memory that the hash of ada asks for, filled.
        let scratch = lock(&passwords(&auth).scratch).pop().expect("nothing was checked");
        let is_filled = scratch.iter().all(|block| block.as_ref().iter().any(|word| *word != 0));
        assert!(scratch.len() == 256 && is_filled, "{user}: {}", scratch.len());
    }
}

#[tokio::test]
async fn what_a_client_must_prove_with_is_said() {
    let (text, config) = (format!("ada {HASH}"), Config::default());
    let auth = auth_of(&text, config.clone());
    let refused = |auth: &Auth, hello: Hello<'_>| {
        let refused = auth.decide(&hello).unwrap_err();
        (refused.code(), refused.to_string())
    };
    let unproven = |text: &str| (Code::Unauthenticated, text.to_owned());
    let asks = "this server asks for a user and a password in Hello";
    assert_eq!(auth.asks_for(), Some(Proof::Password));
    assert_eq!(refused(&auth, hello(Some("ada"), None)), unproven(asks));
    assert_eq!(refused(&auth, hello(None, None)), unproven(asks));
    assert_eq!(auth.nameless().unwrap_err().to_string(), asks);
    let with_token = |hello| Hello { token: Some("x".into()), ..hello };
    assert_eq!(refused(&auth, with_token(hello(None, None))), unproven("this server takes no tokens"));
    let user = UserName::new("ada").unwrap();
    assert_eq!(auth.refresh(&user, None, "x").unwrap_err(), Refused::NoToken);
    let long = "x".repeat(LONGEST + 1);
    assert_eq!(refused(&auth, hello(Some("ada"), Some(&long))), unproven("a password has at most 1024 bytes"));
    let bad_request = |text: &str| (Code::BadRequest, text.to_owned());
    let both = with_token(hello(Some("ada"), Some("password")));
    assert_eq!(refused(&auth, both.clone()), bad_request("give a token or a password, not both"));
    assert_eq!(refused(&auth, hello(None, Some("password"))), bad_request("give the user too whose password it is"));
    assert_eq!(refused(&auth, hello(Some("@ada"), Some("password"))).0, Code::BadUserName);

    let guests = auth_of(&text, Config { guests: true, guest_post: String::new(), ..config.clone() });
    let guest = guests.nameless().unwrap();
    assert!(guest.user.as_str().starts_with("guest-") && !guest.rights.unwrap().post.contain("Lobby"));
    let text_of =
        "this server asks for a user and a password in Hello; otherwise you may be a guest, and then without a user";
    assert_eq!(refused(&guests, hello(Some("ada"), None)), unproven(text_of));

    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    fs::write(&keys, rcgen::KeyPair::generate().unwrap().public_key_pem()).unwrap();
    let config = Config { keys_file: Some(keys), ..config };
    let any = auth_of(&text, config.clone());
    let asks = "this server asks for a token, or a user and a password in Hello";
    assert_eq!(refused(&any, hello(None, None)), unproven(asks));
    assert_eq!(refused(&any, both).0, Code::BadRequest);
    assert!(login(&any, "ada", "password").check(address(1)).await.is_ok());
    let tokens = Auth::new(&config).unwrap();
    assert_eq!(refused(&tokens, hello(Some("ada"), Some("password"))), unproven("this server takes no passwords"));
}

#[tokio::test]
async fn those_of_one_address_come_one_after_the_other_and_others_in_between() {
    let auth = auth();
    let passwords = passwords(&auth);
    // While this is held nothing is checked.
    let place = Arc::clone(&passwords.checks).acquire_owned().await.unwrap();
    let came = Arc::new(Mutex::new(Vec::new()));
    let coming = |from: IpAddr| {
        let (login, came) = (login(&auth, "ada", "password"), Arc::clone(&came));
        tokio::spawn(async move {
            login.check(from).await.unwrap();
            lock(&came).push(from);
        })
    };
    let many: Vec<_> = (0..50).map(|_| coming(address(1))).collect();
    until_waiting(&passwords, address(1), 50).await;
    let other = coming(address(2));
    until_waiting(&passwords, address(2), 1).await;
    assert!(lock(&came).is_empty(), "there is one place");
    drop(place);
    for login in many.into_iter().chain([other]) {
        tokio::time::timeout(NEVER, login).await.expect("it never comes").unwrap();
    }
    let before = lock(&came).iter().position(|from| *from == address(2)).unwrap();
    assert!(before < 10, "{before} of another address were before it");
    assert!(lock(&passwords.turns.lines).is_empty(), "nothing is kept of who is gone");
    assert_eq!(lock(&passwords.scratch).len(), 1, "as much memory as there are checks at once");
}

#[tokio::test]
async fn who_leaves_gives_up_its_place() {
    let auth = auth();
    let passwords = passwords(&auth);
    let place = Arc::clone(&passwords.checks).acquire_owned().await.unwrap();
    // The first waits for the place, the others for their turn.
    let [first, second, third] = [(); 3].map(|()| coming(&auth, address(1)));
    until_waiting(&passwords, address(1), 3).await;
    for leaving in [second, first] {
        leaving.abort();
        assert!(leaving.await.unwrap_err().is_cancelled());
    }
    until_waiting(&passwords, address(1), 1).await;
    drop(place);
    assert!(tokio::time::timeout(NEVER, third).await.expect("nobody's turn comes").unwrap().is_ok());
    assert!(lock(&passwords.turns.lines).is_empty());
}

#[tokio::test]
async fn a_check_that_has_begun_keeps_its_place_to_its_end() {
    let auth = auth();
    let passwords = passwords(&auth);
    // The check cannot end while this is held.
    let scratch = lock(&passwords.scratch);
    let mut checking = Box::pin(login(&auth, "ada", "password").check(address(1)));
    assert!(checking.as_mut().now_or_never().is_none());
    drop(checking);
    assert_eq!(passwords.checks.available_permits(), 0);
    assert_eq!(lock(&passwords.turns.lines)[&address(1)].length, 1);
    drop(scratch);
    until_waiting(&passwords, address(1), 0).await;
    let again = Arc::clone(&passwords.checks).acquire_owned();
    drop(tokio::time::timeout(NEVER, again).await.expect("the place is lost").unwrap());
}

#[tokio::test]
async fn other_users_in_the_file_take_the_place_of_those_before() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    fs::write(&file, format!("ada {HASH}")).unwrap();
    let auth = Auth::new(&Config { users_file: Some(file.clone()), ..Config::default() }).unwrap();
    let (reload, stop, tasks) = (Reload::default(), CancellationToken::new(), TaskTracker::new());
    auth.follow(&reload, Duration::from_millis(1), &stop, &tasks);
    // What cannot be used is passed over.
    for content in ["nonsense".to_owned(), String::new(), format!("bob {HASH}")] {
        let next = directory.path().join("next");
        fs::write(&next, content).unwrap();
        fs::rename(&next, &file).unwrap();
    }
    let looking = async {
        while login(&auth, "bob", "password").check(address(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(NEVER, looking).await.expect("it is never taken up");
    assert_eq!(login(&auth, "ada", "password").check(address(1)).await.unwrap_err(), Refused::Mismatch);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[test]
fn a_password_that_can_be_one_has_a_hash() {
    let hash: Hash = hash_of("s3cret").unwrap().parse().unwrap();
    assert!(hash.is_of("s3cret", &mut Scratch::new()));
    assert_eq!(hash_of(""), Err(BadPassword::Empty));
    assert_eq!(hash_of(&"x".repeat(LONGEST + 1)), Err(BadPassword::TooLong(LONGEST + 1)));
}
