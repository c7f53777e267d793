//! What moderators do to members, connections and groups. Each call leaves one line in the server's log: who, what, with which
//! result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tertulia_proto::admin::v1::{
    AnnounceRequest, AnnounceResponse, CloseGroupRequest, CloseGroupResponse, DeleteGroupRequest, DeleteGroupResponse,
    DisconnectRequest, DisconnectResponse, KickMemberRequest, KickMemberResponse, PurgeHistoryRequest,
    PurgeHistoryResponse,
};
use tertulia_protocol::{GroupName, PostId};

use super::arguments;
use super::elsewhere::DISCONNECT;
use super::gate::Peer;
use super::groups::count;
use super::service::Service;
use super::status::Error;
use crate::shard::request::{Admin, Ended};
use crate::shard::{ConnectionId, Hold, Removal, Target, Term};

/// At most so many kicked connections are named.
const MAX_NAMED: usize = 1_000;

impl Service {
    pub(super) async fn kick(&self, peer: Peer, request: KickMemberRequest) -> Result<KickMemberResponse, Error> {
        let target = arguments::kick_target(request.target)?;
        let group = arguments::group_or_all(&request.group_name)?;
        let reason = arguments::reason(&request.reason)?;
        let hold = arguments::hold(request.hold_seconds)?;
        let mut account = Account::new("KickMember", peer, group.as_ref(), Some(&target), reason.as_ref());
        let kicking = async {
            let mut term = Term::from(hold);
            if !hold.is_zero() {
                if let Some(group) = &group {
                    self.find(group).await?;
                }
                let kept = Hold::new(group.clone(), Some(target.clone()), hold).because(reason.as_ref());
                term = Term::of(&self.shards.holds().keep(kept).await?, hold);
            }
            self.kicked(group, &target, reason.as_ref(), term).await
        };
        let kicked = account.close(kicking.await, |kicked| {
            format!("{} members removed, held for {} s", kicked.len(), hold.as_secs())
        })?;
        let connections: BTreeSet<ConnectionId> = kicked.iter().copied().collect();
        Ok(KickMemberResponse {
            kicked: count(kicked.len() as u64),
            connection_ids: connections.iter().take(MAX_NAMED).map(ToString::to_string).collect(),
        })
    }

    /// Fails if there is no such group.
    pub(super) async fn find(&self, group: &GroupName) -> Result<(), Error> {
        match self.shards.group(group).await? {
            Some(_) => Ok(()),
            None => Err(Error::NoSuchGroup(group.clone())),
        }
    }

    /// The life of a group that a moderator means who wants messages gone. Where one owner does it, does not say so, and is gone, the next one
    /// is asked: by then the group may have another life.
    async fn life(&self, group: &GroupName) -> Result<u64, Error> {
        let listed = self.shards.group(group).await?.ok_or_else(|| Error::NoSuchGroup(group.clone()))?;
        Ok(listed.epoch())
    }

    async fn kicked(
        &self,
        group: Option<GroupName>,
        target: &Target,
        reason: Option<&Arc<str>>,
        hold: Term,
    ) -> Result<Vec<ConnectionId>, Error> {
        let ask =
            |reply| Admin::Kick { group: group.clone(), target: target.clone(), reason: reason.cloned(), hold, reply };
        match &group {
            Some(name) => {
                let answer = self.shards.ask(self.shards.shard_of(name), ask).await.ok_or(Error::Stopped)?;
                answer?.ok_or_else(|| Error::NoSuchGroup(name.clone()))
            }
            None => {
                let answers = self.shards.ask_all(ask).await.ok_or(Error::Stopped)?;
                let mut kicked = Vec::new();
                for answer in answers {
                    kicked.extend(answer?.unwrap_or_default());
                }
                Ok(kicked)
            }
        }
    }

    pub(super) async fn end_connections(
        &self,
        peer: Peer,
        request: DisconnectRequest,
    ) -> Result<DisconnectResponse, Error> {
        let target = arguments::disconnect_target(request.target.clone())?;
        let reason = arguments::reason(&request.reason)?;
        let mut account = Account::new("Disconnect", peer, None, Some(&target), reason.as_ref());
        let here = self.end_connections_here(&request)?;
        let elsewhere: Result<Vec<DisconnectResponse>, Error> =
            self.elsewhere(DISCONNECT, &request, |node| Error::NodeSilent { node }).await;
        account
            .close(elsewhere, |elsewhere| {
                let disconnected = here.disconnected + elsewhere.iter().map(|answer| answer.disconnected).sum::<u32>();
                format!("{disconnected} connections told to close")
            })
            .map(|elsewhere| {
                let others: u32 = elsewhere.iter().map(|answer| answer.disconnected).sum();
                DisconnectResponse { disconnected: here.disconnected + others }
            })
    }

