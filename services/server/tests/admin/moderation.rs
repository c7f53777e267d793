//! Kicks, disconnects, closed and deleted groups, purges and announcements: what moderators get, and what clients see.

use std::time::Duration;

use serde_json::json;
use tertulia_proto::admin::v1::{
    AnnounceRequest, CloseGroupRequest, DeleteGroupRequest, DisconnectRequest, GetGroupRequest, KickMemberRequest,
    PurgeHistoryRequest, disconnect_request, kick_member_request::Target,
};
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound, Unavailable};

use crate::world::{Chatter, World, failure, until};

fn kick(group: &str, target: Target, reason: &str, hold_seconds: u32) -> KickMemberRequest {
    KickMemberRequest { group_name: group.into(), target: Some(target), reason: reason.into(), hold_seconds }
}

async fn join_is_refused(chatter: &mut Chatter, group: &str, code: &str) {
    chatter.send(&json!({"Join": {"group_name": group}})).await;
    let rejected = chatter.expect("Rejected").await;
    assert_eq!(rejected["code"], code, "{rejected}");
    assert!(rejected["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn the_kicked_are_told_in_their_dialect_and_stay_connected() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.member("ada", &["Dogs"]).await;
    let mut again = world.member("ada", &["Dogs"]).await;
    let mut classic = world.classic().await;
    classic.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    classic.send(&json!({"Post": {"group_name": "Dogs", "message": "here"}})).await;
    classic.expect("Message").await;
    for one in [&mut ada, &mut again] {
        one.expect("Message").await;
    }

    let response = admin.kick_member(kick("Dogs", Target::User("ada".into()), "spam", 0)).await.unwrap().into_inner();
    assert_eq!((response.kicked, response.connection_ids), (2, vec![ada.id.clone(), again.id.clone()]));
    for one in [&mut ada, &mut again] {
        let left = one.expect("Left").await;
        assert_eq!(left, json!({"group_name": "Dogs", "reason": "kicked", "detail": "spam"}));
    }
    ada.join("Dogs").await;
    let response = admin.kick_member(kick("Dogs", Target::ConnectionId(ada.id.clone()), "", 0)).await.unwrap();
    assert_eq!(response.into_inner().kicked, 1);
    assert_eq!(ada.expect("Left").await, json!({"group_name": "Dogs", "reason": "kicked"}));

    let response = admin.kick_member(kick("Dogs", Target::Address("127.0.0.1".into()), "off topic", 0)).await.unwrap();
    assert_eq!(response.into_inner().kicked, 1, "only the classic one was left");
    assert_eq!(classic.expect("Error").await, "You were kicked from group 'Dogs': off topic");
    classic.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    classic.send(&json!({"Post": {"group_name": "Dogs", "message": "back"}})).await;
    classic.expect("Message").await;
    world.stop().await;
}

#[tokio::test]
async fn a_kick_that_hits_nobody_is_fine_and_one_without_sense_is_refused() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let _ada = world.member("ada", &["Dogs"]).await;
    let nobody = || Target::User("nobody".into());
    assert_eq!(admin.kick_member(kick("Dogs", nobody(), "", 0)).await.unwrap().into_inner().kicked, 0);
    assert_eq!(admin.kick_member(kick("", nobody(), "", 0)).await.unwrap().into_inner().kicked, 0);
    assert_eq!(failure(admin.kick_member(kick("Cats", nobody(), "", 0)).await).0, NotFound);
    let untargeted = KickMemberRequest { group_name: "Dogs".into(), ..Default::default() };
    let (code, text) = failure(admin.kick_member(untargeted).await);
    assert_eq!((code, text.as_str()), (InvalidArgument, "a target is needed: user, connection_id or address"));
    for bad in [
        kick("Dogs", Target::User(String::new()), "", 0),
        kick("Dogs", Target::User("a b".into()), "", 0),
        kick("Dogs", Target::ConnectionId("17".into()), "", 0),
        kick("Dogs", Target::Address("127.0.0.1:80".into()), "", 0),
        kick("Do\u{7}gs", nobody(), "", 0),
        kick("Dogs", nobody(), &"x".repeat(513), 0),
        kick("Dogs", nobody(), "a\nb", 0),
        kick("Dogs", nobody(), "", 31_536_001),
    ] {
        let text = format!("{bad:?}");
        assert_eq!(failure(admin.kick_member(bad).await).0, InvalidArgument, "{text}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_hold_keeps_out_of_joins_and_posts_until_it_passes() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.member("ada", &["Dogs"]).await;
    let mut bob = world.member("bob", &["Dogs"]).await;
    admin.kick_member(kick("Dogs", Target::User("ada".into()), "", 1)).await.unwrap();
    ada.expect("Left").await;
    join_is_refused(&mut ada, "Dogs", "kicked").await;
    ada.send(&json!({"Post": {"group_name": "Dogs", "message": "a"}})).await;
    assert_eq!(ada.expect("Rejected").await["code"], "kicked");
    join_is_refused(&mut world.client("ada").await, "Dogs", "kicked").await;
    ada.join("Cats").await;
    // It holds somebody who is no member, too.
    admin.kick_member(kick("Cats", Target::User("bob".into()), "", 60)).await.unwrap();
    join_is_refused(&mut bob, "Cats", "kicked").await;
    let is_let_in = async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ada.send(&json!({"Join": {"group_name": "Dogs"}})).await;
        ada.next().await.unwrap().get("Joined").is_some()
    };
    until("the hold is over", is_let_in).await;
    world.stop().await;
}

#[tokio::test]
async fn who_is_held_may_not_read_and_who_is_no_member_may() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.member("ada", &["Dogs"]).await;
    ada.post("Dogs", "woof").await;
    ada.expect("Message").await;
    let mut bob = world.client("bob").await;
    let mut eve = world.client("eve").await;
    let questions = ["History", "Members"];
    for question in questions {
        bob.send(&json!({question: {"group_name": "Dogs"}})).await;
        bob.expect(question).await;
    }
    admin.kick_member(kick("Dogs", Target::User("ada".into()), "", 60)).await.unwrap();
    admin.kick_member(kick("", Target::User("eve".into()), "", 60)).await.unwrap();
    ada.expect("Left").await;
    for held in [&mut ada, &mut eve, &mut world.client("ada").await] {
        for question in questions {
            held.send(&json!({question: {"group_name": "Dogs"}})).await;
            let rejected = held.expect("Rejected").await;
            assert_eq!((&rejected["code"], &rejected["request"]), (&json!("kicked"), &json!(question)));
            assert_eq!(rejected["group_name"], "Dogs");
            assert!(rejected["retry_after_ms"].as_u64().unwrap() > 50_000);
        }
    }
    let close = CloseGroupRequest { group_name: "Dogs".into(), hold_seconds: 60, ..Default::default() };
    admin.close_group(close).await.unwrap();
    for question in questions {
        bob.send(&json!({question: {"group_name": "Dogs"}})).await;
        assert_eq!(bob.expect("Rejected").await["code"], "closed");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_kick_from_all_groups_holds_everywhere() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let groups = ["Dogs", "Cats", "Birds"];
    let mut ada = world.member("ada", &groups).await;
    let _bob = world.member("bob", &groups).await;
    let response = admin.kick_member(kick("", Target::User("ada".into()), "spam", 60)).await.unwrap().into_inner();
    assert_eq!((response.kicked, response.connection_ids), (3, vec![ada.id.clone()]));
    let mut left: Vec<String> = Vec::new();
    for _ in groups {
        left.push(ada.expect("Left").await["group_name"].as_str().unwrap().to_owned());
    }
    left.sort();
    assert_eq!(left, ["Birds", "Cats", "Dogs"]);
    for group in ["Dogs", "Fish", "quite another"] {
        join_is_refused(&mut ada, group, "kicked").await;
    }
    let mut eve = world.client("eve").await;
    eve.join("Fish").await;
    world.stop().await;
}

#[tokio::test]
async fn who_is_disconnected_gets_its_answers_and_the_reason_first() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.client("ada").await;
    let mut classic = world.classic().await;
    let _bob = world.member("bob", &["Dogs"]).await;
    classic.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    for number in 0..100 {
        ada.send(&json!({"Post": {"group_name": "Dogs", "message": number.to_string()}})).await;
    }
    ada.expect("Posted").await;
    classic.expect("Message").await;
    let target = |target| DisconnectRequest { target: Some(target), reason: "maintenance".into() };
    let user = disconnect_request::Target::User("ada".into());
    assert_eq!(admin.disconnect(target(user.clone())).await.unwrap().into_inner().disconnected, 1);
    let mut posted = 1;
    let rejected = loop {
        let line = ada.next().await.unwrap();
        match line.get("Posted") {
            Some(_) => posted += 1,
            None => break line,
        }
    };
    assert_eq!(rejected["Rejected"]["code"], "kicked", "{rejected}");
    assert_eq!(rejected["Rejected"]["message"], "A moderator closed this connection: maintenance");
    ada.closed().await;
    let get = GetGroupRequest { group_name: "Dogs".into() };
    assert_eq!(admin.get_group(get).await.unwrap().into_inner().group.unwrap().head, posted, "all stored were acked");

    let address = disconnect_request::Target::Address("127.0.0.1".into());
    assert!(admin.disconnect(target(address)).await.unwrap().into_inner().disconnected >= 2);
    loop {
        let line = classic.next().await.unwrap();
        if let Some(error) = line.get("Error") {
            assert_eq!(error, "A moderator closed this connection: maintenance");
            break;
        }
    }
    classic.closed().await;
    let unknown = disconnect_request::Target::ConnectionId("c-999999".into());
    assert_eq!(admin.disconnect(target(unknown)).await.unwrap().into_inner().disconnected, 0);
    assert_eq!(failure(admin.disconnect(DisconnectRequest::default()).await).0, InvalidArgument);
    world.stop().await;
}

#[tokio::test]
async fn a_closed_group_keeps_its_messages_and_opens_again() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.member("ada", &["Dogs"]).await;
    let mut bob = world.client("bob").await;
    bob.post("Dogs", "a").await;
    ada.expect("Message").await;
    let close = |hold_seconds| CloseGroupRequest { group_name: "Dogs".into(), reason: "late".into(), hold_seconds };
    assert_eq!(admin.close_group(close(60)).await.unwrap().into_inner().removed_members, 1);
    assert_eq!(ada.expect("Left").await, json!({"group_name": "Dogs", "reason": "closed", "detail": "late"}));
    join_is_refused(&mut ada, "Dogs", "closed").await;
    bob.send(&json!({"Post": {"group_name": "Dogs", "message": "b"}})).await;
    assert_eq!(bob.expect("Rejected").await["code"], "closed");
    let get = || GetGroupRequest { group_name: "Dogs".into() };
    let group = admin.get_group(get()).await.unwrap().into_inner().group.unwrap();
    assert!(group.closed_until.is_some());
    assert_eq!((group.head, group.members), (1, 0));
    let announce = AnnounceRequest { group_name: "Dogs".into(), message: "x".into(), id: String::new() };
    assert_eq!(failure(admin.announce(announce).await).0, FailedPrecondition);

    assert_eq!(admin.close_group(close(0)).await.unwrap().into_inner().removed_members, 0, "opens it");
    assert!(admin.get_group(get()).await.unwrap().into_inner().group.unwrap().closed_until.is_none());
    assert_eq!(ada.join("Dogs").await["head"], 1);
    admin.close_group(close(1)).await.unwrap();
    ada.expect("Left").await;
    let is_open = async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        admin.get_group(get()).await.unwrap().into_inner().group.unwrap().closed_until.is_none()
    };
    until("the group is open", is_open).await;
    ada.join("Dogs").await;
    let unknown = CloseGroupRequest { group_name: "Cats".into(), ..Default::default() };
    assert_eq!(failure(admin.close_group(unknown).await).0, NotFound);
    assert_eq!(failure(admin.close_group(close(31_536_001)).await).0, InvalidArgument);
    world.stop().await;
}

