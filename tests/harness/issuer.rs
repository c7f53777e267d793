//! Whoever issues tokens to clients.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ServerOptions;

/// A file of keys, and what signs.
pub struct Issuer {
    directory: TempDir,
    key: EncodingKey,
}

impl Issuer {
    /// One with a key of its own.
    ///
    /// # Errors
    /// If there is no room for the file.
    pub fn new() -> Result<Self> {
        let issuer = Self { directory: tempfile::tempdir()?, key: key(b'k')? };
        issuer.publish()?;
        Ok(issuer)
    }

    /// Where the keys are.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("keys.json")
    }

    /// Signs with another key from now on, the only one in the file.
    ///
    /// # Errors
    /// If the file cannot be replaced.
    pub fn replace_key(&mut self, byte: u8) -> Result<()> {
        self.key = key(byte)?;
        self.publish()
    }

    fn publish(&self) -> Result<()> {
        let jwk = Jwk::from_encoding_key(&self.key, Algorithm::HS256)?;
        let next = self.directory.path().join("next");
        fs::write(&next, json!({"keys": [jwk]}).to_string())?;
        Ok(fs::rename(next, self.file())?)
    }

    /// A server that asks for its tokens.
    #[must_use]
    pub fn server(&self) -> ServerOptions {
        ServerOptions::new().set("auth.keys_file", self.file().display()).set("auth.leeway", "0s")
    }

    /// A token of `user` for so many seconds, which says `more` as well.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn token(&self, user: &str, seconds: u64, more: Value) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut claims = json!({"sub": user, "exp": now + seconds});
        if let (Some(claims), Value::Object(more)) = (claims.as_object_mut(), more) {
            claims.extend(more);
        }
        Ok(encode(&Header::new(Algorithm::HS256), &claims, &self.key)?)
    }
}

fn key(byte: u8) -> Result<EncodingKey> {
    Ok(EncodingKey::from_secret(&[byte; 32])?)
}
