//! Certificates made for one test, and a directory that shows them as a mounted Secret of Kubernetes does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Who vouches for others.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new one, whom nobody trusts yet.
    ///
    /// # Errors
    /// If keys cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its own certificate, as PEM: for those who trust it.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for `common_name` at these hosts, good until the end of `year`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn certify(&self, common_name: &str, hosts: &[&str], year: i32) -> Result<Certified> {
        let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Certified { certificate, key: key.serialize_pem() })
    }
}

/// A directory with files behind a symbolic link that is swapped, all at once.
#[derive(Debug)]
pub struct Secret {
    directory: TempDir,
    versions: u32,
}

impl Secret {
    /// A directory with these files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(files: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tertulia-secret-").tempdir().context("make a directory")?;
        let mut secret = Self { directory, versions: 0 };
        secret.swap(files)?;
        for (name, _) in files {
            symlink(Path::new("..data").join(name), secret.path(name)).context("link to a file")?;
        }
        Ok(secret)
    }

    /// Where a file is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces the content of all files in one step.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn swap(&mut self, files: &[(&str, &str)]) -> Result<()> {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        let (folder, link) = (self.path(&version), self.path("..data_tmp"));
        fs::create_dir(&folder).context("make a version")?;
        for (name, text) in files {
            fs::write(folder.join(name), text).context("write a file")?;
        }
        symlink(&version, &link).context("link to a version")?;
        fs::rename(&link, self.path("..data")).context("swap the versions")
    }
}
