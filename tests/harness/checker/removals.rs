//! Messages whose texts were removed.
//!
//! Who saw one before has its text, and the log has not. What is judged by texts is judged by those that members saw or posters sent; here it
//! is judged that what is removed stays so.

use std::collections::HashMap;
use std::sync::Arc;

use super::{GroupLog, Verdict, Violation};
use crate::recording::{Dialect, Event, Message, Recording, Sent};

/// A removal that was acknowledged to whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The group.
    pub group: Arc<str>,
    /// Its life.
    pub epoch: u64,
    /// The first message.
    pub first: u64,
    /// The last message.
    pub last: u64,
    /// Only those of this sender; of all, without one.
    pub sender: Option<Arc<str>>,
}

/// Judges whether the logs have no text any more that was removed.
#[must_use]
pub fn check_removals(removals: &[Removal], logs: &[GroupLog]) -> Verdict {
    let mut verdict = Verdict::default();
    for removal in removals {
        let log = logs.iter().find(|log| log.group == removal.group && log.epoch == removal.epoch);
        let Some(log) = log else { continue };
        let is_meant = |message: &&Arc<Message>| {
            let is_of = removal.sender.as_ref().is_none_or(|sender| *sender == message.sender);
            // What tells of a removal stays.
            (removal.first..=removal.last).contains(&message.seq) && is_of && message.removes.is_none()
        };
        for message in log.messages.iter().filter(is_meant) {
            verdict.facts.removed += 1;
            if !message.removed {
                let group = Arc::clone(&log.group);
                verdict.violations.push(Violation::NotRemoved { group, message: Arc::clone(message) });
            }
        }
    }
    verdict
}

/// Whether two witnesses can hold these for one place: they are the same, but for a text that was removed from one of them.
pub(super) fn are_alike(one: &Message, other: &Message) -> bool {
    let is_removed = one.removed || other.removed;
    let have_texts = !one.text.is_empty() && !other.text.is_empty();
    is_removed && without_text(one) == without_text(other) && (!have_texts || one.text == other.text)
}

/// Whether a message had that text, as far as anybody knows who saw it before that was removed.
pub(super) fn may_be(message: &Message, text: &Arc<str>) -> bool {
    message.text == *text || is_unknown(message)
}

/// Whether nobody knows which text a message had.
pub(super) fn is_unknown(message: &Message) -> bool {
    message.removed && message.text.is_empty()
}

fn without_text(message: &Message) -> Message {
    Message { text: "".into(), removed: true, ..message.clone() }
}

/// The logs with the texts that were removed from them, as far as anybody has them. Judges on the way what members saw as removed.
pub(super) fn with_texts(recordings: &[Recording], logs: &[GroupLog], verdict: &mut Verdict) -> Vec<GroupLog> {
    let (mut seen, mut sent): (HashMap<_, Vec<&Arc<Message>>>, HashMap<_, &Arc<str>>) = Default::default();
    let kept: HashMap<_, _> =
        logs.iter().flat_map(|log| &log.messages).map(|kept| ((&kept.group, kept.seq), kept)).collect();
    for recording in recordings.iter().filter(|recording| recording.dialect == Dialect::Extended) {
        for event in &recording.events {
            let messages = match event {
                Event::Message(message) => std::slice::from_ref(message),
                Event::History(page) => &page.messages[..],
                Event::Sent(it) => {
                    if let (Sent::Post { group, text, id: Some(id) }, Some(user)) = (&**it, &recording.user) {
                        sent.insert((group, user, id), text);
                    }
                    continue;
                }
                _ => continue,
            };
            for message in messages {
                if message.removed {
                    judge(message, kept.get(&(&message.group, message.seq)), &recording.who, verdict);
                } else {
                    seen.entry((&message.group, message.seq)).or_default().push(message);
                }
            }
        }
    }
    let text_of = |message: &Message| {
        let seen = seen.get(&(&message.group, message.seq)).into_iter().flatten();
        let seen = seen.filter(|seen| are_alike(seen, message)).map(|seen| &seen.text).next();
        let sent = || sent.get(&(&message.group, &message.sender, message.id.as_ref()?)).copied();
        seen.or_else(sent).map(Arc::clone)
    };
    let restored = |message: &Arc<Message>| {
        let text = if is_unknown(message) { text_of(message) } else { None };
        text.map_or_else(|| Arc::clone(message), |text| Arc::new(Message { text, ..(**message).clone() }))
    };
    let log = |log: &GroupLog| GroupLog {
        group: Arc::clone(&log.group),
        epoch: log.epoch,
        messages: log.messages.iter().map(restored).collect(),
    };
    logs.iter().map(log).collect()
}

