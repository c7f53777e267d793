//! The trace of a post, from its line to the answer of the log.

use std::time::Instant;

use opentelemetry::trace::Status;
use opentelemetry::{KeyValue, TraceId};
use tertulia_protocol::GroupName;
use xxhash_rust::xxh3::xxh3_64;

use super::fan_out::Told;
use super::span::{Details, Trace};

/// A post that is traced, and the marks that it left so far.
#[derive(Debug)]
pub struct Post {
    trace: Trace,
    connection: u64,
    received: Instant,
    /// When its line was decoded and checked.
    routed: Option<Instant>,
    /// When it entered the queue of its shard.
    queued: Option<Instant>,
    /// Whether another node received it from its client, and this one has only the shard.
    is_forwarded: bool,
}

/// The append that took a post.
#[derive(Debug, Clone, Copy)]
pub struct Appended<'a> {
    /// The shard of the group.
    pub shard: u16,
    /// The group.
    pub group: &'a GroupName,
    /// Messages of this group in it.
    pub batch: usize,
    /// Messages of all groups in it.
    pub messages: usize,
    /// When the log was asked.
    pub started: Instant,
    /// When the log had answered.
    pub returned: Instant,
}

impl Post {
    pub(super) fn new(trace: Trace, received: Instant, connection: u64) -> Self {
        Self { trace, connection, received, routed: None, queued: None, is_forwarded: false }
    }

    /// One that another node sends to this one, which has its shard.
    pub(super) fn forwarded(trace: Trace, received: Instant, connection: u64) -> Self {
        Self { is_forwarded: true, ..Self::new(trace, received, connection) }
    }

    /// Its place in the trace, for the node that has the shard: `traceparent` of W3C Trace Context.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.trace.traceparent()
    }

    /// The id of the trace, for the log.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.trace.id
    }

    /// Its line is decoded and has passed the checks: now it is on its way to its shard.
    pub fn routed(&mut self) {
        self.routed = Some(Instant::now());
    }

    /// It enters the queue of its shard.
    pub fn queued(&mut self) {
        self.queued = Some(Instant::now());
    }

    /// It was refused before it came to a shard.
    pub fn refused_at_once(self, why: &'static str) {
        self.end(Instant::now(), vec![], Err(why));
    }

    /// Its shard refused it.
    pub fn refused(self, shard: u16, group: &GroupName, why: &'static str) {
        let place = self.place(shard, group);
        self.end(Instant::now(), place, Err(why));
    }

    /// The log did not take it.
    pub fn failed(self, appended: &Appended<'_>, why: &'static str) {
        let Appended { shard, group, started, returned, .. } = *appended;
        let details = Details { status: Status::error(why), ..Details::default() };
        self.trace.part("append", started, returned, details);
        let place = self.place(shard, group);
        drop(self.end_at(started, returned, place, Err(why)));
    }

    /// It was stored before: nothing was appended.
    pub fn repeated(self, shard: u16, group: &GroupName, seq: u64) {
        let mut place = self.place(shard, group);
        place.extend([KeyValue::new("tertulia.seq", number(seq)), KeyValue::new("tertulia.repeated", true)]);
        self.end(Instant::now(), place, Ok(()));
    }

    /// The node that has the shard stored it.
    pub fn stored_elsewhere(self, shard: u16, group: &GroupName, seq: u64) {
        let mut place = self.place(shard, group);
        place.extend([KeyValue::new("tertulia.seq", number(seq)), KeyValue::new("tertulia.forwarded", true)]);
        self.end(Instant::now(), place, Ok(()));
    }

    /// The log took it. What is left is to bring it to the members.
    pub(crate) fn stored(self, seq: u64, appended: &Appended<'_>) -> Told {
        let Appended { shard, group, batch, messages, started, returned } = *appended;
        let seq = KeyValue::new("tertulia.seq", number(seq));
        let mut place = self.place(shard, group);
        place.push(seq.clone());
        let details = vec![
            KeyValue::new("tertulia.shard", i64::from(shard)),
            seq.clone(),
            KeyValue::new("tertulia.batch.messages", number(batch as u64)),
            KeyValue::new("tertulia.append.messages", number(messages as u64)),
        ];
        self.trace.part("append", started, returned, details);
        let trace = self.end_at(started, returned, place, Ok(()));
        Told { trace, seq }
    }

    fn place(&self, shard: u16, group: &GroupName) -> Vec<KeyValue> {
        let hash = xxh3_64(group.as_str().as_bytes());
        let mut place = vec![
            KeyValue::new("tertulia.shard", i64::from(shard)),
            KeyValue::new("tertulia.group.hash", format!("{hash:016x}")),
        ];
        if self.trace.inner.group_names {
            place.push(KeyValue::new("tertulia.group", group.as_str().to_owned()));
        }
        place
    }

    fn end(self, now: Instant, place: Vec<KeyValue>, result: Result<(), &'static str>) {
        drop(self.end_at(now, now, place, result));
    }

    /// Makes spans of the marks: what ended at `left`, and all of it at `end`.
    fn end_at(self, left: Instant, end: Instant, place: Vec<KeyValue>, result: Result<(), &'static str>) -> Trace {
        let Self { trace, connection, received, routed, queued, is_forwarded } = self;
        let connection = KeyValue::new("tertulia.connection", connection_name(connection));
        let status = result.map_or_else(Status::error, |()| Status::Unset);
        if is_forwarded {
            trace.part("queue", received, left, vec![]);
            let attributes = [vec![connection], place].concat();
            trace.root("serve", end, Details { attributes, status, ..Details::default() });
            return trace;
        }
        trace.part("receive", received, routed.unwrap_or(left), vec![connection.clone()]);
        if let Some(routed) = routed {
            trace.part("route", routed, queued.unwrap_or(left), vec![]);
        }
        if let Some(queued) = queued {
            trace.part("queue", queued, left, vec![]);
        }
        let attributes = [vec![connection], place].concat();
        trace.root("post", end, Details { attributes, status, ..Details::default() });
        trace
    }
}

/// A connection as the log and the admin API name it.
pub(super) fn connection_name(connection: u64) -> String {
    format!("c-{connection}")
}

/// Numbers of messages stay below 2^53.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
