//! Holds the code to the arrows that `docs/architecture.md` draws between its parts.
//!
//! The page has a block fenced with `arrows`. Each line of it says what a part of the server (a module at the root of
//! `services/server/src`), or a crate of the workspace, may use:
//!
//! ```text
//! front -> protocol, shard          these parts, and nothing else; `protocol` and `proto` are the crates
//! config -> front::config           of `front` only this module, also under the names by which `front` re-exports it
//! log ->                            nothing
//! * -> protocol::name               every part may
//! ```
//!
//! A use is a path that begins with `crate`, `super` or the name of one of our crates, or with a name that an import bound to
//! a part, wherever it stands: in imports of any shape, in code, in macros. Comments and strings are no uses. A use counts for
//! the part it names, whatever it finds there: what `shard` re-exports of `log` is `shard`'s.
//!
//! Test code (`#[cfg(test)]`, and modules declared so) may follow the arrows over several steps, since a test of `front`
//! needs a log to make a shard with; against the arrows it may not go either.

mod code;
mod drawing;
mod manifest;
#[cfg(test)]
mod violations;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use code::Code;
use drawing::Arrows;

const PAGE: &str = "docs/architecture.md";
const SERVER: &str = "services/server/src";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn arrows() -> Result<Arrows> {
    let page = fs::read_to_string(root().join(PAGE)).context(PAGE)?;
    Arrows::parse(&page).context(PAGE)
}

#[test]
fn the_server_keeps_to_the_arrows() -> Result<()> {
    let source = root().join(SERVER);
    let mut files = Vec::new();
    rust_files(&source, &mut files)?;
    let mut code = Code::default();
    let protocol = fs::read_to_string(root().join("services/protocol/src/lib.rs"))?;
    code.exports_of("protocol", protocol.parse().map_err(|error| anyhow::anyhow!("protocol: {error}"))?);
    for path in &files {
        let relative = path.strip_prefix(&source)?.to_string_lossy().replace('\\', "/");
        code.file(&relative, &fs::read_to_string(path)?)?;
    }
    assert!(!code.uses.is_empty(), "no part uses another: the scan sees nothing");
    let faults = code.faults(&arrows()?);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    Ok(())
}

#[test]
fn the_crates_keep_to_the_arrows() -> Result<()> {
    let arrows = arrows()?;
    let mut faults = Vec::new();
    let workspace = fs::read_to_string(root().join("Cargo.toml"))?;
    let members = manifest::members(&workspace);
    assert!(members.len() >= 8, "the test sees no more than {members:?}");
    for member in members {
        let place = format!("{member}/Cargo.toml");
        faults.extend(manifest::faults(&place, &fs::read_to_string(root().join(&place))?, &arrows));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    Ok(())
}
