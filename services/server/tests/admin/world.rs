//! A server in this process: shards, front and admin API, and clients of both kinds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tertulia_proto::admin::v1::admin_service_client::AdminServiceClient;
use tertulia_server::admin;
use tertulia_server::drain::{self, Accepting};
use tertulia_server::front::{self, Front, Limits};
use tertulia_server::log::{self, memory::Memory};
use tertulia_server::readiness::Readiness;
use tertulia_server::reload::Reload;
use tertulia_server::shard::{self, Bounds, Shards};
use tertulia_server::telemetry::levels::Levels;
use tertulia_server::telemetry::trace::Tracer;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Long enough never to pass in a test that works.
pub(crate) const NEVER: Duration = Duration::from_secs(30);

/// Asks until it is so. What others do meanwhile has its turn between two questions.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(NEVER, asking).await.unwrap_or_else(|_| panic!("not after {NEVER:?}: {what}"));
}

/// What a test wants to be different.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) limits: Limits,
    pub(crate) fanout: Option<usize>,
    pub(crate) retained: u64,
    pub(crate) watchers: Option<usize>,
    pub(crate) connections: Option<usize>,
    pub(crate) token_file: Option<PathBuf>,
    /// How often the file of the token is looked at; never without.
    pub(crate) follow: Option<Duration>,
}

pub(crate) struct World {
    pub(crate) chat: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) shards: Shards,
    pub(crate) front: Front,
    pub(crate) readiness: Readiness,
    accepting: Accepting,
    serving: CancellationToken,
    tasks: TaskTracker,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Wishes::default()).await
    }

    pub(crate) async fn with(wishes: Wishes) -> Self {
        let Wishes { limits, fanout, retained, watchers, connections, token_file, follow } = wishes;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let shard = shard::Config { count: 16, ..shard::Config::default() };
        let shard = shard::Config { fanout: fanout.unwrap_or(shard.fanout), ..shard };
        let retention = log::Retention { messages: retained, ..log::Retention::default() };
        let log = Arc::new(Memory::new(&log::Config { retention, ..log::Config::default() }, 16));
        let bounds = Bounds { members_per_group: 10_000, groups: 10_000, ..Bounds::default() };
        let shards = Shards::start(shard, bounds, log, "local".to_owned());
        let front = Front::new(&front::Config::default(), limits.clone(), shards.clone(), front::Options::default());
        let (serving, tasks) = (CancellationToken::new(), TaskTracker::new());
        let defaults = admin::Config::default();
        let config = admin::Config {
            token_file,
            watchers: watchers.unwrap_or(defaults.watchers),
            connections: connections.unwrap_or(defaults.connections),
            ..defaults
        };
        let readiness = Readiness::new();
        let (registry, levels) = (Arc::clone(front.registry()), Levels::elsewhere("info"));
        let service =
            admin::Service::new(&config, shards.clone(), registry, None, limits.message_bytes, levels, serving.clone());
        let tokens = admin::Tokens::of(&config).unwrap();
        let server = admin::Server::new(&config, tokens, service, readiness.clone(), Tracer::default(), None).unwrap();
        if let Some(every) = follow {
            server.follow_token(Reload::default().looks(every), &serving, &tasks);
        }
        let (chat_listener, admin_listener) = (front::bind(any).unwrap(), front::bind(any).unwrap());
        let (chat, admin) = (chat_listener.local_addr().unwrap(), admin_listener.local_addr().unwrap());
        let accepting = Accepting::start(&front, chat_listener);
        tasks.spawn(server.serve(admin_listener, serving.clone(), tasks.clone()));
        Self { chat, admin, shards, front, readiness, accepting, serving, tasks }
    }

    /// A connection to the admin port.
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::try_from(format!("http://{}", self.admin)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    /// An extended client.
    pub(crate) async fn client(&self, user: &str) -> Chatter {
        let mut chatter = self.classic().await;
        chatter.send(&json!({"Hello": {"version": 1, "user": user}})).await;
        chatter.id = chatter.expect("Welcome").await["session"].as_str().unwrap().to_owned();
        chatter
    }

    /// An extended client in some groups.
    pub(crate) async fn member(&self, user: &str, groups: &[&str]) -> Chatter {
        let mut chatter = self.client(user).await;
        for group in groups {
            chatter.join(group).await;
        }
        chatter
    }

    /// A connection that has said nothing.
    pub(crate) async fn classic(&self) -> Chatter {
        let (read, write) = TcpStream::connect(self.chat).await.unwrap().into_split();
        Chatter { id: String::new(), read: BufReader::new(read), write }
    }

    /// Stops as the server does, up to the point where only the admin API is left.
    pub(crate) async fn drain(&self) {
        let config = drain::Config { linger: Duration::ZERO, ..drain::Config::default() };
        drain::drain(
            &config,
            &self.readiness,
            Some(&self.accepting),
            &self.front,
            &self.shards,
            async { false },
            async {},
        )
        .await;
    }

    /// Stops everything and sees that no task is left.
    pub(crate) async fn stop(self) {
        self.drain().await;
        self.serving.cancel();
        self.tasks.close();
        timeout(NEVER, self.tasks.wait()).await.expect("tasks are left");
    }
}

/// A chat client.
#[derive(Debug)]
pub(crate) struct Chatter {
    /// Its connection.
    pub(crate) id: String,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Chatter {
    pub(crate) async fn send(&mut self, line: &Value) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match timeout(NEVER, self.read.read_line(&mut line)).await.expect("nothing came") {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    /// The content of the next line, which is of that kind.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let line = self.next().await.unwrap_or_else(|| panic!("the end instead of {kind}"));
        line.get(kind).unwrap_or_else(|| panic!("{line} instead of {kind}")).clone()
    }

    pub(crate) async fn join(&mut self, group: &str) -> Value {
        self.send(&json!({"Join": {"group_name": group}})).await;
        self.expect("Joined").await
    }

    /// Posts, and answers the `seq`; the client must not be a member.
    pub(crate) async fn post(&mut self, group: &str, message: &str) -> u64 {
        self.send(&json!({"Post": {"group_name": group, "message": message}})).await;
        self.expect("Posted").await["seq"].as_u64().unwrap()
    }

    /// Waits until the server has carried out what was sent before.
    pub(crate) async fn settle(&mut self) {
        self.send(&json!({"Ping": {}})).await;
        self.expect("Pong").await;
    }

    pub(crate) async fn closed(mut self) {
        assert_eq!(self.next().await, None);
    }
}

/// The code of a call that fails, and its text.
pub(crate) fn failure<T: std::fmt::Debug>(result: Result<tonic::Response<T>, tonic::Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}
