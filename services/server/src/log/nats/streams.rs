//! The streams of a deployment: made when they are not there, held against the configuration when they are.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config as Stream, DiscardPolicy, Placement, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};

use super::forming::{MAKING, ask, make};
use super::link::Link;
use super::{Config, Storage};
use crate::causes::on_one_line;
use crate::log::retention::Rules;

/// Messages of a subject beyond those that retention keeps: marks, and what is removed a little later.
const SPARE: u64 = 64;
/// The layout of subjects and messages that this server writes.
const LAYOUT: &str = "1";

/// Why the streams are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// One is there and differs.
    #[error("stream '{stream}' has {setting} = {found}, and this configuration wants {expected}: {remedy}")]
    Differs {
        /// Which.
        stream: String,
        /// In what.
        setting: &'static str,
        /// How it is.
        found: String,
        /// How it should be.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
    /// One cannot be made, changed or asked.
    #[error("cannot {what} stream '{stream}': {cause}. {advice}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// On which.
        stream: String,
        /// What NATS said.
        cause: String,
        /// What to do.
        advice: &'static str,
    },
}

/// Makes or checks all streams.
pub(super) async fn ensure(link: &Link, config: &Config, rules: &Rules, shards: u16) -> Result<(), StreamError> {
    let context = jetstream::ContextBuilder::new().timeout(MAKING).build(link.client.clone());
    let each = (0..link.names.streams()).map(|stream| {
        let wanted = wanted(link, config, rules, shards, stream);
        let context = &context;
        async move { ensure_one(&link.client, context, config, wanted).await }
    });
    let all = futures_util::future::join_all(each).await;
    all.into_iter().collect()
}

fn wanted(link: &Link, config: &Config, rules: &Rules, shards: u16, stream: u16) -> Stream {
    let metadata = [
        ("tertulia.layout", LAYOUT.to_owned()),
        ("tertulia.shards", shards.to_string()),
        ("tertulia.streams", link.names.streams().to_string()),
    ];
    // One number for all groups of the stream: that of the group of which most is kept.
    let most_generous = rules.all().map(|rule| rule.messages).max_by_key(|messages| messages.wrapping_sub(1));
    let per_subject = match most_generous {
        None | Some(0) => -1,
        Some(messages) => i64::try_from(messages.saturating_add(SPARE)).unwrap_or(i64::MAX),
    };
    Stream {
        name: link.names.stream(stream),
        description: Some("messages of tertulia's groups".to_owned()),
        subjects: vec![link.names.all_of_stream(stream)],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_messages: -1,
        max_bytes: -1,
        max_message_size: -1,
        max_consumers: -1,
        // Fences and the last message of each group must stay, so nothing goes by its age alone.
        max_age: Duration::ZERO,
        max_messages_per_subject: per_subject,
        storage: match config.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: usize::from(config.replicas),
        duplicate_window: Duration::from_secs(120),
        allow_direct: true,
        allow_atomic_publish: true,
        placement: placement(config),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ..Stream::default()
    }
}

/// Which servers may keep a stream; `None`: any.
pub(super) fn placement(config: &Config) -> Option<Placement> {
    let tags = config.placement_tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    let tags: Vec<String> = tags.map(str::to_owned).collect();
    (!tags.is_empty()).then_some(Placement { cluster: None, tags })
}

/// The tags of a stream's placement, so that they can be compared.
pub(super) fn tags(stream: &Stream) -> String {
    let mut tags = stream.placement.as_ref().map(|placement| placement.tags.clone()).unwrap_or_default();
    tags.sort();
    tags.join(",")
}

