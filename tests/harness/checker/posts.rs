//! Whether every acknowledged post is kept, once, in its place, and nothing else is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::removals::is_unknown;
use super::truth::Truth;
use super::without_id::{Head, WithoutId};
use super::{Rules, Verdict, Violation};
use crate::recording::{Dialect, End, Event, Message, Posted, Recording, Sent};

/// Who announces.
const SYSTEM: &str = "@system";

/// Group and `seq` of messages whose poster was found.
pub(super) type Claimed = HashSet<(Arc<str>, u64)>;

/// User, group and id.
type PostKey = (Arc<str>, Arc<str>, Arc<str>);

/// All posts of extended clients.
#[derive(Default)]
struct Posts {
    /// The texts that were sent with an id, each time that it was sent.
    by_id: HashMap<PostKey, Vec<Arc<str>>>,
    /// How often a user sent a text to a group without an id.
    without_id: HashMap<PostKey, usize>,
    /// Where an id was acknowledged first.
    acknowledged: HashMap<PostKey, Arc<Posted>>,
    /// Where an id is kept.
    kept: HashMap<PostKey, u64>,
    /// Group, epoch and `seq` that a post without an id was given.
    given: HashSet<(Arc<str>, u64, u64)>,
}

/// What one connection posted and is not answered yet.
#[derive(Default)]
struct Waiting<'a> {
    /// How often a group and an id.
    by_id: HashMap<(&'a Arc<str>, &'a Arc<str>), usize>,
    without_id: HashMap<&'a Arc<str>, WithoutId<'a>>,
    /// What was known of the group when an id was sent that was sent once.
    heads: HashMap<(&'a Arc<str>, &'a Arc<str>), Head>,
    /// Epoch and head of each group as `Joined` told them last.
    known: HashMap<&'a Arc<str>, Head>,
    /// Refusals that do not tell which post they are for.
    refused_without_id: usize,
}

/// Judges the posts of all extended clients.
pub(super) fn check(rules: Rules, recordings: &[Recording], truth: &Truth, verdict: &mut Verdict) -> Claimed {
    let extended = || recordings.iter().filter(|recording| recording.dialect == Dialect::Extended);
    let mut posts = Posts::default();
    for recording in extended() {
        let Some(user) = &recording.user else { continue };
        for (group, text, id) in sent_posts(recording) {
            match id {
                Some(id) => {
                    let key = (Arc::clone(user), Arc::clone(group), Arc::clone(id));
                    posts.by_id.entry(key).or_default().push(Arc::clone(text));
                }
                None => {
                    let key = (Arc::clone(user), Arc::clone(group), Arc::clone(text));
                    *posts.without_id.entry(key).or_default() += 1;
                }
            }
        }
    }
    let claimed = posts.check_log(truth, verdict);
    for recording in extended() {
        posts.check_answers(rules, recording, truth, verdict);
        posts.check_pipelines(recording, verdict);
    }
    claimed
}

/// The posts of a connection, in its order.
pub(super) fn sent_posts(
    recording: &Recording,
) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, Option<&Arc<str>>)> + use<'_> {
    recording.events.iter().filter_map(|event| match event {
        Event::Sent(sent) => match &**sent {
            Sent::Post { group, text, id } => Some((group, text, id.as_ref())),
            _ => None,
        },
        _ => None,
    })
}

impl Posts {
    /// Each id is kept once, and each kept message was posted.
    fn check_log(&mut self, truth: &Truth, verdict: &mut Verdict) -> Claimed {
        let mut claimed = Claimed::new();
        let mut without_id = self.without_id.clone();
        for group in truth.groups() {
            let Some((life, kept)) = truth.last_life(group) else { continue };
            for message in (kept.first.max(1)..=kept.head).filter_map(|seq| life.at(seq)) {
                let posted = match &message.id {
                    Some(id) => {
                        let key = (Arc::clone(&message.sender), Arc::clone(group), Arc::clone(id));
                        let is_of = |texts: &Vec<Arc<str>>| is_unknown(message) || texts.contains(&message.text);
                        let posted = self.by_id.get(&key).is_some_and(is_of);
                        if let Some(first) = self.kept.get(&key) {
                            verdict.violations.push(Violation::StoredTwice {
                                group: Arc::clone(group),
                                sender: Arc::clone(&message.sender),
                                id: Arc::clone(id),
                                first: *first,
                                second: message.seq,
                            });
                        } else {
                            self.kept.insert(key, message.seq);
                        }
                        posted
                    }
                    // Nobody knows which it was.
                    None if is_unknown(message) => {
                        self.without_id.keys().any(|(user, to, _)| *user == message.sender && to == group)
                    }
                    None => {
                        let key = (Arc::clone(&message.sender), Arc::clone(group), Arc::clone(&message.text));
                        without_id.get_mut(&key).is_some_and(|left| {
                            let had = *left > 0;
                            *left = left.saturating_sub(1);
                            had
                        })
                    }
                };
                if posted || &*message.sender == SYSTEM {
                    claimed.insert((Arc::clone(group), message.seq));
                }
            }
        }
        claimed
    }

