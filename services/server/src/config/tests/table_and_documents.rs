//! The table of options against the types of the parts, the protocol's codes, and what is written from it.

use std::collections::BTreeSet;
use std::path::Path;

use tertulia_protocol::Code;

use super::super::table::{SECTIONS, entries};
use super::super::{Config, Error, Kind, Sources, docs, load, print, written};
use super::{Files, flags};

fn leaves(prefix: &str, value: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                leaves(&key, value, keys);
            }
        }
        _ => assert!(keys.insert(prefix.to_owned())),
    }
}

#[test]
fn the_table_is_the_types() {
    let mut in_types = BTreeSet::new();
    leaves("", &serde_json::to_value(Config::default()).unwrap(), &mut in_types);
    let in_table: BTreeSet<String> = entries().map(|entry| entry.key.to_owned()).collect();
    assert_eq!(in_types, in_table);
    assert_eq!(entries().count(), in_table.len(), "a key stands twice in the table");
    for section in SECTIONS {
        assert!(section.entries.iter().all(|entry| entry.key.starts_with(&format!("{}.", section.name))));
    }
}

#[test]
fn every_default_is_allowed_and_reads_back() {
    for (entry, text) in written(&Config::default()) {
        let value = ::config::ValueKind::String(text.clone());
        assert!(entry.kind.normalise(&value).is_some(), "{} = {text}: must be {}", entry.key, entry.kind.allowed());
    }
}

/// The ends of every range must fit the types behind them.
#[test]
fn the_ends_of_every_range_fit_the_types() {
    for entry in entries() {
        let ends = match entry.kind {
            Kind::Int { min, max } | Kind::Bytes { min, max } => vec![min.to_string(), max.to_string()],
            Kind::Duration { min, max } => {
                [min, max].iter().map(|d| humantime::format_duration(*d).to_string()).collect()
            }
            Kind::OneOf(words) => words.iter().map(|word| (*word).to_owned()).collect(),
            _ => continue,
        };
        for end in ends {
            let given = flags(&[("--set", entry.key, &end)]);
            if let Err(errors) = load(&Sources { flags: given, ..Sources::default() }) {
                let only_rules = errors.0.iter().all(|error| {
                    matches!(error, Error::NotAllowed { rule, .. } if !rule.starts_with(&format!("must be {}", entry.kind.allowed())))
                });
                assert!(only_rules, "{} = {end}: {errors}", entry.key);
            }
        }
    }
}

#[test]
fn codes_in_the_table_are_codes_of_the_protocol() {
    let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    for entry in entries() {
        let met = entry.bound.map(|bound| bound.met).unwrap_or_default();
        for word in met.split('`').skip(1).step_by(2) {
            let known = codes.contains(word) || ["Error", "retry_after_ms", "limit"].contains(&word);
            assert!(known, "{}: '{word}' is no code", entry.key);
        }
    }
}

#[test]
fn what_is_printed_reads_back() {
    let files = Files::new();
    let given = [
        ("log.data_dir", "a \"b\\ #é\t"),
        ("limits.groups", "7"),
        ("limits.message_bytes", "1001"),
        ("drain.grace", "1m 1ms"),
        ("telemetry.log_level", "info,h2=off"),
        ("chat.post_without_join", "false"),
        ("admin.token_file", "no"),
        ("log.retention_overrides", "{\"a: #\": {\"age\": \"2h\"}}"),
    ];
    let given: Vec<_> = given.iter().map(|(key, value)| ("--set", *key, *value)).collect();
    let loaded = load(&Sources { flags: flags(&given), ..Sources::default() }).unwrap();
    for (name, text) in [("a.toml", print::toml(&loaded)), ("a.yaml", print::yaml(&loaded))] {
        let again = load(&Sources { file: Some(files.write(name, &text)), ..Sources::default() });
        assert_eq!(again.map(|loaded| loaded.config), Ok(loaded.config.clone()), "{text}");
        assert!(text.contains("7  # from flag --set\n"), "{text}");
    }
    let json: Config = serde_json::from_str(&print::json(&loaded.config).unwrap()).unwrap();
    assert_eq!(json, loaded.config);
}

#[test]
fn the_document_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        document == docs::markdown(),
        "docs/configuration.md is out of date: cargo run -p tertulia-server -- print-config --docs > docs/configuration.md"
    );
}

#[test]
fn help_names_every_key() {
    let help = docs::help();
    assert!(entries().all(|entry| help.contains(&format!("\n  {} = ", entry.key))));
}
