//! Questions to the server whose answers come in pages: history, members, groups. Pure.
//!
//! One question is on its way at a time, since the server answers them in turn anyway.

use std::collections::VecDeque;

use tertulia_protocol::extended::{
    FromClient, Groups, GroupsRequest, History, HistoryRequest, Members, MembersRequest,
};

use super::event::{Event, GroupLine, Line};

mod removal;

pub(crate) use removal::{Place, Which};

/// As many questions wait at most.
const MOST_QUERIES: usize = 16;
/// As many messages of history are asked for at most.
pub(crate) const MOST_HISTORY: u64 = 1_000;
/// No further page of history is asked for once so many bytes are held.
const MOST_HISTORY_BYTES: usize = 16 * 1024 * 1024;
/// The same in words.
const MOST_HISTORY_MIB: usize = MOST_HISTORY_BYTES / (1024 * 1024);

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Query {
    /// The newest messages of a group.
    History {
        /// The group.
        group: String,
        /// So many.
        count: u64,
    },
    /// The users in a group.
    Members {
        /// The group.
        group: String,
    },
    /// The groups whose names begin so.
    Groups {
        /// `None` for all.
        prefix: Option<String>,
    },
    /// That a message be taken back.
    Remove {
        /// The group.
        group: String,
        /// Which.
        which: Which,
    },
}

impl Query {
    /// The group that it is about, if it is about one.
    fn group(&self) -> Option<&str> {
        match self {
            Self::History { group, .. } | Self::Members { group } | Self::Remove { group, .. } => Some(group),
            Self::Groups { .. } => None,
        }
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::History { group, .. } => write!(f, "the history of {group}"),
            Self::Members { group } => write!(f, "the members of {group}"),
            Self::Groups { .. } => f.write_str("the groups"),
            Self::Remove { group, .. } => write!(f, "the removal of a message of {group}"),
        }
    }
}

/// A question, and the number of the post that was typed last before it.
#[derive(Debug)]
struct Asked {
    query: Query,
    number: u64,
}

/// What to do after a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    AskAgain,
    Done,
}

/// The questions that wait; the first is on its way.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    waiting: VecDeque<Asked>,
    sent: bool,
    /// Where the next page of the first question begins: a name.
    after: Option<String>,
    /// What was gathered of the first question, if it is `History`: pages come newest first.
    gathered: VecDeque<Line>,
    /// The life of the group that this is of.
    epoch: Option<u64>,
    bytes: usize,
}

impl Queries {
    /// Whether there is no room for another question.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MOST_QUERIES
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those that wait, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Query> {
        self.waiting.iter().map(|asked| &asked.query)
    }

    /// Takes a question in; `number` is that of the post that was typed last.
    pub(crate) fn push(&mut self, query: Query, number: u64) {
        self.waiting.push_back(Asked { query, number });
    }

    /// The connection broke: the first question is asked again, from where its last page ended.
    pub(crate) fn disconnected(&mut self) {
        self.sent = false;
    }

