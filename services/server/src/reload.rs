//! When files are looked at that may be replaced while the server runs: after a time, again and again, and when somebody asks.

use std::time::Duration;

use metrics::Gauge;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::causes;

/// Has files looked at at once; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Reload(watch::Sender<()>);

/// The times at which one part looks at its files.
#[derive(Debug)]
pub struct Looks {
    ticks: Interval,
    asked: watch::Receiver<()>,
}

impl Reload {
    /// Every part looks at its files.
    pub fn ask(&self) {
        self.0.send_replace(());
    }

    /// The times for one part: now, every `every`, and whenever that is asked for.
    #[must_use]
    pub fn looks(&self, every: Duration) -> Looks {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Looks { ticks, asked: self.0.subscribe() }
    }
}

impl Looks {
    /// Waits for the next time. Cancel-safe.
    pub async fn next(&mut self) {
        let Self { ticks, asked } = self;
        let asked = async {
            // Without anybody who could ask there are the others.
            if asked.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = ticks.tick() => {}
            () = asked => {}
        }
    }
}

/// Reads what a file says whenever it is time, until `stop`, and has it replace what was read before. While it cannot be read, which is
/// complained of with `text`, once for each cause, `failing` is 1.
///
/// It is read again, not watched, for the same reasons as certificates are (see [`crate::tls`]).
pub(crate) async fn follow<T, E, R>(
    mut looks: Looks,
    read: impl Fn() -> R,
    mut replace: impl FnMut(T),
    text: &'static str,
    failing: Gauge,
    stop: CancellationToken,
) where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
    R: FnOnce() -> Result<T, E> + Send + 'static,
{
    let mut complaint = None;
    while stop.run_until_cancelled(looks.next()).await.is_some() {
        let reading = tokio::task::spawn_blocking(read());
        // A file system that does not answer is not waited for.
        let Some(read) = stop.run_until_cancelled(reading).await else { return };
        match read
            .map_err(|panic| panic.to_string())
            .and_then(|found| found.map_err(|error| causes::on_one_line(&error)))
        {
            Ok(found) => {
                complaint = None;
                failing.set(0.0);
                replace(found);
            }
            Err(error) => {
                if complaint.as_ref() != Some(&error) {
                    tracing::error!(error, "{text}");
                }
                complaint = Some(error);
                failing.set(1.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_are_looked_at_when_their_time_comes_and_when_somebody_asks() {
        let reload = Reload::default();
        let mut looks = reload.looks(Duration::from_secs(60));
        looks.next().await;
        let began = tokio::time::Instant::now();
        reload.ask();
        looks.next().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(reload);
        looks.next().await;
        assert_eq!(began.elapsed(), Duration::from_secs(60));
    }
}
