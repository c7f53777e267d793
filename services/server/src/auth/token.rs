//! Tokens: JSON Web Tokens (RFC 7519), signed with one of the keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tertulia_protocol::{NameError, NameRules};

use super::groups::{self, Groups};
use super::keys::Keys;
use super::{Config, Principal, Rights};

/// What a token says; of that, what is looked at here is read by hand, so that nothing of a wrong form passes for nothing said.
type Claims = Map<String, Value>;

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
    #[error("the token's 'tertulia.{list}' cannot be used: {error}")]
    Groups {
        /// `read` or `post`.
        list: &'static str,
        /// What is wrong.
        error: groups::Error,
    },
    /// What it says of its bearer's rights is of another form.
    #[error("the token's 'tertulia' must be an object that has nothing but 'read' and 'post', each a list of texts")]
    Rights,
}

/// What tokens must be like.
#[derive(Debug)]
pub(super) struct Rules {
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Duration,
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self { issuer: given(&config.issuer), audience: given(&config.audience), leeway: config.leeway }
    }

    /// Whose token it is, and what its bearer may do until when.
    pub(super) fn verify(&self, token: &str, keys: &Keys) -> Result<Principal, Fault> {
        let header = decode_header(token).map_err(|_| Fault::Malformed)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let mut fault = Fault::UnknownKey;
        for key in keys.of(header.kid.as_deref(), header.alg) {
            match self.read(token, &key.key, &validation) {
                // It may be of another one.
                Err(Fault::Signature) => fault = Fault::Signature,
                told => return told,
            }
        }
        Err(fault)
    }

    fn read(&self, token: &str, key: &DecodingKey, validation: &Validation) -> Result<Principal, Fault> {
        let claims: Claims = decode(token, key, validation).map_err(|error| fault(error.into_kind()))?.claims;
        let missing = |claim: &str| Fault::Claim(claim.to_owned());
        let user = claims.get("sub").and_then(Value::as_str).ok_or_else(|| missing("sub"))?;
        let user = NameRules::user(user).map_err(Fault::Subject)?;
        let (read, post) = rights(claims.get("tertulia"))?;
        // Some write them with a fraction.
        let expires = claims.get("exp").and_then(Value::as_f64).and_then(|at| Duration::try_from_secs_f64(at).ok());
        let expires = expires.ok_or_else(|| missing("exp"))?;
        // The moment by the clock of now: what is done to that later changes nothing.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = expires.saturating_add(self.leeway).saturating_sub(now);
        let until = tokio::time::Instant::now().checked_add(left);
        let expires_at = u64::try_from(expires.as_millis()).ok();
        Ok(Principal { user, rights: Some(Box::new(Rights { read, post, until, expires_at })) })
    }
}

/// The groups that may be read, and those to which may be posted: all, of which nothing is said.
fn rights(told: Option<&Value>) -> Result<(Groups, Groups), Fault> {
    let Some(told) = told else { return Ok((Groups::all(), Groups::all())) };
    let told = told.as_object().ok_or(Fault::Rights)?;
    if told.keys().any(|key| !["read", "post"].contains(&key.as_str())) {
        return Err(Fault::Rights);
    }
    let groups = |list| {
        let Some(said) = told.get(list) else { return Ok(Groups::all()) };
        let texts: Option<Vec<&str>> = said.as_array().and_then(|said| said.iter().map(Value::as_str).collect());
        Groups::of(texts.ok_or(Fault::Rights)?).map_err(|error| Fault::Groups { list, error })
    };
    Ok((groups("read")?, groups("post")?))
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
        ErrorKind::Json(error) => Fault::Claims(error.to_string()),
        _ => Fault::Malformed,
    }
}