/// What somebody saw as removed has no text in the log either.
fn judge(seen: &Arc<Message>, kept: Option<&&Arc<Message>>, who: &Arc<str>, verdict: &mut Verdict) {
    verdict.facts.removed += 1;
    let came_back = kept.is_some_and(|kept| !kept.removed && are_alike(kept, seen));
    if came_back || !seen.text.is_empty() {
        let (who, message) = (Arc::clone(who), Arc::clone(seen));
        verdict.violations.push(Violation::TextCameBack { who, message });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{EPOCH, GROUP, joined, message, post, posted, recording};
    use super::super::{check, check_by};
    use super::*;
    use crate::checker::Rules;
    use crate::recording::{History, Text};

    fn removed(message: &Arc<Message>) -> Arc<Message> {
        Arc::new(without_text(message))
    }

    fn log(messages: Vec<Arc<Message>>) -> GroupLog {
        GroupLog { group: GROUP.into(), epoch: EPOCH, messages }
    }

    fn history(messages: &[Arc<Message>]) -> Event {
        let (group, messages) = (GROUP.into(), messages.to_vec());
        Event::History(Arc::new(History { group, epoch: EPOCH, messages, more: false }))
    }

    /// Ada posts 1 and 2; Bob sees both as they were, and afterwards what `later` has.
    fn recordings(later: &[Arc<Message>]) -> Vec<Recording> {
        let [one, two] = all();
        let ask = Event::Sent(Arc::new(Sent::Join { group: GROUP.into(), after: None, last: None, epoch: None }));
        let bob = vec![ask, joined(0, true), Event::Message(one), Event::Message(two), history(later)];
        let ada = vec![post("one", Some("x")), post("two", None), posted(Some("x"), 1), posted(None, 2)];
        vec![recording("bob", Dialect::Extended, bob), recording("ada", Dialect::Extended, ada)]
    }

    fn all() -> [Arc<Message>; 2] {
        [message(1, "ada", "one", Some("x")), message(2, "ada", "two", None)]
    }

    #[test]
    fn a_text_may_be_seen_before_it_is_removed() {
        let [one, two] = all();
        for later in
            [vec![removed(&one), removed(&two)], vec![one.clone(), removed(&two)], vec![one.clone(), two.clone()]]
        {
            let verdict = check(&recordings(&later), &[log(vec![removed(&one), removed(&two)])]);
            verdict.assert_clean();
        }
        // Nobody saw it, and who posted it without an id did not say which place it has.
        let ada = vec![post("two", None), posted(None, 2)];
        let nobody = [recording("ada", Dialect::Extended, ada)];
        let log = log(vec![removed(&two)]);
        let rules = Rules { oldest_may_go: true, ..Rules::default() };
        check_by(rules, &nobody, &[log]).assert_clean();
    }

    #[test]
    fn classic_members_and_posters_are_found_where_texts_are_gone() {
        let guest = message(1, "guest-a", "hi", None);
        let text = |text: &str| Event::Text(Arc::new(Text { group: GROUP.into(), text: text.into() }));
        let join = Event::Sent(Arc::new(Sent::Join { group: GROUP.into(), after: None, last: None, epoch: None }));
        // It is told nothing of one whose text is gone.
        for own in [vec![text("hi")], vec![]] {
            let events = [vec![join.clone(), post("hi", None)], own].concat();
            let one = [recording("a guest", Dialect::Classic, events)];
            check(&one, &[log(vec![removed(&guest)])]).assert_clean();
        }
        let [one, two] = all();
        let log = [log(vec![removed(&one), two.clone(), removed(&message(3, "ada", "three", Some("z")))])];
        let run = |texts: &[&str]| {
            let mut all = recordings(&[]);
            all[1].events.extend([post("three", Some("z")), posted(Some("z"), 3)]);
            all[0].end = crate::recording::End::Cut;
            let events = std::iter::once(join.clone()).chain(texts.iter().map(|it| text(it))).collect();
            all.push(recording("a guest", Dialect::Classic, events));
            check(&all, &log).violations
        };
        for texts in [&["one", "two", "three"][..], &["two"], &["two", "three"], &["one", "two"], &[]] {
            assert_eq!(run(texts), [], "{texts:?}");
        }
        for texts in [&["one"][..], &["two", "two"], &["three", "two"]] {
            assert_eq!(run(texts).len(), 1, "{texts:?}");
        }
    }

    #[test]
    fn a_text_that_comes_back_is_seen() {
        let [one, two] = all();
        let came_back = |verdict: &Verdict| {
            let is_that = |violation: &Violation| matches!(violation, Violation::TextCameBack { .. });
            !verdict.violations.is_empty() && verdict.violations.iter().all(is_that)
        };
        let verdict = check(&recordings(&[removed(&one), two.clone()]), &[log(vec![one.clone(), two.clone()])]);
        assert!(came_back(&verdict), "{verdict}");
        let half = Arc::new(Message { removed: true, ..(*two).clone() });
        let verdict = check(&recordings(&[one.clone(), half]), &[log(vec![one.clone(), removed(&two)])]);
        assert!(came_back(&verdict), "{verdict}");
    }

    #[test]
    fn what_is_removed_keeps_its_sender_its_id_and_its_time() {
        let [one, two] = all();
        for other in [
            Message { sender: "eve".into(), ..without_text(&one) },
            Message { id: None, ..without_text(&one) },
            Message { at: 99, ..without_text(&one) },
        ] {
            let verdict = check(&recordings(&[]), &[log(vec![Arc::new(other), two.clone()])]);
            let differs = |violation: &Violation| matches!(violation, Violation::Disagreement { .. });
            assert!(verdict.violations.iter().any(differs), "{verdict}");
        }
        // Two who saw different texts did so whatever became of it.
        let mut recordings = recordings(&[]);
        let other = message(1, "ada", "another", Some("x"));
        recordings.push(recording("eve", Dialect::Extended, vec![history(&[other])]));
        let verdict = check(&recordings, &[log(vec![removed(&one), two])]);
        assert!(verdict.violations.iter().any(|it| matches!(it, Violation::Disagreement { .. })), "{verdict}");
    }

    #[test]
    fn what_was_acknowledged_as_removed_is_removed() {
        let [one, two] = all();
        let tells = Arc::new(Message {
            removes: Some((1, 2, None)),
            ..(*message(3, "@system", "2 messages were removed", None)).clone()
        });
        let of = |first, last, sender: Option<&str>| Removal {
            group: GROUP.into(),
            epoch: EPOCH,
            first,
            last,
            sender: sender.map(Into::into),
        };
        let log = [log(vec![removed(&one), two, tells])];
        for (removal, left) in [
            (of(1, 1, None), 0),
            (of(1, 9, None), 1),
            (of(1, 3, Some("ada")), 1),
            (of(1, 3, Some("bob")), 0),
            (of(3, 3, None), 0),
            (Removal { epoch: EPOCH + 1, ..of(1, 9, None) }, 0),
        ] {
            let verdict = check_removals(std::slice::from_ref(&removal), &log);
            assert_eq!(verdict.violations.len(), left, "{removal:?}: {verdict}");
        }
    }
}
