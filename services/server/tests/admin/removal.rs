//! The removal of one message.

use serde_json::{Value, json};
use tertulia_proto::admin::v1::{
    CloseGroupRequest, ListMessagesRequest, Message, Removal, RemoveMessagesRequest, RemoveMessagesResponse,
};
use tonic::Code::{InvalidArgument, NotFound};

use crate::world::{World, failure};

fn remove(seq: u64, epoch: u64, reason: &str) -> RemoveMessagesRequest {
    let (group_name, reason) = ("Dogs".into(), reason.into());
    RemoveMessagesRequest { group_name, first_seq: seq, epoch, reason, ..Default::default() }
}

async fn listed(world: &World) -> Vec<Message> {
    let request = ListMessagesRequest { group_name: "Dogs".into(), ..Default::default() };
    let mut messages = world.admin().await.list_messages(request).await.unwrap().into_inner().messages;
    messages.reverse();
    messages
}

#[tokio::test]
async fn a_removed_message_keeps_its_place_and_the_group_is_told() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.member("ada", &["Dogs"]).await;
    let mut classic = world.classic().await;
    classic.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    for text in ["here", "spam, spam", "there"] {
        classic.send(&json!({"Post": {"group_name": "Dogs", "message": text}})).await;
        classic.expect("Message").await;
        ada.expect("Message").await;
    }
    let before = listed(&world).await;
    let response = admin.remove_messages(remove(2, before[1].epoch, "rude")).await.unwrap().into_inner();
    assert_eq!(response, RemoveMessagesResponse { removed_messages: 1, seq: 4 });
    let whose = &before[1].user;
    let text = format!("A message of {whose} was removed: rude");
    let told = ada.expect("Message").await;
    let said = [&told["seq"], &told["removes"], &told["sender"], &told["message"]];
    assert_eq!(said, [&json!(4), &json!({"first": 2, "last": 2}), &json!("@system"), &json!(text)]);
    assert!(told.get("removed").is_none() && told.get("id").is_none(), "{told}");
    assert_eq!(classic.expect("Message").await, json!({"group_name": "Dogs", "message": text}));

    let after = listed(&world).await;
    assert_eq!(after[1], Message { text: String::new(), removed: true, ..before[1].clone() });
    let removal = Removal { first_seq: 2, last_seq: 2, user: String::new() };
    assert_eq!(
        (after[3].removes.clone(), after[3].removed, after[3].text.as_str()),
        (Some(removal), false, text.as_str())
    );
    assert_eq!([&after[0], &after[2]], [&before[0], &before[2]]);
    ada.send(&json!({"History": {"group_name": "Dogs", "after": 0, "limit": 10}})).await;
    let history = ada.expect("History").await;
    let of = |seq: usize| &history["messages"][seq - 1];
    assert_eq!([&of(2)["seq"], &of(2)["removed"], &of(2)["message"]], [&json!(2), &json!(true), &json!("")]);
    assert_eq!([&of(4)["removes"]["first"], &of(4)["removed"]], [&json!(2), &Value::Null]);
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_not_removed_and_a_closed_group_is_no_hindrance() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let _ada = world.member("ada", &["Dogs"]).await;
    let mut bob = world.client("bob").await;
    bob.post("Dogs", "a").await;
    let epoch = listed(&world).await[0].epoch;
    for (seq, epoch) in [(2, 0), (u64::MAX, 0), (1, epoch + 1), (1, u64::MAX)] {
        let (code, text) = failure(admin.remove_messages(remove(seq, epoch, "")).await);
        let wanted = format!("the log holds no message {seq} in group 'Dogs'");
        assert!(code == NotFound && text.starts_with(&wanted), "{text}");
    }
    let elsewhere = RemoveMessagesRequest { group_name: "Cats".into(), ..remove(1, 0, "") };
    assert_eq!(failure(admin.remove_messages(elsewhere).await), (NotFound, "there is no group 'Cats'".into()));
    let range = |first_seq, last_seq, user: &str| RemoveMessagesRequest {
        first_seq,
        last_seq,
        user: user.into(),
        ..remove(0, 0, "")
    };
    for bad in [
        range(0, 5, ""),
        range(2, 1, ""),
        range(1, 10_001, ""),
        range(1, 1, "a b"),
        remove(0, 0, ""),
        remove(1, 0, "a\nb"),
        remove(1, 0, &"x".repeat(513)),
    ] {
        assert_eq!(failure(admin.remove_messages(bad).await).0, InvalidArgument);
    }
    let close = CloseGroupRequest { group_name: "Dogs".into(), reason: String::new(), hold_seconds: 60 };
    admin.close_group(close).await.unwrap();
    for _ in 0..2 {
        assert_eq!(admin.remove_messages(remove(1, 0, "")).await.unwrap().into_inner().seq, 2);
    }
    let (code, text) = failure(admin.remove_messages(range(1, 10_000, "eve")).await);
    let wanted = "the log holds no message 1 to 10000 of 'eve' in group 'Dogs'";
    assert!(code == NotFound && text.starts_with(wanted), "{text}");
    let texts: Vec<String> = listed(&world).await.into_iter().map(|message| message.text).collect();
    assert_eq!(texts, ["", "A message of bob was removed."]);
    world.stop().await;
}
