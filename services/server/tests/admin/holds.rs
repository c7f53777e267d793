//! What moderators hold: seen by those who wonder, and ended before its time.

use std::time::Duration;

use serde_json::json;
use tertulia_proto::admin::v1::{
    CloseGroupRequest, DeleteGroupRequest, Hold, KickMemberRequest, ListHoldsRequest, ListHoldsResponse,
    RemoveHoldRequest, hold, kick_member_request, remove_hold_request,
};
use tertulia_protocol::GroupName;
use tonic::Code::{InvalidArgument, NotFound};

use crate::world::{World, failure};

fn kick(group: &str, target: kick_member_request::Target) -> KickMemberRequest {
    let (group_name, target, reason) = (group.into(), Some(target), format!("spam in {group}"));
    KickMemberRequest { group_name, target, reason, hold_seconds: 60 }
}

/// Where, whom, and why.
fn told(holds: &[Hold]) -> Vec<(&str, String, &str)> {
    let whom = |hold: &Hold| match &hold.target {
        None => "everybody".to_owned(),
        Some(hold::Target::User(name) | hold::Target::ConnectionId(name) | hold::Target::Address(name)) => name.clone(),
    };
    holds.iter().map(|hold| (hold.group_name.as_str(), whom(hold), hold.reason.as_str())).collect()
}

#[tokio::test]
async fn who_is_held_and_what_is_closed_is_listed_page_by_page_and_ended_one_by_one() {
    use kick_member_request::Target::{Address, ConnectionId, User};
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.member("ada", &["Cats", "Dogs"]).await;
    for (group, target) in [
        ("Dogs", User("ada".into())),
        ("", User("bob".into())),
        ("Dogs", Address("10.0.0.1".into())),
        ("Cats", ConnectionId("c-99".into())),
    ] {
        admin.kick_member(kick(group, target)).await.unwrap();
    }
    let close = CloseGroupRequest { group_name: "Dogs".into(), reason: "a fight".into(), hold_seconds: 60 };
    admin.close_group(close).await.unwrap();
    let all = [
        ("", "bob".to_owned(), "spam in "),
        ("Cats", "c-99".to_owned(), "spam in Cats"),
        ("Dogs", "everybody".to_owned(), "a fight"),
        ("Dogs", "ada".to_owned(), "spam in Dogs"),
        ("Dogs", "10.0.0.1".to_owned(), "spam in Dogs"),
    ];
    for page_size in [1, 2, 4, 100] {
        let (mut holds, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListHoldsRequest { page_size, page_token, ..ListHoldsRequest::default() };
            let ListHoldsResponse { holds: page, next_page_token } =
                admin.list_holds(request).await.unwrap().into_inner();
            assert!(!page.is_empty() && page.len() <= page_size as usize);
            holds.extend(page);
            page_token = next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(told(&holds), all, "{page_size} a page");
        assert!(holds.iter().all(|hold| hold.until.is_some()));
    }
    let mut passing = async |group: &str, user: &str, address: &str| {
        let (group_name, user, address) = (group.into(), user.into(), address.into());
        let request = ListHoldsRequest { group_name, user, address, ..ListHoldsRequest::default() };
        let holds = admin.list_holds(request).await.unwrap().into_inner().holds;
        told(&holds).into_iter().map(|(group, whom, _)| format!("{group}/{whom}")).collect::<Vec<_>>()
    };
    assert_eq!(passing("Cats", "", "").await, ["/bob", "Cats/c-99"]);
    assert_eq!(passing("", "ada", "").await, ["Dogs/ada"]);
    assert_eq!(passing("", "", "::ffff:10.0.0.1").await, ["Dogs/10.0.0.1"]);

    // Each ends alone, once, and from then on nobody is kept out by it.
    let ends = [
        ("Dogs", None, true),
        ("", Some(remove_hold_request::Target::User("ada".into())), false),
        ("Dogs", Some(remove_hold_request::Target::User("ada".into())), true),
        ("Dogs", Some(remove_hold_request::Target::User("ada".into())), false),
    ];
    for (group, target, is_there) in ends {
        let request = RemoveHoldRequest { group_name: group.into(), target };
        let removed = admin.remove_hold(request).await.unwrap().into_inner().removed;
        assert_eq!(removed.is_some(), is_there, "{group}: {removed:?}");
    }
    let left = admin.list_holds(ListHoldsRequest::default()).await.unwrap().into_inner().holds;
    assert_eq!(left.len(), 3, "{left:?}");
    ada.expect("Left").await;
    ada.join("Dogs").await;
    let (code, _) = failure(admin.remove_hold(RemoveHoldRequest::default()).await);
    assert_eq!(code, InvalidArgument);
    let foreign = ListHoldsRequest { page_token: "00".into(), ..ListHoldsRequest::default() };
    assert_eq!(failure(admin.list_holds(foreign).await).0, InvalidArgument);
    world.stop().await;
}

/// An address of IPv6 is no more than one of those that its host has.
#[tokio::test]
async fn a_hold_by_an_address_of_ipv6_is_of_its_network_and_one_of_before_ends_by_its_address() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let of_network = |address: &str| KickMemberRequest {
        target: Some(kick_member_request::Target::Address(address.into())),
        hold_seconds: 3_600,
        ..KickMemberRequest::default()
    };
    admin.kick_member(of_network("2001:db8:1:2:3::4")).await.unwrap();
    admin.kick_member(of_network("2001:db8:1:2::9")).await.unwrap();
    // As a build kept it that held one address.
    let alone = tertulia_server::shard::Target::Address("2001:db8:1:2:3::4".parse().unwrap());
    let before = tertulia_server::shard::Hold::new(None, Some(alone), Duration::from_secs(3_600));
    world.shards.holds().keep(before).await.unwrap();
    let mut held = async |address: &str| {
        let request = ListHoldsRequest { address: address.into(), ..ListHoldsRequest::default() };
        let holds = admin.list_holds(request).await.unwrap().into_inner().holds;
        told(&holds).into_iter().map(|(_, whom, _)| whom).collect::<Vec<_>>()
    };
    assert_eq!(held("2001:db8:1:2:3::4").await, ["2001:db8:1:2::", "2001:db8:1:2:3::4"]);
    assert_eq!(held("2001:db8:1:2::9").await, ["2001:db8:1:2::"]);
    assert_eq!(held("2001:db8:1:3::9").await, [""; 0]);
    for is_there in [true, false] {
        let target = Some(remove_hold_request::Target::Address("2001:db8:1:2:3::4".into()));
        let request = RemoveHoldRequest { group_name: String::new(), target };
        let removed = admin.remove_hold(request).await.unwrap().into_inner().removed;
        assert_eq!(removed.is_some(), is_there, "{removed:?}");
        assert!(world.shards.holds().is_empty());
    }
    world.stop().await;
}

/// Its caller may have left before its name was opened.
#[tokio::test]
async fn to_delete_a_group_once_more_opens_its_name() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let dogs = tertulia_server::shard::Hold::new(GroupName::new("Dogs").ok(), None, Duration::from_secs(3_600));
    world.shards.holds().keep(dogs).await.unwrap();
    let mut ada = world.client("ada").await;
    ada.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    assert_eq!(ada.expect("Rejected").await["code"], "closed");
    let delete = DeleteGroupRequest { group_name: "Dogs".into(), reason: String::new() };
    assert_eq!(failure(admin.delete_group(delete).await).0, NotFound);
    crate::world::until("the name is open", async || world.shards.holds().is_empty()).await;
    ada.join("Dogs").await;
    world.stop().await;
}
