//! The memberships of one connection.
//!
//! A connection that is in a few groups looks at all of them whenever it is woken: that costs less than knowing which one has something
//! new. One that is in many would spend its time with looking, so there each membership has a waker of its own, which leaves a mark for it.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

use super::membership::{Membership, Surroundings};
use super::turns::Turns;

/// Up to so many memberships are all looked at each time.
const FEW: usize = 4;

/// All memberships of a connection, ordered by the group's name.
#[derive(Default)]
pub(super) struct Memberships {
    list: Vec<Membership>,
    /// Which is served first: a place in the list, or a slot of `many`.
    first: u32,
    /// Once there have been more than [`FEW`], until there are half as many.
    many: Option<Box<Many>>,
}

impl Memberships {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Membership> {
        self.list.iter()
    }

    /// The membership of a group, if there is one.
    pub(super) fn find(&self, group: &str) -> Option<&Membership> {
        self.list.get(self.place(group).ok()?)
    }

    /// Where the membership of a group is, or belongs.
    fn place(&self, group: &str) -> Result<usize, usize> {
        self.list.binary_search_by(|membership| membership.group().as_str().cmp(group))
    }

    /// Adds a membership; one of the same group gives way to it. To be called as [`Memberships::remove`].
    pub(super) fn put(&mut self, membership: Membership) {
        match self.place(membership.group().as_str()) {
            Ok(place) => {
                self.list[place] = membership;
                if let Some(many) = &self.many {
                    many.renewed(place);
                }
            }
            Err(place) => {
                if self.list.is_empty() {
                    // Most connections are in one group, and left to itself the first would take room for four.
                    self.list.reserve_exact(1);
                }
                self.list.insert(place, membership);
                match &mut self.many {
                    Some(many) => many.entered(place, self.list.len()),
                    None if self.list.len() > FEW => self.many = Some(Box::new(Many::new(self.list.len()))),
                    None => {}
                }
            }
        }
    }

    /// Ends the membership of a group, if there is one. To be called while the task is polled, before the memberships are.
    pub(super) fn remove(&mut self, group: &str) {
        let Ok(place) = self.place(group) else { return };
        self.list.remove(place);
        if self.list.len() <= FEW / 2 {
            // What is left is looked at when it is polled next, which must be before the task sleeps.
            self.many = None;
        } else if let Some(many) = &mut self.many {
            many.left(place);
        }
        if self.list.is_empty() {
            self.list = Vec::new();
        }
    }

    /// Decides for each, if that is not decided yet, that it is served up to what is in the log now.
    pub(super) fn end_here(&mut self) {
        self.list.iter_mut().for_each(Membership::end_here);
    }

    /// Whether each was served up to its end.
    pub(super) fn are_served(&self) -> bool {
        self.list.iter().all(Membership::is_served)
    }

    /// Takes up what is there while there is room; answers whether some was left for want of room. If not, the task is woken when there is more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, around: &mut Surroundings<'_>) -> bool {
        let Self { list, first, many } = self;
        if let Some(many) = many {
            return many.poll(list, first, cx, around);
        }
        let mut starved = false;
        let count = list.len();
        let begin = *first as usize % count.max(1);
        for place in (begin..count).chain(0..begin) {
            if list[place].poll(cx, around, None).is_ready() && !starved {
                starved = true;
                // Next time the ones after it come first, so that a busy group leaves room for the rest.
                *first = u32::try_from(place + 1).unwrap_or_default();
            }
        }
        starved
    }
}

/// The place of a slot that no membership has.
const FREE: u32 = u32::MAX;

/// Tells which of many memberships to look at. Each has a slot, which it keeps while its place in the list changes.
struct Many {
    called: Arc<Called>,
    /// By slot: leaves its mark, and wakes the task.
    wakers: Vec<Waker>,
    /// By slot: the place in the list.
    places: Vec<u32>,
    /// In which they read the log.
    turns: Turns,
}

impl Many {
    /// For so many memberships, all of which are to be looked at.
    fn new(count: usize) -> Self {
        let places = (0..).take(count).collect();
        let called = Arc::new(Called::new(2 * count));
        let mut many = Self { called, wakers: Vec::new(), places, turns: Turns::new() };
        many.call_all();
        many
    }

    /// A membership came to a place in the list, which has `count` now.
    fn entered(&mut self, place: usize, count: usize) {
        let free = if self.places.len() < count { None } else { self.slot_of(FREE) };
        let place = to_u32(place);
        // A group whose name is the last moves none.
        if to_u32(count) > place + 1 {
            for other in &mut self.places {
                *other += u32::from((place..FREE).contains(other));
            }
        }
        let slot = free.unwrap_or(self.places.len());
        match self.places.get_mut(slot) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        if slot < self.called.slots() {
            self.call(slot);
        } else {
            // What has been woken by way of the old marks is called again by this.
            self.called = Arc::new(Called::new(2 * self.places.len()));
            self.wakers.clear();
            self.call_all();
        }
    }

