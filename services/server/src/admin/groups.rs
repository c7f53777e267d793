//! Groups and their members.

use std::collections::HashMap;
use std::time::SystemTime;

use tertulia_proto::Timestamp;
use tertulia_proto::admin::v1::{
    GetGroupRequest, GetGroupResponse, Group, ListGroupsRequest, ListGroupsResponse, ListMembersRequest,
    ListMembersResponse, Member, MemberState,
};
use tertulia_protocol::{GroupName, UserName};

use super::connections::dialect;
use super::elsewhere::{Counts, LAGGING, LIST_MEMBERS, Names};
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
        let mut groups = listed.iter().map(|group| self.tell_group(group)).collect::<Vec<_>>();
        self.count_lagging(&mut groups).await;
        Ok(ListGroupsResponse { groups, next_page_token })
    }

    pub(super) async fn one_group(&self, request: GetGroupRequest) -> Result<GetGroupResponse, Error> {
        let name = arguments::group(&request.group_name)?;
        match self.shards.group(&name).await? {
            Some(listed) => {
                let mut groups = [self.tell_group(&listed)];
                self.count_lagging(&mut groups).await;
                Ok(GetGroupResponse { group: groups.into_iter().next() })
            }
            None => Err(Error::NoSuchGroup(name)),
        }
    }

    /// Whether a member is behind, only the node knows that it is connected to: counts those of all nodes that answer.
    async fn count_lagging(&self, groups: &mut [Group]) {
        if self.cluster.is_none() {
            return;
        }
        let loaded = || groups.iter().filter(|group| group.loaded);
        let names = Names { names: loaded().map(|group| group.name.clone()).collect() };
        if names.names.is_empty() {
            return;
        }
        let mut told = self.heard::<Counts>(LAGGING, &names).await;
        told.push(self.lagging_here(&names));
        for (place, group) in groups.iter_mut().filter(|group| group.loaded).enumerate() {
            group.lagging_members = count(told.iter().filter_map(|counts| counts.counts.get(place)).sum());
        }
    }

    /// How many members that are connected to this node are behind.
    pub(super) fn lagging_here(&self, names: &Names) -> Counts {
        let lagging = |name: &String| self.shards.directory().get(name).map_or(0, |status| status.lagging());
        Counts { counts: names.names.iter().map(lagging).collect() }
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
        let (size, after) = (pages::size(request.page_size)?, members_after(&group, &request)?);
        let mut members = self.members(&group, after, size + 1).await?;
        let more = members.len() > size;
        members.truncate(size);
        let next_page_token = match members.last() {
            Some(last) if more => list.token(&[last.session.user.as_str(), &last.session.id.to_string()]),
            _ => String::new(),
        };
        let mut told: Vec<Member> = members.iter().map(|member| self.tell_member(&group, member)).collect();
        if members.iter().any(|member| member.session.home.is_some()) {
            let mut pages: Vec<ListMembersResponse> = self.heard(LIST_MEMBERS, &request).await;
            pages.push(self.members_here(&request).await?);
            let served = pages.into_iter().flat_map(|page| page.members);
            let mut served: HashMap<String, Member> =
                served.map(|member| (member.connection_id.clone(), member)).collect();
            for member in &mut told {
                if let Some(Member { dialect, delivered_seq, lag, state, .. }) = served.remove(&member.connection_id) {
                    *member = Member { dialect, delivered_seq, lag, state, ..std::mem::take(member) };
                }
            }
        }
        Ok(ListMembersResponse { members: told, next_page_token })
    }

    /// As [`Service::members_page`], of those that are connected to this node, without a token.
    pub(super) async fn members_here(&self, request: &ListMembersRequest) -> Result<ListMembersResponse, Error> {
        let group = arguments::group(&request.group_name)?;
        let (size, after) = (pages::size(request.page_size)?, members_after(&group, request)?);
        let members = self.connected_members(&group, after, size).await?;
        let members = members.iter().map(|member| self.tell_member(&group, member)).collect();
        Ok(ListMembersResponse { members, next_page_token: String::new() })
    }

    /// As [`Service::members`], of those that are connected to this node; none of a group that has none here.
    pub(super) async fn connected_members(
        &self,
        group: &GroupName,
        after: Option<(UserName, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Membership>, Error> {
        let ask = |reply| Admin::Here { group: group.clone(), after, limit, reply };
        self.shards.ask(self.shards.shard_of(group), ask).await.ok_or(Error::Stopped)
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

    /// A member; of one that is connected elsewhere, without what only its own node knows.
    fn tell_member(&self, group: &GroupName, member: &Membership) -> Member {
        let session = &member.session;
        let told = Member {
            user: session.user.as_str().to_owned(),
            connection_id: session.id.to_string(),
            address: session.address.to_string(),
            joined_at: Some(time(member.joined_at)),
            ..Member::default()
        };
        if session.home.is_some() {
            return told;
        }
        let head = self.shards.directory().get(group.as_str()).map_or(0, |status| status.head());
        let delivered = member.progress.delivered();
        let state = if member.progress.is_catching_up() { MemberState::CatchingUp } else { MemberState::Live };
        Member {
            dialect: self.registry.get(session.id).map_or(0, |connection| dialect(&connection).into()),
            delivered_seq: delivered,
            lag: head.saturating_sub(delivered),
            state: state.into(),
            ..told
        }
    }
}

/// Where a page of members begins.
fn members_after(group: &GroupName, request: &ListMembersRequest) -> Result<Option<(UserName, ConnectionId)>, Error> {
    let list = List { name: "members", filters: &[group.as_str()] };
    Ok(match list.after::<2>(&request.page_token)? {
        Some([user, id]) => Some((UserName::new(&user)?, arguments::connection(&id)?)),
        None => None,
    })
}

fn time(millis: u64) -> Timestamp {
    tertulia_proto::timestamp(millis)
}

/// A count as the API has it; more than four thousand million of anything do not fit into one server.
pub(super) fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
