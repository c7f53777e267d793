//! The port itself: who is let in, health, and what becomes of garbage.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::json;
use tertulia_proto::admin::v1::admin_service_client::AdminServiceClient;
use tertulia_proto::admin::v1::kick_member_request::Target;
use tertulia_proto::admin::v1::{KickMemberRequest, ListGroupsRequest, WatchEventsRequest};
use tertulia_server::readiness::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code::{NotFound, PermissionDenied, Unauthenticated};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::world::{NEVER, Wishes, World, failure, until};

#[tokio::test]
async fn with_a_token_only_health_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "s3cret\n").unwrap();
    let world = World::with(Wishes { token_file: Some(token_file), ..Wishes::default() }).await;
    let mut admin = world.admin().await;
    let mut call = async |authorization: Option<&str>| {
        let mut request = Request::new(ListGroupsRequest::default());
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", MetadataValue::try_from(value).unwrap());
        }
        admin.list_groups(request).await
    };
    for wrong in [None, Some("Bearer wrong"), Some("Bearer s3cret2"), Some("Basic s3cret"), Some("s3cret")] {
        assert_eq!(failure(call(wrong).await).0, Unauthenticated, "{wrong:?}");
    }
    assert!(call(Some("Bearer s3cret")).await.is_ok());

    let mut health = HealthClient::new(world.channel().await);
    assert!(health.check(HealthCheckRequest::default()).await.is_ok());
    let mut reflection = ServerReflectionClient::new(world.channel().await);
    let question = tokio_stream::iter([ServerReflectionRequest::default()]);
    assert_eq!(failure(reflection.server_reflection_info(question).await).0, Unauthenticated);
    world.stop().await;
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", MetadataValue::try_from(format!("Bearer {token}")).unwrap());
    request
}

#[tokio::test]
async fn who_may_only_read_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "ada s3cret\ngrafana read w4tch\n").unwrap();
    let world = World::with(Wishes { token_file: Some(token_file), ..Wishes::default() }).await;
    let mut chatter = world.member("bob", &["Dogs"]).await;
    let mut admin = world.admin().await;
    let groups =
        admin.list_groups(with_token("w4tch", ListGroupsRequest::default())).await.unwrap().into_inner().groups;
    assert_eq!(groups.len(), 1);
    assert!(admin.watch_events(with_token("w4tch", WatchEventsRequest::default())).await.is_ok());
    let target = Some(Target::User("bob".into()));
    let kick = KickMemberRequest { group_name: "Dogs".into(), target, ..KickMemberRequest::default() };
    let (code, text) = failure(admin.kick_member(with_token("w4tch", kick.clone())).await);
    assert_eq!(code, PermissionDenied);
    assert_eq!(text, "this call changes things, and the token 'grafana' may only read (admin.token_file)");
    chatter.post("Dogs", "still here").await;
    assert_eq!(admin.kick_member(with_token("s3cret", kick)).await.unwrap().into_inner().kicked, 1);
    world.stop().await;
}

#[tokio::test]
async fn health_follows_readiness_for_each_service() {
    let world = World::new().await;
    let mut health = HealthClient::new(world.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watch = health.watch(ask("tertulia.admin.v1.AdminService")).await.unwrap().into_inner();
    let mut told = async || timeout(NEVER, watch.message()).await.unwrap().unwrap().map(|answer| answer.status());
    assert_eq!(told().await, Some(ServingStatus::Serving));
    world.readiness.set(Reason::Log, "full");
    assert_eq!(told().await, Some(ServingStatus::NotServing));
    for service in ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        // Each is told in its turn.
        let is_told =
            async || health.check(ask(service)).await.unwrap().into_inner().status() == ServingStatus::NotServing;
        until("the service is not serving", is_told).await;
    }
    world.readiness.clear(Reason::Log);
    assert_eq!(told().await, Some(ServingStatus::Serving));
    assert_eq!(failure(health.check(ask("nothing")).await).0, NotFound);
    world.stop().await;
    assert_eq!(told().await, Some(ServingStatus::NotServing));
    assert_eq!(told().await, None, "the stream ends with the server");
}