    /// Each acknowledgement is true, each refusal too, and nobody who stayed waits for either.
    fn check_answers(&mut self, rules: Rules, recording: &Recording, truth: &Truth, verdict: &mut Verdict) {
        let who = &recording.who;
        let Some(user) = &recording.user else { return };
        let mut waiting = Waiting::default();
        for event in &recording.events {
            match event {
                Event::Sent(sent) => {
                    if let Sent::Post { group, text, id } = &**sent {
                        self.note_sent(&mut waiting, user, group, text, id.as_ref());
                    }
                }
                Event::Joined(it) => {
                    waiting.known.insert(&it.group, (it.epoch, it.head));
                }
                Event::Posted(it) => {
                    verdict.facts.acknowledged += 1;
                    let (who, group, seq) = (Arc::clone(who), Arc::clone(&it.group), it.seq);
                    let Some(head) = self.take(&mut waiting, &who, it, truth, verdict) else {
                        verdict.violations.push(Violation::AckNotAsked { who, group, seq });
                        continue;
                    };
                    if let Some((epoch, head)) = head
                        && epoch == it.epoch
                        && seq <= head
                    {
                        let (who, newest) = (Arc::clone(&who), seq.saturating_sub(1));
                        verdict.violations.push(Violation::HeadAhead { who, group, head, newest });
                    }
                    self.check_acknowledged(rules, &who, user, it, truth, verdict);
                }
                Event::Rejected(it) if it.request.as_deref() == Some("Post") => {
                    verdict.facts.refused += 1;
                    let (Some(group), Some(id)) = (&it.group, &it.id) else {
                        waiting.refused_without_id += 1;
                        continue;
                    };
                    take_one(&mut waiting.by_id, (group, id));
                    let key = (Arc::clone(user), Arc::clone(group), Arc::clone(id));
                    let sent_once = self.is_sent_once(&key);
                    if let Some(seq) = self.kept.get(&key).filter(|_| sent_once && !it.outcome_unknown) {
                        let (who, group) = (Arc::clone(who), Arc::clone(group));
                        verdict.violations.push(Violation::RefusedButKept { who, group, seq: *seq });
                    }
                }
                _ => {}
            }
        }
        if recording.end == End::Settled {
            let left_ids = waiting.by_id.iter().filter(|(_, count)| **count > 0).map(|((group, id), _)| (*group, *id));
            let left = waiting.without_id.iter().flat_map(|(group, posts)| posts.rest().map(|text| (*group, text)));
            let unanswered = left_ids.chain(left.skip(waiting.refused_without_id));
            verdict.violations.extend(unanswered.map(|(group, post)| Violation::Unanswered {
                who: Arc::clone(who),
                group: Arc::clone(group),
                post: Arc::clone(post),
            }));
        }
    }

