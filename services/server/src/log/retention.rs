//! Which bounds hold for a group: those of all groups, or those of the longest prefix that its name begins with.

use super::config::{Config, Retention, RetentionOverride};

/// The bounds of all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    default: Retention,
    /// Longest prefix first.
    overrides: Vec<(String, Retention)>,
}

impl Rules {
    /// As configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let default = config.retention.clone();
        let rule = |(prefix, special): (&String, &RetentionOverride)| {
            let kept = Retention {
                messages: special.messages.unwrap_or(default.messages),
                bytes: special.bytes.unwrap_or(default.bytes),
                age: special.age.unwrap_or(default.age),
            };
            (prefix.clone(), kept)
        };
        let mut overrides: Vec<_> = config.retention_overrides.0.iter().map(rule).collect();
        overrides.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { default, overrides }
    }

    /// What is kept of a group.
    #[must_use]
    pub fn of(&self, group: &str) -> &Retention {
        let special = self.overrides.iter().find(|(prefix, _)| group.starts_with(prefix.as_str()));
        special.map_or(&self.default, |(_, rule)| rule)
    }

    /// All rules that hold for some group.
    pub(super) fn all(&self) -> impl Iterator<Item = &Retention> {
        self.overrides.iter().map(|(_, rule)| rule).chain([&self.default])
    }
}

impl From<Retention> for Rules {
    fn from(default: Retention) -> Self {
        Self { default, overrides: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::config::RetentionOverrides;

    #[test]
    fn the_longest_prefix_wins_and_what_it_does_not_say_is_as_for_all() {
        let rule = |messages| RetentionOverride { messages: Some(messages), ..RetentionOverride::default() };
        let old = RetentionOverride { age: Some(Duration::from_secs(1)), bytes: Some(0), messages: None };
        let overrides = [("a", rule(1)), ("ab", rule(2)), ("abc", old)].map(|(prefix, rule)| (prefix.to_owned(), rule));
        let retention_overrides = RetentionOverrides(overrides.into());
        let config = Config { retention_overrides, ..Config::default() };
        let rules = Rules::new(&config);
        let all = &config.retention;
        assert_eq!(rules.of("abx"), &Retention { messages: 2, ..all.clone() });
        assert_eq!(rules.of("ac"), &Retention { messages: 1, ..all.clone() });
        assert_eq!(rules.of("abcd"), &Retention { messages: all.messages, bytes: 0, age: Duration::from_secs(1) });
        assert_eq!(rules.of("x"), all);
        assert_eq!(rules.of(""), all);
    }
}
