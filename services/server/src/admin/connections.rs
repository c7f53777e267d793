//! The connections of chat clients.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

use tertulia_proto::admin::v1::{
    Connection, ConnectionState, Dialect, ListConnectionsRequest, ListConnectionsResponse,
};
use tertulia_protocol::GroupName;

use super::elsewhere::LIST_CONNECTIONS;
use super::pages::{self, List};
use super::service::Service;
use super::status::Error;
use super::{arguments, watch};
use crate::front::registry;
use crate::shard::ConnectionId;

impl Service {
    pub(super) async fn connections_page(
        &self,
        request: ListConnectionsRequest,
    ) -> Result<ListConnectionsResponse, Error> {
        if let Some(group) = arguments::group_or_all(&request.group_name)? {
            self.find(&group).await?;
        }
        let mut page = self.connections_here(&request).await?;
        let elsewhere: Vec<ListConnectionsResponse> =
            self.elsewhere(LIST_CONNECTIONS, &request, |node| Error::NotTold { node }).await?;
        if elsewhere.is_empty() {
            return Ok(page);
        }
        let ListConnectionsRequest { user, address, group_name, page_size, .. } = &request;
        let list = List { name: "connections", filters: &[user, address, group_name] };
        let size = pages::size(*page_size)?;
        let mut more = !page.next_page_token.is_empty();
        for other in elsewhere {
            more |= !other.next_page_token.is_empty();
            page.connections.extend(other.connections);
        }
        page.connections.sort_by_key(|connection| connection.id.parse::<ConnectionId>().ok());
        more |= page.connections.len() > size;
        page.connections.truncate(size);
        page.next_page_token = match page.connections.last() {
            Some(last) if more => list.token(&[&last.id]),
            _ => String::new(),
        };
        Ok(page)
    }

    /// As [`Service::connections_page`], of this node's connections.
    pub(super) async fn connections_here(
        &self,
        request: &ListConnectionsRequest,
    ) -> Result<ListConnectionsResponse, Error> {
        let ListConnectionsRequest { user, address, group_name, page_size, page_token } = request;
        let list = List { name: "connections", filters: &[user, address, group_name] };
        let size = pages::size(*page_size)?;
        let after = match list.after::<1>(page_token)? {
            Some([id]) => Some(arguments::connection(&id)?),
            None => None,
        };
        let user = if user.is_empty() { None } else { Some(arguments::user(user)?) };
        let address = if address.is_empty() { None } else { Some(arguments::address(address)?) };
        let members = match arguments::group_or_all(group_name)? {
            Some(group) => Some(self.member_connections(&group).await?),
            None => None,
        };
        let mut found = self.registry.list(after, size + 1, |connection| {
            let session = || connection.session().map(|(session, _)| session);
            address.is_none_or(|address| address == connection.peer.ip().to_canonical())
                && members.as_ref().is_none_or(|members| members.contains(&connection.id))
                && user.as_ref().is_none_or(|user| session().is_some_and(|session| session.user == *user))
        });
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if more => list.token(&[&last.id.to_string()]),
            _ => String::new(),
        };
        let connections = found.iter().map(|connection| self.tell_connection(connection)).collect();
        Ok(ListConnectionsResponse { connections, next_page_token })
    }

    async fn member_connections(&self, group: &GroupName) -> Result<HashSet<ConnectionId>, Error> {
        const AT_ONCE: usize = 1_000;
        let mut ids = HashSet::new();
        let mut after = None;
        loop {
            let members = self.connected_members(group, after, AT_ONCE).await?;
            ids.extend(members.iter().map(|member| member.session.id));
            match members.last() {
                Some(last) if members.len() == AT_ONCE => after = Some((last.session.user.clone(), last.session.id)),
                _ => return Ok(ids),
            }
        }
    }

    fn tell_connection(&self, connection: &registry::Connection) -> Connection {
        let state = match connection.state() {
            registry::State::Handshake => ConnectionState::Handshake,
            registry::State::Open => ConnectionState::Open,
            registry::State::Stalled => ConnectionState::Stalled,
            registry::State::Closing => ConnectionState::Closing,
        };
        Connection {
            id: connection.id.to_string(),
            user: connection.session().map(|(session, _)| session.user.as_str().to_owned()).unwrap_or_default(),
            address: connection.peer.ip().to_canonical().to_string(),
            port: connection.peer.port().into(),
            node: self.shards.node().to_owned(),
            dialect: dialect(connection).into(),
            connected_at: Some(watch::timestamp(connection.since)),
            groups: connection.groups.load(Relaxed),
            posts: connection.posts.load(Relaxed),
            deliveries: connection.deliveries.load(Relaxed),
            bytes_in: connection.bytes_in.load(Relaxed),
            bytes_out: connection.bytes_out.load(Relaxed),
            outbound_bytes: connection.outbound.load(Relaxed) as u64,
            state: state.into(),
        }
    }
}

pub(super) fn dialect(connection: &registry::Connection) -> Dialect {
    match connection.session() {
        None => Dialect::Unspecified,
        Some((_, registry::Dialect::Classic)) => Dialect::Classic,
        Some((_, registry::Dialect::Extended)) => Dialect::Extended,
    }
}
