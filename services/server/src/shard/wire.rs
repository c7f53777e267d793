//! What nodes say to each other about shards.
//!
//! A frame is JSON. It says which `version` its writer speaks, and which one a reader `needs` at least to carry it out; fields
//! that a reader does not know are ignored, and a request that it does not know is answered as such. So nodes of two versions
//! work side by side while one replaces the other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tertulia_protocol::{GroupName, PostId, UserName};

use super::directory::Told;
use super::moderation::Target;
use super::request::{Ended, JoinFrom, RemovedBefore, Selection, Telling};
use super::session::{ConnectionId, Removal, Stored};
use super::{Batch, Head, Record, Refusal, Term};

/// What this build speaks.
pub const VERSION: u32 = 1;
/// What who reads its frames must speak.
pub const NEEDS: u32 = 1;

/// Why a frame cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("a frame needs version {0} of the messages between nodes, and this build speaks {VERSION}: upgrade it")]
    TooNew(u32),
    #[error("a frame that is none: {0}")]
    Malformed(String),
}

/// A frame as bytes.
pub(super) fn encode(content: &impl Serialize) -> Bytes {
    #[derive(Serialize)]
    struct Out<'a, T> {
        version: u32,
        needs: u32,
        content: &'a T,
    }
    // Only maps with keys that are no texts cannot be written, and there are none.
    serde_json::to_vec(&Out { version: VERSION, needs: NEEDS, content }).unwrap_or_default().into()
}

pub(super) fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, Unfit> {
    #[derive(Deserialize)]
    struct Needs {
        needs: u32,
    }
    #[derive(Deserialize)]
    struct In<T> {
        content: T,
    }
    let malformed = |error: serde_json::Error| Unfit::Malformed(error.to_string());
    let Needs { needs } = serde_json::from_slice(frame).map_err(malformed)?;
    if needs > VERSION {
        return Err(Unfit::TooNew(needs));
    }
    serde_json::from_slice::<In<T>>(frame).map(|frame| frame.content).map_err(malformed)
}

// ---- from a mirror to the owner

/// Requests of one node to the owner of a shard, to be carried out in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ask {
    /// The node that asks.
    pub(super) node: String,
    /// Differs with each start of the node.
    pub(super) instance: String,
    /// Grows with each frame; one that is sent again has the same.
    pub(super) number: u64,
    /// The reign that the node knows: under another one nothing is carried out.
    pub(super) reign: u64,
    /// All members on the node, or a part of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) roll: Option<Roll>,
    #[serde(default)]
    pub(super) items: Vec<Item>,
}

/// Members on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Roll {
    /// Whether it begins with this one: whoever is not in it is gone.
    pub(super) begins: bool,
    /// The number of the last frame that the node was told; the removals after it are to be told again.
    pub(super) heard: u64,
    pub(super) groups: Vec<RollOfGroup>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RollOfGroup {
    pub(super) group: GroupName,
    pub(super) epoch: u64,
    /// The newest message that the node knows.
    pub(super) head: u64,
    pub(super) members: Vec<Person>,
}

