//! Storage of JetStream without room.

use async_nats::jetstream::{self, stream};

use super::*;
use crate::log::AppendError;
use crate::log::conformance::batch;
use crate::log::nats::ack::Ack;
use crate::log::nats::link::Published;
use crate::log::nats::{Storage, room};

#[test]
fn what_a_limit_refuses_is_told_from_what_is_certainly_not_stored() {
    let answered = |code: u64| {
        let ack = serde_json::json!({"error": {"code": 503, "err_code": code, "description": "as told"}, "seq": 0});
        Published::from(serde_json::from_value::<Ack>(ack).unwrap())
    };
    let text = |code: u64| format!("as told (error {code})");
    for code in [10002, 10023, 10028, 10047] {
        assert_eq!(answered(code), Published::Full(text(code)));
    }
    assert_eq!(answered(10071), Published::Fenced);
    assert_eq!(answered(10164), Published::Busy);
    assert_eq!(answered(10077), Published::Unknown(text(10077)));
    assert_eq!(answered(10054), Published::Refused(text(10054)));
}

/// Takes all the space of the account.
async fn fill(context: &jetstream::Context) {
    let name = "ballast".to_owned();
    let ballast = stream::Config { subjects: vec![name.clone()], name, ..Default::default() };
    context.create_stream(ballast).await.unwrap();
    for size in [512 * 1024, 32 * 1024, 1024, 64] {
        while context.publish("ballast", vec![b'x'; size].into()).await.unwrap().await.is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_for_which_there_is_no_room_is_in_doubt_until_there_is() {
    let account = "accounts { A { jetstream { max_mem: 1MB, max_file: 16MB }, users: [{ user: a, password: a }] } }\n\
                   no_auth_user: a";
    let servers = Servers::start(1, account).await;
    let log = open_and_take(&config(&servers.urls())).await;
    log.append(0, vec![batch("Dogs", 7, 1, 2)]).await.unwrap();
    let context = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
    let before = room::ask(&context, Storage::File, 1).await.unwrap();
    fill(&context).await;
    let full = room::ask(&context, Storage::File, 1).await.unwrap();
    assert!(before.bytes < full.limit / 2 && full.bytes > full.limit / 10 * 9, "{before:?}, {full:?}");
    assert_eq!(full.limit, 16 * 1024 * 1024);

    // In one message, and kept by this server alone.
    let refused = tokio::time::timeout(PATIENCE, log.append(0, vec![batch("Dogs", 7, 3, 3)])).await;
    let error = refused.expect("it is refused at once").unwrap_err();
    assert!(matches!(error, AppendError::Unavailable { .. }), "{error}");
    // It is known, and keeps nobody from trying, nor clients from coming.
    assert!(log.trouble().is_some_and(|trouble| trouble.contains("resource")) && log.outage().is_none());
    let in_doubt = tokio::spawn(log.append(0, vec![batch("Dogs", 7, 3, 3), batch("Cats", 7, 1, 1)]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!in_doubt.is_finished(), "nobody knows what is stored: {:?}", in_doubt.await.unwrap());
    context.delete_stream("ballast").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, in_doubt).await.expect("it is found out about").unwrap();
    assert!(matches!(ended, Err(AppendError::Unavailable { .. })), "{ended:?}");
    let taken = async {
        while log.append(0, vec![batch("Dogs", 7, 3, 3), batch("Cats", 7, 1, 1)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("there is room again");
    well(&log).await;
    log.close().await;
}
