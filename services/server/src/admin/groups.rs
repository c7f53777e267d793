//! Groups and their members.

use std::time::SystemTime;

use tertulia_proto::Timestamp;
use tertulia_proto::admin::v1::{
    GetGroupRequest, GetGroupResponse, Group, ListGroupsRequest, ListGroupsResponse, ListMembersRequest,
    ListMembersResponse, Member, MemberState,
};
use tertulia_protocol::{GroupName, UserName};

use super::connections::dialect;
use super::pages::{self, List};
use super::service::Service;
use super::status::Error;
use super::{arguments, watch};
use crate::shard::ConnectionId;
use crate::shard::Listed;
use crate::shard::request::{Admin, Member as Membership};

impl Service {
    pub(super) async fn groups_page(&self, request: ListGroupsRequest) -> Result<ListGroupsResponse, Error> {
        let list = List { name: "groups", filters: &[&request.prefix] };
        let size = pages::size(request.page_size)?;
        let after = list.after::<1>(&request.page_token)?.map(|[name]| name);
        let (listed, more) = self.shards.groups(&request.prefix, after.as_deref(), size).await?;
        let next_page_token = match listed.last() {
            Some(last) if more => list.token(&[last.name.as_str()]),
            _ => String::new(),
        };
        Ok(ListGroupsResponse { groups: listed.iter().map(|group| self.tell_group(group)).collect(), next_page_token })
    }

    pub(super) async fn one_group(&self, request: GetGroupRequest) -> Result<GetGroupResponse, Error> {
        let name = arguments::group(&request.group_name)?;
        match self.shards.group(&name).await? {
            Some(listed) => Ok(GetGroupResponse { group: Some(self.tell_group(&listed)) }),
            None => Err(Error::NoSuchGroup(name)),
        }
    }

    fn tell_group(&self, listed: &Listed) -> Group {
        let shard = self.shards.shard_of(&listed.name);
        let status = listed.status.as_deref();
        let closed_for = listed.closed_for.or_else(|| self.shards.holds().closed_for(listed.name.as_str()));
        Group {
            name: listed.name.as_str().to_owned(),
            shard: shard.into(),
            node: self.shards.map().owner(shard).unwrap_or_default().to_owned(),
            epoch: listed.epoch(),
            head: listed.head(),
            first_seq: listed.first(),
            members: status.map_or(0, |status| count(status.members())),
            lagging_members: status.map_or(0, |status| count(status.lagging())),
            posts: status.map_or(0, |status| status.posts()),
            loaded: status.is_some(),
            closed_until: closed_for.map(|left| watch::timestamp(SystemTime::now() + left)),
        }
    }

    pub(super) async fn members_page(&self, request: ListMembersRequest) -> Result<ListMembersResponse, Error> {
        let group = arguments::group(&request.group_name)?;
        let list = List { name: "members", filters: &[group.as_str()] };
        let size = pages::size(request.page_size)?;
        let after = match list.after::<2>(&request.page_token)? {
            Some([user, id]) => Some((UserName::new(&user)?, arguments::connection(&id)?)),
            None => None,
        };
        let mut members = self.members(&group, after, size + 1).await?;
        let more = members.len() > size;
        members.truncate(size);
        let next_page_token = match members.last() {
            Some(last) if more => list.token(&[last.session.user.as_str(), &last.session.id.to_string()]),
            _ => String::new(),
        };
        let head = self.shards.directory().get(group.as_str()).map_or(0, |status| status.head());
        Ok(ListMembersResponse {
            members: members.iter().map(|member| self.tell_member(member, head)).collect(),
            next_page_token,
        })
    }

    /// Members of a group from the first after `after`, ordered by user, then connection, at most `limit`.
    pub(super) async fn members(
        &self,
        group: &GroupName,
        after: Option<(UserName, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Membership>, Error> {
        let ask = |reply| Admin::Members { group: group.clone(), after, limit, reply };
        let answer = self.shards.ask(self.shards.shard_of(group), ask).await.ok_or(Error::Stopped)?;
        answer?.ok_or_else(|| Error::NoSuchGroup(group.clone()))
    }

    fn tell_member(&self, member: &Membership, head: u64) -> Member {
        let session = &member.session;
        let delivered = member.progress.delivered();
        let state = if member.progress.is_catching_up() { MemberState::CatchingUp } else { MemberState::Live };
        Member {
            user: session.user.as_str().to_owned(),
            connection_id: session.id.to_string(),
            address: session.address.to_string(),
            dialect: self.registry.get(session.id).map_or(0, |connection| dialect(&connection).into()),
            joined_at: Some(time(member.joined_at)),
            delivered_seq: delivered,
            lag: head.saturating_sub(delivered),
            state: state.into(),
        }
    }
}

fn time(millis: u64) -> Timestamp {
    tertulia_proto::timestamp(millis)
}

/// A count as the API has it; more than four thousand million of anything do not fit into one server.
pub(super) fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
