//! The service: who may be asked what. The calls themselves are in the files of their subjects.

use std::path::PathBuf;
use std::sync::Arc;

use tertulia_proto::admin::v1::admin_service_server::AdminService;
use tertulia_proto::admin::v1::{
    AnnounceRequest, AnnounceResponse, CloseGroupRequest, CloseGroupResponse, CreateBackupRequest, DeleteGroupRequest,
    DeleteGroupResponse, DisconnectRequest, DisconnectResponse, GetGroupRequest, GetGroupResponse, GetShardMapRequest,
    GetShardMapResponse, KickMemberRequest, KickMemberResponse, ListConnectionsRequest, ListConnectionsResponse,
    ListGroupsRequest, ListGroupsResponse, ListHoldsRequest, ListHoldsResponse, ListMembersRequest,
    ListMembersResponse, ListMessagesRequest, ListMessagesResponse, PurgeHistoryRequest, PurgeHistoryResponse,
    RemoveHoldRequest, RemoveHoldResponse, RemoveMessagesRequest, RemoveMessagesResponse, SetLogLevelsRequest,
    SetLogLevelsResponse, WatchEventsRequest,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Config;
use super::gate::Peer;
use super::metrics::Metrics;
use super::{backup, watch};
use crate::cluster::Cluster;
use crate::front::Registry;
use crate::shard::Shards;
use crate::telemetry::levels::Levels;

/// The API over the shards and the connections of this node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    pub(super) shards: Shards,
    pub(super) registry: Arc<Registry>,
    /// The other nodes, where there may be any.
    pub(super) cluster: Option<Cluster>,
    /// The longest message, in bytes.
    pub(super) max_message: usize,
    pub(super) max_watchers: usize,
    /// Room for watchers.
    pub(super) watchers: Arc<Semaphore>,
    /// Where backups are made, if they are.
    pub(super) backup_dir: Option<PathBuf>,
    /// Room for one backup.
    pub(super) backing_up: Arc<Semaphore>,
    /// What this node logs.
    pub(super) levels: Levels,
    /// Ends the streams.
    pub(super) stop: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}

impl Service {
    /// The API; announcements may have `max_message` bytes, and streams end at `stop`.
    #[must_use]
    pub fn new(
        config: &Config,
        shards: Shards,
        registry: Arc<Registry>,
        cluster: Option<Cluster>,
        max_message: usize,
        levels: Levels,
        stop: CancellationToken,
    ) -> Self {
        let watchers = Arc::new(Semaphore::new(config.watchers));
        let metrics = Arc::new(Metrics::new());
        let (backup_dir, backing_up) = (config.backup_dir.clone(), Arc::new(Semaphore::new(1)));
        let max_watchers = config.watchers;
        if let Some(directory) = &backup_dir {
            backup::tell_newest(directory.clone(), &metrics);
        }
        Self {
            shards,
            registry,
            cluster,
            max_message,
            max_watchers,
            watchers,
            backup_dir,
            backing_up,
            levels,
            stop,
            metrics,
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for Service {
    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Answer<ListGroupsResponse> {
        Ok(Response::new(self.groups_page(request.into_inner()).await?))
    }

    async fn get_group(&self, request: Request<GetGroupRequest>) -> Answer<GetGroupResponse> {
        Ok(Response::new(self.one_group(request.into_inner()).await?))
    }

    async fn list_members(&self, request: Request<ListMembersRequest>) -> Answer<ListMembersResponse> {
        Ok(Response::new(self.members_page(request.into_inner()).await?))
    }

    async fn list_messages(&self, request: Request<ListMessagesRequest>) -> Answer<ListMessagesResponse> {
        Ok(Response::new(self.messages_page(request.get_ref()).await?))
    }

    async fn list_connections(&self, request: Request<ListConnectionsRequest>) -> Answer<ListConnectionsResponse> {
        Ok(Response::new(self.connections_page(request.into_inner()).await?))
    }

    async fn kick_member(&self, request: Request<KickMemberRequest>) -> Answer<KickMemberResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.kick(peer, request.into_inner()).await?))
    }

    async fn disconnect(&self, request: Request<DisconnectRequest>) -> Answer<DisconnectResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.end_connections(peer, request.into_inner()).await?))
    }

    async fn close_group(&self, request: Request<CloseGroupRequest>) -> Answer<CloseGroupResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.close(peer, request.into_inner()).await?))
    }

    async fn list_holds(&self, request: Request<ListHoldsRequest>) -> Answer<ListHoldsResponse> {
        Ok(Response::new(self.holds_page(request.get_ref())?))
    }

    async fn remove_hold(&self, request: Request<RemoveHoldRequest>) -> Answer<RemoveHoldResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.end_hold(peer, request.into_inner()).await?))
    }

    async fn delete_group(&self, request: Request<DeleteGroupRequest>) -> Answer<DeleteGroupResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.delete(peer, request.into_inner()).await?))
    }

    async fn purge_history(&self, request: Request<PurgeHistoryRequest>) -> Answer<PurgeHistoryResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.purge(peer, request.into_inner()).await?))
    }

    async fn remove_messages(&self, request: Request<RemoveMessagesRequest>) -> Answer<RemoveMessagesResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.redact(peer, request.into_inner()).await?))
    }

    async fn set_log_levels(&self, request: Request<SetLogLevelsRequest>) -> Answer<SetLogLevelsResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.set_levels(peer, request.get_ref())?))
    }

    async fn announce(&self, request: Request<AnnounceRequest>) -> Answer<AnnounceResponse> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.post_announcement(peer, request.into_inner()).await?))
    }

    async fn get_shard_map(&self, request: Request<GetShardMapRequest>) -> Answer<GetShardMapResponse> {
        Ok(Response::new(self.shard_map(&request.into_inner())?))
    }

    type WatchEventsStream = watch::Stream;

    async fn watch_events(&self, request: Request<WatchEventsRequest>) -> Answer<watch::Stream> {
        Ok(Response::new(self.watch(request.into_inner()).await?))
    }

    type CreateBackupStream = backup::Stream;

    async fn create_backup(&self, request: Request<CreateBackupRequest>) -> Answer<backup::Stream> {
        let peer = Peer::of(&request);
        Ok(Response::new(self.start_backup(peer, request.get_ref())?))
    }
}
