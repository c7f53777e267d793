//! Whether each classic member, who sees no `seq`, saw a run of the one order, and whether its posts are kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::posts::{Claimed, sent_posts};
use super::removals::may_be;
use super::truth::Truth;
use super::{Rules, Verdict, Violation};
use crate::recording::{Dialect, End, Event, Message, Recording, Sent};

/// How the names begin that the server gives to classic connections.
const GUEST: &str = "guest-";

/// What one membership saw, piece by piece: how many messages it was told that it missed, then texts.
#[derive(Debug, Default)]
struct Seen<'a> {
    pieces: Vec<(usize, Vec<&'a Arc<str>>)>,
    /// How many posts to the group the connection had sent before it joined.
    posts_before: usize,
}

/// The messages of one poster in each group, in their order.
type Posts<'a> = BTreeMap<&'a Arc<str>, Vec<&'a Arc<Message>>>;

/// Judges all classic connections, and what remains without a poster.
pub(super) fn check(rules: Rules, recordings: &[Recording], truth: &Truth, claimed: &Claimed, verdict: &mut Verdict) {
    let classic: Vec<_> = recordings.iter().filter(|recording| recording.dialect == Dialect::Classic).collect();
    let users: HashSet<&Arc<str>> = recordings
        .iter()
        .filter(|recording| recording.dialect == Dialect::Extended)
        .filter_map(|recording| recording.user.as_ref())
        .collect();
    // What no classic client can have posted has no poster at all.
    let is_of_a_guest = |message: &Message| {
        message.sender.starts_with(GUEST) && message.id.is_none() && !users.contains(&message.sender)
    };
    let mut guests: BTreeMap<&Arc<str>, Posts<'_>> = BTreeMap::new();
    let mut orphans = Vec::new();
    for group in truth.groups() {
        let Some((life, kept)) = truth.last_life(group) else { continue };
        for message in (kept.first.max(1)..=kept.head).filter_map(|seq| life.at(seq)) {
            if claimed.contains(&(Arc::clone(group), message.seq)) {
                continue;
            }
            if is_of_a_guest(message) {
                guests.entry(&message.sender).or_default().entry(group).or_default().push(message);
            } else {
                orphans.push((group, message));
            }
        }
    }
    let posters = find_posters(&classic, truth, &mut guests, verdict);
    if rules.all_posters_recorded {
        let left = guests.into_values().flatten();
        orphans.extend(left.flat_map(|(group, messages)| messages.into_iter().map(move |it| (group, it))));
        for (group, message) in orphans {
            let violation = Violation::NeverPosted { group: Arc::clone(group), message: Arc::clone(message) };
            verdict.violations.push(violation);
        }
    }
    for (recording, posts) in classic.iter().zip(posters) {
        check_member(recording, &posts, truth, verdict);
    }
}

/// Finds which guest each connection is, by what it posted, and takes it out of `guests`. A connection that was told of no
/// error and stayed to the end has all its posts in the log.
fn find_posters<'a>(
    classic: &[&Recording],
    truth: &Truth,
    guests: &mut BTreeMap<&'a Arc<str>, Posts<'a>>,
    verdict: &mut Verdict,
) -> Vec<Posts<'a>> {
    let sent: Vec<_> = classic.iter().map(|recording| posts_to_known(recording, truth)).collect();
    let mut found: Vec<Posts<'a>> = classic.iter().map(|_| Posts::default()).collect();
    let mut is_found = vec![false; classic.len()];
    // The guest whose posts are exactly those of a connection is it; what remains can only be a part of them.
    for exactly in [true, false] {
        for at in 0..classic.len() {
            if is_found[at] || sent[at].is_empty() {
                continue;
            }
            let fits = |posts: &Posts<'_>| if exactly { equals(&sent[at], posts) } else { includes(&sent[at], posts) };
            let guest = guests.iter().filter(|(_, posts)| fits(posts)).max_by_key(|(_, posts)| count(posts));
            let Some(guest) = guest.map(|(guest, _)| *guest) else { continue };
            found[at] = guests.remove(guest).unwrap_or_default();
            is_found[at] = true;
        }
    }
    for (at, recording) in classic.iter().enumerate() {
        let wanted: usize = sent[at].values().map(Vec::len).sum();
        let told_of_errors = recording.events.iter().any(|event| matches!(event, Event::Error(text) if !is_loss(text)));
        let complete = sent[at].keys().all(|group| truth.kept(group).is_some_and(|kept| kept.first <= 1));
        if recording.end == End::Settled && complete && !told_of_errors && count(&found[at]) < wanted {
            let who = Arc::clone(&recording.who);
            verdict.violations.push(Violation::ClassicPostsLost { who, sent: wanted });
        }
    }
    found
}

