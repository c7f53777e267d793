//! The layers of a configuration: what a file, the environment and the flags say, read by the table of options.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::error::{Error, Origin, without_secrets};
use super::table::{Entry, SECTIONS, entries, entry};
use super::{Kind, overrides};

/// What the names of our environment variables begin with. The double underscore keeps away from what Kubernetes sets
/// for a Service of our name (`TERTULIA_PORT=tcp://…`).
pub(super) const PREFIX: &str = "TERTULIA__";

/// A value that a flag sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag: `--chat`, `--set`.
    pub name: String,
    /// The option that it sets.
    pub key: String,
    /// The value.
    pub value: String,
}

impl Flag {
    /// What `--set KEY=VALUE` sets.
    ///
    /// # Errors
    /// The text has no `=`, or nothing before it.
    pub fn from_pair(text: &str) -> Result<Self, Error> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self { name: "--set".to_owned(), key: key.trim().to_owned(), value: value.to_owned() })
            }
            _ => Err(Error::NotAPair { text: show_text(text) }),
        }
    }
}

/// The allowed values of one layer by key, and the faults of the others.
#[derive(Debug, Default, Clone)]
pub(super) struct Layer {
    pub(super) values: BTreeMap<&'static str, (ValueKind, Origin)>,
    pub(super) faulty: Vec<&'static str>,
    pub(super) errors: Vec<Error>,
}

impl Layer {
    /// What a TOML or YAML file says.
    pub(super) fn from_file(path: &Path) -> Self {
        let mut layer = Self::default();
        match read_file(path) {
            Ok(table) => layer.take_table("", table, &Origin::File(path.to_owned())),
            Err(error) => layer.errors.push(error),
        }
        layer
    }

    /// What the environment variables that begin with [`PREFIX`] say.
    pub(super) fn from_environment(variables: &[(OsString, OsString)]) -> Self {
        let mut layer = Self::default();
        for (name, value) in variables {
            if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                continue;
            }
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
                layer.errors.push(Error::NotUnicode { name: show_name(name) });
                continue;
            };
            let path = name.strip_prefix(PREFIX).unwrap_or(name);
            let key = path.split("__").collect::<Vec<_>>().join(".").to_lowercase();
            let origin = Origin::Environment(name.to_owned());
            match entry(&key) {
                Some(entry) => layer.take(entry, &ValueKind::String(value.to_owned()), origin),
                None if is_section(&key) => {
                    let first = entry(first_in(&key)).map(Entry::environment).unwrap_or_default();
                    layer.refuse_section(key, value, origin, &first);
                }
                None => layer.errors.push(Error::UnknownKey {
                    suggestion: nearest(&key).map(Entry::environment),
                    key,
                    origin,
                }),
            }
        }
        layer
    }

    /// What flags say; a later one wins over an earlier one.
    pub(super) fn from_flags(flags: &[Flag]) -> Self {
        let mut layer = Self::default();
        for flag in flags {
            let origin = Origin::Flag(flag.name.clone());
            match entry(&flag.key) {
                Some(entry) => layer.take(entry, &ValueKind::String(flag.value.clone()), origin),
                None if is_section(&flag.key) => {
                    layer.refuse_section(flag.key.clone(), &flag.value, origin, first_in(&flag.key));
                }
                None => layer.refuse_key(flag.key.clone(), origin),
            }
        }
        layer
    }

    fn take_table(&mut self, parent: &str, table: Map<String, Value>, origin: &Origin) {
        let sorted: BTreeMap<String, Value> = table.into_iter().collect();
        for (name, value) in sorted {
            let key = if parent.is_empty() { name } else { format!("{parent}.{name}") };
            let option = entry(&key);
            match (option, value.kind) {
                (Some(entry), kind) => self.take(entry, &kind, origin.clone()),
                // Of an unknown section each option is told, so that each gets its suggestion.
                (None, ValueKind::Table(table)) if is_section(&key) || !table.is_empty() => {
                    self.take_table(&key, table, origin);
                }
                // A section without options: `limits:` in YAML.
                (None, ValueKind::Nil) if is_section(&key) => {}
                (None, kind) if is_section(&key) => self.errors.push(Error::NotAllowed {
                    value: show(&kind),
                    origin: origin.clone(),
                    rule: format!("must be a table of options, such as {}", first_in(&key)),
                    key,
                }),
                (None, _) => self.refuse_key(key, origin.clone()),
            }
        }
    }

    fn take(&mut self, entry: &'static Entry, value: &ValueKind, origin: Origin) {
        if let Some(value) = entry.kind.normalise(value) {
            self.values.insert(entry.key, (value, origin));
        } else {
            self.faulty.push(entry.key);
            self.errors.push(Error::NotAllowed {
                key: entry.key.to_owned(),
                value: show(value),
                origin,
                rule: match entry.kind {
                    Kind::Retentions => overrides::read(value).err().unwrap_or_default(),
                    // The parser has made a float of it, such as of 5e3, and shows no more how it was written.
                    kind @ (Kind::Int { .. } | Kind::Bytes { .. }) if matches!(value, ValueKind::Float(_)) => {
                        format!("must be {}; this was read as a number with a fraction or an exponent", kind.allowed())
                    }
                    kind => format!("must be {}", kind.allowed()),
                },
            });
        }
    }

    fn refuse_section(&mut self, key: String, value: &str, origin: Origin, option: &str) {
        let value = show(&ValueKind::String(value.to_owned()));
        let rule = format!("is a section: set one of its options, such as {option}");
        self.errors.push(Error::NotAllowed { key, value, origin, rule });
    }

    fn refuse_key(&mut self, key: String, origin: Origin) {
        let suggestion = nearest(&key).map(|entry| entry.key.to_owned());
        self.errors.push(Error::UnknownKey { key: show_text(&key), origin, suggestion });
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let values = self.values.iter();
        Ok(values
            .map(|(key, (value, origin))| ((*key).to_owned(), Value::new(Some(&origin.to_string()), value.clone())))
            .collect())
    }
}

