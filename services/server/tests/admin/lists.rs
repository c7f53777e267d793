//! Groups, members and connections, page by page; placement.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tertulia_proto::admin::v1::{
    ConnectionState, Dialect, DisconnectRequest, GetGroupRequest, GetShardMapRequest, ListConnectionsRequest,
    ListGroupsRequest, ListMembersRequest, MemberState, disconnect_request,
};
use tonic::Code::{InvalidArgument, NotFound};

use crate::world::{World, failure, until};

#[tokio::test]
async fn groups_are_listed_in_order_with_all_there_is_to_know() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut ada = world.client("ada").await;
    let mut bob = world.member("bob", &["Dogs", "Cats", "两只狗"]).await;
    let epoch = { ada.join("Dogs").await["epoch"].as_u64().unwrap() };
    for text in ["a", "b"] {
        bob.send(&json!({"Post": {"group_name": "Dogs", "message": text}})).await;
    }
    for _ in 0..4 {
        bob.next().await.unwrap();
    }
    let list = admin.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.next_page_token, "");
    let names: Vec<&str> = list.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["Cats", "Dogs", "两只狗"], "byte by byte");
    let dogs = &list.groups[1];
    assert_eq!((dogs.epoch, dogs.head, dogs.first_seq, dogs.members, dogs.posts), (epoch, 2, 1, 2, 2));
    assert!(dogs.loaded && dogs.closed_until.is_none() && dogs.lagging_members == 0 && dogs.node == "local");
    let cats = &list.groups[0];
    assert_eq!((cats.head, cats.first_seq, cats.members), (0, 1, 1), "nothing was posted");

    let get = |name: &str| GetGroupRequest { group_name: name.to_owned() };
    let one = admin.get_group(get("Dogs")).await.unwrap().into_inner().group.unwrap();
    assert_eq!(one, *dogs);
    assert_eq!(failure(admin.get_group(get("Birds")).await), (NotFound, "there is no group 'Birds'".into()));
    let (code, text) = failure(admin.get_group(get("a\nb")).await);
    assert_eq!(code, InvalidArgument);
    assert!(text.contains("control characters are not allowed"), "{text}");
    assert_eq!(failure(admin.get_group(get("")).await), (InvalidArgument, "a group name must not be empty".into()));

    let prefix = ListGroupsRequest { prefix: "D".into(), ..Default::default() };
    let list = admin.list_groups(prefix).await.unwrap().into_inner();
    assert_eq!(list.groups.len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn pages_see_what_stays_exactly_once_while_groups_come_and_go() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut founder = world.client("ada").await;
    let stays: BTreeSet<String> = (0..230).map(|number| format!("stays-{number:03}")).collect();
    for group in &stays {
        founder.join(group).await;
    }
    let mut seen = Vec::new();
    let mut request = ListGroupsRequest { page_size: 17, ..Default::default() };
    let mut page = 0;
    loop {
        let list = admin.list_groups(request.clone()).await.unwrap().into_inner();
        assert!(list.groups.len() <= 17);
        seen.extend(list.groups.into_iter().map(|group| group.name));
        if list.next_page_token.is_empty() {
            break;
        }
        // One comes before and one after where the list is.
        page += 1;
        founder.join(&format!("a-{page}")).await;
        founder.join(&format!("stays-{page:03}-too")).await;
        request.page_token = list.next_page_token;
    }
    assert!(seen.is_sorted_by(|one, other| one < other), "in order, none twice");
    assert!(stays.iter().all(|group| seen.contains(group)));

    let with = |page_size: i32, page_token: &str, prefix: &str| {
        let request = ListGroupsRequest { prefix: prefix.into(), page_size, page_token: page_token.into() };
        let mut admin = admin.clone();
        async move { admin.list_groups(request).await }
    };
    assert_eq!(with(0, "", "stays").await.unwrap().into_inner().groups.len(), 100);
    assert_eq!(with(5_000, "", "").await.unwrap().into_inner().groups.len(), 230 + 2 * page);
    assert_eq!(
        failure(with(-1, "", "").await),
        (InvalidArgument, "page_size must not be negative, this one is -1".into())
    );
    let none_of_ours = (InvalidArgument, "page_token is none of this list with these filters".to_owned());
    assert_eq!(failure(with(1, "x", "").await), none_of_ours);
    assert_eq!(failure(with(1, &request.page_token, "other").await), none_of_ours);
    world.stop().await;
}

