//! Which lines the log has: those of the configuration, or others for a while.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, ParseError, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// What moderators did is logged whatever the levels are, unless they name it: somebody may have to answer for it.
pub(super) const MODERATION: &str = "tertulia_server::admin::moderation";
/// Where the client of NATS tells its events, each of which the log tells in its own words: they are not told twice, unless the levels name it.
const NATS_EVENTS: &str = "async_nats";
/// The longest text of levels, in bytes.
const LONGEST: usize = 1_024;
/// What levels are called.
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
        "'{0}' is no level: off, error, warn, info, debug or trace, or PART=LEVEL for a part of the server, as in info,tertulia_server::front=debug"
    )]
    NoLevel(String),
}

/// The log cannot be changed any more.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be changed: {0}")]
pub struct Unchanged(#[from] reload::Error);

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
    /// The log cannot be changed any more.
    pub fn set(&self, new: New, time: Duration) -> Result<Change, Unchanged> {
        let change = Change { levels: new.text, until: Instant::now() + time };
        self.put(new.lines, Some(change.clone()), |_| true)?;
        Ok(change)
    }

    /// Puts those of the configuration in force again. Answers with what was in force instead.
    ///
    /// # Errors
    /// The log cannot be changed any more.
    pub fn reset(&self) -> Result<Option<Change>, Unchanged> {
        self.reset_if(|_| true)
    }

    fn reset_if(&self, is_meant: impl FnOnce(Option<&Change>) -> bool) -> Result<Option<Change>, Unchanged> {
        // It was understood when the log was set up.
        let configured = lines(&self.0.configured).unwrap_or_else(|_| Box::new(moderation()));
        self.put(configured, None, is_meant)
    }

    /// Answers with what was in force before, if that was meant.
    fn put(
        &self,
        new: Lines,
        change: Option<Change>,
        is_meant: impl FnOnce(Option<&Change>) -> bool,
    ) -> Result<Option<Change>, Unchanged> {
        let mut done = Ok(None);
        // One after the other, so that what is told is what is in force.
        self.0.change.send_if_modified(|now| {
            if !is_meant(now.as_ref()) {
                return false;
            }
            let reloaded = self.0.lines.as_ref().map_or(Ok(()), |lines| lines.reload(new));
            done = reloaded.map(|()| std::mem::replace(now, change));
            done.is_ok()
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
        match self.reset_if(|now| now.is_some_and(|now| Some(now.until) == until)) {
            Ok(Some(Change { levels: ended, .. })) => {
                let levels = self.configured();
                tracing::info!(target: MODERATION, levels, ended, "the log has the configured levels again");
            }
            // Others have been put in force meanwhile.
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the log keeps other levels than those of the configuration"),
        }
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").field("configured", &self.0.configured).field("change", &self.change()).finish()
    }
}

/// Levels that somebody asks for, while the server runs.
pub struct New {
    text: String,
    lines: Lines,
}

impl New {
    /// Reads them, of which no patterns are made: those of a short text may take a processor for minutes, and all memory.
    ///
    /// # Errors
    /// They are not understood.
    pub fn read(text: &str) -> Result<Self, BadLevels> {
        if text.len() > LONGEST {
            return Err(BadLevels::TooLong);
        }
        // As people write lists.
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        let odd = |word: &&str| BadLevels::NoLevel(word.chars().take(64).collect());
        let is_level = |word: &str| NAMES.iter().any(|name| word.eq_ignore_ascii_case(name));
        let builder = || EnvFilter::builder().with_regex(false);
        for word in &words {
            let level = word.rsplit_once('=').map_or(*word, |(_, level)| level);
            let is_understood = is_level(level) && builder().parse(word).is_ok();
            if !is_understood {
                return Err(odd(word));
            }
        }
        let text = words.join(",");
        let levels = builder().parse(&text).map_err(|_| odd(&&*text))?;
        // Whatever is asked for: who may call is not to hide what it does.
        Ok(Self { lines: Box::new(levels.and(no_repeats(&text)).or(moderation())), text })
    }
}

impl fmt::Debug for New {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("New").field(&self.text).finish()
    }
}

/// What decides which lines are written by the levels of the configuration.
pub(super) fn lines(text: &str) -> Result<Lines, ParseError> {
    let levels = EnvFilter::try_new(text)?.and(no_repeats(text));
    let names_it = text.eq_ignore_ascii_case("off") || text.contains(MODERATION);
    Ok(if names_it { Box::new(levels) } else { Box::new(levels.or(moderation())) })
}

/// Takes what moderators did.
fn moderation() -> impl Filter<Registry> + Send + Sync {
    let is_told = |told: &Metadata<'_>| told.target() == MODERATION && *told.level() <= Level::INFO;
    filter_fn(is_told).with_max_level_hint(LevelFilter::INFO)
}

/// Leaves out what the log tells in its own words.
fn no_repeats(text: &str) -> impl Filter<Registry> + Send + Sync + use<> {
    let names_nats = text.contains(NATS_EVENTS);
    let is_no_repeat =
        move |told: &Metadata<'_>| names_nats || told.target() != NATS_EVENTS || *told.level() != Level::INFO;
    // Else what the levels leave out would no longer be passed over as quickly.
    filter_fn(is_no_repeat).with_max_level_hint(LevelFilter::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(levels: &Levels, text: &str, seconds: u64) -> Change {
        levels.set(New::read(text).unwrap(), Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn what_is_no_level_is_refused_and_named() {
        for (bad, named) in [
            ("debgu", "debgu"),
            ("info,front", "front"),
            ("", ""),
            ("info,part=loud", "part=loud"),
            ("warn,=debug", "=debug"),
            ("3", "3"),
            ("[a{b=c,d}]=debug", "[a{b=c"),
        ] {
            let error = New::read(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{named}' is no level: off, error,")), "{bad}: {error}");
        }
        assert!(matches!(New::read(&"x".repeat(LONGEST + 1)), Err(BadLevels::TooLong)));
        let levels = Levels::elsewhere("info");
        for good in ["DEBUG", "info, tertulia_server::front=debug", "off", "[post]=trace,warn"] {
            let written = good.replace(' ', "");
            assert_eq!(set(&levels, good, 1).levels, written);
            assert_eq!(levels.change().unwrap().levels, written);
        }
        assert!(levels.reset().unwrap().is_some());
        assert_eq!((levels.change(), levels.reset().unwrap()), (None, None));
    }

    /// Whoever may call could take all memory with a line.
    #[test]
    fn no_pattern_is_made_of_what_is_asked_for() {
        let pattern =
            format!("[s{{f={}}}]=debug", "[ab]*a[ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab]");
        let begun = std::time::Instant::now();
        drop(New::read(&pattern));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_by_itself_and_a_later_one_has_its_own_time() {
        let (levels, stop) = (Levels::elsewhere("info"), CancellationToken::new());
        let keeping = tokio::spawn(levels.clone().keep(stop.clone()));
        let at = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let first = set(&levels, "debug", 10);
        at(9).await;
        set(&levels, "trace", 10);
        at(9).await;
        assert_eq!(levels.change().unwrap().levels, "trace");
        // As where the end of the one before comes late.
        levels.is_over(Some(first.until));
        assert_eq!(levels.change().unwrap().levels, "trace");
        at(2).await;
        assert_eq!(levels.change(), None);
        set(&levels, "debug", 10);
        levels.reset().unwrap();
        at(20).await;
        assert_eq!(levels.change(), None);
        stop.cancel();
        keeping.await.unwrap();
    }
}