/// A connection that is, or wants to be, a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Person {
    pub(super) id: ConnectionId,
    pub(super) user: UserName,
    pub(super) address: IpAddr,
    #[serde(default)]
    pub(super) joined_at: u64,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Item {
    Join {
        group: GroupName,
        person: Person,
        from: JoinFrom,
    },
    Leave {
        group: GroupName,
        id: ConnectionId,
        user: UserName,
        asked: bool,
    },
    Post {
        group: GroupName,
        person: Person,
        message: Arc<str>,
        id: String,
        /// The place of the post in its trace, if it is traced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
    Users {
        group: GroupName,
        after: Option<String>,
        limit: usize,
    },
    Look {
        group: GroupName,
    },
    Members {
        group: GroupName,
        after: Option<(UserName, ConnectionId)>,
        limit: usize,
    },
    Kick {
        group: Option<GroupName>,
        target: Target,
        reason: Option<Arc<str>>,
        #[serde(flatten)]
        hold: Term,
    },
    End {
        group: GroupName,
        how: Removal,
        reason: Option<Arc<str>>,
        #[serde(flatten)]
        hold: Term,
        /// The life of the group that is meant; an older build does not say it, and means any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
    Purge {
        group: GroupName,
        through: u64,
        /// As in `End`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
    Redact {
        group: GroupName,
        #[serde(flatten)]
        selection: Selection,
        epoch: u64,
        #[serde(flatten)]
        telling: Telling,
    },
    Announce {
        group: Option<GroupName>,
        message: Arc<str>,
        id: String,
    },
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

impl Item {
    /// The group that must be in memory for it.
    pub(super) fn needs(&self) -> Option<&GroupName> {
        match self {
            Self::Join { group, .. } | Self::Post { group, .. } => Some(group),
            Self::Users { group, .. } | Self::Members { group, .. } => Some(group),
            _ => None,
        }
    }
}

// ---- from the owner to a mirror

/// The answer to [`Ask`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Reply {
    /// All is carried out.
    Done {
        reign: u64,
        number: u64,
        /// The number of the last frame that was told before.
        told: u64,
        #[serde(default)]
        roll: Vec<RollAnswer>,
        outcomes: Vec<Outcome>,
    },
    /// This node does not own the shard.
    NotOwner,
    /// Nothing is carried out: this is the reign.
    Reign { reign: u64 },
    /// Nothing is carried out: the frame cannot be understood.
    Unfit { why: String },
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

/// What the owner knows of a group that a roll named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RollAnswer {
    pub(super) group: GroupName,
    /// `None`: the life of the group that the roll named has ended.
    pub(super) now: Option<(u64, u64)>,
    /// Who is no member.
    #[serde(default)]
    pub(super) removed: Vec<Removed>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "snake_case")]
pub(super) enum Outcome {
    Joined {
        epoch: u64,
        head: u64,
        first: u64,
        members: u64,
    },
    Left {
        was_member: bool,
    },
    Stored {
        epoch: u64,
        seq: u64,
        at: u64,
    },
    Users {
        page: Option<(Vec<UserName>, bool)>,
    },
    Look {
        group: Option<Listing>,
    },
    Members {
        page: Option<Vec<MemberTold>>,
    },
    Kicked {
        connections: Option<Vec<ConnectionId>>,
    },
    Ended {
        ended: Option<Ended>,
    },
    Purged {
        removed: Option<u64>,
    },
    Redacted {
        told: RedactionTold,
    },
    Announced {
        groups: Option<Vec<Result<Stored, Refused>>>,
    },
    Refused {
        refused: Refused,
    },
    /// The request, or its outcome, is of a newer version.
    #[serde(other)]
    Unknown,
}

/// What came of the removal of texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RedactionTold {
    NoSuchGroup,
    NoSuchMessage,
    Removed { messages: u64, told: Result<Stored, Refused> },
    RemovedQuietly(RemovedBefore),
}

/// A member as its owner tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MemberTold {
    pub(super) person: Person,
    pub(super) delivered: u64,
    pub(super) catching_up: bool,
}

/// A group in a list, as another node tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub(super) name: GroupName,
    pub(super) loaded: Option<Told>,
    pub(super) stored: Option<Head>,
    #[serde(default)]
    pub(super) closed_for: Option<Duration>,
}

/// Why, where something may have come of the request all the same. An older build takes it for any other reason to try again.
const IN_DOUBT: &str = "in_doubt";
/// Why, where who is no member may not do it: as [`Refusal::reason`] has it.
const NOT_A_MEMBER: &str = "not_a_member";

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refused {
    why: String,
    group: Option<GroupName>,
    #[serde(default)]
    retry_after: Option<Duration>,
    #[serde(default)]
    max: usize,
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        let (group, max) = match refusal {
            Refusal::NoSuchGroup(group) | Refusal::NotAMember(group) => (Some(group), 0),
            Refusal::Kicked { group, .. }
            | Refusal::Closed { group, .. }
            | Refusal::Unavailable { group, .. }
            | Refusal::Unanswered { group, .. } => (Some(group), 0),
            Refusal::GroupFull { group, max }
            | Refusal::ServerFull { group, max }
            | Refusal::TooManyNewGroups { group, max, .. } => (Some(group), *max),
            Refusal::NodeSilent | Refusal::Draining => (None, 0),
        };
        let why = if refusal.is_in_doubt() { IN_DOUBT } else { refusal.reason() };
        Self { why: why.to_owned(), group: group.cloned(), retry_after: refusal.retry_after(), max }
    }
}

