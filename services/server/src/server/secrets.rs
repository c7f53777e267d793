//! What the configuration names files for: read at the start, and before one where somebody asks.

use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{self, Auth};
use crate::config::Config;
use crate::reload::Reload;
use crate::telemetry::trace;
use crate::{admin, causes, tls};

/// What the configuration names files for.
pub(super) struct Secrets {
    pub(super) tracing: (trace::Tracer, trace::Exporting),
    pub(super) secure: Secure,
    pub(super) tokens: Option<admin::Tokens>,
    pub(super) auth: Auth,
}

impl Secrets {
    /// Reads the files. It blocks, and must be called within the runtime.
    pub(super) fn read(config: &Config) -> anyhow::Result<Self> {
        let environment = |name: &str| std::env::var(name).ok();
        let tracing = trace::start(&config.telemetry.traces, &environment).context("cannot trace")?;
        let secure = Secure::new(config)?;
        let tokens = admin::Tokens::of(&config.admin).context("cannot serve the admin API")?;
        let auth = Auth::new(&config.auth).context("cannot tell who clients are")?;
        Ok(Self { tracing, secure, tokens, auth })
    }
}

/// The ports that speak TLS.
pub(super) struct Secure(Vec<(tls::Source, tls::Acceptor, u128)>);

impl Secure {
    fn new(config: &Config) -> anyhow::Result<Self> {
        let ports = sources(config).map(|source| {
            let (acceptor, used) = tls::Acceptor::new(&config.tls, &source)?;
            Ok((source, acceptor, used))
        });
        Ok(Self(ports.collect::<Result<_, tls::Error>>()?))
    }

    pub(super) fn acceptors(&self) -> Vec<tls::Acceptor> {
        self.0.iter().map(|(_, acceptor, _)| acceptor.clone()).collect()
    }

    pub(super) fn of(&self, port: tls::Port) -> Option<tls::Acceptor> {
        self.0.iter().find(|(source, ..)| source.port() == port).map(|(_, acceptor, _)| acceptor.clone())
    }

    /// Has the files looked at until `stop`.
    pub(super) fn follow(self, reload: &Reload, every: Duration, stop: &CancellationToken, tasks: &TaskTracker) {
        for (source, acceptor, used) in self.0 {
            tasks.spawn(acceptor.follow(source, used, reload.looks(every), stop.clone()));
        }
    }
}

/// The files of each port that speaks TLS.
fn sources(config: &Config) -> impl Iterator<Item = tls::Source> {
    let client_ca = config.admin.client_ca_file.as_deref();
    let sources = [
        tls::Source::new(tls::Port::Chat, &config.chat.tls, None),
        tls::Source::new(tls::Port::Admin, &config.admin.tls, client_ca),
        tls::Source::new(tls::Port::Http, &config.http.tls, None),
    ];
    sources.into_iter().flatten()
}

/// What is wrong with the files of the ports' TLS and of the admin API's token: with any of these a start here would fail. It blocks.
#[must_use]
pub fn faults(config: &Config) -> Vec<String> {
    let of_port = |source| Some(tls::Acceptor::new(&config.tls, &source).err()?.to_string());
    let of_token = admin::Tokens::of(&config.admin).err().map(|error| causes::on_one_line(&error));
    // Each by itself, so that nothing is told of the one alone that comes first.
    let by_file = [
        auth::Config { users_file: None, ..config.auth.clone() },
        auth::Config { keys_file: None, ..config.auth.clone() },
    ];
    let of_clients = by_file.iter().filter_map(|config| Some(causes::on_one_line(&Auth::new(config).err()?)));
    sources(config).filter_map(of_port).chain(of_token).chain(of_clients).collect()
}
