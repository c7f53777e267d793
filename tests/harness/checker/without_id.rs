//! Posts without an id that wait for their answers: nothing but their order and their texts tells which answer is whose.

use std::sync::Arc;

use crate::recording::Posted;

/// What was known of a group when something was posted to it: its epoch and its head.
pub(super) type Head = (u64, u64);

/// A post that waits.
#[derive(Debug)]
struct Waiting<'a> {
    /// How many were sent before it.
    number: usize,
    text: &'a Arc<str>,
    head: Option<Head>,
}

/// Those of one connection in one group.
#[derive(Debug, Default)]
pub(super) struct WithoutId<'a> {
    sent: usize,
    waiting: Vec<Waiting<'a>>,
    /// Number, epoch and place of the one that was acknowledged last.
    last: Option<(usize, u64, u64)>,
}

/// The post that an acknowledgement is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// What was known of the group when it was sent.
    pub(super) head: Option<Head>,
    /// If it has changed places with one acknowledged before it: the place of which was sent first, and of which was sent later.
    pub(super) swapped: Option<(u64, u64)>,
}

impl<'a> WithoutId<'a> {
    pub(super) fn sent(&mut self, text: &'a Arc<str>, head: Option<Head>) {
        self.waiting.push(Waiting { number: self.sent, text, head });
        self.sent += 1;
    }

    /// Takes the post out that an acknowledgement is for; `text` is what stands in that place, if that is known. Acknowledgements of one
    /// group come in order, and a post between two of them was refused: it is the first with the text behind the one before. `None` if
    /// no post with the text waits.
    pub(super) fn acknowledged(&mut self, it: &Posted, text: Option<&Arc<str>>) -> Option<Taken> {
        let fits = |waiting: &Waiting<'_>| text.is_none_or(|text| waiting.text == text);
        let is_behind = |waiting: &Waiting<'_>| self.last.is_none_or(|(number, ..)| waiting.number > number);
        let behind = self.waiting.iter().position(|waiting| fits(waiting) && is_behind(waiting));
        let at = behind.or_else(|| self.waiting.iter().position(fits))?;
        let Waiting { number, head, .. } = self.waiting.remove(at);
        let last = self.last.replace((number, it.epoch, it.seq));
        let swapped = match last {
            Some((before, epoch, seq)) if epoch == it.epoch && (number < before || it.seq < seq) => {
                Some(if number < before && it.seq > seq { (it.seq, seq) } else { (seq, it.seq) })
            }
            _ => None,
        };
        Some(Taken { head, swapped })
    }

    /// The texts of those that still wait.
    pub(super) fn rest(&self) -> impl Iterator<Item = &'a Arc<str>> {
        self.waiting.iter().map(|waiting| waiting.text)
    }
}
