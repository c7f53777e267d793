//! Asking JetStream for the account and for streams, and making streams, where the NATS cluster may just be forming: it was started with
//! us, a server of it restarts, or it chooses a leader. What it refuses then is asked again.

use std::error::Error;
use std::time::Duration;

use crate::causes::on_one_line;
use async_nats::Client;
use async_nats::jetstream::context::{
    AccountError, AccountErrorKind, CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind,
};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, ErrorCode};
use tokio::time::Instant;

/// How long a server may take to make a stream.
pub(super) const MAKING: Duration = Duration::from_secs(10);
/// How long a stream may take to answer at first, before it is asked again with twice the patience, up to [`MAKING`].
const ASKING: Duration = Duration::from_millis(250);
/// How often is looked whether another node has made what this one is waiting for.
const LOOKING: Duration = Duration::from_millis(100);
/// How long a cluster may refuse, or not answer, what it will be able to do in a moment: its servers come one after the other, and elections
/// are tried anew after 4 to 9 seconds, as often as they fail.
pub(crate) const FORMING: Duration = Duration::from_secs(30);
/// How often it is asked again meanwhile.
const AGAIN: Duration = Duration::from_millis(500);

/// Whether a cluster whose servers are not all there yet, or that has no leader yet, says so.
fn may_pass(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::CLUSTER_NO_PEERS
            | ErrorCode::CLUSTER_INCOMPLETE
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::CLUSTER_NOT_ASSIGNED
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::INSUFFICIENT_RESOURCES
    )
}

/// Whether the refusal to make a stream, or a bucket over one, may be another answer in a moment.
fn refused_for_now(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref().map(CreateStreamError::kind) {
        Some(CreateStreamErrorKind::JetStream(told)) => may_pass(told.error_code()),
        Some(CreateStreamErrorKind::JetStreamUnavailable) => true,
        Some(_) => false,
        None => error.source().is_some_and(refused_for_now),
    }
}

/// Why JetStream does not tell about the account.
pub(super) enum Unanswered {
    /// Its cluster does not answer, or is not ready.
    ForNow,
    /// What it says will not change.
    ForGood(AccountError),
}

/// Waits until JetStream answers for our account.
pub(super) async fn account(client: &Client) -> Result<(), Unanswered> {
    let context = jetstream::new(client.clone());
    let until = Instant::now() + FORMING;
    loop {
        let error = match context.query_account().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let pause = match error.kind() {
            AccountErrorKind::TimedOut => Duration::ZERO,
            AccountErrorKind::JetStream(told) if may_pass(told.error_code()) => AGAIN,
            _ => return Err(Unanswered::ForGood(error)),
        };
        if Instant::now() >= until {
            return Err(Unanswered::ForNow);
        }
        tracing::warn!(error = on_one_line(&error), "JetStream is not ready: asking again");
        tokio::time::sleep(pause).await;
    }
}

/// Asks for a stream. One whose servers are choosing a leader, as when it has just been made, answers nothing.
pub(super) async fn ask(client: &Client, name: &str) -> Result<Stream, GetStreamError> {
    let mut patience = ASKING;
    loop {
        let context = jetstream::ContextBuilder::new().timeout(patience).build(client.clone());
        let error = match context.get_stream(name).await {
            Ok(stream) => return Ok(stream),
            Err(error) if patience < MAKING => error,
            Err(error) => return Err(error),
        };
        match error.kind() {
            GetStreamErrorKind::JetStream(told) if may_pass(told.error_code()) => tokio::time::sleep(patience).await,
            GetStreamErrorKind::JetStream(_) => return Err(error),
            _ => {}
        }
        tracing::debug!(stream = name, error = on_one_line(&error), "a stream does not answer: asking again");
        patience = (2 * patience).min(MAKING);
    }
}

/// Makes a stream, or what stands on one, by `making`; or finds that another node has, and is content with what `found` makes of it.
///
/// # Errors
/// What NATS refused last, if that cannot pass or has not passed in time.
pub(super) async fn make<T, E: Error + 'static, Making: Future<Output = Result<T, E>>>(
    client: &Client,
    name: &str,
    making: impl Fn() -> Making,
    found: impl FnOnce(Stream) -> T,
) -> Result<T, E> {
    let until = Instant::now() + FORMING;
    let made = async {
        loop {
            match making().await {
                Err(error) if refused_for_now(&error) && Instant::now() < until => {
                    tracing::warn!(
                        stream = name,
                        error = on_one_line(&error),
                        "NATS cannot make a stream yet: asking again"
                    );
                    tokio::time::sleep(AGAIN).await;
                }
                answered => return answered,
            }
        }
    };
    tokio::select! {
        made = made => made,
        stream = appeared(client, name) => Ok(found(stream)),
    }
}

/// Waits until a stream is there that another node makes. Where several make it at the same moment, NATS may answer one of them and
/// leave the others to wait in vain.
async fn appeared(client: &Client, name: &str) -> Stream {
    loop {
        tokio::time::sleep(LOOKING).await;
        if let Ok(stream) = ask(client, name).await {
            return stream;
        }
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::context::{CreateKeyValueError, CreateKeyValueErrorKind};

    use super::*;

    fn refusal(code: u64) -> CreateStreamError {
        let told = serde_json::json!({"code": 400, "err_code": code, "description": "as told"});
        serde_json::from_value::<async_nats::jetstream::Error>(told).unwrap().into()
    }

    #[test]
    fn what_a_cluster_refuses_while_it_forms_is_told_from_what_it_refuses_for_good() {
        // No suitable peers; replicas where there is no cluster.
        for (code, passes) in [(10005, true), (10008, true), (10074, false), (10059, false)] {
            assert_eq!(refused_for_now(&refusal(code)), passes, "{code}");
            let bucket = CreateKeyValueError::with_source(CreateKeyValueErrorKind::BucketCreate, refusal(code));
            assert_eq!(refused_for_now(&bucket), passes, "{code}, of a bucket");
        }
        assert!(!refused_for_now(&CreateKeyValueError::new(CreateKeyValueErrorKind::TooLongHistory)));
    }
}
