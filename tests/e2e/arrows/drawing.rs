//! What the page draws.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, bail};

/// A part, or one module or item at the root of a part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(crate) part: String,
    pub(crate) inner: Option<String>,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.part)?;
        self.inner.iter().try_for_each(|inner| write!(f, "::{inner}"))
    }
}

/// What the page draws.
#[derive(Debug, Default)]
pub(crate) struct Arrows(pub(crate) BTreeMap<String, BTreeSet<Node>>);

impl Arrows {
    pub(crate) fn parse(page: &str) -> Result<Self> {
        let mut arrows = Self::default();
        let lines = page.lines().skip_while(|line| line.trim() != "```arrows").skip(1);
        for line in lines.take_while(|line| line.trim() != "```") {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (part, targets) = line.split_once("->").with_context(|| format!("no arrow in line '{line}'"))?;
            let targets = targets.split(',').map(str::trim).filter(|target| !target.is_empty());
            let targets = targets.map(|target| match target.split_once("::") {
                Some((part, inner)) => Node { part: part.to_owned(), inner: Some(inner.to_owned()) },
                None => Node { part: target.to_owned(), inner: None },
            });
            if arrows.0.insert(part.trim().to_owned(), targets.collect()).is_some() {
                bail!("two lines for '{}'", part.trim());
            }
        }
        if arrows.0.is_empty() {
            bail!("no block fenced with `arrows`");
        }
        arrows.check()?;
        Ok(arrows)
    }

    /// Every end of an arrow is drawn too, and no way along the arrows leads back to where it began.
    fn check(&self) -> Result<()> {
        for (from, targets) in &self.0 {
            for target in targets {
                let crates = ["protocol", "proto"].contains(&target.part.as_str());
                if !crates && !self.0.contains_key(&target.part) {
                    bail!("{from} -> {target}, but no line says what {} may use", target.part);
                }
            }
            // An arrow to one module of a part (a `Config`, say) does not lead on into what the part uses.
            if self.reach(from, |node| node.inner.is_none()).iter().any(|node| node.part == *from) {
                bail!("the arrows lead from {from} back to {from}");
            }
        }
        Ok(())
    }

    pub(crate) fn direct(&self, from: &str) -> BTreeSet<Node> {
        let lines = [from, "*"].into_iter().filter_map(|line| self.0.get(line));
        lines.flatten().cloned().collect()
    }

    /// All that lies along the arrows, going on from the nodes that `through` picks.
    pub(crate) fn reach(&self, from: &str, through: impl Fn(&Node) -> bool) -> BTreeSet<Node> {
        let mut reached = self.direct(from);
        let mut open: Vec<Node> = reached.iter().cloned().collect();
        while let Some(node) = open.pop() {
            if through(&node) {
                open.extend(self.direct(&node.part).into_iter().filter(|next| reached.insert(next.clone())));
            }
        }
        reached
    }
}
