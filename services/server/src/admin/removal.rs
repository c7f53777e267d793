//! Removing the texts of messages.

use std::sync::Arc;

use tertulia_proto::admin::v1::{RemoveMessagesRequest, RemoveMessagesResponse};
use tertulia_protocol::GroupName;

use super::arguments;
use super::gate::Peer;
use super::groups::count;
use super::moderation::Account;
use super::service::Service;
use super::status::Error;
use crate::shard::Shards;
use crate::shard::request::{Admin, Redaction, RemovedBefore, Selection, Telling};

impl Service {
    pub(super) async fn redact(
        &self,
        peer: Peer,
        request: RemoveMessagesRequest,
    ) -> Result<RemoveMessagesResponse, Error> {
        let RemoveMessagesRequest { group_name, first_seq: first, last_seq: last, user, epoch, reason } = request;
        let group = arguments::group(&group_name)?;
        let reason = arguments::reason(&reason)?;
        let selection = arguments::selection(first, last, &user)?;
        let mut account = Account::new("RemoveMessages", peer, Some(&group), None, reason.as_ref());
        let removal = Removal { shards: self.shards.clone(), group, selection, epoch, reason };
        // To its end, also if its caller gives it up: else texts would be gone, and the group not told.
        let removing = tokio::spawn(async move {
            let done = removal.run().await;
            account.close(done, |done| {
                let RemoveMessagesResponse { removed_messages, seq } = done;
                format!("{removed_messages} messages removed, asked for {}, as message {seq} tells", removal.selection)
            })
        });
        removing.await.map_err(|_| Error::Stopped)?
    }
}

/// What a moderator asks for.
struct Removal {
    shards: Shards,
    group: GroupName,
    selection: Selection,
    /// The life of the group that is meant; 0: the one that it has.
    epoch: u64,
    reason: Option<Arc<str>>,
}

impl Removal {
    async fn run(&self) -> Result<RemoveMessagesResponse, Error> {
        let listed = self.shards.group(&self.group).await?.ok_or_else(|| self.no_such_group())?;
        let epoch = listed.epoch();
        if self.epoch != 0 && self.epoch != epoch {
            return Err(self.no_such_messages());
        }
        let mut telling = Telling { reason: self.reason.clone(), ..Telling::default() };
        // What comes in between is not meant: the group would be told of messages that no step has found.
        let last = self.selection.last.min(listed.head()).max(self.selection.first);
        let before = Selection { last, ..self.selection.clone() };
        for step in before.steps() {
            let quietly = Telling { quietly: true, ..Telling::default() };
            match self.ask(step, epoch, quietly).await? {
                Redaction::NoSuchGroup => return Err(self.no_such_group()),
                // An owner of an older build has told of it already, and looks at all of it again.
                Redaction::NoSuchMessage | Redaction::Removed { .. } => {}
                Redaction::RemovedQuietly(step) => {
                    let messages = telling.removed.map_or(0, |removed| removed.messages) + step.messages;
                    telling.removed = Some(RemovedBefore { messages, ..step });
                }
            }
        }
        match self.ask(self.selection.clone(), epoch, telling).await? {
            Redaction::NoSuchGroup => Err(self.no_such_group()),
            Redaction::NoSuchMessage | Redaction::RemovedQuietly(_) => Err(self.no_such_messages()),
            Redaction::Removed { messages, told } => {
                let seq = told.await.map_err(|_| Error::Stopped)??.seq;
                Ok(RemoveMessagesResponse { removed_messages: count(messages), seq })
            }
        }
    }

    async fn ask(&self, selection: Selection, epoch: u64, telling: Telling) -> Result<Redaction, Error> {
        let (group, shard) = (self.group.clone(), self.shards.shard_of(&self.group));
        let ask = |reply| Admin::Redact { group, selection, epoch, telling, in_doubt: false, reply };
        Ok(self.shards.ask(shard, ask).await.ok_or(Error::Stopped)??)
    }

    fn no_such_group(&self) -> Error {
        Error::NoSuchGroup(self.group.clone())
    }

    fn no_such_messages(&self) -> Error {
        Error::NoSuchMessages { group: self.group.clone(), selection: self.selection.clone() }
    }
}
