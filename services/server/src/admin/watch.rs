//! Streams what happens.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream;
use tertulia_proto::Timestamp;
use tertulia_proto::admin::v1::event::Kind;
use tertulia_proto::admin::v1::{
    Drain, Event, EventKind, GroupClosed, GroupCreated, GroupDeleted, Join, Kick, Lag, Leave, LeaveReason, Missed,
    WatchEventsRequest, WatchEventsResponse,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::groups::count;
use super::metrics::{Counted, Metrics};
use super::service::Service;
use super::status::Error;
use crate::cluster::events::{News, Told};
use crate::shard::events::{Happening, Leaving, What, Who};

/// The events of one watcher.
pub(super) type Stream =
    Pin<Box<dyn tonic::codegen::tokio_stream::Stream<Item = Result<WatchEventsResponse, Status>> + Send>>;

impl Service {
    pub(super) async fn watch(&self, request: WatchEventsRequest) -> Result<Stream, Error> {
        let filter = Filter::new(request)?;
        let place = Arc::clone(&self.watchers).try_acquire_owned();
        let place = place.map_err(|_| Error::TooManyWatchers { max: self.max_watchers })?;
        let events = self.shards.events().watch();
        let elsewhere = match &self.cluster {
            Some(cluster) => Some(cluster.watch().await),
            None => None,
        };
        let watcher = Watcher {
            events,
            elsewhere,
            filter,
            node: self.shards.node().to_owned(),
            stop: self.stop.clone(),
            _place: place,
            _counted: self.metrics.watcher(),
            metrics: Arc::clone(&self.metrics),
        };
        let events = stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((Ok(WatchEventsResponse { event: Some(event) }), watcher))
        });
        Ok(Box::pin(events))
    }
}

struct Watcher {
    events: Receiver<Arc<Happening>>,
    /// What other nodes tell, where there may be any.
    elsewhere: Option<Receiver<Arc<Told>>>,
    filter: Filter,
    node: String,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
    metrics: Arc<Metrics>,
}

impl Watcher {
    /// The next event that passes; `None` once the server has stopped and all that happened before was told.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let Self { events, elsewhere, stop, .. } = &mut *self;
            let is_idle = events.is_empty();
            let elsewhere = async {
                match elsewhere {
                    Some(elsewhere) => elsewhere.recv().await,
                    None => std::future::pending().await,
                }
            };
            // All are cancel-safe. Which of the first two comes first is chance, so that neither waits for the other to be quiet.
            let heard = tokio::select! {
                received = events.recv() => Heard::Here(received),
                told = elsewhere => Heard::There(told),
                () = stop.cancelled(), if is_idle => return None,
            };
            let event = match heard {
                Heard::Here(received) => self.here(received),
                Heard::There(told) => self.there(told),
            };
            match event {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(Closed) => return None,
            }
        }
    }

    fn here(&self, received: Result<Arc<Happening>, RecvError>) -> Result<Option<Event>, Closed> {
        match received {
            Ok(happening) => Ok(self.pass(&happening, &self.node)),
            Err(RecvError::Lagged(count)) => Ok(Some(self.slow(count))),
            Err(RecvError::Closed) => Err(Closed),
        }
    }

    fn there(&self, told: Result<Arc<Told>, RecvError>) -> Result<Option<Event>, Closed> {
        match told.as_deref() {
            Ok(Told { node, news: News::Happened(happening) }) => Ok(self.pass(happening, node)),
            Ok(Told { node, news: News::Missed(count) }) => {
                self.metrics.missed_on_the_way.increment(*count);
                Ok(Some(missed(node, *count)))
            }
            Err(RecvError::Lagged(count)) => Ok(Some(self.slow(*count))),
            Err(RecvError::Closed) => Err(Closed),
        }
    }

    fn pass(&self, happening: &Happening, node: &str) -> Option<Event> {
        self.filter.passes(&happening.what).then(|| Event {
            at: Some(timestamp(happening.at)),
            node: node.to_owned(),
            kind: Some(tell(happening)),
        })
    }

    /// This watcher did not take so many in time, which happened here or elsewhere.
    fn slow(&self, count: u64) -> Event {
        self.metrics.missed_by_slow.increment(count);
        missed(&self.node, count)
    }
}

