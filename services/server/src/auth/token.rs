//! Tokens: JSON Web Tokens (RFC 7519), signed with one of the keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use tertulia_protocol::{NameError, NameRules, UserName};

use super::groups::{self, Groups};
use super::keys::Keys;
use super::{Config, Rights};

/// The longest header that is read, in bytes: nobody has proved anything then. Those that are used have some hundred.
const HEADER: usize = 2 * 1024;
/// Characters of what is wrong with claims.
const TOLD: usize = 200;
/// Numbers below this are exact in JavaScript.
const MOST_EXACT: u64 = 1 << 53;
/// With how many keys a token is tried that does not name one.
const TRIES: usize = 16;

/// What a token says, of what is looked at here. A claim that stands there twice is refused.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    exp: Value,
    #[serde(default, deserialize_with = "said")]
    tertulia: Option<Box<RawValue>>,
}

/// Names of groups and what names begin with: those that may be read, and those that may be posted to. Where nothing is said of either,
/// all are meant; a `null` says nothing that could be meant.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Told {
    #[serde(deserialize_with = "said")]
    read: Option<Vec<String>>,
    #[serde(deserialize_with = "said")]
    read_prefixes: Option<Vec<String>>,
    #[serde(deserialize_with = "said")]
    post: Option<Vec<String>>,
    #[serde(deserialize_with = "said")]
    post_prefixes: Option<Vec<String>>,
}

fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Why a token proves nothing. The text is fit for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is no token of this form.
    #[error("the token is no signed JSON Web Token")]
    Malformed,
    /// There is no such key.
    #[error("the token is signed with a key or an algorithm that this server does not know")]
    UnknownKey,
    /// It was not signed with that key, or changed since.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired: get a new one")]
    Expired,
    /// Its time is still to come.
    #[error("the token is not valid yet (nbf)")]
    Early,
    /// Of another issuer.
    #[error("the token is of another issuer (iss) than this server asks for (auth.issuer)")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience (aud) than this server's (auth.audience)")]
    Audience,
    /// Something is missing.
    #[error("the token has no '{0}', or not one of the right form")]
    Claim(String),
    /// They are no object, or one of RFC 7519 is of another form.
    #[error("the token's claims cannot be read: {0}")]
    Claims(String),
    /// Its `sub` cannot be a user here.
    #[error("the token's 'sub' cannot be a user here: {0}")]
    Subject(NameError),
    /// What it says of groups is not right.
    #[error("what the token's 'tertulia' says of '{list}' cannot be used: {error}")]
    Groups {
        /// `read` or `post`.
        list: &'static str,
        /// What is wrong.
        error: groups::Error,
    },
    /// What it says of its bearer's rights is of another form.
    #[error(
        "the token's 'tertulia' must be an object with nothing but 'read', 'read_prefixes', 'post' and 'post_prefixes', each a list of texts, or left out"
    )]
    Rights,
}

/// What tokens must be like.
#[derive(Debug)]
pub(super) struct Rules {
    /// But for the algorithm, which each token names.
    validation: Validation,
    leeway: Duration,
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        // In whole seconds, and no less; what is over is seen when its time is.
        let leeway = config.leeway.as_secs() + u64::from(config.leeway.subsec_nanos() > 0);
        let mut validation = Validation { leeway, validate_nbf: true, ..Validation::default() };
        let mut required = vec!["exp", "sub"];
        if !config.issuer.is_empty() {
            validation.set_issuer(&[&config.issuer]);
            required.push("iss");
        }
        if !config.audience.is_empty() {
            validation.set_audience(&[&config.audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Self { validation, leeway: config.leeway }
    }

    /// Whose token it is, and what its bearer may do until when.
    pub(super) fn verify(&self, token: &str, keys: &Keys) -> Result<(UserName, Box<Rights>), Fault> {
        if token.find('.').is_none_or(|end| end > HEADER) {
            return Err(Fault::Malformed);
        }
        let header = decode_header(token).map_err(|error| match error.kind() {
            // `alg` is the only field of the header with a closed set of words.
            ErrorKind::Json(error) if error.to_string().starts_with("unknown variant") => Fault::UnknownKey,
            _ => Fault::Malformed,
        })?;
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let mut fault = Fault::UnknownKey;
        for key in keys.of(header.kid.as_deref(), header.alg).take(TRIES) {
            match self.read(token, &key.key, &validation) {
                // It may be of another one.
                Err(Fault::Signature) => fault = Fault::Signature,
                told => return told,
            }
        }
        Err(fault)
    }

    fn read(&self, token: &str, key: &DecodingKey, validation: &Validation) -> Result<(UserName, Box<Rights>), Fault> {
        let claims: Claims = decode(token, key, validation).map_err(|error| fault(error.into_kind()))?.claims;
        let missing = |claim: &str| Fault::Claim(claim.to_owned());
        let user = claims.sub.as_str().ok_or_else(|| missing("sub"))?;
        let user = NameRules::user(user).map_err(Fault::Subject)?;
        let (read, post) = rights(claims.tertulia.as_deref())?;
        // Some write them with a fraction.
        let expires = claims.exp.as_f64().and_then(|at| Duration::try_from_secs_f64(at).ok());
        let expires = expires.ok_or_else(|| missing("exp"))?;
        // The moment by the clock of now: what is done to that later changes nothing.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = expires.saturating_add(self.leeway).saturating_sub(now);
        if left.is_zero() {
            return Err(Fault::Expired);
        }
        // One that is so far away that it cannot be told is none.
        let expires_at = u64::try_from(expires.as_millis()).ok().filter(|at| *at < MOST_EXACT);
        let until = expires_at.and_then(|_| tokio::time::Instant::now().checked_add(left));
        Ok((user, Box::new(Rights { read, post, until, expires_at, is_guest: false })))
    }
}

/// The groups that may be read, and those to which may be posted.
fn rights(told: Option<&RawValue>) -> Result<(Groups, Groups), Fault> {
    let Some(told) = told else { return Ok((Groups::all(), Groups::all())) };
    // An array would be taken for the fields in their order.
    if !told.get().starts_with('{') {
        return Err(Fault::Rights);
    }
    let told: Told = serde_json::from_str(told.get()).map_err(|_| Fault::Rights)?;
    let groups = |list, names: Option<Vec<String>>, prefixes: Option<Vec<String>>| {
        if names.is_none() && prefixes.is_none() {
            return Ok(Groups::all());
        }
        let (names, prefixes) = (names.unwrap_or_default(), prefixes.unwrap_or_default());
        let groups = Groups::of(names.iter().map(String::as_str), prefixes.iter().map(String::as_str));
        groups.map_err(|error| Fault::Groups { list, error })
    };
    Ok((groups("read", told.read, told.read_prefixes)?, groups("post", told.post, told.post_prefixes)?))
}

fn fault(kind: ErrorKind) -> Fault {
    match kind {
        ErrorKind::InvalidSignature => Fault::Signature,
        ErrorKind::ExpiredSignature => Fault::Expired,
        ErrorKind::ImmatureSignature => Fault::Early,
        ErrorKind::InvalidIssuer => Fault::Issuer,
        ErrorKind::InvalidAudience => Fault::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => Fault::Claim(claim),
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Fault::UnknownKey,
        // The signature is right, so this is of whoever issues tokens.
        ErrorKind::Json(error) => Fault::Claims(error.to_string().chars().take(TOLD).collect()),
        _ => Fault::Malformed,
    }
}
