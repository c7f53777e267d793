//! Who we are to NATS. The files are read anew whenever a connection is made, so that a secret can be replaced while the server runs: it
//! counts from the next connection on.

use std::future::Future;
use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;

use super::Config;
use super::connect::ConnectError;

/// What is presented to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nothing.
    None,
    /// A user, with a password.
    User { name: String, password: PathBuf },
    /// A token.
    Token(PathBuf),
    /// The public part of a key, and a signature made with its seed.
    Nkey(PathBuf),
    /// A JWT, and a signature made with the seed that belongs to it.
    Creds(PathBuf),
}

/// Which options say who we are, and contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// More than one way.
    #[error("{first} and {second} are both set: a connection has one kind of credentials, so leave one of them empty")]
    Ambiguous {
        /// An option.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
    /// Half of what is needed.
    #[error("{given} is set and {missing} is not: set both or none")]
    Half {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
}

impl Contradiction {
    /// The option that is told of, and the one that it does not go together with.
    #[must_use]
    pub fn options(&self) -> (&'static str, &'static str) {
        match *self {
            Self::Ambiguous { first, second } => (second, first),
            Self::Half { given, missing } => (given, missing),
        }
    }
}

impl Credentials {
    /// # Errors
    /// More than one kind is configured, or half of one.
    pub(crate) fn of(config: &Config) -> Result<Self, Contradiction> {
        const USER: &str = "nats.user";
        let given = [
            (USER, !config.user.is_empty()),
            ("nats.token_file", config.token_file.is_some()),
            ("nats.nkey_file", config.nkey_file.is_some()),
            ("nats.creds_file", config.creds_file.is_some()),
        ];
        let mut given = given.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| *key);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            return Err(Contradiction::Ambiguous { first, second });
        }
        both_or_none((USER, !config.user.is_empty()), ("nats.password_file", config.password_file.is_some()))?;
        let files = [&config.password_file, &config.token_file, &config.nkey_file, &config.creds_file];
        Ok(match files.map(Option::clone) {
            [Some(password), ..] => Self::User { name: config.user.clone(), password },
            [_, Some(token), ..] => Self::Token(token),
            [_, _, Some(seed), _] => Self::Nkey(seed),
            [.., Some(creds)] => Self::Creds(creds),
            [None, None, None, None] => Self::None,
        })
    }

    /// Options that present them, read anew at each connection.
    ///
    /// # Errors
    /// They cannot be read now.
    pub(crate) async fn options(self) -> Result<ConnectOptions, ConnectError> {
        if self == Self::None {
            return Ok(ConnectOptions::new());
        }
        // Whoever starts the server is told at once, and what is wrong with which file.
        self.answer(b"").await?;
        Ok(ConnectOptions::with_auth_callback(move |nonce| {
            let credentials = self.clone();
            async move { credentials.answer(&nonce).await.map_err(AuthError::new) }
        }))
    }

    /// What is presented to a server that gives `nonce` to sign.
    fn answer(&self, nonce: &[u8]) -> impl Future<Output = Result<Auth, ConnectError>> + Send + Sync + use<> {
        let (credentials, nonce) = (self.clone(), nonce.to_vec());
        async move {
            let mut auth = Auth::new();
            match credentials {
                Self::None => {}
                Self::User { name, password } => {
                    auth.username = Some(name);
                    auth.password = Some(read("nats.password_file", password).await?);
                }
                Self::Token(file) => auth.token = Some(read("nats.token_file", file).await?),
                Self::Nkey(file) => {
                    let seed = read("nats.nkey_file", file.clone()).await?;
                    let (key, signature) = sign(&seed, &nonce).map_err(unusable("nats.nkey_file", &file))?;
                    (auth.nkey, auth.signature) = (Some(key), Some(signature));
                }
                Self::Creds(file) => {
                    let text = read("nats.creds_file", file.clone()).await?;
                    let unusable = unusable("nats.creds_file", &file);
                    let [Some(jwt), Some(seed)] = ["JWT", "SEED"].map(|of| block(&text, of)) else {
                        return Err(unusable(
                            "it does not hold a JWT and the seed of a key, as nsc writes them".to_owned(),
                        ));
                    };
                    let (_, signature) = sign(seed, &nonce).map_err(unusable)?;
                    (auth.jwt, auth.signature) = (Some(jwt.to_owned()), Some(signature));
                }
            }
            Ok(auth)
        }
    }
}

/// # Errors
/// One of two options is set, and the other is not.
pub(crate) fn both_or_none(one: (&'static str, bool), other: (&'static str, bool)) -> Result<(), Contradiction> {
    match (one, other) {
        ((given, true), (missing, false)) | ((missing, false), (given, true)) => {
            Err(Contradiction::Half { given, missing })
        }
        _ => Ok(()),
    }
}

fn unusable(key: &'static str, path: &Path) -> impl FnOnce(String) -> ConnectError + use<> {
    let path = path.to_owned();
    move |cause| ConnectError::File { key, path, cause }
}

/// The public key, and the signature. A nonce of a server that wants none is empty.
fn sign(seed: &str, nonce: &[u8]) -> Result<(String, Vec<u8>), String> {
    let pair = KeyPair::from_seed(seed).map_err(|error| format!("it holds no seed of a key: {error}"))?;
    let signature = pair.sign(nonce).map_err(|error| format!("its seed cannot sign: {error}"))?;
    Ok((pair.public_key(), signature))
}

/// The line between two lines of dashes, of which the first names what it is.
fn block<'t>(text: &'t str, of: &str) -> Option<&'t str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains("BEGIN") && line.contains(of))?;
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with("---"))
}

async fn read(key: &'static str, path: PathBuf) -> Result<String, ConnectError> {
    let unusable = unusable(key, &path);
    let reading = tokio::task::spawn_blocking(move || std::fs::read_to_string(path).map_err(|error| error.to_string()));
    let text = match reading.await {
        Ok(Ok(text)) => text,
        Ok(Err(cause)) => return Err(unusable(cause)),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let text = text.trim();
    if text.is_empty() { Err(unusable("it is empty".to_owned())) } else { Ok(text.to_owned()) }
}
