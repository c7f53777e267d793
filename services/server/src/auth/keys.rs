//! The keys of those who issue tokens: what a file says of them.
//!
//! It is a JWK Set (RFC 7517), one JWK, or public keys in PEM (RFC 7468), one after the other.

use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519 as ED25519_SIGNATURES, ParsedPublicKey,
};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;

/// The shortest secret that is taken: as long as the shortest hash, which RFC 7518 (3.2) asks for.
pub(super) const SECRET: usize = 32;
/// The fewest and the most bits of a key of RSA with which the library checks signatures.
const RSA_BITS: RangeInclusive<usize> = 2_048..=8_192;
const PRIVATE: &str = "it is a private key: give the server the public one alone";
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
/// Algorithms, by the kind of key that they are for.
const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// The keys of a file. They show in no log.
pub(super) struct Keys {
    content: Vec<u8>,
    keys: Vec<Key>,
    /// How many do not count.
    passed_over: usize,
}

/// A key with which tokens may be signed.
#[derive(Debug)]
pub(super) struct Key {
    /// By which a token names it.
    pub(super) id: Option<String>,
    /// What it is for; never empty.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the keys in {} (auth.keys_file)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is neither JSON of that form nor PEM.
    #[error("{} (auth.keys_file) must be a JWK Set (JSON) or public keys in PEM: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One of the keys is none.
    #[error("key {number} of {} (auth.keys_file) cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// From 1.
        number: usize,
        /// Why not.
        reason: String,
    },
    /// There is nothing in the file, or nothing for signatures.
    #[error("there is no key for signatures in {} (auth.keys_file)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the keys in a file. Keys of a JWK Set that are not for signatures, or of a kind that is not known, do not count.
///
/// # Errors
/// The file cannot be read, has no key, or one that cannot be used.
pub(super) fn read(path: &Path) -> Result<Keys, Error> {
    let path_buf = || path.to_owned();
    let content = fs::read(path).map_err(|source| Error::Unreadable { path: path_buf(), source })?;
    let malformed = |reason: String| Error::Malformed { path: path_buf(), reason };
    let text = str::from_utf8(&content).map_err(|error| malformed(error.to_string()))?;
    let found: Vec<Result<Option<Key>, String>> = if text.trim_start().starts_with('{') {
        set(text).map_err(malformed)?.into_iter().map(of_jwk).collect()
    } else {
        blocks(text).map_err(malformed)?.into_iter().map(|block| of_pem(block).map(Some)).collect()
    };
    let count = found.len();
    let mut keys = Vec::new();
    for (number, key) in (1..).zip(found) {
        keys.extend(key.map_err(|reason| Error::Unusable { path: path_buf(), number, reason })?);
    }
    if keys.is_empty() {
        return Err(Error::Empty { path: path_buf() });
    }
    let passed_over = count - keys.len();
    Ok(Keys { content, keys, passed_over })
}

/// What is wrong is told without what stands there: it may be a secret.
fn set(text: &str) -> Result<Vec<Value>, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match value.get_mut("keys").map(Value::take) {
        None => Ok(vec![value]),
        Some(Value::Array(keys)) => Ok(keys),
        Some(_) => Err("its 'keys' must be a list".to_owned()),
    }
}

/// `None`: it is for something else, or of a kind that is not known here.
fn of_jwk(value: Value) -> Result<Option<Key>, String> {
    let is_private = value.get("d").is_some();
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is no JWK".to_owned())?;
    if is_private {
        return Err(PRIVATE.to_owned());
    }
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let for_signatures = [KeyOperations::Sign, KeyOperations::Verify];
    let verifies = common.key_operations.as_ref().is_none_or(|all| all.iter().any(|one| for_signatures.contains(one)));
    if !signs || !verifies {
        return Ok(None);
    }
    let algorithms = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => HMAC,
        AlgorithmParameters::RSA(_) => RSA,
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => P256,
            EllipticCurve::P384 => P384,
            _ => return Ok(None),
        },
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => ED25519,
        _ => return Ok(None),
    };
    let algorithms = match common.key_algorithm {
        None => algorithms.to_vec(),
        Some(named) => match Algorithm::try_from(named) {
            Ok(one) if algorithms.contains(&one) => vec![one],
            Ok(one) => return Err(format!("its alg is {one:?}, which is not for such a key")),
            Err(_) => return Ok(None),
        },
    };
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    check(&key, &algorithms)?;
    Ok(Some(Key { id: common.key_id.clone(), algorithms, key }))
}

