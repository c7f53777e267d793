//! What goes into one frame to the owner of a shard: no more than NATS takes in one message, and no more than can be answered in one.
//!
//! A frame that is too large, or whose answer is, never comes through, and all that waits behind it neither.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{FRAME_BYTES, FRAME_ITEMS, Pending, person};
use crate::shard::request::{Admin, Posts, Request};
use crate::shard::wire::{Item, Roll, RollOfGroup};

/// Bytes of an answer at most, beside lists: the longest name of a group, each byte of it escaped, and what goes with it.
const ANSWER: usize = 1_000;
/// Bytes of a user in an answer at most: the longest name, each byte of it escaped.
const USER: usize = 2 * tertulia_protocol::name::MAX_USER_NAME_BYTES + 3;
/// The same with all that is told of a member.
const MEMBER: usize = USER + 200;
/// Bytes of the answer to a part of a roll for each group, and for each member that it names, at most, beside the name of the group.
const ROLL_ANSWER: (usize, usize) = (100, 80);

/// The next requests for one frame, whose answers have `most` bytes together, if there is more than one.
pub(super) fn next_items(outbox: &VecDeque<Pending>, most: usize) -> Vec<Item> {
    let mut items = Vec::new();
    let (mut size, mut answers) = (0, 0);
    for pending in outbox.iter().take(FRAME_ITEMS) {
        let item = item_of(&pending.request, most);
        answers += answer_bytes(&item);
        if answers > most && !items.is_empty() {
            break;
        }
        if let Item::Post { message, .. } | Item::Announce { message, .. } = &item {
            size += message.len();
        }
        items.push(item);
        if size > FRAME_BYTES {
            break;
        }
    }
    items
}

/// How large the answer may become. Of those that nobody can tell before, the owner sees to it.
fn answer_bytes(item: &Item) -> usize {
    match item {
        Item::Users { limit, .. } => ANSWER + limit.saturating_mul(USER),
        Item::Members { limit, .. } => ANSWER + limit.saturating_mul(MEMBER),
        _ => ANSWER,
    }
}

/// How large the answer to a part of a roll may become: any of those who are in it may be none any more, each with the name of the group.
pub(super) fn roll_answer_bytes(part: &Roll) -> usize {
    let bytes = |named: &RollOfGroup| {
        // Each byte of it escaped.
        let name = 2 * named.group.as_str().len();
        ROLL_ANSWER.0 + name + named.members.len() * (ROLL_ANSWER.1 + name)
    };
    part.groups.iter().map(bytes).sum()
}

/// Takes half of a part of a roll out of it; `None` if it is of a single member.
pub(super) fn halve(part: &mut Roll) -> Option<Roll> {
    let groups = match &mut part.groups[..] {
        [] => return None,
        [RollOfGroup { members, .. }] if members.len() < 2 => return None,
        [RollOfGroup { group, epoch, head, members }] => {
            let members = members.split_off(members.len() / 2);
            vec![RollOfGroup { group: group.clone(), epoch: *epoch, head: *head, members }]
        }
        groups => {
            let half = groups.len() / 2;
            part.groups.split_off(half)
        }
    };
    Some(Roll { begins: false, heard: part.heard, groups })
}

fn item_of(request: &Request, most: usize) -> Item {
    match request {
        Request::Join { group, session, from } => {
            Item::Join { group: group.clone(), person: person(session, 0), from: *from }
        }
        Request::Leave { group, session, answer } => {
            Item::Leave { group: group.clone(), id: session.id, user: session.user.clone(), asked: *answer }
        }
        Request::Post(Posts { session, posts, .. }) => match posts.first() {
            Some(post) => Item::Post {
                group: post.group.clone(),
                person: person(session, 0),
                message: Arc::clone(&post.message),
                id: post.id.as_ref().map_or_else(String::new, |id| id.as_str().to_owned()),
                traceparent: post.trace.as_ref().map(|trace| trace.traceparent()),
            },
            None => Item::Unknown,
        },
        Request::Members { group, after, limit, .. } => {
            // Whoever asks is told whether there are more.
            Item::Users { group: group.clone(), after: after.clone(), limit: (*limit).min(most / USER).max(1) }
        }
        Request::Admin(admin) => match &**admin {
            Admin::Members { group, after, limit, .. } => {
                Item::Members { group: group.clone(), after: after.clone(), limit: *limit }
            }
            Admin::Look { group, .. } => Item::Look { group: group.clone() },
            Admin::Kick { group, target, reason, hold, .. } => {
                Item::Kick { group: group.clone(), target: target.clone(), reason: reason.clone(), hold: *hold }
            }
            Admin::End { group, how, reason, hold, epoch, .. } => {
                Item::End { group: group.clone(), how: *how, reason: reason.clone(), hold: *hold, epoch: *epoch }
            }
            // Only an owner is asked, or only this node.
            Admin::Forget { .. } | Admin::Here { .. } => Item::Unknown,
            Admin::Purge { group, through, epoch, .. } => {
                Item::Purge { group: group.clone(), through: *through, epoch: *epoch }
            }
            Admin::Redact { group, selection, epoch, telling, .. } => Item::Redact {
                group: group.clone(),
                selection: selection.clone(),
                epoch: *epoch,
                telling: telling.clone(),
            },
            Admin::Announce { group, message, id, .. } => Item::Announce {
                group: group.clone(),
                message: Arc::clone(message),
                id: id.as_ref().map_or_else(String::new, |id| id.as_str().to_owned()),
            },
        },
        // A question of another node is answered at once.
        Request::Asked(_) => Item::Unknown,
    }
}