    /// Another membership took the place of one.
    fn renewed(&self, place: usize) {
        if let Some(slot) = self.slot_of(to_u32(place)) {
            self.called.mark(slot);
        }
    }

    /// The membership at a place went away, and those after it have moved up.
    fn left(&mut self, place: usize) {
        let place = to_u32(place);
        for other in &mut self.places {
            match *other {
                there if there == place => *other = FREE,
                there => *other -= u32::from((place..FREE).contains(&there)),
            }
        }
    }

    fn slot_of(&self, place: u32) -> Option<usize> {
        self.places.iter().position(|there| *there == place)
    }

    fn call_all(&mut self) {
        (0..self.places.len()).for_each(|slot| self.call(slot));
    }

    /// Has the membership in a slot looked at, which may be new.
    fn call(&mut self, slot: usize) {
        for slot in self.wakers.len()..=slot {
            self.wakers.push(Waker::from(Arc::new(Caller { called: Arc::clone(&self.called), slot })));
        }
        self.called.mark(slot);
    }

    fn poll(
        &mut self,
        list: &mut [Membership],
        first: &mut u32,
        cx: &mut Context<'_>,
        around: &mut Surroundings<'_>,
    ) -> bool {
        self.called.task.register(cx.waker());
        let mut starved = false;
        for slot in self.called.take_from(*first as usize) {
            let (Some(&place), Some(waker)) = (self.places.get(slot), self.wakers.get(slot)) else { continue };
            let Some(membership) = list.get_mut(place as usize) else { continue };
            if membership.poll(&mut Context::from_waker(waker), around, Some(&self.turns)).is_ready() {
                // There may be more, and there is room for it when the connection comes back.
                self.called.mark(slot);
                if !std::mem::replace(&mut starved, true) {
                    *first = to_u32(slot + 1);
                }
            }
        }
        if !starved {
            // tokio lets a task take so much in one go and no more: those that were not reached are not the last again.
            *first = to_u32((*first as usize + BITS) % self.called.slots());
        }
        starved
    }
}

fn to_u32(number: usize) -> u32 {
    // Far above `limits.groups_per_connection`, which ends at a million.
    u32::try_from(number).unwrap_or(FREE - 1)
}

/// Which memberships to look at, in the order of their slots.
struct Called {
    task: AtomicWaker,
    /// A bit for each slot.
    marks: Box<[AtomicU64]>,
}

const BITS: usize = u64::BITS as usize;

impl Called {
    fn new(slots: usize) -> Self {
        Self {
            task: AtomicWaker::new(),
            marks: iter::repeat_with(AtomicU64::default).take(slots.div_ceil(BITS)).collect(),
        }
    }

    fn slots(&self) -> usize {
        self.marks.len() * BITS
    }

    /// Leaves a mark for a slot.
    fn mark(&self, slot: usize) {
        if let Some(marks) = self.marks.get(slot / BITS) {
            marks.fetch_or(1 << (slot % BITS), Ordering::AcqRel);
        }
    }

    /// Takes the marks of all slots, from `first` on and then from the beginning. A mark that comes meanwhile is taken now or left for the next time.
    fn take_from(&self, first: usize) -> impl Iterator<Item = usize> {
        let words = self.marks.len();
        let (begin, before) = ((first / BITS) % words.max(1), (1u64 << (first % BITS)) - 1);
        (0..=words).flat_map(move |step| {
            let word = (begin + step) % words;
            let wanted = match step {
                0 => !before,
                step if step == words => before,
                _ => u64::MAX,
            };
            // Most words have none: that is seen without taking the line from the processors that write it.
            let mut taken = match self.marks[word].load(Ordering::Acquire) & wanted {
                0 => 0,
                _ => self.marks[word].fetch_and(!wanted, Ordering::AcqRel) & wanted,
            };
            iter::from_fn(move || {
                let bit = (taken != 0).then(|| taken.trailing_zeros() as usize)?;
                taken &= taken - 1;
                Some(word * BITS + bit)
            })
        })
    }
}

/// Wakes the task for the membership in one slot.
struct Caller {
    called: Arc<Called>,
    slot: usize,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Also where there is a mark: the task itself leaves one with what has no room, and is to see that more of it waits.
        self.called.mark(self.slot);
        self.called.task.wake();
    }
}

#[cfg(test)]
mod tests;