/// The texts that a connection posted to groups whose log is known.
fn posts_to_known<'a>(recording: &'a Recording, truth: &Truth) -> BTreeMap<&'a Arc<str>, Vec<&'a Arc<str>>> {
    let mut posts: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (group, text, _) in sent_posts(recording) {
        if truth.kept(group).is_some() {
            posts.entry(group).or_default().push(text);
        }
    }
    posts
}

fn count(posts: &Posts<'_>) -> usize {
    posts.values().map(Vec::len).sum()
}

fn equals(sent: &BTreeMap<&Arc<str>, Vec<&Arc<str>>>, posts: &Posts<'_>) -> bool {
    sent.len() == posts.len()
        && sent.iter().zip(posts).all(|((group, texts), (kept_group, messages))| {
            group == kept_group
                && texts.len() == messages.len()
                && texts.iter().zip(messages).all(|(text, message)| may_be(message, text))
        })
}

/// Whether what is kept is part of what was sent, in its order.
fn includes(sent: &BTreeMap<&Arc<str>, Vec<&Arc<str>>>, posts: &Posts<'_>) -> bool {
    posts.iter().all(|(group, messages)| {
        let Some(texts) = sent.get(*group) else { return false };
        let mut texts = texts.iter();
        messages.iter().all(|message| texts.any(|text| may_be(message, text)))
    })
}

/// Follows one connection through all its groups.
fn check_member(recording: &Recording, posts: &Posts<'_>, truth: &Truth, verdict: &mut Verdict) {
    let mut groups: HashMap<&Arc<str>, Vec<Seen<'_>>> = HashMap::new();
    // Whether the last membership of a group stands.
    let mut standing: HashMap<&Arc<str>, bool> = HashMap::new();
    let mut posted: HashMap<&Arc<str>, usize> = HashMap::new();
    for event in &recording.events {
        match event {
            Event::Sent(sent) => match &**sent {
                Sent::Join { group, .. } => {
                    if !std::mem::replace(standing.entry(group).or_default(), true) {
                        verdict.facts.joins += 1;
                        let posts_before = posted.get(group).copied().unwrap_or_default();
                        groups.entry(group).or_default().push(Seen { pieces: vec![(0, Vec::new())], posts_before });
                    }
                }
                Sent::Post { group, .. } => *posted.entry(group).or_default() += 1,
                Sent::Leave { .. } => {}
            },
            Event::Text(text) => {
                verdict.facts.deliveries += 1;
                let member = standing.get(&text.group).copied().unwrap_or_default();
                let piece = groups.get_mut(&text.group).filter(|_| member).and_then(|seen| seen.last_mut());
                match piece.and_then(|seen| seen.pieces.last_mut()) {
                    Some((_, texts)) => texts.push(&text.text),
                    None => verdict.violations.push(Violation::NotARun {
                        who: Arc::clone(&recording.who),
                        group: Arc::clone(&text.group),
                        fitting: 0,
                        got: Arc::clone(&text.text),
                    }),
                }
            }
            Event::Error(text) => {
                if let Some((missed, group)) = loss(text) {
                    verdict.facts.told_losses += 1;
                    if let Some(seen) = groups.get_mut(&group).and_then(|seen| seen.last_mut()) {
                        seen.pieces.push((missed, Vec::new()));
                    }
                } else {
                    for (name, stands) in &mut standing {
                        *stands &= !is_removal(text, name);
                    }
                }
            }
            _ => {}
        }
    }
    for (group, memberships) in groups {
        let stays = recording.end == End::Settled && standing.get(group).copied().unwrap_or_default();
        check_runs(recording, group, &memberships, stays, posts.get(group), truth, verdict);
    }
}

/// `Dropped 11 messages from Dogs.`
fn loss(text: &str) -> Option<(usize, Arc<str>)> {
    let (missed, group) = text.strip_prefix("Dropped ")?.strip_suffix('.')?.split_once(" messages from ")?;
    Some((missed.parse().ok()?, group.into()))
}