    fn note_sent<'a>(
        &self,
        waiting: &mut Waiting<'a>,
        user: &Arc<str>,
        group: &'a Arc<str>,
        text: &'a Arc<str>,
        id: Option<&'a Arc<str>>,
    ) {
        let head = waiting.known.get(group).copied();
        let Some(id) = id else {
            waiting.without_id.entry(group).or_default().sent(text, head);
            return;
        };
        *waiting.by_id.entry((group, id)).or_default() += 1;
        // A repeat is answered with the place of the first try.
        if let Some(head) = head
            && self.is_sent_once(&(Arc::clone(user), Arc::clone(group), Arc::clone(id)))
        {
            waiting.heads.insert((group, id), head);
        }
    }

    /// Takes what an acknowledgement is for out of what waits; answers what was known of the group when that was sent, as far as it had
    /// to have a higher place. `None` if nothing waits for it.
    fn take<'a>(
        &mut self,
        waiting: &mut Waiting<'a>,
        who: &Arc<str>,
        it: &'a Posted,
        truth: &Truth,
        verdict: &mut Verdict,
    ) -> Option<Option<Head>> {
        if let Some(id) = &it.id {
            return take_one(&mut waiting.by_id, (&it.group, id)).then(|| waiting.heads.get(&(&it.group, id)).copied());
        }
        let message = truth.life(&it.group, it.epoch).and_then(|life| life.at(it.seq));
        let text = message.filter(|message| !is_unknown(message)).map(|message| &message.text);
        let taken = waiting.without_id.entry(&it.group).or_default().acknowledged(it, text)?;
        if !self.given.insert((Arc::clone(&it.group), it.epoch, it.seq)) {
            let (who, group) = (Arc::clone(who), Arc::clone(&it.group));
            verdict.violations.push(Violation::PlaceGivenTwice { who, group, seq: it.seq });
        } else if let Some((first, later)) = taken.swapped {
            let (who, group) = (Arc::clone(who), Arc::clone(&it.group));
            verdict.violations.push(Violation::PostsSwapped { who, group, first, later });
        }
        Some(taken.head)
    }

    /// Whether this was posted no more than once, so that its answer tells of that try.
    fn is_sent_once(&self, key: &PostKey) -> bool {
        self.by_id.get(key).is_some_and(|texts| texts.len() == 1)
    }

    /// The acknowledged place holds the post.
    fn check_acknowledged(
        &mut self,
        rules: Rules,
        who: &Arc<str>,
        user: &Arc<str>,
        it: &Arc<Posted>,
        truth: &Truth,
        verdict: &mut Verdict,
    ) {
        let key = it.id.as_ref().map(|id| (Arc::clone(user), Arc::clone(&it.group), Arc::clone(id)));
        if let Some(key) = &key {
            let first = self.acknowledged.entry(key.clone()).or_insert_with(|| Arc::clone(it));
            if first.epoch == it.epoch && first.seq != it.seq {
                verdict.violations.push(Violation::AcksDiffer {
                    group: Arc::clone(&it.group),
                    who: Arc::clone(who),
                    id: Arc::clone(&key.2),
                    seqs: [first.seq, it.seq],
                });
            }
        }
        let (who, group, seq) = (Arc::clone(who), Arc::clone(&it.group), it.seq);
        let kept = truth.kept(&it.group);
        if let Some(kept) = kept {
            if kept.epoch != it.epoch {
                if !rules.epochs_may_end {
                    verdict.violations.push(Violation::EpochEnded { who, group, epoch: it.epoch });
                }
                return;
            }
            if it.seq > kept.head || it.seq == 0 {
                verdict.violations.push(Violation::LostAck { who, group, seq });
                return;
            }
        }
        let holds = truth.life(&it.group, it.epoch).and_then(|life| life.at(it.seq));
        match holds {
            Some(message) => {
                let sent = key.as_ref().and_then(|key| self.by_id.get(key));
                if let Some(difference) = difference(user, it, message, sent) {
                    verdict.violations.push(Violation::AckOfAnother { who, group, seq, holds: difference });
                }
            }
            None if kept.is_some_and(|kept| it.seq >= kept.first) => {
                verdict.violations.push(Violation::LostAck { who, group, seq });
            }
            // Retention removed it and nobody saw it.
            None => {}
        }
    }

    /// What one connection posted to a group has its order there.
    fn check_pipelines(&self, recording: &Recording, verdict: &mut Verdict) {
        let Some(user) = &recording.user else { return };
        let mut newest: HashMap<&Arc<str>, u64> = HashMap::new();
        for (group, _, id) in sent_posts(recording) {
            let Some(id) = id else { continue };
            let key = (Arc::clone(user), Arc::clone(group), Arc::clone(id));
            // A post that was tried again has the place of whichever try came first.
            let tried_once = self.is_sent_once(&key);
            let Some(seq) = self.kept.get(&key).filter(|_| tried_once) else { continue };
            let first = newest.entry(group).or_default();
            if *seq < *first {
                verdict.violations.push(Violation::PostsSwapped {
                    who: Arc::clone(&recording.who),
                    group: Arc::clone(group),
                    first: *first,
                    later: *seq,
                });
            }
            *first = (*first).max(*seq);
        }
    }
}

fn take_one<K: std::hash::Hash + Eq>(waiting: &mut HashMap<K, usize>, key: K) -> bool {
    match waiting.get_mut(&key) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

/// How the message in an acknowledged place differs from the post.
fn difference(user: &Arc<str>, it: &Posted, message: &Message, sent: Option<&Vec<Arc<str>>>) -> Option<String> {
    if message.sender != *user {
        return Some(format!("a post of {}: {:?}", message.sender, message.text));
    }
    if message.id != it.id {
        return Some(format!("the id {:?}, not {:?}", message.id, it.id));
    }
    if let Some(sent) = sent
        && !is_unknown(message)
        && !sent.contains(&message.text)
    {
        return Some(format!("the text {:?}, not {:?}", message.text, sent));
    }
    let tried_once = sent.is_none_or(|sent| sent.len() == 1);
    (tried_once && message.at != it.at).then(|| format!("the time {}, not {}", message.at, it.at))
}
