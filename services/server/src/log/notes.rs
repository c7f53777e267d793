//! Notes: the little that is to last beside the messages, such as whom moderators keep out.

use std::fmt;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

/// A note. Its key and its text mean something only to who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about; at most 1,500 bytes.
    pub key: String,
    /// What it says; at most 4,096 bytes.
    pub text: String,
    /// Until when it holds (milliseconds since 1970-01-01 UTC); after that it is as if there were none.
    pub until: u64,
}

/// Notes cannot be kept or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("notes cannot be kept or read: {reason}")]
pub struct NoteError {
    /// What the engine met, for operators.
    pub reason: String,
}

/// A note that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Grows with each note that is kept, whatever its key is and whoever keeps it; never 0. Where only one process keeps notes it begins
    /// anew with that.
    pub change: u64,
    /// What it says.
    pub note: Note,
}

/// All notes, and those that come.
pub type Following = (Vec<Kept>, BoxStream<'static, Kept>);

/// Where notes are kept.
///
/// * **Durable on return.** A note that [`Notes::keep`] has kept survives what a message survives that the same engine appended.
/// * **One for each key.** A note takes the place of the one before it with its key. One whose time is over takes it away.
/// * **Told to all.** Whoever follows learns of what anybody keeps, on whichever node, soon and in the order in which notes of one key
///   were kept; of those that replace each other at once, maybe only of the last.
pub trait Notes: fmt::Debug + Send + Sync + 'static {
    /// Keeps a note; answers which change that is ([`Kept::change`]): two that are kept at once may be answered in any order. After an error it
    /// may be kept or not.
    fn keep(&self, note: Note) -> BoxFuture<'static, Result<u64, NoteError>>;

    /// All notes that hold now, maybe with some whose time is over, and those that are kept from then on, also those that take others away.
    /// When the stream ends something may have been missed: follow anew.
    fn follow(&self) -> BoxFuture<'static, Result<Following, NoteError>>;
}
