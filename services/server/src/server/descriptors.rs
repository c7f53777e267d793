//! Room for the descriptors of connections.

use std::io;

use crate::config::Config;
use crate::front::{self, ProxyProtocol};

/// Descriptors that are kept for all but connections.
const OTHERS: u64 = 64;

/// Asks the system for as many descriptors as it allows, has the table for them ready, and answers limits with no more connections than they
/// carry.
pub(super) fn make_room(config: &Config) -> front::Limits {
    let mut limits = config.limits.clone();
    let introductions = if config.chat.proxy_protocol == ProxyProtocol::Required { front::INTRODUCTIONS } else { 0 };
    let not_chat = config.admin.connections + config.http.connections + front::REFUSED_AT_ONCE + introductions;
    let others = OTHERS + not_chat as u64;
    let wanted = limits.connections as u64 + others;
    let allowed = match rlimit::increase_nofile_limit(wanted) {
        Ok(allowed) => allowed,
        Err(error) => {
            tracing::warn!(%error, "the limit of descriptors is not known");
            return limits;
        }
    };
    if allowed < wanted {
        limits.connections = usize::try_from(allowed.saturating_sub(others)).unwrap_or(usize::MAX).max(1);
        tracing::warn!(
            configured = config.limits.connections,
            possible = limits.connections,
            "limits.connections is more than the descriptors of this process carry; raise the hard limit (ulimit -Hn)"
        );
    }
    if let Err(error) = grow_table(wanted.min(allowed)) {
        tracing::warn!(%error, "the table of descriptors was not made larger: threads will pause for that while connections come");
    }
    limits
}

/// Has the kernel make the table of descriptors as large as it may become, which takes 8 to 16 bytes each of its memory. It doubles the
/// table whenever it is full otherwise, and as other threads may be reading it, the one that accepts the connection waits for all processors
/// (`expand_fdtable` and its `synchronize_rcu`): 10 to 30 ms each time, in which a thread of the runtime does nothing else.
fn grow_table(descriptors: u64) -> io::Result<()> {
    let last = i32::try_from(descriptors.saturating_sub(1)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // A descriptor with this number or a higher one, and it is closed again. The table stays.
    rustix::io::fcntl_dupfd_cloexec(io::stderr(), last)?;
    Ok(())
}