#[tokio::test]
async fn a_deleted_group_is_gone_and_the_next_has_another_epoch() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.client("ada").await;
    let epoch = ada.join("Dogs").await["epoch"].clone();
    let mut bob = world.client("bob").await;
    for text in ["a", "b", "c"] {
        bob.post("Dogs", text).await;
        ada.expect("Message").await;
    }
    let purge = PurgeHistoryRequest { group_name: "Dogs".into(), through_seq: 1 };
    admin.purge_history(purge).await.unwrap();
    let delete = || DeleteGroupRequest { group_name: "Dogs".into(), reason: "gone".into() };
    let response = admin.delete_group(delete()).await.unwrap().into_inner();
    assert_eq!((response.removed_members, response.removed_messages), (1, 2));
    assert_eq!(ada.expect("Left").await, json!({"group_name": "Dogs", "reason": "deleted", "detail": "gone"}));
    assert_eq!(failure(admin.delete_group(delete()).await), (NotFound, "there is no group 'Dogs'".into()));
    assert_eq!(failure(admin.get_group(GetGroupRequest { group_name: "Dogs".into() }).await).0, NotFound);
    let joined = ada.join("Dogs").await;
    assert_ne!(joined["epoch"], epoch);
    assert_eq!(joined["head"], 0);
    assert_eq!(bob.post("Dogs", "a").await, 1);
    world.stop().await;
}

