//! What can be wrong with a configuration, said in one line each.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The flag of this name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "from {}", path.display()),
            Self::Environment(name) => write!(f, "from environment {name}"),
            Self::Flag(name) => write!(f, "from flag {name}"),
        }
    }
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read configuration file '{}': {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The name of the file does not tell its format.
    #[error("cannot tell the format of configuration file '{}': its name must end in .toml, .yaml or .yml", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file is not of its format.
    #[error("configuration file '{}' is not valid {format}: {cause}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// `TOML` or `YAML`.
        format: &'static str,
        /// Where and what, as the parser said it.
        cause: String,
    },
    /// There is no such option.
    #[error("unknown key '{key}' ({origin}){}", did_you_mean(suggestion.as_deref()))]
    UnknownKey {
        /// The key as it was given.
        key: String,
        /// Where.
        origin: Origin,
        /// The key that was probably meant.
        suggestion: Option<String>,
    },
    /// The value is not allowed.
    #[error("{key} = {value} ({origin}): {rule}")]
    NotAllowed {
        /// The option.
        key: String,
        /// The value as it was given.
        value: String,
        /// Where.
        origin: Origin,
        /// What it must be.
        rule: String,
    },
    /// An environment variable of ours is not UTF-8.
    #[error("environment variable {name} is not valid UTF-8")]
    NotUnicode {
        /// Its name, as far as it can be shown.
        name: String,
    },
    /// `--set` without a key and a value.
    #[error("--set {text}: must be KEY=VALUE, such as limits.groups=1000")]
    NotAPair {
        /// What was given.
        text: String,
    },
    /// The table of options allowed what the configuration's types do not: a fault of this program.
    #[error("the configuration cannot be put together: {cause}")]
    Inconsistent {
        /// What the types said.
        cause: String,
    },
}

/// A value as it may be shown: without what stands before the host of a URL, which may be a password.
pub(super) fn without_secrets(value: &str) -> String {
    let url = value.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
    url.map_or_else(|| value.to_owned(), |(scheme, host)| format!("{scheme}://***@{host}"))
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|key| format!("; did you mean '{key}'?")).unwrap_or_default()
}

/// Everything that is wrong with a configuration; never empty. Displayed one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
