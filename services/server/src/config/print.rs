//! Writes a configuration so that it can be read again, with the source of what is not a default.

use super::table::{Entry, SECTIONS};
use super::{Config, Loaded, Origin, written};

/// A TOML file that says the same as the configuration.
#[must_use]
pub fn toml(loaded: &Loaded) -> String {
    let lines = Lines::of(loaded);
    let mut text = String::new();
    for section in SECTIONS {
        let mut table = String::new();
        for (entry, value, comment) in lines.in_section(section.name) {
            let (parent, name) = entry.key.rsplit_once('.').unwrap_or(("", entry.key));
            if table != parent {
                let gap = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}[{parent}]\n"));
                parent.clone_into(&mut table);
            }
            text.push_str(&format!("{name} = {value}{comment}\n"));
        }
    }
    text
}

/// A YAML file that says the same as the configuration.
#[must_use]
pub fn yaml(loaded: &Loaded) -> String {
    let lines = Lines::of(loaded);
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for (entry, value, comment) in &lines.0 {
        let mut path: Vec<&str> = entry.key.split('.').collect();
        let name = path.pop().unwrap_or_default();
        let common = open.iter().zip(&path).take_while(|(one, other)| one == other).count();
        for (depth, table) in path.iter().enumerate().skip(common) {
            text.push_str(&format!("{}{table}:\n", "  ".repeat(depth)));
        }
        text.push_str(&format!("{}{name}: {value}{comment}\n", "  ".repeat(path.len())));
        open = path;
    }
    text
}

/// The configuration as JSON, for programs. The server does not read it.
///
/// # Errors
/// A path in it is not UTF-8.
pub fn json(config: &Config) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(config).map(|text| text + "\n")
}

/// Each option with its quoted value and its comment.
struct Lines(Vec<(&'static Entry, String, String)>);

impl Lines {
    fn of(loaded: &Loaded) -> Self {
        let lines = written(&loaded.config).into_iter().map(|(entry, text)| {
            let value = if entry.kind.is_bare(&text) { text } else { quote(&text) };
            let comment = match loaded.origins.of(entry.key) {
                Origin::Default => String::new(),
                origin => format!("  # {}", on_one_line(&origin.to_string())),
            };
            (entry, value, comment)
        });
        Self(lines.collect())
    }

    fn in_section(&self, name: &str) -> impl Iterator<Item = &(&'static Entry, String, String)> {
        let prefix = format!("{name}.");
        self.0.iter().filter(move |(entry, ..)| entry.key.starts_with(&prefix))
    }
}

/// A text in double quotes, with escapes that TOML and YAML share.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() || c == '\u{feff}' => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