/// What comes until the server closes.
async fn answer_to(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(world.admin).await.unwrap();
    let mut answer = Vec::new();
    // The server may have closed before it has taken everything.
    drop(stream.write_all(bytes).await);
    match timeout(NEVER, stream.read_to_end(&mut answer)).await.expect("the connection stays open") {
        Ok(_) => answer,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn garbage_is_closed_and_nobody_else_notices() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    let noise: Vec<u8> = (0..100_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09";
    let after_preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &noise].concat();
    let chat = json!({"Hello": {"version": 1}}).to_string() + "\n";
    for garbage in [
        noise.as_slice(),
        tls_hello,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/1.1\r\n\r\n",
        chat.as_bytes(),
        &after_preface,
    ] {
        let answer = answer_to(&world, garbage).await;
        assert!(answer.len() < 1_000, "{} bytes", answer.len());
    }
    assert!(admin.list_groups(ListGroupsRequest::default()).await.is_ok());
    world.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_a_place_comes_back() {
    let world = World::with(Wishes { connections: Some(2), ..Wishes::default() }).await;
    let mut one = world.admin().await;
    one.list_groups(ListGroupsRequest::default()).await.unwrap();
    let mut two = world.admin().await;
    two.list_groups(ListGroupsRequest::default()).await.unwrap();
    assert_eq!(answer_to(&world, b"").await, b"");
    drop(two);
    let is_taken = async || match AdminServiceClient::connect(format!("http://{}", world.admin)).await {
        Ok(mut other) => other.list_groups(ListGroupsRequest::default()).await.is_ok(),
        Err(_) => false,
    };
    until("another connection is taken", is_taken).await;
    world.stop().await;
}

#[tokio::test]
async fn who_may_not_call_cannot_keep_moderators_out() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "s3cret").unwrap();
    let wishes = Wishes { token_file: Some(token_file), connections: Some(4), ..Wishes::default() };
    let world = World::with(wishes).await;
    let authorized = || {
        let mut request = Request::new(ListGroupsRequest::default());
        request.metadata_mut().insert("authorization", MetadataValue::from_static("Bearer s3cret"));
        request
    };
    let mut early = world.admin().await;
    early.list_groups(authorized()).await.unwrap();
    // Some say nothing, some ask for health, as anybody may, and answer pings for ever.
    let mut silent = Vec::new();
    let mut asking = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(world.admin).await.unwrap());
        let mut health = HealthClient::new(world.channel().await);
        drop(health.check(HealthCheckRequest::default()).await);
        asking.push(health);
    }
    let mut late = world.admin().await;
    late.list_groups(authorized()).await.unwrap();
    early.list_groups(authorized()).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn what_was_begun_with_the_old_token_ends_with_it() {
    const OFTEN: Duration = Duration::from_millis(5);
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "old").unwrap();
    let wishes = Wishes { token_file: Some(token_file.clone()), follow: Some(OFTEN), ..Wishes::default() };
    let world = World::with(wishes).await;
    let watch = |token: &str| with_token(token, WatchEventsRequest::default());
    let mut admin = world.admin().await;
    let mut watching = admin.watch_events(watch("old")).await.unwrap().into_inner();
    let new = directory.path().join("new");
    std::fs::write(&new, "new").unwrap();
    std::fs::rename(&new, &token_file).unwrap();
    let ended = async { while let Ok(Some(_)) = watching.message().await {} };
    timeout(NEVER, ended).await.expect("it goes on with a token that is not valid any more");
    let mut admin = world.admin().await;
    assert_eq!(failure(admin.watch_events(watch("old")).await).0, Unauthenticated);
    assert!(admin.watch_events(watch("new")).await.is_ok());
    world.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_peer_that_never_ends() {
    let world = World::new().await;
    let mut mute = TcpStream::connect(world.admin).await.unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let _silent = TcpStream::connect(world.admin).await.unwrap();
    let mut admin = world.admin().await;
    let _watching = admin.watch_events(tertulia_proto::admin::v1::WatchEventsRequest::default()).await.unwrap();
    world.stop().await;
}
