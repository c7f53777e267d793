//! Keys and tokens of our own: to try it, for scripts and for tests. Whoever has accounts issues tokens where these are.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};
use tertulia_protocol::UserName;

use super::Config;
use super::groups::{self, Groups};
use super::keys::{self, Keys, SECRET};

/// Random bytes of the name of a key.
const ID: usize = 8;

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Claims {
    /// Whose it is.
    pub user: UserName,
    /// How long it counts.
    pub lifetime: Duration,
    /// The groups that may be read: names, and beginnings of names with a `*` after them; empty texts are none; `None`: all.
    pub read: Option<Vec<String>>,
    /// The groups to which may be posted.
    pub post: Option<Vec<String>>,
}

/// Why there is no key or no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no keys.
    #[error(
        "auth.keys_file is not set: `tertulia-server auth key > keys.json` makes a key, with which --auth-keys-file keys.json signs tokens"
    )]
    NoFile,
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Nobody can sign with those.
    #[error(
        "there are only public keys in {} (auth.keys_file), which check tokens and sign none: let whoever has the private key sign it, or add a \
         secret to the set (`tertulia-server auth key` makes one)",
        path.display()
    )]
    Public {
        /// The file.
        path: PathBuf,
    },
    /// A group that there cannot be.
    #[error("--{list}: {error}")]
    Groups {
        /// `read` or `post`.
        list: &'static str,
        /// What is wrong.
        error: groups::Error,
    },
    /// The system gives nothing random.
    #[error("the system gives no random numbers")]
    Random,
    /// It cannot be written down.
    #[error("cannot sign: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// A JWK Set with a new secret for HS256, for `auth.keys_file` and for whoever signs.
///
/// # Errors
/// The system gives nothing random.
pub fn key() -> Result<String, Error> {
    let mut random = [0; SECRET + ID];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::Random)?;
    let (secret, id) = random.split_at(SECRET);
    let mut jwk = Jwk::from_encoding_key(&EncodingKey::from_secret(secret)?, Algorithm::HS256)?;
    jwk.common.key_id = Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    let set = serde_json::to_string_pretty(&JwkSet { keys: vec![jwk] }).map_err(jsonwebtoken::errors::Error::from)?;
    Ok(set + "\n")
}

/// A token, signed with the first secret among the keys, as a server with this configuration takes it. It blocks.
///
/// # Errors
/// There is no such key, or the groups are none.
pub fn token(config: &Config, claims: &Claims) -> Result<String, Error> {
    let file = config.keys_file.as_ref().ok_or(Error::NoFile)?;
    let keys = keys::read(file)?;
    let (header, key) = signer(&keys).ok_or_else(|| Error::Public { path: file.clone() })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires = now.saturating_add(claims.lifetime).as_secs();
    let mut told = Map::new();
    told.insert("sub".to_owned(), json!(claims.user.as_str()));
    told.insert("iat".to_owned(), json!(now.as_secs()));
    told.insert("exp".to_owned(), json!(expires));
    for (claim, value) in [("iss", &config.issuer), ("aud", &config.audience)] {
        if !value.is_empty() {
            told.insert(claim.to_owned(), json!(value));
        }
    }
    let mut rights = Map::new();
    for (list, said) in [("read", &claims.read), ("post", &claims.post)] {
        let Some(said) = said else { continue };
        let Some((names, beginnings)) = Groups::written(said.iter().map(String::as_str)) else { continue };
        // The server would refuse it.
        Groups::of(names.iter().copied(), beginnings.iter().copied()).map_err(|error| Error::Groups { list, error })?;
        rights.insert(list.to_owned(), json!(names));
        rights.insert(format!("{list}_prefixes"), json!(beginnings));
    }
    if !rights.is_empty() {
        told.insert("tertulia".to_owned(), Value::Object(rights));
    }
    Ok(encode(&header, &told, &key)?)
}

