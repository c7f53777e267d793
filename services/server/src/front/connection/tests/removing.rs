//! A user takes back a message of its own.

use super::*;
use crate::front::removal::{NotRemoved, Outcome, REMOVE};
use crate::shard::{Hold, Refusal, Target};

/// A front for that configuration, with the shards behind it, and where it listens.
async fn serve(config: &front::Config, auth: Auth) -> (Shards, SocketAddr) {
    let shards = shards();
    let options = front::Options { auth, ..front::Options::default() };
    let front = Front::new(config, Limits::default(), shards.clone(), options);
    let listener = front::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(front.serve(listener, CancellationToken::new()));
    (shards, address)
}

struct Client(BufReader<TcpStream>);

impl Client {
    /// Ada, who shows her password.
    async fn ada(address: SocketAddr) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(address).await.unwrap()));
        client.tell(&json!({"Hello": {"version": 1, "user": "ada", "password": "password"}})).await;
        assert_eq!(client.next().await["Welcome"]["user"], "ada");
        client
    }

    async fn tell(&mut self, line: &Value) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let mut line = String::new();
        tokio::time::timeout(NEVER, self.0.read_line(&mut line)).await.expect("nothing comes").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// What answers a line.
    async fn ask(&mut self, line: &Value) -> Value {
        self.tell(line).await;
        self.next().await
    }

    async fn refused(&mut self, remove: Value) -> (Value, Value) {
        let answer = self.ask(&json!({ "Remove": remove })).await;
        let rejected = &answer["Rejected"];
        assert_eq!([&rejected["request"], &rejected["group_name"]], [&json!("Remove"), &remove["group_name"]]);
        (rejected["code"].clone(), rejected["message"].clone())
    }
}

fn dogs() -> GroupName {
    GroupName::new("Dogs").unwrap()
}

#[tokio::test]
async fn the_text_of_an_own_message_goes_and_that_of_others_stays() {
    let (shards, address) = serve(&front::Config::default(), Auth::of_ada()).await;
    fill_group(&shards, &dogs(), 1).await;
    let mut ada = Client::ada(address).await;
    let posted = ada.ask(&json!({"Post": {"group_name": "Dogs", "message": "oh no", "id": "1"}})).await;
    let epoch = posted["Posted"]["epoch"].clone();
    assert_eq!(posted["Posted"]["seq"], 2);
    // What comes behind it waits for its answer.
    let remove = json!({"Remove": {"group_name": "Dogs", "seq": 2, "epoch": epoch}});
    let history = json!({"History": {"group_name": "Dogs"}});
    ada.tell(&remove).await;
    ada.tell(&history).await;
    let removed = json!({"Removed": {"group_name": "Dogs", "epoch": epoch, "seq": 2, "told_by": 3}});
    assert_eq!(ada.next().await, removed);
    let page = ada.next().await;
    let text = |page: &Value, seq: usize| page["History"]["messages"][seq - 1]["message"].clone();
    assert_eq!([1, 2, 3].map(|seq| text(&page, seq)), ["x", "", "A message of ada was removed."]);
    assert_eq!(page["History"]["messages"][2]["removes"], json!({"first": 2, "last": 2, "sender": "ada"}));
    // The group is told once.
    assert_eq!(ada.ask(&remove).await, removed);

    let none = |seq: u64| (json!("no_such_message"), json!(format!("You have no message {seq} in group 'Dogs'")));
    for seq in [0, 1, 3, 4, u64::MAX] {
        assert_eq!(ada.refused(json!({"group_name": "Dogs", "seq": seq})).await, none(seq));
    }
    let other_life = epoch.as_u64().unwrap() + 1;
    assert_eq!(ada.refused(json!({"group_name": "Dogs", "seq": 2, "epoch": other_life})).await, none(2));
    assert_eq!(ada.refused(json!({"group_name": "Cats", "seq": 1})).await.0, "no_such_group");
    assert_eq!(ada.refused(json!({"group_name": "", "seq": 1})).await.0, "bad_group_name");
    let page = ada.ask(&history).await;
    assert_eq!((text(&page, 1), page["History"]["messages"].as_array().unwrap().len()), (json!("x"), 3));
}

#[tokio::test]
async fn who_is_held_out_of_a_group_takes_nothing_back_there() {
    let (shards, address) = serve(&front::Config::default(), Auth::of_ada()).await;
    fill_group(&shards, &dogs(), 1).await;
    let mut ada = Client::ada(address).await;
    assert_eq!(ada.ask(&json!({"Post": {"group_name": "Dogs", "message": "mine"}})).await["Posted"]["seq"], 2);
    let remove = json!({"group_name": "Dogs", "seq": 2});
    for (target, code) in [(Some(Target::User(UserName::new("ada").unwrap())), "kicked"), (None, "closed")] {
        let hold = |time| Hold::new(Some(dogs()), target.clone(), time);
        shards.holds().keep(hold(NEVER)).await.unwrap();
        assert_eq!(ada.refused(remove.clone()).await.0, code);
        shards.holds().keep(hold(Duration::ZERO)).await.unwrap();
    }
    assert_eq!(ada.ask(&json!({ "Remove": remove })).await["Removed"]["told_by"], 3);
}