fn read_file(path: &Path) -> Result<Map<String, Value>, Error> {
    let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let (format, name) = match extension.as_deref() {
        Some("toml") => (FileFormat::Toml, "TOML"),
        Some("yaml" | "yml") => (FileFormat::Yaml, "YAML"),
        _ => return Err(Error::UnknownFormat { path: path.to_owned() }),
    };
    let bytes =
        std::fs::read(path).map_err(|error| Error::Unreadable { path: path.to_owned(), cause: cause_of(&error) })?;
    let malformed = |cause: String| Error::Malformed { path: path.to_owned(), format: name, cause };
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        malformed(format!("not UTF-8 at line {line}"))
    })?;
    File::from_str(&text, format).collect().map_err(|error| match error {
        ConfigError::FileParse { cause, .. } => malformed(one_line(&cause.to_string())),
        other => malformed(one_line(&other.to_string())),
    })
}

/// What the system said, without the number of the error.
fn cause_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// A parser's report without the excerpt of the file (`3 | a = =`) that it draws between its lines.
fn one_line(report: &str) -> String {
    let is_excerpt = |line: &str| {
        let gutter = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
        gutter.trim_start().starts_with('|')
    };
    let lines: Vec<&str> = report.lines().filter(|line| !is_excerpt(line)).map(str::trim).collect();
    let text = lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ");
    text.strip_prefix("TOML parse error at ").map_or_else(|| text.clone(), |rest| format!("at {rest}"))
}

fn is_section(key: &str) -> bool {
    SECTIONS.iter().any(|section| section.name == key)
        || entries().any(|entry| entry.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

fn first_in(section: &str) -> &'static str {
    entries().map(|entry| entry.key).find(|key| key.starts_with(&format!("{section}."))).unwrap_or_default()
}

/// The option whose key looks most like this one, if any looks like it at all.
fn nearest(key: &str) -> Option<&'static Entry> {
    let key = key.to_lowercase();
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let misplaced = || entries().find(|entry| last(entry.key) == last(&key));
    let likeness = |entry: &Entry| strsim::jaro_winkler(entry.key, &key);
    let misspelt = entries().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    let is_near = |entry: &&Entry| likeness(entry) >= 0.9 || strsim::damerau_levenshtein(entry.key, &key) <= 2;
    misspelt.filter(is_near).or_else(misplaced)
}

/// A value as an error shows it: without secrets, short, on one line, without quotes where none are needed.
fn show(value: &ValueKind) -> String {
    match value {
        // Before it is cut: what is left may not show any more that it is one.
        ValueKind::String(text) => show_text(&without_secrets(text)),
        ValueKind::Nil => "null".to_owned(),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        // So that a whole one still shows that it is a float.
        ValueKind::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

fn show_text(text: &str) -> String {
    const SHOWN: usize = 60;
    let short = match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    let plain = !short.is_empty() && short.chars().all(|c| c.is_alphanumeric() || "-+_.:/=,[]…".contains(c));
    if plain { short } else { format!("{short:?}") }
}

fn show_name(name: &OsStr) -> String {
    name.to_string_lossy().chars().filter(|c| !c.is_control()).collect()
}
