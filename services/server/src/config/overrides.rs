//! `log.retention_overrides`: what is kept of groups, by the prefix of their names.
//!
//! In a file it is a table of tables, `[log.retention_overrides."logs/"]`. In the environment and in flags, whose names
//! cannot hold any prefix, it is the same as JSON. A later source replaces it as a whole.

use std::collections::BTreeMap;

use config::ValueKind;
use serde_json::Value as Json;
use tertulia_protocol::name::MAX_GROUP_NAME_BYTES;

use super::table;

/// The most prefixes that there may be: each group that comes into use is held against all of them.
const MAX: usize = 1_000;

/// What is allowed, as the end of a sentence that begins with "must be".
pub(super) const ALLOWED: &str = "prefixes of group names, each with any of messages, bytes and age as in log.retention, such as \
                                  {\"logs/\": {\"messages\": 1000, \"age\": \"7d\"}}";

/// The value as canonical JSON.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(value: &ValueKind) -> Result<String, String> {
    let prefixes = match value {
        ValueKind::Table(prefixes) => {
            prefixes.iter().map(|(prefix, bounds)| (prefix.clone(), bounds.kind.clone())).collect()
        }
        ValueKind::String(text) => from_json(text)?,
        ValueKind::Nil => BTreeMap::new(),
        _ => return Err(format!("must be {ALLOWED}")),
    };
    if prefixes.len() > MAX {
        return Err(format!("must be at most {MAX} prefixes, and there are {}", prefixes.len()));
    }
    let read = prefixes.iter().map(|(prefix, bounds)| Ok((prefix, read_prefix(prefix, bounds)?)));
    let read: BTreeMap<_, _> = read.collect::<Result<_, String>>()?;
    serde_json::to_string(&read).map_err(|error| error.to_string())
}

fn read_prefix(prefix: &str, bounds: &ValueKind) -> Result<BTreeMap<String, Json>, String> {
    if prefix.is_empty() || prefix.len() > MAX_GROUP_NAME_BYTES {
        return Err(format!(
            "must have prefixes of 1 to {MAX_GROUP_NAME_BYTES} bytes: log.retention is for all groups"
        ));
    }
    let ValueKind::Table(bounds) = bounds else {
        return Err(format!("must have a table of messages, bytes and age for prefix {prefix:?}"));
    };
    let bound = |(name, value): (&String, &config::Value)| {
        let option = table::entry(&format!("log.retention.{name}")).ok_or_else(|| {
            format!("must have only messages, bytes and age for a prefix, and {prefix:?} has {name:?}")
        })?;
        let wrong = || format!("must have {} as {name} of prefix {prefix:?}", option.kind.allowed());
        let json = match option.kind.normalise(&value.kind).ok_or_else(wrong)? {
            ValueKind::U64(number) => Json::from(number),
            ValueKind::String(text) => Json::from(text),
            _ => return Err(wrong()),
        };
        Ok((name.clone(), json))
    };
    bounds.iter().map(bound).collect()
}

fn from_json(text: &str) -> Result<BTreeMap<String, ValueKind>, String> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let prefixes: BTreeMap<String, BTreeMap<String, Json>> =
        serde_json::from_str(text).map_err(|error| format!("must be {ALLOWED}; as JSON it is wrong: {error}"))?;
    let scalar = |json: Json| match json {
        Json::Number(number) => number.as_u64().map_or(ValueKind::Nil, ValueKind::U64),
        Json::String(text) => ValueKind::String(text),
        _ => ValueKind::Nil,
    };
    let table = |bounds: BTreeMap<String, Json>| {
        let bounds = bounds.into_iter().map(|(name, json)| (name, config::Value::new(None, scalar(json))));
        ValueKind::Table(bounds.collect())
    };
    Ok(prefixes.into_iter().map(|(prefix, bounds)| (prefix, table(bounds))).collect())
}