#[tokio::test]
async fn members_are_paged_by_user_and_connection_while_they_come_and_go() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let mut members = Vec::new();
    for number in 0..25 {
        // Every user has two connections.
        members.push(world.member(&format!("user-{:02}", number / 2), &["Dogs"]).await);
    }
    let mut guest = world.classic().await;
    guest.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    guest.send(&json!({"Post": {"group_name": "Dogs", "message": "here"}})).await;
    guest.expect("Message").await;
    let mut request = ListMembersRequest { group_name: "Dogs".into(), page_size: 4, page_token: String::new() };
    let mut seen = Vec::new();
    loop {
        let list = admin.list_members(request.clone()).await.unwrap().into_inner();
        seen.extend(list.members);
        if list.next_page_token.is_empty() {
            break;
        }
        request.page_token = list.next_page_token;
        // The last one goes, a new first one comes.
        drop(members.pop());
        members.insert(0, world.member("a", &["Dogs"]).await);
    }
    let key = |member: &tertulia_proto::admin::v1::Member| {
        (member.user.clone(), member.connection_id[2..].parse::<u64>().unwrap())
    };
    assert!(seen.iter().map(key).is_sorted_by(|one, other| one < other));
    let known = |id: &str| seen.iter().filter(|member| member.connection_id == id).count();
    assert!(members.iter().filter(|member| member.id.len() <= 4).all(|member| known(&member.id) <= 1));
    for member in &members {
        if !seen.iter().any(|other| other.connection_id == member.id) {
            assert!(member.id[2..].parse::<u64>().unwrap() > 26, "{} stayed and was not seen", member.id);
        }
    }
    let classic = seen.iter().find(|member| member.user.starts_with("guest-")).unwrap();
    assert_eq!(classic.dialect(), Dialect::Classic);
    assert_eq!((classic.delivered_seq, classic.lag, classic.state()), (1, 0, MemberState::Live));
    assert_eq!(classic.address, "127.0.0.1");
    assert!(classic.joined_at.is_some());

    let other = |group: &str| ListMembersRequest { group_name: group.into(), ..Default::default() };
    assert_eq!(failure(admin.list_members(other("Birds")).await).0, NotFound);
    let mut wrong = other("Birds");
    wrong.page_token = request.page_token;
    assert_eq!(failure(admin.list_members(wrong).await).0, InvalidArgument, "a token of another group");
    world.stop().await;
}

