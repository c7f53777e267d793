//! A shard that one writer gives to the next, with what it knows of it, so that the next one reads nothing before it goes on.
//!
//! What a writer knows holds for as long as its message is the last on the fence: whoever writes after it has put another one there.
//! So the next one puts its own directly after that message, and believes what it was given only when that has succeeded.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tertulia_protocol::GroupName;

use super::Core;
use super::fence::{TakeOver, TakeOverError};
use super::known::{Known, Point, Points, State};
use crate::log::Head;

/// What is given with a shard may take about so many bytes, and half of what NATS takes in one message. Of what does not fit the next
/// writer reads itself.
const BYTES: usize = 256 * 1024;
/// What a group takes beside its name.
const GROUP: usize = 1024;
/// Places in a group that are given, the newest: they say where in the stream the ids of the newest posts are to be read.
const POINTS: usize = 16;

/// What a writer knew of a shard when it let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its message on the fence.
    fence: u64,
    /// All groups of the shard.
    names: Vec<GroupName>,
    /// Those that it knew more of.
    groups: Vec<LeftGroup>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeftGroup {
    name: GroupName,
    head: Head,
    bytes: u64,
    last: u64,
    /// Whether the last message is a mark, for those who know no `mark`.
    is_mark: bool,
    trimmed: u64,
    points: Vec<Point>,
    #[serde(default)]
    bytes_before_first: Option<u64>,
    #[serde(default)]
    first_at: Option<u64>,
    #[serde(default)]
    mark: u64,
}

impl Left {
    /// `None` if the shard is not ours, or has too many groups to be told in so many bytes.
    fn of(state: &State, most: usize) -> Option<Self> {
        let fence = state.fence?;
        let size = |name: &GroupName| name.as_str().len() + 4;
        let mut room = most.checked_sub(state.names.iter().map(size).sum())?;
        let mut groups = Vec::new();
        for (name, known) in &state.groups {
            let Some(head) = known.head else { continue };
            let Some(rest) = room.checked_sub(GROUP + size(name)) else { break };
            room = rest;
            groups.push(LeftGroup {
                name: name.clone(),
                head,
                bytes: known.bytes,
                last: known.last,
                is_mark: known.mark == known.last,
                mark: known.mark,
                trimmed: known.trimmed,
                points: known.points.newest(POINTS).to_vec(),
                bytes_before_first: known.bytes_before_first,
                first_at: known.first_at,
            });
        }
        Some(Self { fence, names: state.names.iter().cloned().collect(), groups })
    }

    /// The state of a shard that is ours since `fence`.
    fn state(self, fence: u64) -> State {
        let known = |group: LeftGroup| {
            let LeftGroup { name, head, bytes, last, is_mark, trimmed, points, bytes_before_first, first_at, mark } =
                group;
            let mark = if is_mark { last } else { mark };
            let points = Points::of(points);
            let (is_being_bounded, bounded) = (false, 0);
            let head = Some(head);
            let known = Known {
                head,
                bytes,
                last,
                mark,
                points,
                bytes_before_first,
                first_at,
                is_being_bounded,
                bounded,
                trimmed,
            };
            (name, known)
        };
        let groups = self.groups.into_iter().map(known).collect::<HashMap<_, _, _>>();
        State { fence: Some(fence), groups, names: self.names.into_iter().collect(), ..State::default() }
    }
}

impl Core {
    /// Stops extending the shard; what is under way is finished first. Answers what the next writer is to be given.
    pub(super) async fn release(&self, shard: u16) -> Option<Left> {
        let this = self.shard(shard);
        let _writer = this.locks.writer().await;
        let left = Left::of(&this.state(), BYTES.min(self.link.client.max_payload() / 2));
        self.forget(shard);
        left
    }

    /// Makes the shard ours, which its writer gave to us.
    pub(super) async fn take_over_from(
        &self,
        shard: u16,
        left: Left,
        wait: &mut (dyn FnMut() + Send),
    ) -> Result<TakeOver, TakeOverError> {
        let writer = self.writer(shard, wait).await?;
        self.forget(shard);
        let fence = match self.claim_or_wait(shard, Some(left.fence), &self.new_takeover(), wait).await {
            Ok(fence) => fence,
            // Somebody has written since: what we were given is of the past.
            Err(TakeOverError::Taken { .. }) => {
                drop(writer);
                return self.take_over(shard, wait).await;
            }
            Err(error) => return Err(error),
        };
        let groups = left.names.len();
        self.add_names(shard, &left.names);
        self.hold(shard, left.state(fence));
        Ok(TakeOver { fence, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(names: usize, known: usize) -> State {
        let name = |number: usize| GroupName::new(&format!("{number:0>100}")).unwrap();
        let head = Some(Head { epoch: 1, seq: 9, first: 1, at: 5 });
        let one = Known {
            head,
            bytes: 900,
            last: 77,
            mark: 70,
            points: Points::of((1..=9).map(|seq| Point { seq, position: seq + 68 }).collect()),
            bytes_before_first: None,
            first_at: Some(3),
            is_being_bounded: true,
            bounded: 0,
            trimmed: 4,
        };
        State {
            fence: Some(12),
            groups: (0..known).map(|number| (name(number), one.clone())).collect(),
            names: (0..names).map(name).collect(),
            ..State::default()
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let few = Left::of(&state(10, 3), BYTES).unwrap();
        assert_eq!((few.fence, few.names.len(), few.groups.len()), (12, 10, 3));
        let more = Left::of(&state(1_000, 1_000), BYTES).unwrap();
        assert_eq!(more.names.len(), 1_000);
        assert!((100..1_000).contains(&more.groups.len()), "{}", more.groups.len());
        assert!(serde_json::to_vec(&more).unwrap().len() <= BYTES);
        let fewer = Left::of(&state(100, 100), 32 * 1024).unwrap();
        assert_eq!(fewer.names.len(), 100);
        assert!((5..100).contains(&fewer.groups.len()), "{}", fewer.groups.len());
        assert!(serde_json::to_vec(&fewer).unwrap().len() <= 32 * 1024);
        assert_eq!(Left::of(&state(10_000, 0), BYTES), None);
        assert_eq!(Left::of(&State::default(), BYTES), None);
    }

    #[test]
    fn what_was_left_is_known_again() {
        let before = state(3, 2);
        let after = Left::of(&before, BYTES).unwrap().state(13);
        assert_eq!((after.fence, &after.names), (Some(13), &before.names));
        let (name, known) = after.groups.iter().next().unwrap();
        let points = known.points.newest(16).iter().map(|point| point.seq).collect::<Vec<_>>();
        assert_eq!(points, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let mut expected = before.groups[name].clone();
        (expected.points, expected.is_being_bounded) = (known.points.clone(), false);
        assert_eq!(*known, expected);
    }
}