    /// As [`Service::end_connections`], of this node's connections.
    pub(super) fn end_connections_here(&self, request: &DisconnectRequest) -> Result<DisconnectResponse, Error> {
        let target = arguments::disconnect_target(request.target.clone())?;
        let reason = arguments::reason(&request.reason)?;
        let ended = self.registry.disconnect(&target, reason.as_ref()).len();
        Ok(DisconnectResponse { disconnected: count(ended as u64) })
    }

    pub(super) async fn close(&self, peer: Peer, request: CloseGroupRequest) -> Result<CloseGroupResponse, Error> {
        let group = arguments::group(&request.group_name)?;
        let reason = arguments::reason(&request.reason)?;
        let hold = arguments::hold(request.hold_seconds)?;
        let mut account = Account::new("CloseGroup", peer, Some(&group), None, reason.as_ref());
        let is_closed = self.shards.holds().closed_for(group.as_str()).is_some();
        let closing = async {
            if !is_closed {
                self.find(&group).await?;
            }
            let mut term = Term::from(hold);
            if is_closed || !hold.is_zero() {
                let kept = Hold::new(Some(group.clone()), None, hold).because(reason.as_ref());
                term = Term::of(&self.shards.holds().keep(kept).await?, hold);
            }
            match self.end(&group, Removal::Closed, reason, term).await {
                // All that was left of it was that it was closed.
                Err(Error::NoSuchGroup(_)) if is_closed => Ok(Ended { members: 0, messages: 0 }),
                ended => ended,
            }
        };
        let ended = account.close(closing.await, |ended| {
            format!("{} members removed, closed for {} s", ended.members, hold.as_secs())
        })?;
        Ok(CloseGroupResponse { removed_members: count(ended.members) })
    }

    pub(super) async fn delete(&self, peer: Peer, request: DeleteGroupRequest) -> Result<DeleteGroupResponse, Error> {
        let group = arguments::group(&request.group_name)?;
        let reason = arguments::reason(&request.reason)?;
        let mut account = Account::new("DeleteGroup", peer, Some(&group), None, reason.as_ref());
        let closed_until = self.closed_until(&group);
        let closed = self.shards.holds().find((Some(group.clone()), None));
        let deleting = async {
            let closed = closed.map_or(Duration::ZERO.into(), |closed| Term::of(&closed, Duration::ZERO));
            let ended = self.end(&group, Removal::Deleted, reason, closed).await;
            // Also where it was deleted before, by somebody who did not wait for the end of it.
            if let (Ok(_) | Err(Error::NoSuchGroup(_)), Some(until)) = (&ended, closed_until) {
                self.open_name(group.clone(), until);
            }
            ended
        };
        let ended = account.close(deleting.await, |ended| {
            format!("{} members and {} messages removed", ended.members, ended.messages)
        })?;
        Ok(DeleteGroupResponse { removed_members: count(ended.members), removed_messages: ended.messages })
    }

    fn closed_until(&self, group: &GroupName) -> Option<Instant> {
        Some(Instant::now() + self.shards.holds().closed_for(group.as_str())?)
    }