    /// The line to send now, if there is one. `is_before` says whether a post in that group waits that was typed before:
    /// the question waits for it, so that its answer shows what the post has done.
    pub(crate) fn next_line(&mut self, is_before: impl Fn(&str, u64) -> bool) -> Option<FromClient<'_>> {
        if self.sent {
            return None;
        }
        let Asked { query, number } = self.waiting.front()?;
        if query.group().is_some_and(|group| is_before(group, *number)) {
            return None;
        }
        let after = self.after.as_deref().map(Into::into);
        let line = match query {
            Query::History { group, count } => FromClient::History(HistoryRequest {
                group_name: group.into(),
                before: self.gathered.front().map(|line| line.seq),
                limit: Some(count.saturating_sub(self.gathered.len() as u64)),
                ..HistoryRequest::default()
            }),
            Query::Members { group } => {
                FromClient::Members(MembersRequest { group_name: group.into(), after, limit: None })
            }
            Query::Groups { prefix } => {
                FromClient::Groups(GroupsRequest { prefix: prefix.as_deref().map(Into::into), after, limit: None })
            }
            Query::Remove { group, which } => which.line(group)?,
        };
        self.sent = true;
        Some(line)
    }

    /// A page of history came. Whether it was asked for: what nobody asked for is dropped, here and below.
    pub(crate) fn history(&mut self, page: History<'_>, show: &mut Vec<Event>) -> bool {
        let Some(Asked { query: Query::History { group, count }, .. }) = self.waiting.front() else { return false };
        if !self.sent || *group != page.group_name {
            return false;
        }
        // The group began anew between two pages: what was gathered is of a life that is over.
        if self.epoch.is_some_and(|epoch| epoch != page.epoch) {
            self.forget_gathered();
            self.turn(Next::AskAgain);
            return true;
        }
        self.epoch = Some(page.epoch);
        let empty = page.messages.is_empty();
        for message in page.messages.into_iter().rev() {
            self.bytes += message.message.len();
            self.gathered.push_front(Line {
                group: group.clone(),
                seq: message.seq,
                sender: message.sender.into_owned(),
                at: message.at,
                text: message.message.into_owned(),
                removed: message.removed,
                removes: message.removes.map(Into::into),
            });
        }
        let enough = self.gathered.len() as u64 >= *count;
        let full = self.bytes >= MOST_HISTORY_BYTES;
        if page.more && !empty && !enough && !full {
            self.turn(Next::AskAgain);
            return true;
        }
        if page.more && !enough && full {
            let shown = self.gathered.len();
            show.push(Event::Note(format!("only {shown} messages of {group}: they have over {MOST_HISTORY_MIB} MiB")));
        }
        show.extend(self.gathered.drain(..).map(Event::Past));
        self.turn(Next::Done);
        true
    }

    /// A page of members came.
    pub(crate) fn members(&mut self, page: Members<'_>, show: &mut Vec<Event>) -> bool {
        let Some(Asked { query: Query::Members { group }, .. }) = self.waiting.front() else { return false };
        if !self.sent || *group != page.group_name {
            return false;
        }
        let users: Vec<String> = page.members.into_iter().map(Into::into).collect();
        let group = group.clone();
        let next = self.follow(page.more, users.last().cloned());
        show.push(Event::Members { group, users });
        self.turn(next);
        true
    }

    /// A page of groups came.
    pub(crate) fn groups(&mut self, page: Groups<'_>, show: &mut Vec<Event>) -> bool {
        let Some(Asked { query: Query::Groups { .. }, .. }) = self.waiting.front() else { return false };
        if !self.sent {
            return false;
        }
        let line = |group: tertulia_protocol::extended::GroupSummary<'_>| GroupLine {
            name: group.group_name.into_owned(),
            members: group.members,
            head: group.head,
        };
        let groups: Vec<_> = page.groups.into_iter().map(line).collect();
        let next = self.follow(page.more, groups.last().map(|group| group.name.clone()));
        show.push(Event::Groups(groups));
        self.turn(next);
        true
    }

    /// The first question was refused.
    pub(crate) fn refused(&mut self) {
        if self.sent {
            self.turn(Next::Done);
        }
    }

    /// Goes on only if the last name moved, so that no server can keep the client asking for ever without an end.
    fn follow(&mut self, more: bool, last: Option<String>) -> Next {
        if more && last > self.after {
            self.after = last;
            return Next::AskAgain;
        }
        Next::Done
    }

    fn turn(&mut self, next: Next) {
        self.sent = false;
        if next == Next::Done {
            self.waiting.pop_front();
            self.after = None;
            self.forget_gathered();
        }
    }

    fn forget_gathered(&mut self) {
        self.gathered.clear();
        (self.epoch, self.bytes) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use tertulia_protocol::extended::PastMessage;

    use super::*;

    fn page(seqs: std::ops::RangeInclusive<u64>, more: bool) -> History<'static> {
        let messages = seqs
            .map(|seq| PastMessage {
                message: "woof".into(),
                seq,
                sender: "bob".into(),
                at: 1,
                id: None,
                removed: false,
                removes: None,
            })
            .collect();
        History { group_name: "Dogs".into(), epoch: 1, messages, more }
    }

    fn next_line(queries: &mut Queries) -> Option<FromClient<'_>> {
        queries.next_line(|_, _| false)
    }

    fn request(queries: &mut Queries) -> (Option<u64>, Option<u64>) {
        match next_line(queries) {
            Some(FromClient::History(request)) => (request.before, request.limit),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pages_of_history_are_put_together_oldest_first() {
        let (mut queries, mut shown) = (Queries::default(), Vec::new());
        queries.push(Query::History { group: "Dogs".into(), count: 5 }, 0);
        assert_eq!(request(&mut queries), (None, Some(5)));
        assert_eq!(next_line(&mut queries), None, "one at a time");
        queries.history(page(8..=10, true), &mut shown);
        assert!(shown.is_empty());
        assert_eq!(request(&mut queries), (Some(8), Some(2)));
        queries.history(page(6..=7, true), &mut shown);
        let seqs: Vec<_> = shown.iter().map(|event| matches!(event, Event::Past(line) if line.seq > 5)).collect();
        assert_eq!(seqs, [true; 5]);
        assert!(matches!(&shown[0], Event::Past(line) if line.seq == 6));
        assert!(queries.is_empty());
    }

    #[test]
    fn a_question_that_was_cut_short_goes_on_where_it_was() {
        let (mut queries, mut shown) = (Queries::default(), Vec::new());
        queries.push(Query::History { group: "Dogs".into(), count: 5 }, 0);
        request(&mut queries);
        queries.history(page(8..=10, true), &mut shown);
        request(&mut queries);
        queries.disconnected();
        assert_eq!(request(&mut queries), (Some(8), Some(2)));
    }

    #[test]
    fn pages_of_two_lives_of_a_group_are_not_mixed() {
        let (mut queries, mut shown) = (Queries::default(), Vec::new());
        queries.push(Query::History { group: "Dogs".into(), count: 5 }, 0);
        request(&mut queries);
        queries.history(page(8..=10, true), &mut shown);
        request(&mut queries);
        queries.history(History { epoch: 2, ..page(1..=1, false) }, &mut shown);
        assert!(shown.is_empty());
        assert_eq!(request(&mut queries), (None, Some(5)), "from the newest of the new life");
        queries.history(History { epoch: 2, ..page(1..=2, false) }, &mut shown);
        assert_eq!(shown.len(), 2);
        assert!(queries.is_empty());
    }

    #[test]
    fn a_question_waits_for_the_posts_before_it() {
        let mut queries = Queries::default();
        queries.push(Query::Members { group: "Dogs".into() }, 3);
        queries.push(Query::Groups { prefix: None }, 3);
        let waits = |group: &str, number: u64| group == "Dogs" && number >= 2;
        assert_eq!(queries.next_line(waits), None);
        assert!(matches!(next_line(&mut queries), Some(FromClient::Members(_))));
        queries.refused();
        assert!(matches!(queries.next_line(waits), Some(FromClient::Groups(_))), "that one is about no group");
    }

    #[test]
    fn history_that_is_cut_for_its_size_says_so() {
        let (mut queries, mut shown) = (Queries::default(), Vec::new());
        queries.push(Query::History { group: "Dogs".into(), count: 5 }, 0);
        request(&mut queries);
        let mut page = page(9..=10, true);
        page.messages[0].message = "x".repeat(MOST_HISTORY_BYTES).into();
        queries.history(page, &mut shown);
        assert!(matches!(&shown[..], [Event::Note(_), Event::Past(_), Event::Past(_)]), "{}", shown.len());
        assert!(queries.is_empty());
    }

    #[test]
    fn a_server_that_promises_more_and_gives_nothing_is_not_followed() {
        let (mut queries, mut shown) = (Queries::default(), Vec::new());
        queries.push(Query::Members { group: "Dogs".into() }, 0);
        let answer = |names: &[&str]| Members {
            group_name: "Dogs".into(),
            members: names.iter().map(|name| (*name).to_owned().into()).collect(),
            more: true,
        };
        next_line(&mut queries).unwrap();
        queries.members(answer(&["ada", "bob"]), &mut shown);
        let Some(FromClient::Members(next)) = next_line(&mut queries) else { panic!("asks on") };
        assert_eq!(next.after.as_deref(), Some("bob"));
        queries.members(answer(&["ada", "bob"]), &mut shown);
        assert!(queries.is_empty(), "the same page again is no progress");
    }

    #[test]
    fn a_refused_question_makes_room_for_the_next() {
        let mut queries = Queries::default();
        queries.push(Query::Members { group: "Cats".into() }, 0);
        queries.push(Query::Groups { prefix: None }, 0);
        next_line(&mut queries).unwrap();
        queries.refused();
        assert!(matches!(next_line(&mut queries), Some(FromClient::Groups(_))));
        assert!(next_line(&mut queries).is_none());
    }

    #[test]
    fn an_answer_to_nothing_is_dropped() {
        let (mut queries, mut shown) = (Queries::default(), Vec::new());
        queries.groups(Groups { groups: Vec::new(), more: false }, &mut shown);
        queries.history(page(1..=2, false), &mut shown);
        assert!(shown.is_empty());
    }
}