fn is_loss(text: &str) -> bool {
    loss(text).is_some()
}

/// Whether a text tells that one is not in `group` any more: `You were kicked from group 'Dogs'.`, `Group 'Dogs' was closed: a reason`.
fn is_removal(text: &str, group: &str) -> bool {
    let kicked = format!("You were kicked from group '{group}'");
    let (closed, deleted) = (format!("Group '{group}' was closed"), format!("Group '{group}' was deleted"));
    let rest = [kicked, closed, deleted].iter().find_map(|told| text.strip_prefix(told.as_str()));
    rest.is_some_and(|rest| rest == "." || rest.starts_with(": "))
}

/// Lays the memberships of one connection in one group along the group's order, one after the other.
fn check_runs(
    recording: &Recording,
    group: &Arc<str>,
    memberships: &[Seen<'_>],
    stays: bool,
    posts: Option<&Vec<&Arc<Message>>>,
    truth: &Truth,
    verdict: &mut Verdict,
) {
    let Some((life, _)) = truth.last_life(group) else { return };
    let order: Vec<_> = life.known_end().collect();
    let mut from = 0;
    for (at, seen) in memberships.iter().enumerate() {
        let last = at + 1 == memberships.len();
        // A message of its own that was posted after it joined is not before the run.
        let own = posts.and_then(|posts| posts.get(seen.posts_before));
        let own = own.and_then(|own| order.iter().position(|message| message.seq == own.seq));
        let found = (from..=order.len()).filter(|start| own.is_none_or(|own| *start <= own)).find_map(|start| {
            let end = start + fitting(&order[start..], seen).ok()?;
            // What it was told that it missed may be more than there is.
            let rest = order.get(end..)?;
            let reaches_the_end = !(stays && last) || rest.iter().all(|message| message.removed);
            reaches_the_end.then_some(end)
        });
        let Some(end) = found else {
            verdict.violations.push(explain(recording, group, &order, from, seen, own));
            return;
        };
        from = end;
    }
}

/// How far what was seen reaches along `order`; `Err` holds how many texts fit, and the first that does not. Messages whose texts were removed
/// may have been seen before, or not.
fn fitting<'a>(order: &[&Arc<Message>], seen: &Seen<'a>) -> Result<usize, (usize, &'a Arc<str>)> {
    let mut at = 0;
    let mut fit = 0;
    for (missed, texts) in &seen.pieces {
        at += missed;
        for text in texts {
            while order.get(at).is_some_and(|message| message.removed && !may_be(message, text)) {
                at += 1;
            }
            if order.get(at).is_none_or(|message| !may_be(message, text)) {
                return Err((fit, text));
            }
            at += 1;
            fit += 1;
        }
    }
    Ok(at)
}

/// Says why there is no run: it does not fit anywhere, or it fits but ends too early or begins too late.
fn explain(
    recording: &Recording,
    group: &Arc<str>,
    order: &[&Arc<Message>],
    from: usize,
    seen: &Seen<'_>,
    own: Option<usize>,
) -> Violation {
    let (who, group) = (Arc::clone(&recording.who), Arc::clone(group));
    let head = order.last().map_or(0, |message| message.seq);
    let length: usize = seen.pieces.iter().map(|(missed, texts)| missed + texts.len()).sum();
    if length == 0
        && let Some(own) = own.and_then(|own| order.get(own))
    {
        return Violation::OwnPostMissed { who, group, seq: own.seq };
    }
    let mut best: Option<(usize, &Arc<str>)> = None;
    for start in from..order.len() {
        match fitting(&order[start..], seen) {
            Ok(reached) => {
                let next = order.get(start + reached).map_or(head + 1, |message| message.seq);
                return match own.and_then(|own| order.get(own)).filter(|own| own.seq < order[start].seq) {
                    Some(own) => Violation::OwnPostMissed { who, group, seq: own.seq },
                    None => Violation::NotCaughtUp { who, group, next, head },
                };
            }
            Err(failed) if best.is_none_or(|(fit, _)| failed.0 > fit) => best = Some(failed),
            Err(_) => {}
        }
    }
    match best {
        Some((fitting, got)) => Violation::NotARun { who, group, fitting, got: Arc::clone(got) },
        None => Violation::NotCaughtUp { who, group, next: head, head },
    }
}