#[tokio::test]
async fn connections_are_listed_with_their_state_and_filtered() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let silent = world.classic().await;
    let mut ada = world.member("ada", &["Dogs"]).await;
    let _again = world.member("ada", &["Cats"]).await;
    let mut bob = world.member("bob", &["Dogs"]).await;
    bob.send(&json!({"Post": {"group_name": "Dogs", "message": "a"}})).await;
    ada.expect("Message").await;
    ada.settle().await;
    let all = admin.list_connections(ListConnectionsRequest::default()).await.unwrap().into_inner().connections;
    assert_eq!(all.iter().map(|one| one.user.as_str()).collect::<Vec<_>>(), ["", "ada", "ada", "bob"]);
    assert_eq!((all[0].state(), all[0].dialect()), (ConnectionState::Handshake, Dialect::Unspecified));
    assert_eq!((all[1].state(), all[1].dialect()), (ConnectionState::Open, Dialect::Extended));
    assert_eq!((all[1].groups, all[1].posts, all[1].deliveries), (1, 0, 1));
    assert_eq!((all[3].groups, all[3].posts), (1, 1));
    assert!(all[1].bytes_in > 0 && all[1].bytes_out > 0 && all[1].port > 0 && all[1].connected_at.is_some());
    assert_eq!((all[1].address.as_str(), all[1].node.as_str()), ("127.0.0.1", "local"));
    assert_eq!(all[1].id, ada.id);

    let mut list = async |user: &str, address: &str, group: &str| {
        let request = ListConnectionsRequest {
            user: user.into(),
            address: address.into(),
            group_name: group.into(),
            ..Default::default()
        };
        admin.list_connections(request).await.map(|response| response.map(|list| list.connections.len()))
    };
    assert_eq!(list("ada", "", "").await.unwrap().into_inner(), 2);
    assert_eq!(list("ada", "127.0.0.1", "Dogs").await.unwrap().into_inner(), 1);
    assert_eq!(list("", "::ffff:127.0.0.1", "").await.unwrap().into_inner(), 4);
    assert_eq!(list("", "10.0.0.1", "").await.unwrap().into_inner(), 0);
    assert_eq!(list("", "", "Dogs").await.unwrap().into_inner(), 2);
    assert_eq!(list("nobody", "", "").await.unwrap().into_inner(), 0);
    assert_eq!(failure(list("", "localhost", "").await).0, InvalidArgument);
    assert_eq!(failure(list("a b", "", "").await).0, InvalidArgument);
    assert_eq!(failure(list("", "", "Birds").await).0, NotFound);

    let mut request = ListConnectionsRequest { page_size: 1, ..Default::default() };
    let mut ids = Vec::new();
    loop {
        let page = admin.list_connections(request.clone()).await.unwrap().into_inner();
        ids.extend(page.connections.into_iter().map(|one| one.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(ids, all.iter().map(|one| one.id.clone()).collect::<Vec<_>>());
    drop(silent);
    world.stop().await;
}

#[tokio::test]
async fn who_takes_nothing_is_stalled_and_is_caught_up() {
    let wishes = crate::world::Wishes { fanout: Some(2), ..Default::default() };
    let world = World::with(wishes).await;
    let mut admin = world.admin().await;
    let slow = world.member("slow", &["Dogs"]).await;
    let mut bob = world.client("bob").await;
    let text = "x".repeat(15_000);
    let state = async |admin: &mut tertulia_proto::admin::v1::admin_service_client::AdminServiceClient<_>| {
        let request = ListConnectionsRequest { user: "slow".into(), ..Default::default() };
        admin.list_connections(request).await.unwrap().into_inner().connections.remove(0)
    };
    // Until the sockets' buffers and the server's bound are full, and then a second.
    let is_stalled = async || {
        for _ in 0..50 {
            bob.post("Dogs", &text).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        state(&mut admin).await.state() == ConnectionState::Stalled
    };
    until("the slow one is stalled", is_stalled).await;
    let stalled = state(&mut admin).await;
    assert!(stalled.outbound_bytes > 0);
    let request = ListMembersRequest { group_name: "Dogs".into(), ..Default::default() };
    let members = admin.list_members(request).await.unwrap().into_inner().members;
    assert!(members[0].lag > 0, "{members:?}");

    let target = Some(disconnect_request::Target::User("slow".into()));
    let disconnect = DisconnectRequest { target, reason: "asleep".into() };
    assert_eq!(admin.disconnect(disconnect).await.unwrap().into_inner().disconnected, 1);
    assert_eq!(state(&mut admin).await.state(), ConnectionState::Closing);
    // Who takes nothing does not have to be waited for.
    until("it is gone", async || world.front.registry().open() <= 1).await;
    drop(slow);
    world.stop().await;
}

#[tokio::test]
async fn the_shard_map_tells_where_a_group_lives_or_would() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let ask = |group: &str, with_shards| GetShardMapRequest { group_name: group.into(), with_shards };
    let map = admin.get_shard_map(ask("", false)).await.unwrap().into_inner();
    assert_eq!((map.shard_count, map.nodes.len(), map.placement), (16, 1, None));
    assert!(map.version > 0 && map.hash.contains("xxh3_64"));
    assert!(map.nodes[0].answering && map.nodes[0].shard_count == 16 && map.nodes[0].shards.is_empty());
    let map = admin.get_shard_map(ask("nowhere yet", true)).await.unwrap().into_inner();
    assert_eq!(map.nodes[0].shards, (0..16).collect::<Vec<u32>>());
    let placement = map.placement.unwrap();
    assert_eq!((placement.group_name.as_str(), placement.node.as_str()), ("nowhere yet", "local"));
    assert!(placement.shard < 16);
    assert_eq!(failure(admin.get_shard_map(ask(" x", false)).await).0, InvalidArgument);
    world.stop().await;
}
