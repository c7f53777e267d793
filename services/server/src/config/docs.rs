//! Writes `docs/configuration.md` and the end of `--help` from the table of options.
//!
//! The document is a copy of what [`markdown`] returns, and a test fails when it is not. To renew it:
//! `cargo run -p tertulia-server -- print-config --docs > docs/configuration.md`.

use super::table::{Entry, SECTIONS, Section};
use super::{Config, Kind, written};

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `tertulia-server print-config --docs`; a test compares. Change services/server/src/config/, not this file. -->

Every option has a default. What is set elsewhere wins over it, in this order, the last one over all before it:

1. **defaults**, in the tables below;
2. **a file**: `--config FILE`, or without it the one that the variable `TERTULIA_CONFIG` names; TOML if its name ends in `.toml`, YAML if it
   ends in `.yaml` or `.yml`;
3. **the environment**: `TERTULIA__SECTION__KEY`, with two underscores at each step. Other variables with one underscore, such as the
   `TERTULIA_PORT` that Kubernetes sets for a Service, are ignored;
4. **flags**: `--set KEY=VALUE` for every option, then the flags of their own that some have (`--chat ADDR`).

So these say the same, and the last one wins:

```toml
# tertulia.toml
[limits]
groups = 5000
message_bytes = \"8KiB\"

[log.retention]
age = \"30m\"
```

```yaml
# tertulia.yaml
limits:
  groups: 5000
  message_bytes: 8KiB
log:
  retention:
    age: 30m
```

```sh
export TERTULIA__LIMITS__GROUPS=5000 TERTULIA__LIMITS__MESSAGE_BYTES=8KiB TERTULIA__LOG__RETENTION__AGE=30m
tertulia-server --set limits.groups=5000 --set limits.message_bytes=8KiB --set log.retention.age=30m
```

`tertulia-server check-config` tells all that is wrong with a configuration, with the key, where its value comes from and what is allowed;
with `--files` it also reads the files of certificates, keys, authorities and the admin token (not those of `nats`), as a start would: say that
where the server is to run. `tertulia-server print-config` writes the configuration that results, with the source of each value that is not a default. The server does
not start with an unknown key or a value out of its range, and exits with 2.

Retention can differ by the prefix of a group's name. In a file it is a table for each prefix, in the environment and in flags the same as JSON; a later source replaces all
prefixes of an earlier one.

```toml
[log.retention_overrides.\"logs/\"]
messages = 1000
age = \"7d\"
```

```sh
export TERTULIA__LOG__RETENTION_OVERRIDES='{\"logs/\": {\"messages\": 1000, \"age\": \"7d\"}}'
```

Sizes take `B`, `KiB`, `MiB`, `GiB` (powers of 1024) and `KB`, `MB`, `GB` (powers of 1000), or none for bytes. Times take `ms`, `s`, `m`, `h`, `d`, and `w` for weeks; `M` is refused, since it could be minutes or months. Paths are
relative to the directory the server is started in.
";

/// The whole document.
#[must_use]
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    let defaults = written(&Config::default());
    for section in SECTIONS {
        text.push_str(&format!("\n## {}\n\n{}\n\n", section.name, section.help));
        text.push_str(&table(section, &defaults));
    }
    text
}

/// All options in short, for the end of `--help`.
#[must_use]
pub fn help() -> String {
    let mut text = "Options of the configuration, for a file, for --set KEY=VALUE, and for the environment as \
                    TERTULIA__SECTION__KEY:\n"
        .to_owned();
    for (entry, default) in written(&Config::default()) {
        let flag = entry.flag.map(|flag| format!(" ({flag})")).unwrap_or_default();
        let plain = entry.help.replace('`', "");
        text.push_str(&format!(
            "\n  {} = {}{flag}\n          {plain} [{}]",
            entry.key,
            show(&default),
            entry.kind.range()
        ));
    }
    text
}

fn table(section: &Section, defaults: &[(&'static Entry, String)]) -> String {
    let bounds = section.entries.iter().all(|entry| entry.bound.is_some());
    let mut text = if bounds {
        "| key | default | range | meaning | who reaches it sees | metric |\n|---|---|---|---|---|---|\n".to_owned()
    } else {
        "| key | default | range | meaning |\n|---|---|---|---|\n".to_owned()
    };
    for entry in section.entries {
        let default = defaults.iter().find(|(other, _)| other.key == entry.key).map(|(_, text)| text.as_str());
        let key = match entry.flag {
            Some(flag) => format!("`{}`, `{flag}`", entry.key),
            None => format!("`{}`", entry.key),
        };
        let default = default.filter(|text| !text.is_empty()).map(|text| format!("`{text}`")).unwrap_or_default();
        let range = range(&entry.kind);
        let row = match entry.bound {
            Some(bound) if bounds => {
                let metric = if bound.metric.is_empty() { String::new() } else { format!("`{}`", bound.metric) };
                format!("| {key} | {default} | {range} | {} | {} | {metric} |\n", entry.help, bound.met)
            }
            Some(bound) => {
                format!(
                    "| {key} | {default} | {range} | {} Beyond it, {}; see `{}`. |\n",
                    entry.help, bound.met, bound.metric
                )
            }
            None => format!("| {key} | {default} | {range} | {} |\n", entry.help),
        };
        text.push_str(&row);
    }
    text
}

fn range(kind: &Kind) -> String {
    match kind {
        Kind::OneOf(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Bool => "`true`, `false`".to_owned(),
        other => other.range(),
    }
}

fn show(default: &str) -> &str {
    if default.is_empty() { "\"\"" } else { default }
}
