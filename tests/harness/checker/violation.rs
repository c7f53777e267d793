//! What can be wrong.

use std::fmt;
use std::sync::Arc;

use crate::membership::Fault;
use crate::recording::Message;

/// Something that does not fit the promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// P1: two witnesses hold different messages for one place.
    Disagreement {
        /// The place.
        group: Arc<str>,
        /// Its life.
        epoch: u64,
        /// Who saw the first.
        one: Arc<str>,
        /// The first.
        this: Arc<Message>,
        /// Who saw the second.
        other: Arc<str>,
        /// The second.
        that: Arc<Message>,
    },
    /// P1, P3 or P4: a member saw what it should not have seen then.
    Unexpected {
        /// Who.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The message, or the first of a told loss.
        seq: u64,
        /// What is wrong with it.
        fault: Fault,
    },
    /// P1: the log's numbers are not dense, or not growing.
    LogNotDense {
        /// Where.
        group: Arc<str>,
        /// The number before.
        previous: u64,
        /// The number that follows it.
        next: u64,
    },
    /// P1: time went back within a group.
    TimeWentBack {
        /// Where.
        group: Arc<str>,
        /// The message that is older than the one before it.
        seq: u64,
    },
    /// P1: of two posts of one connection, the later one has the earlier place.
    PostsSwapped {
        /// Who.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The place of the post that was sent first.
        first: u64,
        /// The place of the post that was sent later.
        later: u64,
    },
    /// P1: a classic member's messages are not a run of the group's order.
    NotARun {
        /// Who.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// How many messages fit at best.
        fitting: usize,
        /// The message that does not fit any more.
        got: Arc<str>,
    },
    /// P2: an acknowledged post is not in the log.
    LostAck {
        /// Who posted.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The acknowledged place.
        seq: u64,
    },
    /// P2: the log does not begin with the first message, and nothing may have removed any.
    BeginningLost {
        /// Where.
        group: Arc<str>,
        /// What it begins with.
        first: u64,
    },
    /// P2: an acknowledged place holds another message.
    AckOfAnother {
        /// Who posted.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The acknowledged place.
        seq: u64,
        /// What it holds, or what the acknowledgement says.
        holds: String,
    },
    /// P2: a member saw a message that the log does not hold.
    DeliveredNotKept {
        /// Who saw it.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The message.
        seq: u64,
    },
    /// P2: a refused post is in the log.
    RefusedButKept {
        /// Who posted.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The message.
        seq: u64,
    },
    /// P2: the life of a group ended, and what was acknowledged or joined in it is gone.
    EpochEnded {
        /// Who saw it.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The life that is over.
        epoch: u64,
    },
    /// P2: a post was never answered, although the connection stayed.
    Unanswered {
        /// Who posted.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// Its id, or its text if it has none.
        post: Arc<str>,
    },
    /// A join was never answered, although the connection stayed.
    JoinUnanswered {
        /// Who asked.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
    },
    /// P2: the posts of a classic connection that stayed and was told of no error are not in the log.
    ClassicPostsLost {
        /// Who posted.
        who: Arc<str>,
        /// How many posts it sent.
        sent: usize,
    },
    /// P2: a message that nobody posted.
    NeverPosted {
        /// Where.
        group: Arc<str>,
        /// The message.
        message: Arc<Message>,
    },
    /// A text that was removed is in the log.
    NotRemoved {
        /// Where.
        group: Arc<str>,
        /// The message.
        message: Arc<Message>,
    },
    /// A text that somebody saw as removed is in the log, or was seen all the same.
    TextCameBack {
        /// Who saw it.
        who: Arc<str>,
        /// The message, as it was seen.
        message: Arc<Message>,
    },
    /// P3: a member that stayed did not see the newest messages.
    NotCaughtUp {
        /// Who.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The first message it did not see.
        next: u64,
        /// The newest one.
        head: u64,
    },
    /// P3: a classic member did not see its own post, although it had joined before.
    OwnPostMissed {
        /// Who.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// Its message.
        seq: u64,
    },
    /// P3: a loss was told, or a recovery denied, of messages that the log still holds.
    UnfoundedLoss {
        /// Who was told.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The first message that is said to be lost.
        first: u64,
        /// The oldest that is kept.
        kept: u64,
    },
    /// P3: a join began later than the oldest message kept.
    BeganLate {
        /// Who.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The first message it saw.
        first: u64,
        /// The oldest that is kept.
        kept: u64,
    },
    /// P3: `Joined` told a head that the group did not have then, or never had.
    HeadAhead {
        /// Who was told.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// What it was told.
        head: u64,
        /// The newest message that there can have been.
        newest: u64,
    },
    /// P4: one id is stored twice.
    StoredTwice {
        /// Where.
        group: Arc<str>,
        /// Who posted it.
        sender: Arc<str>,
        /// The id.
        id: Arc<str>,
        /// The first place.
        first: u64,
        /// The second place.
        second: u64,
    },
    /// P4: one id was acknowledged with two places.
    AcksDiffer {
        /// Where.
        group: Arc<str>,
        /// Who posted it.
        who: Arc<str>,
        /// The id.
        id: Arc<str>,
        /// The places.
        seqs: [u64; 2],
    },
    /// P4: two posts without an id were acknowledged with one place.
    PlaceGivenTwice {
        /// Who was given it last.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The place.
        seq: u64,
    },
    /// A post was acknowledged that was not sent.
    AckNotAsked {
        /// To whom.
        who: Arc<str>,
        /// Where.
        group: Arc<str>,
        /// The acknowledged place.
        seq: u64,
    },
}

impl Violation {
    /// The promise that is broken.
    #[must_use]
    pub fn promise(&self) -> &'static str {
        match self {
            Self::Disagreement { .. }
            | Self::LogNotDense { .. }
            | Self::TimeWentBack { .. }
            | Self::PostsSwapped { .. }
            | Self::NotARun { .. } => "P1 order",
            Self::LostAck { .. }
            | Self::BeginningLost { .. }
            | Self::AckOfAnother { .. }
            | Self::AckNotAsked { .. }
            | Self::DeliveredNotKept { .. }
            | Self::RefusedButKept { .. }
            | Self::EpochEnded { .. }
            | Self::Unanswered { .. }
            | Self::ClassicPostsLost { .. }
            | Self::NeverPosted { .. } => "P2 acknowledged means kept",
            Self::NotCaughtUp { .. }
            | Self::OwnPostMissed { .. }
            | Self::UnfoundedLoss { .. }
            | Self::BeganLate { .. }
            | Self::HeadAhead { .. } => "P3 no silent loss",
            Self::StoredTwice { .. } | Self::AcksDiffer { .. } | Self::PlaceGivenTwice { .. } => "P4 no duplicates",
            Self::JoinUnanswered { .. } => "membership",
            Self::NotRemoved { .. } | Self::TextCameBack { .. } => "removed means gone",
            Self::Unexpected { fault, .. } => match fault {
                Fault::Repeated => "P4 no duplicates",
                Fault::OutOfOrder => "P1 order",
                Fault::Gap { .. } | Fault::LaggedElsewhere { .. } | Fault::RecoveredElsewhere => "P3 no silent loss",
                Fault::Outside | Fault::NotAsked | Fault::LeftUnasked => "membership",
            },
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disagreement { group, epoch, one, this, other, that } => {
                write!(f, "'{group}' (epoch {epoch}) at {}: {one} has {this:?}, {other} has {that:?}", this.seq)
            }
            other => write!(f, "{other:?}"),
        }
    }
}
