//! What a value of an option may be: how it is read, what is allowed, how it is written.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use config::ValueKind;

use super::overrides;

/// The kind of an option's value, with the range that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Int {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// A number of bytes: `4096`, `"64KiB"`, `"1MiB"`.
    Bytes {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// A length of time with its unit: `"500ms"`, `"30s"`, `"5m"`.
    Duration {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// `true` or `false`.
    Bool,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An IP address and a port.
    Address,
    /// A path in the file system.
    Path {
        /// Whether there may be none (written as an empty text).
        optional: bool,
    },
    /// Letters, digits, `-` and `_`.
    Word,
    /// A line of text.
    Text {
        /// Whether there may be none.
        optional: bool,
    },
    /// Levels of the log, in the syntax of `EnvFilter`.
    LogLevels,
    /// A part of a whole, from 0 to 1, or nothing (written as an empty text).
    Ratio,
    /// What is kept of groups, by the prefix of their names: a table, or JSON in a text.
    Retentions,
    /// Where something is served: `http://HOST:PORT` or `https://HOST:PORT`, or nothing (written as an empty text).
    Url,
}

impl Kind {
    /// The value in the form that the part's `Config` is deserialized from; `None` if it is not allowed.
    pub(super) fn normalise(&self, value: &ValueKind) -> Option<ValueKind> {
        match *self {
            Self::Int { min, max } => {
                number(value, int_from_text).filter(|number| (min..=max).contains(number)).map(ValueKind::U64)
            }
            Self::Bytes { min, max } => {
                number(value, bytes_from_text).filter(|number| (min..=max).contains(number)).map(ValueKind::U64)
            }
            Self::Duration { min, max } => duration(value)
                .filter(|duration| (min..=max).contains(duration))
                .map(|duration| ValueKind::String(humantime::format_duration(duration).to_string())),
            Self::Bool => match value {
                ValueKind::Boolean(value) => Some(ValueKind::Boolean(*value)),
                ValueKind::String(text) => text.trim().parse().ok().map(ValueKind::Boolean),
                _ => None,
            },
            Self::OneOf(words) => text(value)
                .and_then(|text| words.iter().find(|word| **word == text))
                .map(|word| ValueKind::String((*word).to_owned())),
            Self::Address => text(value)
                .and_then(|text| text.parse::<SocketAddr>().ok())
                .map(|address| ValueKind::String(address.to_string())),
            Self::Path { optional } => match value {
                ValueKind::Nil if optional => Some(ValueKind::Nil),
                ValueKind::String(text) if text.is_empty() => optional.then_some(ValueKind::Nil),
                ValueKind::String(text) if text.contains('\0') => None,
                ValueKind::String(text) => Some(ValueKind::String(text.clone())),
                _ => None,
            },
            Self::Word => text(value)
                .filter(|text| !text.is_empty() && text.len() <= 64)
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')))
                .map(|text| ValueKind::String(text.to_owned())),
            Self::Text { optional } => match value {
                ValueKind::Nil if optional => Some(ValueKind::String(String::new())),
                value => text(value)
                    .filter(|text| (optional || !text.is_empty()) && !text.contains(char::is_control))
                    .map(|text| ValueKind::String(text.to_owned())),
            },
            Self::LogLevels => text(value)
                .map(|text| text.split(',').map(str::trim).collect::<Vec<_>>().join(","))
                .filter(|text| are_log_levels(text))
                .map(ValueKind::String),
            Self::Ratio if is_none(value) => Some(ValueKind::Nil),
            Self::Ratio => ratio(value).map(ValueKind::Float),
            Self::Retentions => overrides::read(value).ok().map(ValueKind::String),
            Self::Url if is_none(value) => Some(ValueKind::Nil),
            Self::Url => text(value).filter(|text| is_url(text)).map(|text| ValueKind::String(text.to_owned())),
        }
    }

    /// What is allowed, as the end of a sentence that begins with "must be".
    #[must_use]
    pub fn allowed(&self) -> String {
        match *self {
            Self::Int { .. } => format!("an integer from {}", self.range()),
            Self::Bytes { .. } => format!("a number of bytes from {}, such as 4096 or \"64KiB\"", self.range()),
            Self::Duration { .. } => format!("a duration from {}, such as \"500ms\", \"30s\" or \"5m\"", self.range()),
            Self::Bool => "true or false".to_owned(),
            Self::OneOf([word]) => format!("\"{word}\""),
            Self::OneOf(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::Address => "an IP address and a port, such as 127.0.0.1:8088 or [::1]:8088".to_owned(),
            Self::Path { optional: false } => "a path".to_owned(),
            Self::Path { optional: true } => "a path, or empty for none".to_owned(),
            Self::Word => "1 to 64 letters, digits, - and _".to_owned(),
            Self::Text { optional: false } => "a text".to_owned(),
            Self::Text { optional: true } => "a text, or empty for none".to_owned(),
            Self::LogLevels => {
                "error, warn, info, debug, trace or off, or a list such as info,tertulia_server::front=debug".to_owned()
            }
            Self::Ratio => "a number from 0 to 1, or empty".to_owned(),
            Self::Retentions => overrides::ALLOWED.to_owned(),
            Self::Url => "an address such as http://localhost:4317, or empty".to_owned(),
        }
    }

    /// The range alone, as it stands in a table.
    #[must_use]
    pub fn range(&self) -> String {
        match *self {
            Self::Int { min, max } => format!("{min} to {max}"),
            Self::Bytes { min, max } => format!("{} to {}", bytes_to_text(min), bytes_to_text(max)),
            Self::Duration { min, max } => {
                format!("{} to {}", humantime::format_duration(min), humantime::format_duration(max))
            }
            Self::Bool => "true, false".to_owned(),
            Self::OneOf(words) => words.join(", "),
            Self::Address => "IP:PORT".to_owned(),
            Self::Path { optional: false } => "path".to_owned(),
            Self::Path { optional: true } => "path or empty".to_owned(),
            Self::Word => "letters, digits, -, _".to_owned(),
            Self::Text { optional: false } => "text".to_owned(),
            Self::Text { optional: true } => "text or empty".to_owned(),
            Self::LogLevels => "levels".to_owned(),
            Self::Ratio => "0 to 1, or empty".to_owned(),
            Self::Retentions => "prefix: bounds".to_owned(),
            Self::Url => "http://HOST:PORT, https://HOST:PORT or empty".to_owned(),
        }
    }

    /// A serialized value as people write it, without quotes.
    pub(super) fn write(&self, value: &serde_json::Value) -> String {
        match (self, value) {
            (Self::Bytes { .. }, serde_json::Value::Number(number)) => {
                number.as_u64().map_or_else(|| number.to_string(), bytes_to_text)
            }
            (_, serde_json::Value::Null) => String::new(),
            (_, serde_json::Value::String(text)) => text.clone(),
            (_, value) => value.to_string(),
        }
    }

    /// Whether TOML and YAML write the text of a value without quotes.
    pub(super) fn is_bare(&self, text: &str) -> bool {
        match self {
            Self::Int { .. } | Self::Bool => true,
            Self::Bytes { .. } => text.bytes().all(|byte| byte.is_ascii_digit()),
            Self::Ratio => !text.is_empty(),
            _ => false,
        }
    }
}

fn text(value: &ValueKind) -> Option<&str> {
    match value {
        ValueKind::String(text) => Some(text.trim()),
        _ => None,
    }
}

fn number(value: &ValueKind, from_text: fn(&str) -> Option<u64>) -> Option<u64> {
    match value {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        ValueKind::I128(number) => u64::try_from(*number).ok(),
        ValueKind::U128(number) => u64::try_from(*number).ok(),
        ValueKind::String(text) => from_text(text.trim()),
        _ => None,
    }
}

fn int_from_text(text: &str) -> Option<u64> {
    let begins_with_digit = text.starts_with(|first: char| first.is_ascii_digit());
    if begins_with_digit { text.replace('_', "").parse().ok() } else { None }
}

fn bytes_from_text(text: &str) -> Option<u64> {
    int_from_text(text).or_else(|| text.parse::<ByteSize>().ok().map(|size| size.as_u64()))
}

/// A number of bytes in the largest binary unit that divides it.
pub(super) fn bytes_to_text(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, unit) in UNITS {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

fn is_none(value: &ValueKind) -> bool {
    matches!(value, ValueKind::Nil) || text(value).is_some_and(str::is_empty)
}

fn ratio(value: &ValueKind) -> Option<f64> {
    let ratio = match value {
        ValueKind::Float(ratio) => Some(*ratio),
        ValueKind::String(text) => text.trim().parse().ok(),
        whole => number(whole, int_from_text).map(|number| number as f64),
    };
    ratio.filter(|ratio| (0.0..=1.0).contains(ratio))
}

fn is_url(text: &str) -> bool {
    let Ok(url) = text.parse::<hyper::Uri>() else { return false };
    let bare = url.path_and_query().is_none_or(|path| path.as_str() == "/")
        // A user and a password would be shown where options are.
        && url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    matches!(url.scheme_str(), Some("http" | "https")) && url.port_u16().is_some() && bare
}

fn duration(value: &ValueKind) -> Option<Duration> {
    match value {
        // A month to humantime; whoever writes it means minutes.
        ValueKind::String(text) if has_unit(text, "M") => None,
        ValueKind::String(text) => humantime::parse_duration(text.trim()).ok(),
        ValueKind::I64(0) | ValueKind::U64(0) => Some(Duration::ZERO),
        _ => None,
    }
}

/// Whether a number in the text has this unit.
fn has_unit(text: &str, unit: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == unit)
}

/// `EnvFilter` takes a word that is no level for the name of a target, and would then log next to nothing; a misspelt level is far more likely.
fn are_log_levels(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let words_are_levels =
        text.split(',').all(|word| word.contains(['=', '[']) || LEVELS.contains(&word.to_ascii_lowercase().as_str()));
    words_are_levels && tracing_subscriber::EnvFilter::try_new(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> ValueKind {
        ValueKind::String(text.to_owned())
    }

    #[test]
    fn an_integer_may_be_written_as_text_and_must_be_in_range() {
        let kind = Kind::Int { min: 1, max: 1_000 };
        for good in [ValueKind::I64(1), ValueKind::U64(1_000), string("7"), string(" 7 "), string("1_000")] {
            assert!(kind.normalise(&good).is_some(), "{good:?}");
        }
        for bad in [
            ValueKind::I64(0),
            ValueKind::I64(-3),
            ValueKind::U64(1_001),
            ValueKind::Float(3.0),
            ValueKind::Boolean(true),
            ValueKind::Nil,
            string(""),
            string("_1"),
            string("+1"),
            string("1.5"),
            string("1KiB"),
        ] {
            assert!(kind.normalise(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_take_units() {
        let kind = Kind::Bytes { min: 1, max: u64::MAX };
        for (text, bytes) in [("4096", 4_096), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2kB", 2_000), ("1.5KiB", 1_536)]
        {
            assert_eq!(kind.normalise(&string(text)), Some(ValueKind::U64(bytes)), "{text}");
        }
        for bad in ["", "KiB", "-1KiB", "1 parsec", "1KiB2"] {
            assert_eq!(kind.normalise(&string(bad)), None, "{bad}");
        }
        assert_eq!(bytes_to_text(128 * 1024), "128KiB");
        assert_eq!(bytes_to_text(3 << 30), "3GiB");
        assert_eq!(bytes_to_text(1_000), "1000");
        assert_eq!(bytes_to_text(0), "0");
    }

    #[test]
    fn a_duration_needs_a_unit_unless_it_is_zero() {
        let kind = Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(3_600) };
        for good in [string("0"), string("500ms"), string("30s"), string("5m"), string("1h"), ValueKind::I64(0)] {
            assert!(kind.normalise(&good).is_some(), "{good:?}");
        }
        for bad in [string("30"), ValueKind::I64(30), string("-1s"), string("61m"), string("soon"), string("")] {
            assert!(kind.normalise(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        for good in ["info", "INFO", "warn,tertulia_server::front=debug", "info, h2=off", "off"] {
            assert!(Kind::LogLevels.normalise(&string(good)).is_some(), "{good}");
        }
        for bad in ["", "inf", "info,", "tertulia=verbose", "verbose", "info,,warn"] {
            assert!(Kind::LogLevels.normalise(&string(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_an_ip_and_a_port() {
        for good in ["127.0.0.1:0", "0.0.0.0:8088", "[::1]:8088"] {
            assert!(Kind::Address.normalise(&string(good)).is_some(), "{good}");
        }
        for bad in ["localhost:8088", ":8088", "8088", "::1:8088", "1.2.3.4:65536"] {
            assert!(Kind::Address.normalise(&string(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_optional_path_may_be_empty() {
        let required = Kind::Path { optional: false };
        let optional = Kind::Path { optional: true };
        assert_eq!(required.normalise(&string("")), None);
        assert_eq!(required.normalise(&ValueKind::Nil), None);
        assert_eq!(optional.normalise(&string("")), Some(ValueKind::Nil));
        assert_eq!(optional.normalise(&ValueKind::Nil), Some(ValueKind::Nil));
        assert_eq!(optional.normalise(&string("a b")), Some(string("a b")));
        assert_eq!(optional.normalise(&string("a\0b")), None);
    }

    #[test]
    fn a_word_has_no_spaces_or_dots_and_a_text_has() {
        for bad in ["", "a.b", "a b", "é", "a>"] {
            assert_eq!(Kind::Word.normalise(&string(bad)), None, "{bad}");
        }
        assert_eq!(Kind::Word.normalise(&string(" chat-1_B ")), Some(string("chat-1_B")));
        let text = Kind::Text { optional: false };
        assert_eq!(text.normalise(&string("nats://a:1, nats://b:2")), Some(string("nats://a:1, nats://b:2")));
        assert_eq!((text.normalise(&string("")), text.normalise(&string("a\nb"))), (None, None));
        assert_eq!(Kind::Text { optional: true }.normalise(&string("")), Some(string("")));
    }

    #[test]
    fn a_ratio_is_from_0_to_1_or_nothing() {
        for (given, expected) in [
            (ValueKind::Float(0.25), ValueKind::Float(0.25)),
            (ValueKind::I64(1), ValueKind::Float(1.0)),
            (string(" 0.5 "), ValueKind::Float(0.5)),
            (string(""), ValueKind::Nil),
            (ValueKind::Nil, ValueKind::Nil),
        ] {
            assert_eq!(Kind::Ratio.normalise(&given), Some(expected), "{given:?}");
        }
        for bad in [ValueKind::Float(1.01), ValueKind::Float(f64::NAN), ValueKind::I64(-1), string("half"), string("2")]
        {
            assert_eq!(Kind::Ratio.normalise(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_url_has_a_host_and_a_port_and_no_more() {
        for good in [
            "http://localhost:4317",
            "http://[::1]:4317/",
            "http://collector.monitoring.svc:4317",
            "https://localhost:4317",
        ] {
            assert_eq!(Kind::Url.normalise(&string(good)), Some(string(good)));
        }
        assert_eq!(Kind::Url.normalise(&string("")), Some(ValueKind::Nil));
        for bad in ["localhost:4317", "http://localhost", "http://localhost:4317/v1/traces", "http://"] {
            assert_eq!(Kind::Url.normalise(&string(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_word_is_matched_exactly() {
        let kind = Kind::OneOf(&["text", "json"]);
        assert_eq!(kind.normalise(&string("json")), Some(string("json")));
        assert_eq!(kind.normalise(&string("JSON")), None);
        assert_eq!(kind.allowed(), "one of \"text\", \"json\"");
    }

    #[test]
    fn a_month_is_taken_for_a_slip() {
        let kind = Kind::Duration { min: Duration::ZERO, max: Duration::MAX };
        for good in ["30m", "30 min", "1h 30m", "2 months", "7d", "250ms"] {
            assert!(kind.normalise(&string(good)).is_some(), "{good}");
        }
        for bad in ["30M", "1h 30M", "M", "30"] {
            assert!(kind.normalise(&string(bad)).is_none(), "{bad}");
        }
    }
}
