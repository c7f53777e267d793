//! How a connection is closed so that its last bytes arrive.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Closes a socket so that the peer can still read what was written: a socket closed with unread input resets the connection, and
/// a reset may overtake the last bytes.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) {
    const PATIENCE: Duration = Duration::from_secs(1);
    const MOST: u64 = 4 * 1024 * 1024;
    let read_away = async {
        if socket.shutdown().await.is_err() {
            return;
        }
        let mut scratch = vec![0; 1024];
        let mut left = MOST;
        while left > 0 {
            match socket.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count as u64),
            }
        }
    };
    // Who does not close its side in time loses nothing that it could not have read by now.
    drop(tokio::time::timeout(PATIENCE, read_away).await);
}
