use std::convert::Infallible;
use std::net::TcpListener;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::http::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use prost_reflect::Value;
use tertulia_server::admin::Config;

use super::*;
use crate::admin_client::calls::Calls;
use crate::admin_client::tests::{options, secured};

#[tokio::test]
async fn an_answer_may_be_as_long_as_the_server_makes_it() {
    const LENGTH: usize = 5 << 20;
    let call = Calls::new().unwrap().find("ListGroups").unwrap();
    let mut answer = DynamicMessage::new(call.output());
    answer.set_field_by_name("next_page_token", Value::String("x".repeat(LENGTH)));
    let answer = answer.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(answer.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&answer);
    let frame = Bytes::from(frame);

    let (near, far) = tokio::io::duplex(1 << 16);
    let service = service_fn(move |_| {
        let body = Full::new(frame.clone());
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
        let response = http::Response::builder().header("content-type", "application/grpc");
        let response = response.body(body.with_trailers(async { Some(Ok::<_, Infallible>(trailers)) }));
        async { response }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(far), service));

    let target = Target::new(&options(), &Config::default()).unwrap();
    let mut link = Link::over(near, "http", &target).await.unwrap();
    let answer = link.unary(&call, call.request("{}").unwrap()).await.unwrap();
    let token = answer.get_field_by_name("next_page_token").unwrap().into_owned();
    assert_eq!(token.as_str().unwrap().len(), LENGTH);
}

#[tokio::test]
async fn certificates_are_blamed_for_nothing_but_what_they_are_at_fault_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let target = Target::new(&secured(&listener, &directory), &Config::default()).unwrap();
    let hang_up = tokio::task::spawn_blocking(move || drop(listener.accept().unwrap()));
    let told = Link::open(&target).await.err().unwrap().to_string();
    hang_up.await.unwrap();
    assert!(told.starts_with("no TLS connection to ") && !told.contains("--ca"), "{told}");
    assert!(told.ends_with("; does the admin API listen there, and with TLS (admin.tls)?"), "{told}");
}
