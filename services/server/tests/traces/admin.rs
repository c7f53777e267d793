//! The trace of a call of the admin API, and its line in the log.

use tertulia_proto::admin::v1::admin_service_client::AdminServiceClient;
use tertulia_proto::admin::v1::{CloseGroupRequest, GetGroupRequest, KickMemberRequest, kick_member_request};
use tonic::Request;

use crate::collector::{Collector, NEVER};
use crate::server::Server;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn called<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{SPAN}-{flags}").parse().unwrap());
    request
}

#[tokio::test]
async fn a_call_is_traced_and_its_line_in_the_log_names_the_trace() {
    let collector = Collector::start().await;
    let server = Server::tracing(collector.address, "0", &[]).await;
    let _ada = server.member("ada", "Dogs").await;
    let mut admin = AdminServiceClient::connect(format!("http://{}", server.admin)).await.unwrap();

    let group = |name: &str| GetGroupRequest { group_name: name.to_owned() };
    admin.get_group(called(group("Dogs"), "00")).await.unwrap();
    admin.get_group(Request::new(group("Dogs"))).await.unwrap();
    admin.get_group(called(group("Cats"), "01")).await.unwrap_err();
    let close = CloseGroupRequest { group_name: "Dogs".to_owned(), ..CloseGroupRequest::default() };
    admin.close_group(called(close, "01")).await.unwrap();

    let kick = KickMemberRequest {
        group_name: "Dogs".to_owned(),
        target: Some(kick_member_request::Target::User("bob".to_owned())),
        ..KickMemberRequest::default()
    };
    admin.kick_member(Request::new(kick)).await.unwrap();

    let spans = collector.trace(TRACE, 2).await;
    for (method, code) in [("GetGroup", "5"), ("CloseGroup", "0")] {
        let call = &spans[method];
        assert_eq!((call.parent(), call.span.kind), (SPAN.to_owned(), 2));
        let told = call.attributes();
        assert_eq!(told["rpc.system"], "grpc");
        assert_eq!(told["rpc.method"], method);
        assert_eq!(told["rpc.grpc.status_code"], code);
        assert_eq!(told["client.address"], "127.0.0.1");
    }
    let (status, logged) = server.stop(NEVER).await;
    assert!(status.success());
    let moderated: Vec<_> = logged.iter().filter(|line| line["message"] == "moderated").collect();
    assert_eq!(moderated.len(), 2);
    // Whoever reads an object with a key that is there twice takes the last one.
    assert_eq!(moderated[1]["whom"], "user bob");
    assert_eq!(moderated[1]["target"], "tertulia_server::admin::moderation");
    assert_eq!((&moderated[0]["call"], &moderated[0]["trace_id"]), (&"CloseGroup".into(), &TRACE.into()));
}
