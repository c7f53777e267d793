//! Whether each extended member saw the one order, whole and once.

use std::collections::HashMap;
use std::sync::Arc;

use super::truth::Truth;
use super::{Verdict, Violation};
use crate::membership::{Ask, Fault, Membership, Start};
use crate::recording::{Dialect, End, Event, Joined, Recording, Sent};

/// Follows one connection through all its groups.
pub(super) fn check(recording: &Recording, truth: &mut Truth, verdict: &mut Verdict) {
    if recording.dialect != Dialect::Extended {
        return;
    }
    let who = &recording.who;
    let mut groups: HashMap<Arc<str>, Membership> = HashMap::new();
    for event in &recording.events {
        match event {
            Event::Sent(sent) => match &**sent {
                Sent::Join { group, after, last, epoch } => {
                    let ask = Ask { after: *after, last: *last, epoch: *epoch };
                    groups.entry(Arc::clone(group)).or_default().asked(ask);
                }
                Sent::Leave { group } => groups.entry(Arc::clone(group)).or_default().asked_to_leave(),
                Sent::Post { .. } => {}
            },
            Event::Rejected(it) if it.request.as_deref() == Some("Join") => {
                if let Some(membership) = it.group.as_ref().and_then(|group| groups.get_mut(group)) {
                    membership.refused(it.code);
                }
            }
            Event::Rejected(it) if it.request.as_deref() == Some("Leave") => {
                if let Some(membership) = it.group.as_ref().and_then(|group| groups.get_mut(group)) {
                    membership.leave_refused();
                }
            }
            Event::Joined(it) => {
                verdict.facts.joins += 1;
                let membership = groups.entry(Arc::clone(&it.group)).or_default();
                let asked = membership.joined(it);
                check_joined(who, it, asked, truth, verdict);
            }
            Event::Message(message) => {
                verdict.facts.deliveries += 1;
                let membership = groups.entry(Arc::clone(&message.group)).or_default();
                let begins = matches!(membership.next(), Some((Start::OldestKept(_), _)));
                let outcome = membership.message(message.seq);
                unexpected(who, &message.group, message.seq, outcome, verdict);
                let Some(epoch) = membership.epoch() else { continue };
                if begins {
                    check_began(who, &message.group, epoch, message.seq, truth, verdict);
                }
                truth.seen(epoch, message, who, verdict);
            }
            Event::Lagged(it) => {
                verdict.facts.told_losses += 1;
                let membership = groups.entry(Arc::clone(&it.group)).or_default();
                let outcome = membership.lagged(it);
                unexpected(who, &it.group, it.first, outcome, verdict);
                let kept = truth.kept(&it.group).filter(|kept| membership.epoch() == Some(kept.epoch));
                if let Some(kept) = kept
                    && kept.first != 0
                    && it.last >= kept.first
                {
                    let (who, group) = (Arc::clone(who), Arc::clone(&it.group));
                    verdict.violations.push(Violation::UnfoundedLoss { who, group, first: it.first, kept: kept.first });
                }
            }
            Event::Left(it) => {
                let membership = groups.entry(Arc::clone(&it.group)).or_default();
                let seq = membership.place().map_or(0, |(seq, _)| seq);
                unexpected(who, &it.group, seq, membership.left(it.reason), verdict);
            }
            Event::History(page) => {
                for pair in page.messages.windows(2) {
                    if let [previous, next] = pair
                        && next.seq != previous.seq + 1
                    {
                        let (group, previous, next) = (Arc::clone(&page.group), previous.seq, next.seq);
                        verdict.violations.push(Violation::LogNotDense { group, previous, next });
                    }
                }
                for message in &page.messages {
                    truth.seen(page.epoch, message, who, verdict);
                }
            }
            _ => {}
        }
    }
    if recording.end == End::Settled {
        for (group, membership) in &groups {
            if membership.waits() {
                let (who, group) = (Arc::clone(who), Arc::clone(group));
                verdict.violations.push(Violation::JoinUnanswered { who, group });
            }
            check_end(who, group, membership, truth, verdict);
        }
    }
}

fn unexpected(who: &Arc<str>, group: &Arc<str>, seq: u64, outcome: Result<(), Fault>, verdict: &mut Verdict) {
    if let Err(fault) = outcome {
        let (who, group) = (Arc::clone(who), Arc::clone(group));
        verdict.violations.push(Violation::Unexpected { who, group, seq, fault });
    }
}

/// What `Joined` says has to fit the log.
fn check_joined(
    who: &Arc<str>,
    it: &Joined,
    start: Result<Option<Start>, Fault>,
    truth: &mut Truth,
    verdict: &mut Verdict,
) {
    // A life in which nothing was said yet may end with the server that began it.
    if it.head > 0 {
        truth.alive(&it.group, it.epoch, who, verdict);
    }
    let (who, group) = (Arc::clone(who), Arc::clone(&it.group));
    let start = match start {
        Ok(start) => start,
        Err(fault) => {
            verdict.violations.push(Violation::Unexpected { who, group, seq: it.head, fault });
            return;
        }
    };
    let Some(kept) = truth.kept(&it.group).filter(|kept| kept.epoch == it.epoch) else { return };
    if it.head > kept.head && kept.head != 0 {
        verdict.violations.push(Violation::HeadAhead { who, group, head: it.head, newest: kept.head });
        return;
    }
    // Retention only ever takes more: what is kept now was kept then.
    if let Some(Start::Exactly(first) | Start::OldestKept(first)) = start
        && !it.recovered
        && kept.first != 0
        && kept.first <= first
        && first <= it.head
        && !matches!(start, Some(Start::OldestKept(1)))
    {
        verdict.violations.push(Violation::UnfoundedLoss { who, group, first, kept: kept.first });
    }
}

/// A join that begins with the oldest message kept must not begin later than with what is kept even now.
fn check_began(who: &Arc<str>, group: &Arc<str>, epoch: u64, first: u64, truth: &Truth, verdict: &mut Verdict) {
    let Some(kept) = truth.kept(group).filter(|kept| kept.epoch == epoch && kept.first != 0) else { return };
    if first > kept.first {
        let (who, group) = (Arc::clone(who), Arc::clone(group));
        verdict.violations.push(Violation::BeganLate { who, group, first, kept: kept.first });
    }
}

/// A member that stayed has seen the newest message.
fn check_end(who: &Arc<str>, group: &Arc<str>, membership: &Membership, truth: &mut Truth, verdict: &mut Verdict) {
    let Some((next, epoch)) = membership.next() else { return };
    let Some(kept) = truth.kept(group) else { return };
    if epoch != kept.epoch {
        // Whatever may end: who is still in has been told nothing of it.
        truth.ended(group, epoch, who, verdict);
        return;
    }
    let (who, group) = (Arc::clone(who), Arc::clone(group));
    let (Start::Exactly(next) | Start::OldestKept(next)) = next;
    if next <= kept.head {
        verdict.violations.push(Violation::NotCaughtUp { who, group, next, head: kept.head });
    }
}
