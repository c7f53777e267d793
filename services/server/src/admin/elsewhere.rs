//! Calls whose answer is on all nodes: each node answers for its own connections.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tertulia_proto::admin::v1::{DisconnectRequest, ListConnectionsRequest};

use super::service::Service;
use super::status::Error;
use crate::cluster::Relay;

pub(super) const LIST_CONNECTIONS: &str = "ListConnections";
pub(super) const DISCONNECT: &str = "Disconnect";

impl Service {
    /// What the other nodes answer; nothing if there are none.
    ///
    /// # Errors
    /// If one does not answer.
    pub(super) async fn elsewhere<A: Message + Default>(
        &self,
        call: &str,
        request: &impl Message,
    ) -> Result<Vec<A>, Error> {
        let Some(cluster) = &self.cluster else { return Ok(Vec::new()) };
        let answers = cluster.relay(call, request.encode_to_vec()).await;
        let decoded = answers.into_iter().map(|(node, answer)| {
            let answer = answer.and_then(|answer| A::decode(answer).ok());
            answer.ok_or(Error::NodeSilent { node })
        });
        decoded.collect()
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
            DISCONNECT => {
                let ended = self.end_connections_here(&DisconnectRequest::decode(request).ok()?);
                Some(ended.ok()?.encode_to_vec())
            }
            _ => None,
        }
    }
}