    /// Ends what keeps a group closed, until `until`, that is no more. It goes on when the caller has left, and as long as it cannot be
    /// kept: the group is deleted already, and whoever founds it anew should not find it closed, unless a moderator has closed it anew.
    fn open_name(&self, group: GroupName, until: Instant) {
        const AGAIN: Duration = Duration::from_secs(1);
        let service = self.clone();
        let opening = async move {
            let is_another = |now: Instant| now.max(until) - now.min(until) > AGAIN;
            while !service.closed_until(&group).is_some_and(is_another) {
                let open = Hold::new(Some(group.clone()), None, Duration::ZERO);
                match service.shards.holds().keep(open).await {
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%group, %error, "the name of a deleted group stays closed for now"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled_owned(opening).await });
    }

    async fn end(&self, group: &GroupName, how: Removal, reason: Option<Arc<str>>, hold: Term) -> Result<Ended, Error> {
        // A name is closed, whatever life it has; what is deleted is one life.
        let epoch = match how {
            Removal::Deleted => Some(self.life(group).await?),
            Removal::Closed | Removal::Kicked => None,
        };
        let ask = |reply| Admin::End { group: group.clone(), how, reason, hold, epoch, in_doubt: false, reply };
        let answer = self.shards.ask(self.shards.shard_of(group), ask).await.ok_or(Error::Stopped)?;
        answer?.ok_or_else(|| Error::NoSuchGroup(group.clone()))
    }

    pub(super) async fn purge(&self, peer: Peer, request: PurgeHistoryRequest) -> Result<PurgeHistoryResponse, Error> {
        let group = arguments::group(&request.group_name)?;
        let through = request.through_seq;
        if through == 0 {
            return Err(Error::argument("through_seq must be at least 1, the seq of a group's first message"));
        }
        let mut account = Account::new("PurgeHistory", peer, Some(&group), None, None);
        let purging = async {
            let epoch = Some(self.life(&group).await?);
            let ask = |reply| Admin::Purge { group: group.clone(), through, epoch, in_doubt: false, reply };
            let answer = self.shards.ask(self.shards.shard_of(&group), ask).await.ok_or(Error::Stopped)?;
            answer?.ok_or_else(|| Error::NoSuchGroup(group.clone()))
        };
        let removed_messages = account
            .close(purging.await, |removed| format!("{removed} messages removed, asked for all through {through}"))?;
        Ok(PurgeHistoryResponse { removed_messages })
    }

    pub(super) async fn post_announcement(
        &self,
        peer: Peer,
        request: AnnounceRequest,
    ) -> Result<AnnounceResponse, Error> {
        let group = arguments::group_or_all(&request.group_name)?;
        let message = arguments::message(&request.message, self.max_message)?;
        let id = arguments::post_id(&request.id)?;
        let mut account = Account::new("Announce", peer, group.as_ref(), None, None);
        let announced = match group {
            Some(group) => self.announce_to(group, message, id).await,
            None => self.announce_to_all(message, id).await,
        };
        account.close(announced, |told| format!("{} groups told, {} could not be", told.groups, told.failed_groups))
    }

    async fn announce_to(
        &self,
        group: GroupName,
        message: Arc<str>,
        id: Option<PostId>,
    ) -> Result<AnnounceResponse, Error> {
        let shard = self.shards.shard_of(&group);
        let ask = |reply| Admin::Announce { group: Some(group.clone()), message, id, reply };
        let answer = self.shards.ask(shard, ask).await.ok_or(Error::Stopped)?;
        let outcome = answer?.and_then(|mut outcomes| outcomes.pop()).ok_or(Error::NoSuchGroup(group))?;
        let stored = outcome.await.map_err(|_| Error::Stopped)??;
        Ok(AnnounceResponse { groups: 1, failed_groups: 0, seq: Some(stored.seq) })
    }

    async fn announce_to_all(&self, message: Arc<str>, id: Option<PostId>) -> Result<AnnounceResponse, Error> {
        let ask = |reply| Admin::Announce { group: None, message: Arc::clone(&message), id: id.clone(), reply };
        let answers = self.shards.ask_all(ask).await.ok_or(Error::Stopped)?;
        let mut told = AnnounceResponse::default();
        let mut in_doubt = None;
        for answer in answers {
            for outcome in answer?.unwrap_or_default() {
                match outcome.await {
                    Ok(Ok(_)) => told.groups += 1,
                    Ok(Err(refusal)) if refusal.is_in_doubt() => in_doubt = Some(refusal),
                    Ok(Err(_)) | Err(_) => told.failed_groups += 1,
                }
            }
        }
        // Of a group of which nobody knows it cannot be said that it was not told.
        in_doubt.map_or(Ok(told), |refusal| Err(refusal.into()))
    }
}

/// What is written to the log about one moderating call, also when its caller gives it up.
pub(super) struct Account {
    call: &'static str,
    peer: Peer,
    group: String,
    target: String,
    reason: Option<Arc<str>>,
    result: String,
}

impl Account {
    pub(super) fn new(
        call: &'static str,
        peer: Peer,
        group: Option<&GroupName>,
        target: Option<&Target>,
        reason: Option<&Arc<str>>,
    ) -> Self {
        Self {
            call,
            peer,
            group: group.map(ToString::to_string).unwrap_or_default(),
            target: target.map(ToString::to_string).unwrap_or_default(),
            reason: reason.cloned(),
            result: "given up".to_owned(),
        }
    }

    /// Notes the result, and hands it on.
    pub(super) fn close<T>(&mut self, result: Result<T, Error>, text: impl FnOnce(&T) -> String) -> Result<T, Error> {
        self.result = match &result {
            Ok(done) => text(done),
            Err(error) => error.to_string(),
        };
        result
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Self { call, peer, group, target, reason, result } = self;
        let reason = reason.as_deref().unwrap_or_default();
        let trace_id = peer.trace_id().map(tracing::field::display);
        // Not `target`: in a line of JSON that is the part of the server that logs.
        tracing::info!(call, %peer, group, whom = target, reason, result, trace_id, "moderated");
    }
}
