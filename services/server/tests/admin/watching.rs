//! Events, as watchers get them.

use serde_json::json;
use tertulia_proto::admin::v1::admin_service_client::AdminServiceClient;
use tertulia_proto::admin::v1::event::Kind;
use tertulia_proto::admin::v1::{
    CloseGroupRequest, DeleteGroupRequest, Event, EventKind, KickMemberRequest, LeaveReason, WatchEventsRequest,
    WatchEventsResponse, kick_member_request::Target,
};
use tertulia_server::front::Limits;
use tokio::time::timeout;
use tonic::Code::{InvalidArgument, ResourceExhausted};
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::world::{NEVER, Wishes, World, failure, until};

async fn next(stream: &mut Streaming<WatchEventsResponse>) -> Option<Event> {
    let response = timeout(NEVER, stream.message()).await.expect("no event came").unwrap()?;
    Some(response.event.unwrap())
}

async fn kind(stream: &mut Streaming<WatchEventsResponse>) -> Kind {
    let event = next(stream).await.expect("the stream ended");
    assert!(event.at.is_some() && event.node == "local");
    event.kind.unwrap()
}

#[tokio::test]
async fn a_watcher_sees_all_kinds_in_order_until_the_server_stops() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut stream = admin.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut ada = world.client("ada").await;
    let epoch = ada.join("Dogs").await["epoch"].as_u64().unwrap();
    let bob = world.member("bob", &["Dogs"]).await;
    let Kind::GroupCreated(created) = kind(&mut stream).await else { panic!("not created") };
    assert_eq!((created.group_name.as_str(), created.epoch), ("Dogs", epoch));
    let Kind::Join(join) = kind(&mut stream).await else { panic!("not joined") };
    assert_eq!((join.user.as_str(), &join.connection_id, join.members), ("ada", &ada.id, 1));
    let Kind::Join(join) = kind(&mut stream).await else { panic!("not joined") };
    assert_eq!((join.user.as_str(), &join.connection_id, join.members), ("bob", &bob.id, 2));

    ada.send(&json!({"Leave": {"group_name": "Dogs"}})).await;
    ada.expect("Left").await;
    let Kind::Leave(leave) = kind(&mut stream).await else { panic!("not left") };
    assert_eq!((leave.user.as_str(), leave.members, leave.reason()), ("ada", 1, LeaveReason::Asked));
    drop(bob);
    let Kind::Leave(leave) = kind(&mut stream).await else { panic!("not left") };
    assert_eq!((leave.user.as_str(), leave.members, leave.reason()), ("bob", 0, LeaveReason::Disconnected));

    ada.join("Dogs").await;
    kind(&mut stream).await;
    let again = world.member("ada", &["Dogs"]).await;
    kind(&mut stream).await;
    let kick = KickMemberRequest {
        group_name: "Dogs".into(),
        target: Some(Target::User("ada".into())),
        reason: "spam".into(),
        hold_seconds: 1,
    };
    admin.kick_member(kick).await.unwrap();
    for (id, members) in [(&ada.id, 1), (&again.id, 0)] {
        let Kind::Kick(kick) = kind(&mut stream).await else { panic!("not kicked") };
        assert_eq!((&kick.connection_id, kick.members), (id, members));
        assert_eq!((kick.reason.as_str(), kick.hold_seconds), ("spam", 1));
    }

    let _eve = world.member("eve", &["Dogs"]).await;
    kind(&mut stream).await;
    let close = CloseGroupRequest { group_name: "Dogs".into(), reason: "late".into(), hold_seconds: 60 };
    admin.close_group(close).await.unwrap();
    let Kind::GroupClosed(closed) = kind(&mut stream).await else { panic!("not closed") };
    assert_eq!((closed.reason.as_str(), closed.removed_members), ("late", 1));
    assert!(closed.closed_until.is_some());
    admin.delete_group(DeleteGroupRequest { group_name: "Dogs".into(), reason: String::new() }).await.unwrap();
    let Kind::GroupDeleted(deleted) = kind(&mut stream).await else { panic!("not deleted") };
    assert_eq!((deleted.removed_members, deleted.removed_messages), (0, 0));

    world.stop().await;
    let Kind::Drain(drain) = kind(&mut stream).await else { panic!("not told of the drain") };
    assert_eq!(drain.reason, "the server is stopping");
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_watcher_gets_what_it_asked_for() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let request =
        WatchEventsRequest { kinds: vec![EventKind::Join.into(), EventKind::Drain.into()], group_prefix: "Do".into() };
    let mut stream = admin.watch_events(request).await.unwrap().into_inner();
    let _ada = world.member("ada", &["Cats", "Dogs"]).await;
    let Kind::Join(join) = kind(&mut stream).await else { panic!("not joined") };
    assert_eq!(join.group_name, "Dogs");
    for bad in [0, 99, -1] {
        let request = WatchEventsRequest { kinds: vec![bad], ..Default::default() };
        assert_eq!(failure(admin.watch_events(request).await).0, InvalidArgument);
    }
    world.stop().await;
    assert!(matches!(kind(&mut stream).await, Kind::Drain(_)), "it concerns no group");
}

