//! Calls whose answer is on all nodes: each node answers for its own connections.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tertulia_proto::admin::v1::{DisconnectRequest, ListConnectionsRequest, ListMembersRequest};

use super::service::Service;
use super::status::Error;
use crate::cluster::Relay;

pub(super) const LIST_CONNECTIONS: &str = "ListConnections";
pub(super) const LIST_MEMBERS: &str = "ListMembers";
pub(super) const DISCONNECT: &str = "Disconnect";
/// How many members of some groups are behind.
pub(super) const LAGGING: &str = "Lagging";

/// Names of groups.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Names {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
}

/// A number for each of the names, in their order.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Counts {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) counts: Vec<u64>,
}

impl Service {
    /// What the other nodes answer; nothing if there are none.
    ///
    /// # Errors
    /// As `silent` says, if one does not answer.
    pub(super) async fn elsewhere<A: Message + Default>(
        &self,
        call: &str,
        request: &impl Message,
        silent: impl Fn(String) -> Error,
    ) -> Result<Vec<A>, Error> {
        let answers = self.relayed(call, request).await;
        answers.into_iter().map(|(node, answer)| answer.ok_or_else(|| silent(node))).collect()
    }

    /// What those of the other nodes answer that do.
    pub(super) async fn heard<A: Message + Default>(&self, call: &str, request: &impl Message) -> Vec<A> {
        self.relayed(call, request).await.into_iter().filter_map(|(_, answer)| answer).collect()
    }

    /// What each of the other nodes answers; `None` for one that does not.
    async fn relayed<A: Message + Default>(&self, call: &str, request: &impl Message) -> Vec<(String, Option<A>)> {
        let Some(cluster) = &self.cluster else { return Vec::new() };
        let answers = cluster.relay(call, request.encode_to_vec(), call != DISCONNECT).await;
        answers.into_iter().map(|(node, answer)| (node, answer.and_then(|answer| A::decode(answer).ok()))).collect()
    }

    /// Answers what other nodes ask of this one.
    #[must_use]
    pub fn relay(&self) -> Relay {
        let service = self.clone();
        Arc::new(move |call, request| {
            let service = service.clone();
            Box::pin(async move { service.answer_relayed(&call, request).await })
        })
    }

    async fn answer_relayed(&self, call: &str, request: Bytes) -> Option<Vec<u8>> {
        match call {
            LIST_CONNECTIONS => {
                let page = self.connections_here(&ListConnectionsRequest::decode(request).ok()?).await;
                Some(page.ok()?.encode_to_vec())
            }
            LIST_MEMBERS => {
                let page = self.members_here(&ListMembersRequest::decode(request).ok()?).await;
                Some(page.ok()?.encode_to_vec())
            }
            LAGGING => Some(self.lagging_here(&Names::decode(request).ok()?).encode_to_vec()),
            DISCONNECT => {
                let ended = self.end_connections_here(&DisconnectRequest::decode(request).ok()?);
                Some(ended.ok()?.encode_to_vec())
            }
            _ => None,
        }
    }
}
