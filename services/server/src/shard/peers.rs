//! What a shard needs of the other nodes, and what it is told by who decides which node owns it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tertulia_protocol::GroupName;
use tokio::sync::oneshot;

use super::{Hold, Part, Untold};

/// The way to the other nodes. What is sent may be lost, or arrive when nobody waits for it any more: that is for the shards to
/// notice.
pub trait Peers: fmt::Debug + Send + Sync + 'static {
    /// Asks whoever owns a shard, and waits for an answer as long as is sensible.
    fn ask(&self, shard: u16, frame: Bytes) -> BoxFuture<'static, Result<Bytes, Silence>>;

    /// What other nodes ask the owner of a shard, from now on until the stream is dropped.
    fn asked(&self, shard: u16) -> BoxFuture<'static, Result<BoxStream<'static, Asked>, Silence>>;

    /// Tells all nodes that follow a shard. Frames of one shard arrive in their order, if they do; this does not wait.
    fn tell(&self, shard: u16, frame: Bytes);

    /// Whether there are other nodes, as far as this one knows.
    fn are_there(&self) -> bool;

    /// What the owner of a shard tells, from now on until the stream is dropped.
    fn told(&self, shard: u16) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, Silence>>;

    /// The groups of all other nodes' own shards: those whose name begins with `prefix` and comes after `after`, of each node the first
    /// `limit` by name; and why a node does not tell, if one does not. Of its shards another one may tell.
    fn groups(&self, prefix: &str, after: Option<&str>, limit: usize) -> BoxFuture<'static, (Part, Option<Untold>)>;
}

/// Nobody answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Nobody is there to answer, for certain.
    #[error("no node answers for the shard")]
    Nobody,
    /// An answer did not come in time, or cannot come.
    #[error("{0}")]
    NoAnswer(String),
}

/// A question of another node.
pub struct Asked {
    /// What it sent.
    pub frame: Bytes,
    /// Takes the answer.
    pub answer: AnswerTo,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("bytes", &self.frame.len()).finish_non_exhaustive()
    }
}

/// Where an answer goes; it does not wait.
pub type AnswerTo = Box<dyn FnOnce(Bytes) + Send>;

/// What the task of a shard is told about its ownership.
#[derive(Debug)]
pub enum Order {
    /// The log has made the shard ours.
    Own {
        /// Grows with each change of owner: the position of our message on the shard's fence.
        reign: u64,
        /// What moderators held of late, as the node that had the shard before knows it.
        holds: Vec<Hold>,
        /// Whether it is served now; otherwise the log could not be read.
        done: oneshot::Sender<bool>,
    },
    /// Finish what is under way and serve the shard no more.
    Release {
        /// Told when that is so, with what moderators held of late.
        done: oneshot::Sender<Vec<Hold>>,
    },
    /// Another node has taken the shard.
    Lost,
    /// Something may have been missed: ask the owner.
    Follow,
    /// These nodes are there, and which start of each it is: members of others are gone.
    Nodes(Arc<HashMap<String, String>>),
    /// Some members may be held in this group, or in any, whom nobody took out.
    Held(Option<GroupName>),
}
