//! Messages that are taken back. Such a question waits in its turn like the others, and is repeated like them: a server answers a repeat as
//! it did the first.

use tertulia_protocol::extended::{FromClient, Remove, Removed};

use super::{Asked, Next, Queries, Query};
use crate::session::event::Event;

/// Which message is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one at that place.
    Seq(u64),
    /// One's own, by the number of the post.
    Post {
        /// The number.
        number: u64,
        /// How its text begins.
        beginning: String,
        /// Its place, once that is known.
        place: Option<Place>,
    },
}

/// Where a post of one's own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The life of the group.
    pub(crate) epoch: u64,
    /// The place in it.
    pub(crate) seq: u64,
}

impl Which {
    /// The line that asks for it, if its place is known.
    pub(super) fn line<'a>(&self, group: &'a str) -> Option<FromClient<'a>> {
        let (seq, epoch) = match self {
            Self::Seq(seq) => (*seq, None),
            Self::Post { place, .. } => place.map(|place| (place.seq, Some(place.epoch)))?,
        };
        Some(FromClient::Remove(Remove { group_name: group.into(), seq, epoch }))
    }
}

impl Queries {
    /// The post with that number is there.
    pub(crate) fn stored(&mut self, post: u64, at: Place) {
        for asked in &mut self.waiting {
            if let Query::Remove { which: Which::Post { number, place, .. }, .. } = &mut asked.query
                && *number == post
            {
                *place = Some(at);
            }
        }
    }

    /// Drops the first question if it is to take back a post that is not there, as far as is known, although none before it waits any more;
    /// answers in which group.
    pub(crate) fn drop_unposted(&mut self, is_before: impl Fn(&str, u64) -> bool) -> Option<String> {
        let Asked { query: Query::Remove { group, which }, number } = self.waiting.front()? else { return None };
        if self.sent || which.line(group).is_some() || is_before(group, *number) {
            return None;
        }
        let group = group.clone();
        self.turn(Next::Done);
        Some(group)
    }

    /// A message was taken back; answers the number of the post, if it was one's last.
    pub(crate) fn removed(&mut self, removed: &Removed<'_>, show: &mut Vec<Event>) -> Option<u64> {
        let Some(Asked { query: Query::Remove { group, which }, .. }) = self.waiting.front() else { return None };
        if !self.sent || *group != removed.group_name {
            return None;
        }
        let (text, number) = match which {
            Which::Seq(seq) => (format!("message {seq} of {group} is removed"), None),
            Which::Post { beginning, number, .. } => (format!("removed from {group}: {beginning}"), Some(*number)),
        };
        show.push(Event::Note(text));
        self.turn(Next::Done);
        number
    }
}