#[tokio::test]
async fn only_so_many_may_watch() {
    let world = World::with(Wishes { watchers: Some(2), ..Wishes::default() }).await;
    let mut admin = world.admin().await;
    let one = admin.watch_events(WatchEventsRequest::default()).await.unwrap();
    let _two = admin.watch_events(WatchEventsRequest::default()).await.unwrap();
    let (code, text) = failure(admin.watch_events(WatchEventsRequest::default()).await);
    assert_eq!((code, text.as_str()), (ResourceExhausted, "2 watch already, as many as may (admin.watchers)"));
    drop(one);
    // The server hears of it a little later.
    let is_taken = async || admin.watch_events(WatchEventsRequest::default()).await.is_ok();
    until("another may watch", is_taken).await;
    world.stop().await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_how_many_it_missed() {
    // The client's side of HTTP/2 breaks off when it is left with too many frames below 256 bytes: these are larger.
    let name = "x".repeat(255);
    let limits = Limits { group_name_bytes: name.len(), ..Limits::default() };
    let world = World::with(Wishes { limits, ..Wishes::default() }).await;
    let endpoint = Endpoint::try_from(format!("http://{}", world.admin)).unwrap();
    let window = 65_535;
    let narrow = endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
    let mut admin = AdminServiceClient::new(narrow.connect().await.unwrap());
    let mut stream = admin.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut ada = world.client("ada").await;
    // More than the windows of HTTP/2, the server's buffer and what is kept for a watcher hold.
    let rounds = 2_000;
    for _ in 0..rounds {
        ada.join(&name).await;
        ada.send(&json!({"Leave": {"group_name": name}})).await;
        ada.expect("Left").await;
    }
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < 2 * rounds + 1 {
        match kind(&mut stream).await {
            Kind::Missed(one) => missed += one.count,
            _ => seen += 1,
        }
    }
    assert_eq!(seen + missed, 2 * rounds + 1);
    assert!(missed > 0, "{seen} seen");
    world.stop().await;
}

#[tokio::test]
async fn who_falls_behind_is_told_of_with_what_it_lost() {
    let world = World::with(Wishes { fanout: Some(2), retained: 20, ..Wishes::default() }).await;
    let mut admin = world.admin().await;
    let request = WatchEventsRequest { kinds: vec![EventKind::Lag.into()], ..Default::default() };
    let mut stream = admin.watch_events(request).await.unwrap().into_inner();
    let mut slow = world.member("slow", &["Dogs"]).await;
    let mut bob = world.client("bob").await;
    let text = "x".repeat(15_000);
    let full = async |user: &str| {
        let registry = world.front.registry();
        let which = |one: &tertulia_server::front::registry::Connection| {
            one.session().is_some_and(|(session, _)| session.user.as_str() == user)
        };
        registry.list(None, 1, which)[0].outbound.load(std::sync::atomic::Ordering::Relaxed) >= 256 * 1024
    };
    let is_full = async || {
        bob.post("Dogs", &text).await;
        full("slow").await
    };
    until("as much waits for the slow one as may", is_full).await;
    for _ in 0..100 {
        bob.post("Dogs", &text).await;
    }
    let head = bob.post("Dogs", "the end").await;
    let mut seqs = Vec::new();
    let mut lost = 0;
    loop {
        let line = slow.next().await.unwrap();
        if let Some(message) = line.get("Message") {
            seqs.push(message["seq"].as_u64().unwrap());
            if *seqs.last().unwrap() == head {
                break;
            }
        } else {
            let lagged = &line["Lagged"];
            lost += lagged["last"].as_u64().unwrap() + 1 - lagged["first"].as_u64().unwrap();
        }
    }
    assert_eq!(seqs.len() as u64 + lost, head);
    assert!(lost > 0);
    let (mut behind, mut told) = (0, 0);
    while told < lost {
        let Kind::Lag(lag) = kind(&mut stream).await else { panic!("another kind") };
        assert_eq!((lag.group_name.as_str(), lag.user.as_str(), &lag.connection_id), ("Dogs", "slow", &slow.id));
        behind = behind.max(lag.behind);
        told += lag.lost;
    }
    assert_eq!(told, lost);
    assert!(behind > 0);
    world.stop().await;
}