/// The first of the keys that both sides have.
fn signer(keys: &Keys) -> Option<(Header, EncodingKey)> {
    let is_secret = |algorithm: &Algorithm| algorithm.family() == AlgorithmFamily::Hmac;
    keys.iter().find_map(|key| {
        let algorithm = *key.algorithms.first().filter(|algorithm| is_secret(algorithm))?;
        let key_of_it = EncodingKey::from_secret(key.key.try_get_as_bytes().ok()?).ok()?;
        Some((Header { kid: key.id.clone(), ..Header::new(algorithm) }, key_of_it))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tertulia_protocol::extended::Hello;

    use super::*;
    use crate::auth::{Auth, Decision, Principal};

    const HOUR: Duration = Duration::from_secs(3_600);

    fn of_ada() -> Claims {
        let user = UserName::new("ada").unwrap();
        Claims { user, lifetime: HOUR, read: None, post: None }
    }

    /// A configuration with a file of that content.
    fn config(directory: &Path, content: &str) -> Config {
        let file = directory.join("keys.json");
        fs::write(&file, content).unwrap();
        Config { keys_file: Some(file), ..Config::default() }
    }

    fn shown(config: &Config, token: &str) -> Principal {
        let hello = Hello { version: 1, token: Some(token.into()), ..Hello::default() };
        match Auth::new(config).unwrap().decide(&hello).unwrap() {
            Decision::Known(principal) => principal,
            Decision::Login(_) => panic!("a token needs no password"),
        }
    }

    #[test]
    fn a_server_takes_the_tokens_that_are_signed_with_a_new_key() {
        let directory = tempfile::tempdir().unwrap();
        let plain = config(directory.path(), &key().unwrap());
        let principal = shown(&plain, &token(&plain, &of_ada()).unwrap());
        let rights = principal.rights.unwrap();
        assert_eq!((principal.user.as_str(), &rights.read, &rights.post), ("ada", &Groups::all(), &Groups::all()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let left = Duration::from_millis(rights.expires_at.unwrap()).checked_sub(now).unwrap();
        assert!(left <= HOUR && left > HOUR / 2, "{left:?}");

        let strict = Config { issuer: "us".to_owned(), audience: "chat".to_owned(), ..plain };
        let (read, post) = (vec!["team-*".to_owned(), "Lobby".to_owned()], vec![String::new()]);
        let all = Claims { post: Some(vec!["a".to_owned(), "*".to_owned()]), ..of_ada() };
        assert_eq!(shown(&strict, &token(&strict, &all).unwrap()).rights.unwrap().post, Groups::all());
        let claims = Claims { read: Some(read), post: Some(post), ..of_ada() };
        let rights = shown(&strict, &token(&strict, &claims).unwrap()).rights.unwrap();
        assert_eq!((rights.read, rights.post), (Groups::of(["Lobby"], ["team-"]).unwrap(), Groups::none()));
    }

    #[test]
    fn no_key_is_made_twice_and_each_has_a_name() {
        let keys = [(); 2].map(|()| serde_json::from_str::<Value>(&key().unwrap()).unwrap());
        let of = |field: &str| keys.each_ref().map(|set| set["keys"][0][field].as_str().unwrap().to_owned());
        for field in ["k", "kid"] {
            let [one, other] = of(field);
            assert_ne!(one, other);
        }
        assert_eq!(of("k").map(|secret| secret.len()), [43; 2], "32 bytes in base64url");
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), &keys[0].to_string());
        let header = jsonwebtoken::decode_header(token(&config, &of_ada()).unwrap()).unwrap();
        assert_eq!((header.alg, header.kid.as_ref()), (Algorithm::HS256, Some(&of("kid")[0])));
    }

    #[test]
    fn the_first_secret_signs_and_public_keys_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let public = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().public_key_pem();
        let error = |config: &Config, claims: &Claims| token(config, claims).unwrap_err().to_string();
        let of_public = error(&config(directory.path(), &public), &of_ada());
        assert!(
            of_public.starts_with("there are only public keys in ") && of_public.contains("auth key"),
            "{of_public}"
        );
        assert!(
            error(&Config::default(), &of_ada()).starts_with("auth.keys_file is not set: `tertulia-server auth key")
        );

        let public = jsonwebtoken::DecodingKey::from_ed_pem(public.as_bytes()).unwrap();
        let public = Jwk::from_decoding_key(&public, None).unwrap();
        let mut secret =
            Jwk::from_encoding_key(&EncodingKey::from_secret(&[7; 64]).unwrap(), Algorithm::HS512).unwrap();
        secret.common.key_id = Some("of both".to_owned());
        let mixed = config(directory.path(), &json!({"keys": [public, secret]}).to_string());
        let signed = token(&mixed, &of_ada()).unwrap();
        assert_eq!(shown(&mixed, &signed).user.as_str(), "ada");
        let header = jsonwebtoken::decode_header(&signed).unwrap();
        assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::HS512, Some("of both")));
        let wrong = Claims { post: Some(vec![" x".to_owned()]), ..of_ada() };
        assert!(error(&mixed, &wrong).starts_with(r#"--post: " x" cannot be the name of a group"#));
    }
}
