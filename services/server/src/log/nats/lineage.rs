//! Whether the streams are those that this node knows, and have all that they had.
//!
//! What a node remembers of a stream are positions in it: of fences, of heads, of entries. In a stream that was made anew, or in an older
//! copy, they mean nothing; and since all parts take for old what is smaller than what they saw, what is there now would be taken for old
//! for as long as the node lives. So the node ends, and what is started next goes by what is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Info;
use async_nats::jetstream::{self, ErrorCode};
use tokio::sync::SetOnce;

use super::Core;
use super::link::is_led;

/// How often a stream is asked.
const EVERY: Duration = Duration::from_secs(5);
/// So many answers in a row prove it: a server that was the leader, or has just become it, may be behind for a moment.
const LOOKS: u32 = 3;
/// Times that differ by no more than this are the same one, as the servers of a cluster may tell it. In seconds.
const SAME: u64 = 1;

/// A stream is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rewound {
    /// There is another one of its name.
    #[error(
        "stream '{stream}' is not the one that this node began with: it was deleted and made again, or NATS was replaced. What this node \
         remembers is not in it, so the node ends: start it again, and it goes by what is there"
    )]
    Another {
        /// Which.
        stream: String,
    },
    /// It has less than it had.
    #[error(
        "stream '{stream}' ends at message {found}, and had message {known}: an older copy was restored, or NATS has lost what it \
         acknowledged. What this node remembers is not in it, so the node ends: start it again, and it goes by what is there"
    )]
    Older {
        /// Which.
        stream: String,
        /// The newest message that it had.
        known: u64,
        /// The newest that it has.
        found: u64,
    },
    /// It is gone, and no node makes it while it runs.
    #[error("stream '{stream}' was deleted, and nodes make it only when they start, so the node ends: start it again")]
    Gone {
        /// Which.
        stream: String,
    },
}

/// What a stream says of itself.
#[derive(Debug, Clone, Copy)]
enum Look {
    /// When it was made, in seconds since 1970, and the newest message that it had ever.
    There { created: i64, last: u64 },
    /// There is none.
    Gone,
}

impl Look {
    /// What its leader says of it. A replica that is left alone may lack what others have acknowledged, and nothing follows from that.
    fn at(stream: &Info) -> Option<Self> {
        let is_leader = stream.cluster.as_ref().is_none_or(|cluster| is_led(cluster.leader.as_deref()));
        let there = || Self::There { created: stream.created.unix_timestamp(), last: stream.state.last_sequence };
        is_leader.then(there)
    }
}

/// What was seen of a stream.
#[derive(Debug, Default)]
struct Seen {
    created: Option<i64>,
    newest: u64,
    /// Looks in a row that found another one, or less.
    doubts: u32,
}

impl Seen {
    fn look(&mut self, stream: &str, look: Look) -> Option<Rewound> {
        let stream = || stream.to_owned();
        let doubt = match (self.created, look) {
            (None, Look::Gone) => None,
            (Some(_), Look::Gone) => Some(Rewound::Gone { stream: stream() }),
            (Some(known), Look::There { created, .. }) if known.abs_diff(created) > SAME => {
                Some(Rewound::Another { stream: stream() })
            }
            (_, Look::There { last, .. }) if last < self.newest => {
                Some(Rewound::Older { stream: stream(), known: self.newest, found: last })
            }
            (_, Look::There { created, last }) => {
                self.created.get_or_insert(created);
                self.newest = last;
                None
            }
        };
        self.doubts = if doubt.is_some() { self.doubts + 1 } else { 0 };
        doubt.filter(|_| self.doubts >= LOOKS)
    }
}

/// What was seen of all streams, and the first that is not what it was.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    seen: Mutex<HashMap<String, Seen>>,
    rewound: SetOnce<Rewound>,
}

impl Lineage {
    fn of<T>(&self, stream: &str, look: impl FnOnce(&mut Seen) -> T) -> T {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        look(seen.entry(stream.to_owned()).or_default())
    }

    /// The newest message that a stream is known to have had.
    pub(super) fn newest(&self, stream: &str) -> u64 {
        self.of(stream, |seen| seen.newest)
    }

    /// A message was stored at `position` that was sent when the stream was known to have had `before`. Nothing is stored twice at one
    /// position of a stream.
    pub(super) fn has_stored(&self, stream: &str, before: u64, position: u64) {
        if position <= before {
            let stream = stream.to_owned();
            return self.end(Rewound::Older { stream, known: before, found: position });
        }
        self.of(stream, |seen| seen.newest = seen.newest.max(position));
    }

    fn end(&self, rewound: Rewound) {
        // One is enough.
        drop(self.rewound.set(rewound));
    }

    /// Returns when a stream is not what it was.
    pub(super) async fn rewound(&self) -> &Rewound {
        self.rewound.wait().await
    }
}

/// Looks at the streams of the log until it is closed. One that is gone may be restored by hand, and is waited for.
pub(super) async fn watch(core: Arc<Core>) {
    let names = (0..core.link.names.streams()).map(|stream| core.link.names.stream(stream));
    let watching = futures_util::future::join_all(names.map(|stream| watch_stream(&core, stream, false)));
    core.closing.run_until_cancelled(watching).await;
}

