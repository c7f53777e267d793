//! A user takes back a message of its own: the text goes from the log, and the group is told by a message of the server.

use std::sync::Arc;

use tertulia_protocol::{Code, GroupName, extended};

use super::connection::Task;
use super::replies::{Refused, Reply};
use crate::shard::request::{Admin, Redaction, Selection, Telling};
use crate::shard::session::{RETRY_SOON, Stored};
use crate::shard::{Refusal, Session, Shards, Untold};

/// For how many lines a `Remove` counts: its group's shard writes for it alone.
pub(super) const REMOVE: usize = 50;

/// What came of a `Remove`.
pub(super) struct Outcome {
    pub(super) group: GroupName,
    pub(super) seq: u64,
    /// The message that tells the group.
    pub(super) told: Result<Stored, NotRemoved>,
}

/// Why a message is not removed, or not wholly.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRemoved {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not known which life the group has.
    #[error(transparent)]
    Untold(Untold),
    #[error("there is no such message of this user")]
    NoSuchMessage,
    /// The text is gone, but the message that is to tell of it is not stored, as far as is known.
    #[error("the text is gone, and the group may not be told: {0}")]
    InSilence(Refusal),
}

impl From<Untold> for NotRemoved {
    fn from(error: Untold) -> Self {
        match error {
            // Nobody was asked to remove anything yet.
            Untold::Refused(refusal) if !refusal.is_in_doubt() => Self::Refused(refusal),
            error => Self::Untold(error),
        }
    }
}

impl Task {
    pub(super) fn on_remove(&mut self, request: &extended::Remove<'_>) {
        let Some(group) = self.group(&request.group_name, "Remove") else { return };
        if let Err(refused) = self.may_remove(&group).and_then(|()| self.take_from_bucket()) {
            self.refuse(refused.about("Remove", group.as_str()));
            return;
        }
        self.send_gathered();
        self.pace(REMOVE);
        let Some((session, _)) = &self.voice else { return };
        let (shards, session) = (self.shared.shards.clone(), Arc::clone(session));
        let (seq, epoch) = (request.seq, request.epoch);
        self.question = Some(Box::pin(async move {
            let told = remove(&shards, &group, &session, seq, epoch).await;
            Reply::Removed(Outcome { group, seq, told })
        }));
    }

    /// Anybody can claim the name of a user: only who has proved that it is the one may take back what stands under it.
    fn may_remove(&self, group: &GroupName) -> Result<(), Refused> {
        let forbidden = |text: &str| Err(Refused::new(Code::Forbidden, text));
        if !self.shared.remove_own {
            return forbidden("This server does not let users take back their messages");
        }
        if self.shared.auth.asks_for().is_none() {
            return forbidden("This server takes users at their word: nobody can prove whose a message is");
        }
        if self.rights.as_ref().is_some_and(|rights| rights.is_guest) {
            return forbidden("You are a guest here: only who proves who it is can take back a message");
        }
        self.may_post(group)
    }

    pub(super) fn on_removed_own(&mut self, outcome: Outcome) {
        let Outcome { group, seq, told } = outcome;
        let refused = match told {
            Ok(Stored { epoch, seq: told_by, .. }) => {
                let group_name = group.as_str().into();
                self.out.push(&extended::FromServer::Removed(extended::Removed { group_name, epoch, seq, told_by }));
                return;
            }
            Err(NotRemoved::Untold(error)) => return self.refuse_untold_of("Remove", &group, &error),
            Err(NotRemoved::Refused(refusal)) => Refused::of("Remove", &group, &refusal),
            Err(NotRemoved::NoSuchMessage) => {
                let text = format!("You have no message {seq} in group '{group}'");
                Refused::new(Code::NoSuchMessage, text)
            }
            Err(NotRemoved::InSilence(refusal)) => {
                let wait = refusal.retry_after().unwrap_or(RETRY_SOON);
                let text = format!(
                    "The text of message {seq} is removed, and group '{group}' may not have been told; try again in {} ms",
                    wait.as_millis()
                );
                Refused { retry_after: Some(wait), in_doubt: true, ..Refused::new(Code::Unavailable, text) }
            }
        };
        self.refuse(refused.about("Remove", group.as_str()));
    }
}

async fn remove(
    shards: &Shards,
    group: &GroupName,
    session: &Session,
    seq: u64,
    epoch: Option<u64>,
) -> Result<Stored, NotRemoved> {
    // As whoever posts.
    shards.holds().check(group, session)?;
    // The life that is meant, also where one owner removes it, does not say so, and is gone, and the next one is asked.
    let none = || Refusal::NoSuchGroup(group.clone());
    let now = shards.group(group).await?.ok_or_else(none)?.epoch();
    if epoch.is_some_and(|epoch| epoch != now) {
        return Err(NotRemoved::NoSuchMessage);
    }
    let selection = Selection { first: seq, last: seq, sender: Some(session.user.as_str().to_owned()) };
    let telling = Telling::default();
    let ask = |reply| Admin::Redact { group: group.clone(), selection, epoch: now, telling, in_doubt: false, reply };
    match shards.ask(shards.shard_of(group), ask).await.ok_or(Refusal::Draining)?? {
        Redaction::NoSuchGroup => Err(none().into()),
        Redaction::NoSuchMessage | Redaction::RemovedQuietly(_) => Err(NotRemoved::NoSuchMessage),
        Redaction::Removed { told, .. } => told.await.unwrap_or(Err(Refusal::Draining)).map_err(NotRemoved::InSilence),
    }
}
