//! The whole configuration: from defaults, a file, the environment and flags, in this order, to a value of [`Config`]
//! that is known to be in range, or to everything that is wrong with it.
//!
//! [`table`] knows every option. The parts own their `Config` types and know nothing of this.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{admin, auth, cluster, drain, front, http, log, shard, telemetry, tls};

pub(crate) mod checks;
pub mod docs;
mod error;
mod kind;
mod layer;
mod limits;
mod nats;
mod overrides;
pub mod print;
pub mod table;
#[cfg(test)]
mod tests;

pub use error::{Error, Errors, Origin};
pub use kind::Kind;
pub use layer::Flag;

use checks::Checks;
use layer::Layer;
use table::Entry;

/// The configuration of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The chat listener.
    pub chat: front::Config,
    /// How clients prove who they are.
    pub auth: auth::Config,
    /// Bounds on what clients may do.
    pub limits: front::config::Limits,
    /// Shards and groups.
    pub shard: shard::Config,
    /// Where messages are kept.
    pub log: log::Config,
    /// How NATS is reached.
    pub nats: log::config::Nats,
    /// This node among others.
    pub cluster: cluster::Config,
    /// The admin API.
    pub admin: admin::Config,
    /// Metrics and health.
    pub http: http::Config,
    /// TLS, on every port that has a certificate.
    pub tls: tls::Config,
    /// How the server stops.
    pub drain: drain::Config,
    /// The server's own log.
    pub telemetry: telemetry::Config,
}

/// Where a configuration comes from, besides the defaults. Later fields win over earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`: a file whose name ends in `.toml`, `.yaml` or `.yml`.
    pub file: Option<PathBuf>,
    /// The environment, of which only variables that begin with `TERTULIA__` count.
    pub environment: Vec<(OsString, OsString)>,
    /// The flags; a later one wins over an earlier one.
    pub flags: Vec<Flag>,
}

/// A configuration, and who said what in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where its values come from.
    pub origins: Origins,
}

/// Where the values of a configuration come from, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    /// Where the value of an option comes from.
    #[must_use]
    pub fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// Puts a configuration together.
///
/// # Errors
/// Everything that is wrong with it, in the order of the sources.
pub fn load(sources: &Sources) -> Result<Loaded, Errors> {
    let mut layers = Vec::new();
    layers.extend(sources.file.as_deref().map(Layer::from_file));
    layers.push(Layer::from_environment(&sources.environment));
    layers.push(Layer::from_flags(&sources.flags));

    let mut origins = Origins::default();
    let mut errors = Vec::new();
    let mut faulty = Vec::new();
    for layer in &mut layers {
        errors.append(&mut layer.errors);
        faulty.append(&mut layer.faulty);
        let said = layer.values.iter().map(|(key, (_, origin))| (*key, origin.clone()));
        origins.0.extend(said);
    }
    match merge(layers) {
        Ok(config) => {
            let checks = Checks { config: &config, origins: &origins, faulty: &faulty, errors: Vec::new() };
            errors.append(&mut checks.run());
            if errors.is_empty() { Ok(Loaded { config, origins }) } else { Err(Errors(errors)) }
        }
        Err(cause) => {
            errors.push(Error::Inconsistent { cause: cause.to_string() });
            Err(Errors(errors))
        }
    }
}

fn merge(layers: Vec<Layer>) -> Result<Config, config::ConfigError> {
    let defaults = config::Config::try_from(&Config::default())?;
    let builder = config::Config::builder().add_source(defaults);
    let builder = layers.into_iter().fold(builder, |builder, layer| builder.add_source(layer));
    builder.build()?.try_deserialize()
}

/// Every option with its value in a configuration, as people write it, in the order of the table.
#[must_use]
pub(crate) fn written(config: &Config) -> Vec<(&'static Entry, String)> {
    let values = serde_json::to_value(config).unwrap_or_default();
    table::entries()
        .map(|entry| {
            let value = values.pointer(&format!("/{}", entry.key.replace('.', "/")));
            (entry, value.map(|value| entry.kind.write(value)).unwrap_or_default())
        })
        .collect()
}