/// Looks at another stream, which is made by a start and by nothing else, until the log is closed.
pub(super) async fn watch_also(core: Arc<Core>, stream: String) {
    core.closing.run_until_cancelled(watch_stream(&core, stream, true)).await;
}

async fn watch_stream(core: &Core, stream: String, is_made_anew: bool) {
    let context = jetstream::ContextBuilder::new().timeout(core.link.timeout).build(core.link.client.clone());
    loop {
        if !core.link.is_connected() {
            // What is asked meanwhile would be kept, and all of it sent at the end of the outage.
            tokio::time::sleep(EVERY).await;
            continue;
        }
        let look = match context.get_stream(&stream).await {
            Ok(found) => Look::at(found.cached_info()),
            Err(error) => match error.kind() {
                // Where streams of the log are gone as well, somebody has yet to decide what is to be there.
                GetStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    (is_made_anew && core.trouble.any().is_none()).then_some(Look::Gone)
                }
                // Nothing follows from no answer.
                _ => None,
            },
        };
        if let Some(rewound) = look.and_then(|look| core.lineage.of(&stream, |seen| seen.look(&stream, look))) {
            return core.lineage.end(rewound);
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    /// What looks at a stream find, one after the other.
    fn found(looks: &[Look]) -> Option<(usize, Rewound)> {
        let mut seen = Seen::default();
        looks.iter().enumerate().find_map(|(index, look)| Some((index, seen.look("s", *look)?)))
    }

    fn there(last: u64) -> Look {
        Look::There { created: HOUR, last }
    }

    #[test]
    fn a_stream_that_grows_is_what_it_was_and_so_is_one_that_a_server_tells_late() {
        let (one_later, other) =
            (Look::There { created: HOUR + 1, last: 8 }, Look::There { created: 2 * HOUR, last: 8 });
        for looks in [
            &[there(0), there(0), there(7), there(7), there(9)][..],
            &[there(7), there(5), there(6), there(7), there(6), there(6), there(8)],
            &[there(7), one_later, one_later, one_later, there(8)],
            &[there(7), other, other, there(7), other, other, there(8)],
            &[Look::Gone, Look::Gone, Look::Gone, there(7)],
            &[there(7), Look::Gone, Look::Gone, there(7)],
        ] {
            assert_eq!(found(looks), None, "{looks:?}");
        }
    }

    #[test]
    fn three_looks_in_a_row_are_proof() {
        let stream = || "s".to_owned();
        let older = Rewound::Older { stream: stream(), known: 7, found: 4 };
        assert_eq!(found(&[there(6), there(7), there(2), there(3), there(4), there(8)]), Some((4, older)));
        let other = Look::There { created: 2 * HOUR, last: 99 };
        assert_eq!(found(&[there(7), other, other, other]), Some((3, Rewound::Another { stream: stream() })));
        let gone = Rewound::Gone { stream: stream() };
        assert_eq!(found(&[there(7), Look::Gone, Look::Gone, Look::Gone]), Some((3, gone)));
        assert_eq!(found(&[there(7), Look::Gone, Look::Gone, other]).unwrap().0, 3, "whatever it is each time");
    }

    #[test]
    fn nothing_follows_from_what_a_replica_without_a_leader_says() {
        let look = |cluster: serde_json::Value| {
            let info = serde_json::json!({
                "config": {"name": "s", "subjects": ["s"], "retention": "limits", "max_consumers": -1, "max_msgs": -1,
                    "max_bytes": -1, "discard": "old", "max_age": 0, "storage": "file", "num_replicas": 3},
                "created": "1970-01-01T01:00:00Z",
                "state": {"messages": 7, "bytes": 7, "first_seq": 1, "first_ts": "1970-01-01T01:00:00Z", "last_seq": 7,
                    "last_ts": "1970-01-01T01:00:00Z", "consumer_count": 0},
                "cluster": cluster,
            });
            Look::at(&serde_json::from_value::<Info>(info).unwrap())
        };
        for known in [serde_json::json!({"name": "c", "leader": "n0"}), serde_json::Value::Null] {
            let look = look(known);
            assert!(matches!(look, Some(Look::There { created: HOUR, last: 7 })), "{look:?}");
        }
        for unknown in [serde_json::json!({"name": "c"}), serde_json::json!({"name": "c", "leader": ""})] {
            let look = look(unknown);
            assert!(look.is_none(), "{look:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_stored_where_something_was() {
        let lineage = Lineage::default();
        lineage.has_stored("s", lineage.newest("s"), 7);
        // Two were on their way at a time, and the later one was answered first.
        let before = lineage.newest("s");
        lineage.has_stored("s", before, 9);
        lineage.has_stored("s", before, 8);
        lineage.has_stored("other", lineage.newest("other"), 1);
        assert_eq!(lineage.rewound.get(), None);
        lineage.has_stored("s", lineage.newest("s"), 9);
        assert_eq!(*lineage.rewound().await, Rewound::Older { stream: "s".to_owned(), known: 9, found: 9 });
    }
}
