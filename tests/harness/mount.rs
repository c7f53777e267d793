//! Small file systems, which get full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::environment;

/// A tmpfs, unmounted when this is dropped. Only root can mount one.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts one at `path`; `None`, if this process may not, which is said.
    ///
    /// # Errors
    /// If there is no `mount`, or `TERTULIA_TEST_REQUIRED` is 1 and this process may not.
    pub fn new(path: &Path, bytes: u64) -> Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tertulia-test"])
            .arg(path)
            .output()
            .context("run mount")?;
        if mounted.status.success() {
            return Ok(Some(Self(path.to_owned())));
        }
        let why = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
        if environment::is_all_required() {
            bail!("cannot mount a small disk, and TERTULIA_TEST_REQUIRED = 1: {why}");
        }
        environment::announce(&format!("skipped: cannot mount a small disk: {why}"));
        Ok(None)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Lets it be written or not: `rw` or `ro`.
    ///
    /// # Errors
    /// If it is in use.
    pub fn remount(&self, mode: &str) -> Result<()> {
        let done = Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(&self.0).output()?;
        if !done.status.success() {
            bail!("remount {} {mode}: {}", self.0.display(), String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a server that is killed with its test may hold it for a moment.
        drop(Command::new("umount").arg("--lazy").arg(&self.0).output());
    }
}
