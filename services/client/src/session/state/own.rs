//! What one posted last in each group, which can be taken back.

use tertulia_protocol::extended::Removed;

use super::State;
use super::open::beginning;
use crate::session::outbox::Pending;
use crate::session::query::{Place, Query, Which};

/// So many are kept at most.
const MOST_GROUPS: usize = 1_000;

/// A post that was typed.
#[derive(Debug)]
pub(super) struct Own {
    number: u64,
    beginning: String,
    /// Its place, once it is known to be there.
    place: Option<Place>,
}

impl State {
    pub(super) fn post(&mut self, group: String, text: String) {
        let own = Own { number: self.outbox.last_number() + 1, beginning: beginning(&text), place: None };
        if self.own.len() >= MOST_GROUPS && !self.own.contains_key(&group) {
            self.own.pop_first();
        }
        self.own.insert(group.clone(), own);
        self.outbox.push(group, text);
    }

    /// A post is there.
    pub(super) fn stored(&mut self, post: &Pending, place: Place) {
        self.queries.stored(post.number, place);
        if let Some(own) = self.own.get_mut(&post.group).filter(|own| own.number == post.number) {
            own.place = Some(place);
        }
    }

    /// What was typed last is meant, also where that was not posted: the one before it is not taken back for it.
    pub(super) fn take_back(&mut self, group: String, seq: Option<u64>) {
        let which = match (seq, self.own.get(&group)) {
            (Some(seq), _) => Which::Seq(seq),
            (None, Some(Own { number, beginning, place })) => {
                Which::Post { number: *number, beginning: beginning.clone(), place: *place }
            }
            (None, None) => {
                return self
                    .fail(format!("you have posted nothing to {group}, or have taken it back: give its number"));
            }
        };
        self.ask(Query::Remove { group, which });
    }

    /// Drops what cannot be taken back, once all that was typed before is answered.
    pub(super) fn drop_unposted(&mut self) {
        loop {
            let outbox = &self.outbox;
            let Some(group) = self.queries.drop_unposted(|group, number| outbox.has_before(group, number)) else {
                return;
            };
            self.fail(format!("nothing is removed from {group}: it is not known that what you typed last is there"));
        }
    }

    pub(super) fn removed(&mut self, removed: &Removed<'_>) {
        let group = &*removed.group_name;
        let events = self.events.len();
        let number = self.queries.removed(removed, &mut self.events);
        self.progress |= self.events.len() > events;
        if number.is_some() && self.own.get(group).map(|own| own.number) == number {
            self.own.remove(group);
        }
    }
}