#[tokio::test]
async fn purged_messages_are_gone_from_history_and_the_numbering_stays() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let _ada = world.member("ada", &["Dogs"]).await;
    let mut bob = world.client("bob").await;
    for text in ["a", "b", "c", "d"] {
        bob.post("Dogs", text).await;
    }
    let purge = |group: &str, through_seq| PurgeHistoryRequest { group_name: group.into(), through_seq };
    assert_eq!(admin.purge_history(purge("Dogs", 2)).await.unwrap().into_inner().removed_messages, 2);
    assert_eq!(admin.purge_history(purge("Dogs", 2)).await.unwrap().into_inner().removed_messages, 0);
    bob.send(&json!({"History": {"group_name": "Dogs", "after": 0, "limit": 10}})).await;
    let history = bob.expect("History").await;
    let seqs: Vec<u64> =
        history["messages"].as_array().unwrap().iter().map(|message| message["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [3, 4]);
    assert_eq!(admin.purge_history(purge("Dogs", u64::MAX)).await.unwrap().into_inner().removed_messages, 2);
    let group =
        admin.get_group(GetGroupRequest { group_name: "Dogs".into() }).await.unwrap().into_inner().group.unwrap();
    assert_eq!((group.head, group.first_seq, group.members), (4, 5, 1));
    assert_eq!(bob.post("Dogs", "e").await, 5);
    assert_eq!(failure(admin.purge_history(purge("Dogs", 0)).await).0, InvalidArgument);
    assert_eq!(failure(admin.purge_history(purge("Cats", 1)).await).0, NotFound);
    world.stop().await;
}

#[tokio::test]
async fn an_announcement_reaches_both_dialects_and_all_groups() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.member("ada", &["Dogs", "Cats"]).await;
    let mut classic = world.classic().await;
    classic.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    classic.send(&json!({"Post": {"group_name": "Dogs", "message": "here"}})).await;
    classic.expect("Message").await;
    ada.expect("Message").await;
    let announce = |group: &str, message: &str| AnnounceRequest {
        group_name: group.into(),
        message: message.into(),
        id: String::new(),
    };
    let response = admin.announce(announce("Dogs", "Back at nine.")).await.unwrap().into_inner();
    assert_eq!((response.groups, response.failed_groups, response.seq), (1, 0, Some(2)));
    let message = ada.expect("Message").await;
    assert_eq!((&message["sender"], &message["seq"]), (&json!("@system"), &json!(2)));
    let message = classic.expect("Message").await;
    assert_eq!(message, json!({"group_name": "Dogs", "message": "Back at nine."}));

    // A closed group with nobody in it is not among those with members.
    let _bob = world.member("bob", &["Birds"]).await;
    admin
        .close_group(CloseGroupRequest { group_name: "Birds".into(), hold_seconds: 60, ..Default::default() })
        .await
        .unwrap();
    let response = admin.announce(announce("", "All: back at nine.")).await.unwrap().into_inner();
    assert_eq!((response.groups, response.failed_groups, response.seq), (2, 0, None));
    assert_eq!(classic.expect("Message").await["message"], "All: back at nine.");
    let mut groups: Vec<String> = Vec::new();
    for _ in 0..2 {
        groups.push(ada.expect("Message").await["group_name"].as_str().unwrap().to_owned());
    }
    groups.sort();
    assert_eq!(groups, ["Cats", "Dogs"]);

    // What a moderator repeats who does not know what came of it.
    for repeat in ["Dogs", "Dogs", "", ""] {
        let request = AnnounceRequest { id: "a1".into(), ..announce(repeat, "Once.") };
        let response = admin.announce(request).await.unwrap().into_inner();
        assert_eq!(response.seq, (!repeat.is_empty()).then_some(4));
    }
    assert_eq!(ada.expect("Message").await["message"], "Once.");
    assert_eq!(ada.expect("Message").await["message"], "Once.", "in the other group");
    let head = |group: &str| GetGroupRequest { group_name: group.into() };
    for (group, newest) in [("Dogs", 4), ("Cats", 2)] {
        let found = admin.get_group(head(group)).await.unwrap().into_inner().group.unwrap();
        assert_eq!(found.head, newest, "{group}");
    }
    let long = AnnounceRequest { id: "x".repeat(100), ..announce("Dogs", "x") };
    assert_eq!(failure(admin.announce(long).await).0, InvalidArgument);

    assert_eq!(failure(admin.announce(announce("Fish", "x")).await).0, NotFound);
    assert_eq!(failure(admin.announce(announce("Dogs", "")).await).0, InvalidArgument);
    let long = "x".repeat(16 * 1024);
    assert!(admin.announce(announce("Dogs", &long)).await.is_ok());
    let (code, text) = failure(admin.announce(announce("Dogs", &(long + "x"))).await);
    assert_eq!((code, text.as_str()), (InvalidArgument, "a message has at most 16384 bytes, this one has 16385"));
    world.stop().await;
}

#[tokio::test]
async fn once_the_owners_have_stopped_calls_are_unavailable() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let _ada = world.member("ada", &["Dogs"]).await;
    world.drain().await;
    let kicked = admin.kick_member(kick("", Target::User("ada".into()), "", 0)).await;
    assert_eq!(failure(kicked), (Unavailable, "the server is stopping".into()));
    let delete = DeleteGroupRequest { group_name: "Dogs".into(), ..Default::default() };
    assert_eq!(failure(admin.delete_group(delete).await).0, Unavailable);
    world.stop().await;
}
