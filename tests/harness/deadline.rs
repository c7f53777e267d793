//! Waiting with a deadline that says what was awaited.

use std::time::Duration;

use anyhow::{Context, Result};

/// How long a test waits for one event before it calls it missing. Far above what any of them takes, so that only what
/// never happens meets it, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future` for at most `limit`; the error says `what` did not come.
///
/// # Errors
/// When the deadline passes, or what the future's own error is.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, future)
        .await
        .with_context(|| format!("waited {limit:?} for {what}"))?
        .with_context(|| format!("while waiting for {what}"))
}

/// Asks again and again until `probe` answers `Ok(None)`, for what can only be polled, such as a metric. The error holds
/// what the last probe saw instead.
///
/// # Errors
/// When the deadline passes, or when `probe` fails.
pub async fn poll_until<F>(limit: Duration, what: &str, mut probe: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<Option<String>>>,
{
    const PAUSE: Duration = Duration::from_millis(20);
    let end = tokio::time::Instant::now() + limit;
    loop {
        let Some(instead) = probe().await.with_context(|| format!("while polling for {what}"))? else {
            return Ok(());
        };
        if tokio::time::Instant::now() >= end {
            anyhow::bail!("waited {limit:?} for {what}; at the end: {instead}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
