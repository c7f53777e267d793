//! Which lines the log has: those of the configuration, or others for a while.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::{FilterExt, ParseError, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// What moderators did is logged whatever the levels are, unless they name it: somebody may have to answer for it.
pub(super) const MODERATION: &str = "tertulia_server::admin::moderation";
/// Where the client of NATS tells its events, each of which the log tells in its own words: they are not told twice, unless the levels name it.
const NATS_EVENTS: &str = "async_nats";
/// The longest text of levels, in bytes.
const LONGEST: usize = 1_024;
/// What a level is called, but for the numbers from 0 to 5.
const NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Decides which lines are written.
pub(super) type Lines = Box<dyn Filter<Registry> + Send + Sync>;

/// The levels of this process's log; cheap to clone.
#[derive(Clone)]
pub struct Levels(Arc<Inner>);

struct Inner {
    configured: String,
    /// `None`: the log of this process is not set up here.
    lines: Option<reload::Handle<Lines, Registry>>,
    change: watch::Sender<Option<Change>>,
}

/// Levels that are in force for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As they were given.
    pub levels: String,
    /// Until when.
    pub until: Instant,
}

/// Why levels cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum BadLevels {
    /// There is too much.
    #[error("the levels have more than {LONGEST} bytes")]
    TooLong,
    /// A word that is no level would be a part of the server, of which all is logged, and of the others nothing.
    #[error(
        "'{0}' is no level: off, error, warn, info, debug or trace; that of a part of the server is written PART=LEVEL, as in info,tertulia_server::front=debug"
    )]
    NoLevel(String),
    /// They are not understood.
    #[error("the levels are not understood: {0}")]
    Unread(#[from] ParseError),
    /// The log cannot be changed any more.
    #[error("the log cannot be changed: {0}")]
    Log(#[from] reload::Error),
}

impl Levels {
    /// Those of a log whose lines `lines` decides.
    pub(super) fn of(configured: &str, lines: reload::Handle<Lines, Registry>) -> Self {
        Self::new(configured, Some(lines))
    }

    /// Levels that decide nothing: those of a log that is set up elsewhere.
    #[must_use]
    pub fn elsewhere(configured: &str) -> Self {
        Self::new(configured, None)
    }

    fn new(configured: &str, lines: Option<reload::Handle<Lines, Registry>>) -> Self {
        let (configured, change) = (configured.to_owned(), watch::Sender::new(None));
        Self(Arc::new(Inner { configured, lines, change }))
    }

    /// Those of the configuration.
    #[must_use]
    pub fn configured(&self) -> &str {
        &self.0.configured
    }

    /// Those that are in force instead, if others are.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        self.0.change.borrow().clone()
    }

    /// Puts other levels in force, in the place of whichever are, until `time` has passed.
    ///
    /// # Errors
    /// They are not understood.
    pub fn set(&self, levels: &str, time: Duration) -> Result<Change, BadLevels> {
        if levels.len() > LONGEST {
            return Err(BadLevels::TooLong);
        }
        // As people write lists.
        let levels: Vec<&str> = levels.split(',').map(str::trim).collect();
        let is_level = |word: &str| {
            NAMES.iter().any(|name| word.eq_ignore_ascii_case(name))
                || matches!(word, "0" | "1" | "2" | "3" | "4" | "5")
        };
        let is_odd = |word: &&&str| !word.contains(['=', '[', ']']) && !is_level(word);
        if let Some(odd) = levels.iter().find(is_odd) {
            return Err(BadLevels::NoLevel(odd.chars().take(64).collect()));
        }
        let levels = levels.join(",");
        let change = Change { levels, until: Instant::now() + time };
        self.put(&change.levels, Some(change.clone()))?;
        Ok(change)
    }

    /// Puts those of the configuration in force again.
    ///
    /// # Errors
    /// The log cannot be changed any more.
    pub fn reset(&self) -> Result<(), BadLevels> {
        self.put(&self.0.configured, None)
    }

    fn put(&self, levels: &str, change: Option<Change>) -> Result<(), BadLevels> {
        let new = lines(levels)?;
        let mut done = Ok(());
        // One after the other, so that what is told is what is in force.
        self.0.change.send_modify(|now| {
            if let Some(lines) = &self.0.lines {
                done = lines.reload(new);
            }
            if done.is_ok() {
                *now = change;
            }
        });
        Ok(done?)
    }

    /// Ends changes whose time is over, until `stop`.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let mut changes = self.0.change.subscribe();
        loop {
            let until = changes.borrow_and_update().as_ref().map(|change| change.until);
            let over = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = over => self.is_over(until),
            }
        }
    }

    /// Ends the change that was in force until then.
    fn is_over(&self, until: Option<Instant>) {
        if self.change().map(|change| change.until) != until {
            return;
        }
        match self.reset() {
            Ok(()) => {
                let levels = self.configured();
                tracing::info!(target: MODERATION, levels, "the log has the configured levels again");
            }
            Err(error) => tracing::error!(%error, "the log keeps other levels than those of the configuration"),
        }
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").field("configured", &self.0.configured).field("change", &self.change()).finish()
    }
}