/// What a watcher hears, and from where.
enum Heard {
    Here(Result<Arc<Happening>, RecvError>),
    There(Result<Arc<Told>, RecvError>),
}

/// Nothing will happen any more.
struct Closed;

fn missed(node: &str, count: u64) -> Event {
    let kind = Kind::Missed(Missed { count });
    Event { at: Some(timestamp(SystemTime::now())), node: node.to_owned(), kind: Some(kind) }
}

/// What a watcher wants to hear of.
#[derive(Debug)]
struct Filter {
    /// All, if it is empty.
    kinds: Vec<EventKind>,
    prefix: String,
}

impl Filter {
    fn new(request: WatchEventsRequest) -> Result<Self, Error> {
        let kind = |number: &i32| match EventKind::try_from(*number) {
            Ok(EventKind::Unspecified) | Err(_) => Err(Error::argument(format!("{number} is no kind of event"))),
            Ok(kind) => Ok(kind),
        };
        let kinds = request.kinds.iter().map(kind).collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { kinds, prefix: request.group_prefix })
    }

    fn passes(&self, what: &What) -> bool {
        let in_group = what.group().is_none_or(|group| group.as_str().starts_with(&self.prefix));
        in_group && (self.kinds.is_empty() || self.kinds.contains(&kind(what)))
    }
}

fn kind(what: &What) -> EventKind {
    match what {
        What::Joined { .. } => EventKind::Join,
        What::Left { .. } => EventKind::Leave,
        What::Kicked { .. } => EventKind::Kick,
        What::Lagged { .. } => EventKind::Lag,
        What::Created { .. } => EventKind::GroupCreated,
        What::Closed { .. } => EventKind::GroupClosed,
        What::Deleted { .. } => EventKind::GroupDeleted,
        What::Draining(_) => EventKind::Drain,
    }
}

fn tell(happening: &Happening) -> Kind {
    let user = |who: &Who| who.user.as_str().to_owned();
    let text = |reason: &Option<Arc<str>>| reason.as_deref().unwrap_or_default().to_owned();
    let group_name = happening.what.group().map(ToString::to_string).unwrap_or_default();
    match &happening.what {
        What::Joined { who, members, .. } => Kind::Join(Join {
            group_name,
            user: user(who),
            connection_id: who.connection.to_string(),
            members: count(*members),
        }),
        What::Left { who, members, how, .. } => {
            let reason = match how {
                Leaving::Asked => LeaveReason::Asked,
                Leaving::Disconnected => LeaveReason::Disconnected,
            };
            Kind::Leave(Leave {
                group_name,
                user: user(who),
                connection_id: who.connection.to_string(),
                members: count(*members),
                reason: reason.into(),
            })
        }
        What::Kicked { who, members, reason, hold, .. } => Kind::Kick(Kick {
            group_name,
            user: user(who),
            connection_id: who.connection.to_string(),
            members: count(*members),
            reason: text(reason),
            hold_seconds: count(hold.as_secs()),
        }),
        What::Lagged { who, behind, lost, .. } => Kind::Lag(Lag {
            group_name,
            user: user(who),
            connection_id: who.connection.to_string(),
            behind: *behind,
            lost: *lost,
        }),
        What::Created { shard, epoch, .. } => {
            Kind::GroupCreated(GroupCreated { group_name, shard: (*shard).into(), epoch: *epoch })
        }
        What::Closed { reason, members, hold, .. } => Kind::GroupClosed(GroupClosed {
            group_name,
            reason: text(reason),
            removed_members: count(*members),
            closed_until: (!hold.is_zero()).then(|| timestamp(happening.at + *hold)),
        }),
        What::Deleted { reason, members, messages, .. } => Kind::GroupDeleted(GroupDeleted {
            group_name,
            reason: text(reason),
            removed_members: count(*members),
            removed_messages: *messages,
        }),
        What::Draining(why) => Kind::Drain(Drain { reason: why.as_ref().to_owned() }),
    }
}

/// A moment as the API tells it.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    let since: Duration = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    tertulia_proto::timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