impl Refused {
    /// Of what cannot be told because it is too large: it was carried out, perhaps.
    pub(super) fn too_large() -> Self {
        let retry_after = Some(super::session::RETRY_SOON);
        Self { why: IN_DOUBT.to_owned(), group: None, retry_after, max: 0 }
    }

    /// Whether whoever asked is no member for the owner, and would have to be.
    pub(super) fn is_for_no_member(&self) -> bool {
        self.why == NOT_A_MEMBER
    }

    /// The refusal; `about` is the group that was asked for.
    pub(super) fn refusal(self, about: &GroupName) -> Refusal {
        let group = self.group.unwrap_or_else(|| about.clone());
        let retry_after = self.retry_after.unwrap_or(super::session::RETRY_SOON);
        match self.why.as_str() {
            "no_such_group" => Refusal::NoSuchGroup(group),
            NOT_A_MEMBER => Refusal::NotAMember(group),
            "kicked" => Refusal::Kicked { group, retry_after },
            "closed" => Refusal::Closed { group, retry_after },
            "group_full" => Refusal::GroupFull { group, max: self.max },
            "server_full" => Refusal::ServerFull { group, max: self.max },
            IN_DOUBT => Refusal::Unanswered { group, retry_after },
            "rate_limited" => Refusal::TooManyNewGroups { group, max: self.max, retry_after },
            _ => Refusal::Unavailable { group, retry_after },
        }
    }
}

// ---- from the owner to all mirrors

/// What happened in a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Tell {
    pub(super) reign: u64,
    /// Counts the frames of a reign; one that has nothing in it repeats the last number.
    pub(super) number: u64,
    #[serde(default)]
    pub(super) batches: Vec<BatchTold>,
    #[serde(default)]
    pub(super) removed: Vec<Removed>,
    /// Nodes that are to tell who is a member there, for their members may have been forgotten. A build that does not know this takes the
    /// frame for a sign that it missed one, and does so too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) rolls: Vec<String>,
}

impl Tell {
    /// Whether it only repeats the last number.
    pub(super) fn is_beat(&self) -> bool {
        self.batches.is_empty() && self.removed.is_empty() && self.rolls.is_empty()
    }
}

/// Messages that are in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BatchTold {
    group: GroupName,
    epoch: u64,
    first: u64,
    records: Vec<RecordTold>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RecordTold {
    at: u64,
    sender: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    message: Arc<str>,
}

/// A membership that a moderator ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Removed {
    pub(super) group: GroupName,
    pub(super) id: ConnectionId,
    pub(super) how: Removal,
    #[serde(default)]
    pub(super) detail: Option<Arc<str>>,
}

impl BatchTold {
    pub(super) fn of(group: &GroupName, epoch: u64, records: &[Record]) -> Self {
        let tell = |record: &Record| RecordTold {
            at: record.at,
            sender: record.sender.as_str().to_owned(),
            id: record.id.as_ref().map(|id| id.as_str().to_owned()),
            message: Arc::clone(&record.message),
        };
        let first = records.first().map_or(0, |record| record.seq);
        Self { group: group.clone(), epoch, first, records: records.iter().map(tell).collect() }
    }

    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        const FIXED: usize = 64;
        self.records.iter().map(|record| record.message.len() + record.sender.len() + FIXED).sum()
    }

    /// The batch; `None` if it holds names that are none.
    pub(super) fn batch(self) -> Option<Batch> {
        let record = |(seq, record): (u64, RecordTold)| {
            Some(Record {
                seq,
                at: record.at,
                sender: UserName::from_stored(&record.sender).ok()?,
                id: record.id.map(|id| PostId::from_stored(&id)).transpose().ok()?,
                message: record.message,
            })
        };
        let records: Option<Vec<Record>> = (self.first..).zip(self.records).map(record).collect();
        let records = records.filter(|records| !records.is_empty())?;
        Some(Batch { group: self.group, epoch: self.epoch, records })
    }
}
