//! Groups: the map from groups to shards to nodes, and one owner task per shard.
//!
//! Others hold [`Shards`], a cheap handle. A connection sends [`Request`]s to the owner of a group's shard and finds the
//! answers in its [`Inbox`]; messages come through the [`Subscription`] that joining gave it.

mod covered;
mod dedup;
mod ending;
mod founders;
mod group;
mod listed;
mod owner;
mod sweep;
pub mod wire;

pub mod config;
pub mod delivery;
pub mod directory;
pub mod events;
pub mod handle;
pub mod holds;
pub mod map;
pub mod metrics;
pub mod moderation;
pub mod peers;
pub mod refusal;
pub mod request;
pub mod session;
pub mod weight;

pub use config::{Bounds, Config};
pub use covered::Covered;
pub use delivery::{Delivery, Subscription};
pub use directory::{Directory, GroupStatus};
pub use events::Events;
pub use handle::Shards;
pub use holds::{Held, Hold, HoldError, Holds, Term};
pub use listed::{Listed, Part, Untold};
pub use map::ShardMap;
pub use moderation::Target;
pub use refusal::Refusal;
pub use request::{JoinFrom, NewPost, Request};
pub use session::{Ack, ConnectionId, Event, Inbox, Removal, Session};
pub use weight::Weight;

/// The front and the admin API read the log through [`Shards`]; these are the words for it.
pub use crate::log::notes::NoteError;
pub use crate::log::{BackupError, Batch, Copied, Head, Page, PageLimit, Range, ReadError, Record};
