//! The one order of each group, as the log and its members tell it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::removals::{self, are_alike};
use super::{GroupLog, Rules, Verdict, Violation};
use crate::recording::Message;

/// One life of one group.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// By `seq - 1`; with the first witness.
    messages: Vec<Option<(Arc<Message>, Arc<str>)>>,
}

impl Life {
    /// The message at `seq`.
    pub(super) fn at(&self, seq: u64) -> Option<&Arc<Message>> {
        self.entry(seq).map(|(message, _)| message)
    }

    /// The messages from the end back to the first that nobody knows, oldest first.
    pub(super) fn known_end(&self) -> impl Iterator<Item = &Arc<Message>> {
        let first = self.messages.iter().rposition(Option::is_none).map_or(0, |hole| hole + 1);
        self.messages[first..].iter().flatten().map(|(message, _)| message)
    }

    fn entry(&self, seq: u64) -> Option<&(Arc<Message>, Arc<str>)> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.messages.get(index)?.as_ref()
    }

    fn slot(&mut self, seq: u64) -> Option<&mut Option<(Arc<Message>, Arc<str>)>> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        if index >= self.messages.len() {
            self.messages.resize(index + 1, None);
        }
        self.messages.get_mut(index)
    }
}

/// What the log holds of the last life of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) epoch: u64,
    /// The oldest message that has to be there: what the log begins with, or 1 if nothing may remove any; 0 if there is none.
    pub(super) first: u64,
    /// The newest message; 0 if there is none.
    pub(super) head: u64,
}

/// The order of all groups.
#[derive(Debug, Default)]
pub(super) struct Truth {
    rules: Rules,
    lives: HashMap<Arc<str>, HashMap<u64, Life>>,
    kept: HashMap<Arc<str>, Kept>,
    /// Who was found to have seen which life of which group that is over.
    over: HashSet<(Arc<str>, Arc<str>, u64)>,
}

impl Truth {
    /// What the logs tell, which are themselves judged.
    pub(super) fn of_logs(rules: Rules, logs: &[GroupLog], verdict: &mut Verdict) -> Self {
        let mut truth = Self { rules, ..Self::default() };
        let witness: Arc<str> = "the log".into();
        for log in logs {
            let mut first = log.messages.first().map_or(0, |message| message.seq);
            if first > 1 && !rules.oldest_may_go {
                verdict.violations.push(Violation::BeginningLost { group: Arc::clone(&log.group), first });
                first = 1;
            }
            let head = log.messages.last().map_or(0, |message| message.seq);
            truth.kept.insert(Arc::clone(&log.group), Kept { epoch: log.epoch, first, head });
            verdict.facts.messages += log.messages.len() as u64;
            for pair in log.messages.windows(2) {
                let [previous, next] = pair else { continue };
                if next.seq != previous.seq + 1 {
                    let (previous, next) = (previous.seq, next.seq);
                    verdict.violations.push(Violation::LogNotDense { group: Arc::clone(&log.group), previous, next });
                }
                if next.at < previous.at {
                    let violation = Violation::TimeWentBack { group: Arc::clone(&log.group), seq: next.seq };
                    verdict.violations.push(violation);
                }
            }
            for message in &log.messages {
                verdict.violations.extend(truth.note(log.epoch, message, &witness));
            }
        }
        truth
    }

    /// Takes in that `who` has `message`; answers what contradicts it.
    fn note(&mut self, epoch: u64, message: &Arc<Message>, who: &Arc<str>) -> Option<Violation> {
        let life = self.lives.entry(Arc::clone(&message.group)).or_default().entry(epoch).or_default();
        let slot = life.slot(message.seq)?;
        let Some((known, witness)) = slot else {
            *slot = Some((Arc::clone(message), Arc::clone(who)));
            return None;
        };
        if Arc::ptr_eq(known, message) {
            return None;
        }
        if **known == **message {
            // Compared by its address from now on.
            *known = Arc::clone(message);
            return None;
        }
        if are_alike(known, message) {
            // The one with the text tells more.
            if removals::is_unknown(known) {
                (*known, *witness) = (Arc::clone(message), Arc::clone(who));
            }
            return None;
        }
        Some(Violation::Disagreement {
            group: Arc::clone(&message.group),
            epoch,
            one: Arc::clone(witness),
            this: Arc::clone(known),
            other: Arc::clone(who),
            that: Arc::clone(message),
        })
    }

    /// Takes in that `who` was told of this life of a group, in which something was said: it must be the one that the log holds.
    pub(super) fn alive(&mut self, group: &Arc<str>, epoch: u64, who: &Arc<str>, verdict: &mut Verdict) {
        if !self.rules.epochs_may_end && self.kept(group).is_some_and(|kept| kept.epoch != epoch) {
            self.ended(group, epoch, who, verdict);
        }
    }

    /// Says once to whom a life is lost.
    pub(super) fn ended(&mut self, group: &Arc<str>, epoch: u64, who: &Arc<str>, verdict: &mut Verdict) {
        if self.over.insert((Arc::clone(who), Arc::clone(group), epoch)) {
            let (who, group) = (Arc::clone(who), Arc::clone(group));
            verdict.violations.push(Violation::EpochEnded { who, group, epoch });
        }
    }

    /// Takes in that a member saw `message`; it has to agree with all others and, if it is recent enough, with the log.
    pub(super) fn seen(&mut self, epoch: u64, message: &Arc<Message>, who: &Arc<str>, verdict: &mut Verdict) {
        self.alive(&message.group, epoch, who, verdict);
        let kept = self.kept(&message.group).filter(|kept| kept.epoch == epoch);
        let missing = kept.is_some_and(|kept| {
            let in_reach = message.seq >= kept.first || kept.first == 0;
            in_reach && self.life(&message.group, epoch).and_then(|life| life.at(message.seq)).is_none()
        });
        if missing {
            let (who, group) = (Arc::clone(who), Arc::clone(&message.group));
            verdict.violations.push(Violation::DeliveredNotKept { who, group, seq: message.seq });
        }
        verdict.violations.extend(self.note(epoch, message, who));
    }

    pub(super) fn life(&self, group: &str, epoch: u64) -> Option<&Life> {
        self.lives.get(group)?.get(&epoch)
    }

    /// The last life of a group whose log is known.
    pub(super) fn last_life(&self, group: &str) -> Option<(&Life, Kept)> {
        let kept = self.kept(group)?;
        Some((self.life(group, kept.epoch)?, kept))
    }

    /// What the log holds of a group, if the log was given.
    pub(super) fn kept(&self, group: &str) -> Option<Kept> {
        self.kept.get(group).copied()
    }

    /// The groups whose logs were given.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.kept.keys()
    }
}