async fn ensure_one(
    client: &Client,
    context: &jetstream::Context,
    config: &Config,
    wanted: Stream,
) -> Result<(), StreamError> {
    let name = wanted.name.clone();
    let failed = |what, cause, advice| StreamError::Failed { what, stream: name.clone(), cause, advice };
    let found = match ask(client, &name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                let making = || context.create_stream(wanted.clone());
                match make(client, &name, making, |found| found).await {
                    Ok(stream) => stream.cached_info().config.clone(),
                    Err(error) => {
                        let advice = match error.kind() {
                            CreateStreamErrorKind::TimedOut => "Has the NATS cluster a leader and enough servers?",
                            _ => {
                                "Check nats.replicas against the number of servers, nats.placement_tags against their \
                                 tags, and that the account may make streams of this storage"
                            }
                        };
                        return Err(failed("make", on_one_line(&error), advice));
                    }
                }
            }
            _ => {
                return Err(failed(
                    "ask for",
                    on_one_line(&error),
                    "Has the NATS cluster a leader, and may the account ask?",
                ));
            }
        },
    };
    let Some(difference) = differences(&found, &wanted).into_iter().next() else { return Ok(()) };
    let can_change = differences(&found, &wanted).iter().all(|difference| difference.can_change);
    if can_change && config.update_streams {
        let changed = Stream { metadata: merged(&found, &wanted), ..wanted };
        let updated = context.update_stream(&changed).await;
        updated.map_err(|error| failed("change", on_one_line(&error), "Change it by hand with `nats stream edit`"))?;
        tracing::info!(stream = name, setting = difference.setting, "changed a stream");
        return Ok(());
    }
    Err(StreamError::Differs {
        stream: name,
        setting: difference.setting,
        found: difference.found,
        expected: difference.expected,
        remedy: difference.remedy,
    })
}

/// The server adds entries of its own.
fn merged(found: &Stream, wanted: &Stream) -> std::collections::HashMap<String, String> {
    let mut metadata = found.metadata.clone();
    metadata.extend(wanted.metadata.clone());
    metadata
}

#[derive(Debug, PartialEq)]
struct Difference {
    setting: &'static str,
    found: String,
    expected: String,
    can_change: bool,
    remedy: &'static str,
}

fn differences(found: &Stream, wanted: &Stream) -> Vec<Difference> {
    const CHANGE: &str = "set nats.update_streams to have it changed, or configure what is there";
    const FOREIGN: &str =
        "this stream is not one of this deployment's; choose another nats.prefix, or restore what was configured first";
    const FIXED: &str = "it is fixed for the life of a deployment; configure what is there";
    let mut all = Vec::new();
    let mut compare = |setting, found: String, expected: String, can_change, remedy| {
        if found != expected {
            all.push(Difference { setting, found, expected, can_change, remedy });
        }
    };
    let data = |stream: &Stream, key: &str| stream.metadata.get(key).cloned().unwrap_or_else(|| "nothing".to_owned());
    for key in ["tertulia.layout", "tertulia.shards", "tertulia.streams"] {
        compare(key, data(found, key), data(wanted, key), false, FIXED);
    }
    compare("subjects", format!("{:?}", found.subjects), format!("{:?}", wanted.subjects), false, FOREIGN);
    let kind = |stream: &Stream| format!("{:?}", stream.retention);
    compare("retention", kind(found), kind(wanted), false, FOREIGN);
    let storage = |stream: &Stream| format!("{:?}", stream.storage).to_lowercase();
    compare(
        "storage",
        storage(found),
        storage(wanted),
        false,
        "JetStream cannot change it; configure what is there, or use another nats.prefix",
    );
    let number = |number: i64| number.to_string();
    compare("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string(), true, CHANGE);
    compare(
        "max_msgs_per_subject (log.retention.messages)",
        number(found.max_messages_per_subject),
        number(wanted.max_messages_per_subject),
        true,
        CHANGE,
    );
    compare("max_msgs", number(found.max_messages), number(wanted.max_messages), true, CHANGE);
    compare("max_bytes", number(found.max_bytes), number(wanted.max_bytes), true, CHANGE);
    let age = |stream: &Stream| format!("{:?}", stream.max_age);
    compare("max_age", age(found), age(wanted), true, CHANGE);
    compare("allow_direct", found.allow_direct.to_string(), true.to_string(), true, CHANGE);
    compare("allow_atomic", found.allow_atomic_publish.to_string(), true.to_string(), true, CHANGE);
    compare("deny_purge", found.deny_purge.to_string(), false.to_string(), false, FOREIGN);
    compare("deny_delete", found.deny_delete.to_string(), false.to_string(), false, FOREIGN);
    compare("placement tags", tags(found), tags(wanted), true, CHANGE);
    all
}