/// What decides which lines are written by such levels.
pub(super) fn lines(text: &str) -> Result<Lines, ParseError> {
    let mut levels = EnvFilter::try_new(text)?;
    if !text.eq_ignore_ascii_case("off") && !text.contains(MODERATION) {
        levels = levels.add_directive(format!("{MODERATION}=info").parse()?);
    }
    let names_nats = text.contains(NATS_EVENTS);
    let is_no_repeat =
        filter_fn(move |told| names_nats || told.target() != NATS_EVENTS || *told.level() != tracing::Level::INFO);
    // Else what the levels leave out would no longer be passed over as quickly.
    let is_no_repeat = is_no_repeat.with_max_level_hint(tracing::level_filters::LevelFilter::TRACE);
    Ok(Box::new(levels.and(is_no_repeat)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_levels_are_refused() {
        let levels = Levels::elsewhere("info");
        for bad in ["debgu", "info,front", "", "warn, tertulia_server"] {
            let error = levels.set(bad, Duration::from_secs(1)).unwrap_err().to_string();
            assert!(error.contains("is no level: off, error,"), "{bad}: {error}");
        }
        assert!(matches!(levels.set("part=loud", Duration::from_secs(1)), Err(BadLevels::Unread(_))));
        assert!(matches!(levels.set(&"x".repeat(LONGEST + 1), Duration::from_secs(1)), Err(BadLevels::TooLong)));
        assert_eq!((levels.change(), levels.configured()), (None, "info"));
        for good in ["DEBUG", "info, tertulia_server::front=debug", "3", "off", "[post]=trace,warn"] {
            let written = good.replace(' ', "");
            assert_eq!(levels.set(good, Duration::from_secs(1)).unwrap().levels, written);
            assert_eq!(levels.change().unwrap().levels, written);
        }
        levels.reset().unwrap();
        assert_eq!(levels.change(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_by_itself_and_a_later_one_has_its_own_time() {
        let (levels, stop) = (Levels::elsewhere("info"), CancellationToken::new());
        let keeping = tokio::spawn(levels.clone().keep(stop.clone()));
        let at = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        levels.set("debug", Duration::from_secs(10)).unwrap();
        at(9).await;
        levels.set("trace", Duration::from_secs(10)).unwrap();
        at(9).await;
        assert_eq!(levels.change().unwrap().levels, "trace");
        at(2).await;
        assert_eq!(levels.change(), None);
        levels.set("debug", Duration::from_secs(10)).unwrap();
        levels.reset().unwrap();
        at(20).await;
        assert_eq!(levels.change(), None);
        stop.cancel();
        keeping.await.unwrap();
    }
}
