//! What the crates use.

use crate::PAGE;
use crate::drawing::Arrows;

/// The members of the workspace, whether their list stands on one line or on many.
pub(crate) fn members(workspace: &str) -> Vec<&str> {
    let list = workspace.split_once("\nmembers = [").and_then(|(_, list)| list.split_once(']'));
    list.map_or_else(Vec::new, |(list, _)| list.split('"').skip(1).step_by(2).collect())
}

/// What is wrong with the crates' dependencies on each other.
pub(crate) fn faults(place: &str, manifest: &str, arrows: &Arrows) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut section, mut from) = (String::new(), String::new());
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if section == "package" && line.starts_with("name") {
            from = line.split('"').nth(1).unwrap_or_default().to_owned();
        }
        let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let ours = words.filter(|word| word.starts_with("tertulia-") && section.contains("dependencies"));
        let allowed = arrows.0.get(&from);
        for to in ours {
            if !allowed.is_some_and(|allowed| allowed.iter().any(|node| node.part == to)) {
                faults.push(format!("{place}:{}: {from} may not use {to} (see {PAGE})", index + 1));
            }
        }
    }
    faults
}