/// What is found out otherwise when the first token comes, and then looks as if that were wrong.
fn check(key: &DecodingKey, algorithms: &[Algorithm]) -> Result<(), String> {
    let bytes = key.try_get_as_bytes().unwrap_or_default();
    let parsed = match key.family() {
        AlgorithmFamily::Hmac if bytes.len() < SECRET => {
            return Err(format!("a secret must have at least {SECRET} bytes, this one has {}", bytes.len()));
        }
        AlgorithmFamily::Hmac => return Ok(()),
        AlgorithmFamily::Rsa => {
            let bits = bits(key).ok_or("it is no key of RSA")?;
            if RSA_BITS.contains(&bits) {
                return Ok(());
            }
            let (least, most) = RSA_BITS.into_inner();
            return Err(format!("a key of RSA must have {least} to {most} bits, this one has {bits}"));
        }
        AlgorithmFamily::Ec if algorithms == P256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes),
        AlgorithmFamily::Ec => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, bytes),
        AlgorithmFamily::Ed => ParsedPublicKey::new(&ED25519_SIGNATURES, bytes),
    };
    parsed.map(drop).map_err(|_| "it is no point of its curve".to_owned())
}

/// Bits of the modulus, rounded up to whole bytes.
fn bits(key: &DecodingKey) -> Option<usize> {
    let jwk = Jwk::from_decoding_key(key, None).ok()?;
    let AlgorithmParameters::RSA(parameters) = jwk.algorithm else { return None };
    // In base64, 6 bits a character, leading zeros are A.
    let significant = parameters.n.trim_start_matches('A').len();
    Some(significant * 6 / 8 * 8)
}

fn blocks(text: &str) -> Result<Vec<&str>, String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let block = &rest[begin..];
        let end = block.find(END).ok_or_else(|| format!("a line '{BEGIN}…' has no '{END}…' after it"))?;
        let end = block[end..].find('\n').map_or(block.len(), |line| end + line);
        blocks.push(&block[..end]);
        rest = &block[end..];
    }
    if blocks.is_empty() { Err("it is neither".to_owned()) } else { Ok(blocks) }
}

fn of_pem(block: &str) -> Result<Key, String> {
    let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
    if label.contains("PRIVATE") {
        return Err(PRIVATE.to_owned());
    }
    if !label.ends_with("PUBLIC KEY") {
        return Err(format!("it is a {label}, and must be a PUBLIC KEY"));
    }
    let bytes = block.as_bytes();
    let key = DecodingKey::from_ed_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_rsa_pem(bytes))
        .map_err(|_| "it must be of RSA, of ECDSA with P-256 or P-384, or of Ed25519".to_owned())?;
    let algorithms = match (key.family(), key.try_get_as_bytes().map_or(0, <[u8]>::len)) {
        (AlgorithmFamily::Ec, 97) => P384,
        (AlgorithmFamily::Ec, _) => P256,
        (AlgorithmFamily::Ed, _) => ED25519,
        _ => RSA,
    };
    check(&key, algorithms)?;
    Ok(Key { id: None, algorithms: algorithms.to_vec(), key })
}

impl Keys {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// All of them, in the order of the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// How many keys of the file are not among them, since they are for something else or of a kind that is not known here.
    pub(super) fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Those that a token may be signed with which says so of itself.
    pub(super) fn of<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        // One without a name may be meant by any.
        let named = move |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        self.keys.iter().filter(named).filter(move |key| key.algorithms.contains(&algorithm))
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.keys.len())
    }
}
