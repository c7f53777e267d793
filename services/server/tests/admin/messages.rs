//! What was said in a group, for those who have to judge it.

use tertulia_proto::admin::v1::{
    AnnounceRequest, DeleteGroupRequest, ListMessagesRequest, ListMessagesResponse, Message, PurgeHistoryRequest,
};
use tonic::Code::{InvalidArgument, NotFound};

use crate::world::{World, failure};

fn told(messages: &[Message]) -> Vec<(u64, &str, &str)> {
    messages.iter().map(|message| (message.seq, message.user.as_str(), message.text.as_str())).collect()
}

#[tokio::test]
async fn messages_are_listed_the_newest_first_page_by_page() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let _founder = world.member("eve", &["Dogs"]).await;
    // No members, who would get what they post.
    let mut ada = world.client("ada").await;
    let mut bob = world.client("bob").await;
    for number in 1..=4 {
        ada.post("Dogs", &format!("ada {number}")).await;
        bob.post("Dogs", &format!("bob {number}")).await;
    }
    let announce = AnnounceRequest { group_name: "Dogs".into(), message: "quiet, please".into(), ..Default::default() };
    admin.announce(announce).await.unwrap();
    let purge = PurgeHistoryRequest { group_name: "Dogs".into(), through_seq: 2 };
    admin.purge_history(purge).await.unwrap();

    let list = async |user: &str, page_size: i32, page_token: String| {
        let (group_name, user) = ("Dogs".into(), user.into());
        let request = ListMessagesRequest { group_name, user, page_size, page_token };
        world.admin().await.list_messages(request).await.map(tonic::Response::into_inner)
    };
    let all = async |user: &str, page_size: i32| {
        let (mut messages, mut token) = (Vec::new(), String::new());
        loop {
            let ListMessagesResponse { messages: page, next_page_token } = list(user, page_size, token).await.unwrap();
            assert!(page.len() <= page_size as usize);
            messages.extend(page);
            token = next_page_token;
            if token.is_empty() {
                return messages;
            }
        }
    };
    let expected = [
        (9, "@system", "quiet, please"),
        (8, "bob", "bob 4"),
        (7, "ada", "ada 4"),
        (6, "bob", "bob 3"),
        (5, "ada", "ada 3"),
        (4, "bob", "bob 2"),
        (3, "ada", "ada 2"),
    ];
    for page_size in [1, 2, 3, 7, 100] {
        let messages = all("", page_size).await;
        assert_eq!(told(&messages), expected, "{page_size} a page");
        assert!(messages.iter().all(|message| message.at.is_some() && message.epoch > 0));
    }
    assert_eq!(told(&all("bob", 2).await), [expected[1], expected[3], expected[5]]);
    assert_eq!(told(&all("@system", 100).await), [expected[0]]);
    assert_eq!(told(&all("eve", 3).await), []);

    // Of another life nothing follows on what was seen.
    let token = list("", 2, String::new()).await.unwrap().next_page_token;
    admin.delete_group(DeleteGroupRequest { group_name: "Dogs".into(), reason: String::new() }).await.unwrap();
    assert_eq!(failure(list("", 2, String::new()).await.map(tonic::Response::new)).0, NotFound);
    let _founder = world.member("eve", &["Dogs"]).await;
    assert_eq!(list("", 2, String::new()).await.unwrap(), ListMessagesResponse::default());
    for number in 1..=9 {
        ada.post("Dogs", &format!("again {number}")).await;
    }
    assert_eq!(list("", 2, token).await.unwrap(), ListMessagesResponse::default());
    assert_eq!(failure(list("", 2, "00".into()).await.map(tonic::Response::new)).0, InvalidArgument);
    world.stop().await;
}
