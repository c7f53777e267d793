//! What is not done yet.

use super::{Phase, State};
use crate::session::membership::Membership;
use crate::session::outbox::Pending;
use crate::session::query::Query;

/// Posts that were not answered when the session was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// So many are not in the log.
    not_stored: usize,
    /// So many may be.
    unknown: usize,
    /// The first of all, for a person to know it by.
    first: String,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { not_stored, unknown, first } = self;
        let posts = |count: usize| if count == 1 { "1 post".to_owned() } else { format!("{count} posts") };
        match (not_stored, unknown) {
            (0, _) => write!(f, "it is unknown whether {} came through", posts(*unknown))?,
            (_, 0) => write!(f, "{} not sent or not taken", posts(*not_stored))?,
            _ => {
                let (not_stored, unknown) = (posts(*not_stored), posts(*unknown));
                write!(f, "{not_stored} not sent or not taken, and it is unknown whether {unknown} came through")?;
            }
        }
        write!(f, "; the first: {first}")
    }
}

/// What a text begins with.
pub(super) fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}

/// What is said of a post that is not in the log.
pub(super) fn not_posted(post: &Pending, why: &str) -> String {
    format!("not posted to {}: {why}; the text: {}", post.group, beginning(&post.text))
}

/// What is said of a post that may be.
pub(super) fn unknown(post: &Pending) -> String {
    format!("it is unknown whether this was posted to {}: {}", post.group, beginning(&post.text))
}

impl State {
    /// Whether all that was asked for was answered, and all that is known to be there was shown.
    pub(crate) fn is_settled(&self) -> bool {
        self.outbox.is_empty() && self.queries.is_empty() && self.groups.values().all(Membership::is_settled)
    }

    /// Whether there is no group that one is in, or that is joined, also later.
    pub(crate) fn is_in_no_group(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a post was not answered, or is still to be taken back.
    pub(crate) fn has_unanswered(&self) -> bool {
        !self.outbox.is_empty() || self.queries.iter().any(|query| matches!(query, Query::Remove { .. }))
    }

    /// The posts that were not answered; `None` if all were.
    pub(crate) fn unanswered(&self) -> Option<Unanswered> {
        let posts = self.outbox.posts();
        let first = beginning(&posts.first()?.text);
        let unknown = posts.iter().filter(|post| post.is_uncertain()).count();
        Some(Unanswered { not_stored: posts.len() - unknown, unknown, first })
    }

    /// What else is waited for, in words.
    pub(crate) fn open(&self) -> String {
        let groups = self.groups.iter().filter_map(|(group, membership)| match membership.seen_of_known() {
            _ if membership.is_settled() => None,
            _ if membership.is_leaving() => Some(format!("leaving {group}")),
            Some((seen, known)) if !membership.is_asking() => {
                Some(format!("messages of {group} ({seen} of {known} seen)"))
            }
            _ => Some(format!("joining {group}")),
        });
        let questions = self.queries.iter().map(ToString::to_string);
        let mut open: Vec<String> = groups.chain(questions).collect();
        match self.phase {
            Phase::Offline => open.push("a connection".to_owned()),
            Phase::Greeting => open.push("a welcome".to_owned()),
            Phase::Online | Phase::Departing if open.is_empty() => open.push("the end of what is sent".to_owned()),
            Phase::Online | Phase::Departing => {}
        }
        open.join(", ")
    }
}
