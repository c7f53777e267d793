//! Which build of the server a test starts: this one, or an older one that it is to follow without a loss.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;

use crate::environment;
use crate::process::binary;

/// Says where the server of the older build is, as `make test-upgrade` does. Read here and nowhere else.
const OTHER: &str = "TERTULIA_OTHER_SERVER";
/// Says where the server of this build is, if it is not beside the test.
const THIS: &str = "TERTULIA_SERVER_BIN";

/// A build of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Build {
    /// The one that is tested.
    #[default]
    This,
    /// The one before it. Where `TERTULIA_OTHER_SERVER` names none, this one stands in for it.
    Older,
}

impl Build {
    /// Where its server is.
    ///
    /// # Errors
    /// If it is not built.
    pub fn server(self) -> Result<PathBuf> {
        let is_other = self == Self::Older && are_two();
        binary("tertulia-server", if is_other { OTHER } else { THIS })
    }
}

/// Whether the older build is another one than this.
#[must_use]
pub fn are_two() -> bool {
    std::env::var_os(OTHER).is_some()
}

/// Says which builds a test is about to run.
pub fn announce() {
    environment::announce(&format!("upgrade from {} to {}", Build::Older, Build::This));
}

impl fmt::Display for Build {
    /// Says which it is, for whoever reads what a test proved.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, std::env::var_os(OTHER)) {
            (Self::This, _) => write!(to, "this build"),
            (Self::Older, Some(path)) => write!(to, "the older build {}", path.display()),
            (Self::Older, None) => write!(to, "this build in place of an older one ({OTHER} is not set)"),
        }
    }
}