#[tokio::test]
async fn nothing_is_taken_back_where_nobody_proves_anything_or_it_is_switched_off() {
    let off = front::Config { remove_own: false, ..front::Config::default() };
    for (config, auth, why) in [
        (front::Config::default(), Auth::default(), "This server takes users at their word"),
        (off, Auth::of_ada(), "This server does not let users take back"),
    ] {
        let (shards, address) = serve(&config, auth).await;
        fill_group(&shards, &dogs(), 1).await;
        let mut ada = Client::ada(address).await;
        assert_eq!(ada.ask(&json!({"Post": {"group_name": "Dogs", "message": "mine"}})).await["Posted"]["seq"], 2);
        let (code, text) = ada.refused(json!({"group_name": "Dogs", "seq": 2})).await;
        assert!(code == "forbidden" && text.as_str().unwrap().starts_with(why), "{text}");
    }
}

/// A task of a user who has shown a password.
async fn proven(limits: Limits) -> (Task, Admitted, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(connect(listener.local_addr().unwrap()), listener.accept());
    let (mut task, admitted) = task_within(limits, Stream::Plain(accepted.unwrap().0));
    introduce(&mut task);
    Arc::get_mut(&mut task.shared).unwrap().auth = Auth::of_ada();
    (task, admitted, client)
}

fn remove() -> Vec<u8> {
    json!({"Remove": {"group_name": "Dogs", "seq": 1}}).to_string().into_bytes()
}

#[tokio::test]
async fn it_counts_for_many_lines_and_for_a_post() {
    let burst = u32::try_from(REMOVE).unwrap();
    let limits = Limits { requests_per_second: 1, requests_burst: burst + 1, ..Limits::default() };
    let (mut task, _admitted, _client) = proven(limits).await;
    for is_paced in [false, true] {
        task.on_line(&remove());
        assert!(task.question.take().is_some());
        assert_eq!(task.paced.is_some(), is_paced);
    }

    let limits = Limits { posts_per_second: 1, posts_burst: 1, ..Limits::default() };
    let (mut task, _admitted, _client) = proven(limits).await;
    task.on_line(&remove());
    assert!(task.question.take().is_some());
    task.on_line(&remove());
    assert!(task.question.is_none());
    let rejected: Value = serde_json::from_slice(&task.out.take_all()).unwrap();
    assert_eq!([&rejected["Rejected"]["code"], &rejected["Rejected"]["request"]], ["rate_limited", "Remove"]);
    assert!(rejected["Rejected"]["retry_after_ms"].is_u64(), "{rejected}");
}

#[tokio::test]
async fn that_it_is_not_known_or_half_done_is_said_so_that_it_is_asked_for_again() {
    let (mut task, _admitted, _client) = proven(Limits::default()).await;
    let unavailable = || Refusal::Unavailable { group: dogs(), retry_after: Duration::from_secs(1) };
    let unread = || ReadError { reason: "it is out of order".to_owned() };
    for (told, code, in_doubt) in [
        (NotRemoved::Refused(unavailable()), "unavailable", false),
        (
            NotRemoved::Refused(Refusal::Unanswered { group: dogs(), retry_after: Duration::from_secs(1) }),
            "unavailable",
            true,
        ),
        (NotRemoved::InSilence(unavailable()), "unavailable", true),
        (NotRemoved::InSilence(Refusal::Draining), "unavailable", true),
        (NotRemoved::from(Untold::Unread(unread())), "unavailable", false),
        (NotRemoved::from(Untold::Refused(Refusal::Draining)), "draining", false),
        // Whoever did not answer was not asked to remove anything.
        (
            NotRemoved::from(Untold::Refused(Refusal::Unanswered {
                group: dogs(),
                retry_after: Duration::from_secs(1),
            })),
            "unavailable",
            false,
        ),
    ] {
        let what = told.to_string();
        task.on_reply(Reply::Removed(Outcome { group: dogs(), seq: 1, told: Err(told) }));
        let answer: Value = serde_json::from_slice(&task.out.take_all()).unwrap();
        let rejected = &answer["Rejected"];
        assert_eq!((&rejected["code"], rejected["outcome_unknown"] == true), (&json!(code), in_doubt), "{what}");
        assert_eq!([&rejected["request"], &rejected["group_name"]], ["Remove", "Dogs"]);
        assert_eq!(rejected["retry_after_ms"].is_u64(), code == "unavailable", "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_is_to_end_answers_it_first() {
    let (mut task, _admitted, mut client) = proven(Limits::default()).await;
    fill_group(&task.shared.shards, &dogs(), 1).await;
    task.on_line(&remove());
    task.finish(CloseReason::Drain);
    let ending = std::future::poll_fn(|cx| task.poll(cx));
    assert_eq!(tokio::time::timeout(NEVER, ending).await.unwrap(), CloseReason::Drain);
    drop(task);
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    assert!(told.contains("no_such_message"), "{told}");
}
