//! What shards measure.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::{Bounds, Refusal};

/// Groups in memory.
pub const GROUPS: &str = "tertulia_groups";
/// Memberships.
pub const MEMBERS: &str = "tertulia_members";
/// Members that are being caught up.
pub const MEMBERS_LAGGING: &str = "tertulia_members_lagging";
/// Joins by result.
pub const JOINS: &str = "tertulia_joins_total";
/// Ends of memberships by reason.
pub const LEAVES: &str = "tertulia_leaves_total";
/// Posts by result.
pub const POSTS: &str = "tertulia_posts_total";
/// Messages per append.
pub const APPEND_MESSAGES: &str = "tertulia_append_messages";
/// Time of an append.
pub const APPEND_SECONDS: &str = "tertulia_append_seconds";
/// Bytes of messages per append.
pub const APPEND_BYTES: &str = "tertulia_append_bytes";
/// Members of the largest group.
pub const MEMBERS_MAX: &str = "tertulia_members_per_group_max";
/// Post ids that are remembered.
pub const DEDUP_IDS: &str = "tertulia_dedup_ids";
/// Shards owned by this node.
pub const SHARDS_OWNED: &str = "tertulia_shards_owned";
/// How many there are.
pub const SHARDS: &str = "tertulia_shards";
/// Requests that were sent to the node that owns their shard.
pub const FORWARDED: &str = "tertulia_forwarded_total";
/// Frames that other nodes were told.
pub const TOLD: &str = "tertulia_told_frames_total";
/// What did not come as it should.
pub const MISSED: &str = "tertulia_told_missed_total";
/// Requests that wait for an owner.
pub const QUEUE_REQUESTS: &str = "tertulia_shard_queue_requests";
/// The fullest queue.
pub const QUEUE_REQUESTS_MAX: &str = "tertulia_shard_queue_requests_max";
/// How many requests may wait for one owner.
pub const QUEUE_LIMIT: &str = "tertulia_shard_queue_limit";
/// Groups that exist.
pub const GROUPS_KNOWN: &str = "tertulia_groups_known";
/// Groups that exist on all nodes.
pub const GROUPS_COUNTED: &str = "tertulia_groups_counted";
/// How many groups there may be.
pub const GROUPS_LIMIT: &str = "tertulia_groups_limit";
/// Groups of which nothing was left.
pub const GROUPS_FORGOTTEN: &str = "tertulia_groups_forgotten_total";
/// Holds of moderators.
pub const HOLDS: &str = "tertulia_holds";
/// How many holds there may be.
pub const HOLDS_LIMIT: &str = "tertulia_holds_limit";
/// Groups that the log holds.
pub const LOG_GROUPS: &str = "tertulia_log_groups";
/// Bytes that the log holds.
pub const LOG_BYTES: &str = "tertulia_log_bytes";
/// Whether the log can be written.
pub const LOG_WRITABLE: &str = "tertulia_log_writable";

/// Gives every metric of this part its text.
pub fn describe() {
    describe_gauge!(GROUPS, "Groups that are in memory: with members, or used a short while ago");
    describe_gauge!(MEMBERS, "Memberships: connections times the groups they are in");
    describe_gauge!(MEMBERS_LAGGING, "Members that fell behind and are being caught up from the log now");
    describe_counter!(JOINS, "Joins by result: joined, again (already a member), refused");
    describe_counter!(LEAVES, "Ends of memberships by reason: leave, disconnect, kicked, closed, deleted");
    describe_counter!(
        POSTS,
        "Posts by result: stored, repeated (the id was stored before), refused, failed (the log, or the node that has the group, could not do it)"
    );
    describe_histogram!(APPEND_MESSAGES, "Messages in one append to the log");
    describe_histogram!(APPEND_BYTES, Unit::Bytes, "Bytes of messages in one append to the log");
    describe_gauge!(MEMBERS_MAX, "Members of the group with the most; its limit is limits.members_per_group");
    describe_gauge!(
        DEDUP_IDS,
        "Ids of posts that are remembered over all groups; the limit of one group is shard.dedup_window"
    );
    describe_histogram!(APPEND_SECONDS, Unit::Seconds, "Time from the start of an append until the log had taken it");
    describe_gauge!(SHARDS_OWNED, "Shards that this node owns");
    describe_gauge!(SHARDS, "Shards of the server, on all its nodes together");
    describe_counter!(
        FORWARDED,
        "Requests sent to the node that owns their shard, by result: sent, again (frames that were not answered and are sent once more), unanswered (given up: it is not known what came of them)"
    );
    describe_counter!(
        TOLD,
        "Frames with messages and removals that were sent to the nodes that follow a shard of this node"
    );
    describe_counter!(
        MISSED,
        "What the owner of a shard told and this node did not hear, by kind: frame (the node asks what it missed), message (read from the log)"
    );
    describe_gauge!(QUEUE_REQUESTS, "Requests that wait for the owners of all shards");
    describe_gauge!(
        QUEUE_REQUESTS_MAX,
        "Requests that wait for the owner with the longest queue; its limit is shard.queue"
    );
    describe_gauge!(QUEUE_LIMIT, "Requests that may wait for one owner (shard.queue)");
    describe_gauge!(
        GROUPS_KNOWN,
        "Groups of this node that exist: those that the log holds, and those without a message yet"
    );
    describe_gauge!(
        GROUPS_COUNTED,
        "Groups that exist on all nodes, as this one knows it: what it holds against tertulia_groups_limit. Where there is one node, tertulia_groups_known"
    );
    describe_gauge!(GROUPS_LIMIT, "Groups that may exist (limits.groups)");
    describe_counter!(
        GROUPS_FORGOTTEN,
        "Groups that were removed from the log because nothing was left of them: no member, and no message after retention or a purge"
    );
    describe_gauge!(
        HOLDS,
        "Holds of moderators: users, connections and addresses that may not come back yet, and groups that are closed"
    );
    describe_gauge!(HOLDS_LIMIT, "Holds that there may be (limits.holds)");
    describe_gauge!(LOG_GROUPS, "Groups that the log holds");
    describe_gauge!(
        LOG_BYTES,
        Unit::Bytes,
        "Bytes that the log holds, in memory or on disk; with nats those of the whole deployment, of one replica, and so the same at each node"
    );
    describe_gauge!(LOG_WRITABLE, "1 while the log can be written, else 0");
}

