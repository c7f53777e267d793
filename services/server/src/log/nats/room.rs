//! How much of JetStream's storage our account uses, and how much it may. Full, it takes neither posts nor what would make room.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::account::Account;
use async_nats::jetstream::{self, context::AccountError};

use super::metrics::Room;
use super::{Core, Storage};

/// How often is asked. It fills over hours.
const EVERY: Duration = Duration::from_secs(30);

/// Bytes that are used, and that may be; 0 for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) bytes: u64,
    pub(super) limit: u64,
}

/// Asks until the log is closed. What is not answered is asked again: that NATS is away is told elsewhere.
pub(super) async fn watch(core: Arc<Core>, storage: Storage, told: Room) {
    let context = jetstream::new(core.link.client.clone());
    let watching = async {
        let mut before = 0;
        loop {
            // Without a connection the question would only be kept.
            if core.link.is_connected() {
                match ask(&context, storage, core.link.replicas).await {
                    Ok(used) => {
                        told.set(used);
                        // Other nodes remove something as well, and operators.
                        if std::mem::replace(&mut before, used.bytes) > used.bytes {
                            core.room.notify_waiters();
                        }
                    }
                    Err(error) => tracing::debug!(%error, "JetStream does not tell how much it holds"),
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    core.closing.run_until_cancelled(watching).await;
}

pub(super) async fn ask(context: &jetstream::Context, storage: Storage, replicas: u16) -> Result<Used, AccountError> {
    Ok(used(&context.query_account().await?, storage, replicas))
}

/// What an account says. Where it has tiers, each number of replicas has its own limit, and the account as a whole none.
fn used(account: &Account, storage: Storage, replicas: u16) -> Used {
    let tier = account.tiers.get(&format!("R{replicas}"));
    let limits = tier.map_or(&account.limits, |tier| &tier.limits);
    let (bytes, limit) = match storage {
        Storage::File => (tier.map_or(account.storage, |tier| tier.storage), limits.max_storage),
        Storage::Memory => (tier.map_or(account.memory, |tier| tier.memory), limits.max_memory),
    };
    Used { bytes, limit: limit.and_then(|limit| limit.try_into().ok()).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(memory: i64, storage: i64) -> Value {
        json!({
            "max_memory": memory, "max_storage": storage, "max_streams": -1, "max_consumers": -1, "max_bytes_required": false,
            "max_ack_pending": -1, "memory_max_stream_bytes": -1, "storage_max_stream_bytes": -1
        })
    }

    fn account(limits: Value, tiers: Value) -> Account {
        let account = json!({
            "memory": 1, "storage": 2, "reserved_memory": 0, "reserved_storage": 0, "streams": 1, "consumers": 0, "limits": limits,
            "api": {"total": 0, "errors": 0}, "tiers": tiers
        });
        serde_json::from_value(account).unwrap()
    }

    #[test]
    fn an_account_may_have_a_limit_or_none_or_one_for_each_number_of_replicas() {
        let plain = account(limits(10, 20), json!({}));
        assert_eq!(used(&plain, Storage::File, 3), Used { bytes: 2, limit: 20 });
        assert_eq!(used(&plain, Storage::Memory, 3), Used { bytes: 1, limit: 10 });
        let without = account(limits(-1, -1), json!({}));
        assert_eq!(used(&without, Storage::File, 1), Used { bytes: 2, limit: 0 });
        let tier = json!({
            "memory": 3, "storage": 4, "reserved_memory": 0, "reserved_storage": 0, "streams": 1, "consumers": 0,
            "limits": limits(30, 40)
        });
        let tiered = account(limits(0, 0), json!({ "R3": tier }));
        assert_eq!(used(&tiered, Storage::File, 3), Used { bytes: 4, limit: 40 });
        assert_eq!(used(&tiered, Storage::Memory, 3), Used { bytes: 3, limit: 30 });
    }
}