/// Handles, made once, so that counting costs an atomic addition.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) joined: Counter,
    pub(super) joined_again: Counter,
    pub(super) join_refused: Counter,
    pub(super) left: Counter,
    pub(super) disconnected: Counter,
    pub(super) kicked: Counter,
    pub(super) closed: Counter,
    pub(super) deleted: Counter,
    pub(super) stored: Counter,
    pub(super) repeated: Counter,
    pub(super) refused: Counter,
    pub(super) failed: Counter,
    pub(super) append_messages: Histogram,
    pub(super) append_bytes: Histogram,
    pub(super) members_max: Gauge,
    pub(super) dedup_ids: Gauge,
    pub(super) append_seconds: Histogram,
    pub(super) groups: Gauge,
    pub(super) known: Gauge,
    pub(super) counted: Gauge,
    pub(super) members: Gauge,
    pub(super) lagging: Gauge,
    pub(super) holds: Gauge,
    pub(super) forgotten: Counter,
    pub(super) shards: Gauge,
    pub(super) forwarded: Counter,
    pub(super) forwarded_again: Counter,
    pub(super) unanswered: Counter,
    pub(super) told: Counter,
    pub(super) gaps: Counter,
    pub(super) late: Counter,
    pub(super) queue: Gauge,
    pub(super) queue_max: Gauge,
    pub(super) log_groups: Gauge,
    pub(super) log_bytes: Gauge,
    pub(super) log_writable: Gauge,
}

/// Tells how much room there is.
pub(super) fn limits(shards: u16, queue: usize, bounds: &Bounds) {
    gauge!(SHARDS).set(f64::from(shards));
    gauge!(QUEUE_LIMIT).set(queue as f64);
    gauge!(GROUPS_LIMIT).set(bounds.groups as f64);
    gauge!(HOLDS_LIMIT).set(bounds.holds as f64);
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            joined: counter!(JOINS, "result" => "joined"),
            joined_again: counter!(JOINS, "result" => "again"),
            join_refused: counter!(JOINS, "result" => "refused"),
            left: counter!(LEAVES, "reason" => "leave"),
            disconnected: counter!(LEAVES, "reason" => "disconnect"),
            kicked: counter!(LEAVES, "reason" => "kicked"),
            closed: counter!(LEAVES, "reason" => "closed"),
            deleted: counter!(LEAVES, "reason" => "deleted"),
            stored: counter!(POSTS, "result" => "stored"),
            repeated: counter!(POSTS, "result" => "repeated"),
            refused: counter!(POSTS, "result" => "refused"),
            failed: counter!(POSTS, "result" => "failed"),
            append_messages: histogram!(APPEND_MESSAGES),
            append_bytes: histogram!(APPEND_BYTES),
            members_max: gauge!(MEMBERS_MAX),
            dedup_ids: gauge!(DEDUP_IDS),
            append_seconds: histogram!(APPEND_SECONDS),
            groups: gauge!(GROUPS),
            known: gauge!(GROUPS_KNOWN),
            counted: gauge!(GROUPS_COUNTED),
            members: gauge!(MEMBERS),
            lagging: gauge!(MEMBERS_LAGGING),
            holds: gauge!(HOLDS),
            forgotten: counter!(GROUPS_FORGOTTEN),
            shards: gauge!(SHARDS_OWNED),
            forwarded: counter!(FORWARDED, "result" => "sent"),
            forwarded_again: counter!(FORWARDED, "result" => "again"),
            unanswered: counter!(FORWARDED, "result" => "unanswered"),
            told: counter!(TOLD),
            gaps: counter!(MISSED, "kind" => "frame"),
            late: counter!(MISSED, "kind" => "message"),
            queue: gauge!(QUEUE_REQUESTS),
            queue_max: gauge!(QUEUE_REQUESTS_MAX),
            log_groups: gauge!(LOG_GROUPS),
            log_bytes: gauge!(LOG_BYTES),
            log_writable: gauge!(LOG_WRITABLE),
        }
    }

    /// Counts a post that is not stored, by whose fault that is.
    pub(super) fn post_refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Unavailable { .. } | Refusal::Unanswered { .. } | Refusal::NodeSilent => self.failed.increment(1),
            _ => self.refused.increment(1),
        }
    }
}
