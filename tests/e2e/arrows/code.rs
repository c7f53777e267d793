//! What the code uses.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

use crate::drawing::{Arrows, Node};
use crate::{PAGE, SERVER};

/// One place where a part names another.
#[derive(Debug)]
pub(crate) struct Use {
    place: String,
    from: String,
    /// The module that names it.
    module: Vec<String>,
    /// The part and what is named in it; `["*"]` for the whole crate.
    path: Vec<String>,
    /// Whether it stands under `#[cfg(test)]` in its file.
    test: bool,
}

/// What the code does.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub(crate) uses: Vec<Use>,
    parts: BTreeSet<String>,
    /// The paths of modules that are declared under `#[cfg(test)]`.
    tests: Vec<Vec<String>>,
    /// By part and re-exported name: the module of the part it comes from.
    exports: BTreeMap<(String, String), String>,
}

impl Code {
    /// Takes in one file of the server; `path` is relative to its `src`.
    pub(crate) fn file(&mut self, path: &str, source: &str) -> Result<()> {
        let stem = path.strip_suffix(".rs").context("not a Rust file")?;
        let mut module: Vec<String> = stem.split('/').filter(|step| *step != "mod").map(str::to_owned).collect();
        let part = module.first().cloned().context("no name")?;
        let root = ["lib", "main"].contains(&part.as_str());
        let tokens: TokenStream = source.parse().map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        if module.len() == 1 && !root {
            self.exports_of(&part, tokens.clone());
        }
        if root {
            module.clear();
        }
        let part = if part == "lib" { "main".to_owned() } else { part };
        self.parts.insert(part.clone());
        let mut scan = Scan { code: self, file: path, part, root, module: module.clone(), bound: BTreeMap::new() };
        scan.tokens(tokens, &module, false);
        Ok(())
    }

    /// Notes `pub use module::{Name, …}` at the root of a part.
    pub(crate) fn exports_of(&mut self, part: &str, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for at in 0..tokens.len() {
            if !(word(&tokens, at, "pub") && word(&tokens, at + 1, "use")) {
                continue;
            }
            let start = if word(&tokens, at + 2, "self") { at + 5 } else { at + 2 };
            let (Some(TokenTree::Ident(module)), true) = (tokens.get(start), colons(&tokens, start + 1)) else {
                continue;
            };
            let names: Vec<String> = match tokens.get(start + 3) {
                Some(TokenTree::Group(group)) => {
                    commas(group).iter().filter_map(|name| Some(name.last()?.to_string())).collect()
                }
                Some(name) if word(&tokens, start + 4, "as") => {
                    tokens.get(start + 5).map(ToString::to_string).into_iter().chain([name.to_string()]).collect()
                }
                Some(name) => vec![name.to_string()],
                None => Vec::new(),
            };
            for name in names {
                self.exports.insert((part.to_owned(), name), module.to_string());
            }
        }
    }

    /// What is wrong, one line each.
    pub(crate) fn faults(&self, arrows: &Arrows) -> Vec<String> {
        let unknown = self.parts.iter().filter(|part| !arrows.0.contains_key(*part));
        let mut faults: Vec<String> =
            unknown.map(|part| format!("{SERVER}: {PAGE} has no arrows for the part '{part}'")).collect();
        for found in &self.uses {
            let test = found.test || self.tests.iter().any(|tests| found.module.starts_with(tests));
            let allowed = if test { arrows.reach(&found.from, |_| true) } else { arrows.direct(&found.from) };
            if !allowed.iter().any(|node| self.covers(node, &found.path)) {
                let list: Vec<String> = arrows.direct(&found.from).iter().map(ToString::to_string).collect();
                faults.push(format!(
                    "{}: {} may not use {} ({}); {PAGE} allows it: {}",
                    found.place,
                    found.from,
                    if found.path[0] == "*" { "the whole crate" } else { &found.path[0] },
                    found.path.join("::"),
                    list.join(", "),
                ));
            }
        }
        faults.sort();
        faults.dedup();
        faults
    }

    fn covers(&self, node: &Node, path: &[String]) -> bool {
        let (Some(inner), Some(name)) = (&node.inner, path.get(1)) else { return node.part == path[0] };
        let export = self.exports.get(&(path[0].clone(), name.clone()));
        node.part == path[0] && (inner == name || export == Some(inner))
    }
}

/// The walk over the tokens of one file.
struct Scan<'a> {
    code: &'a mut Code,
    file: &'a str,
    part: String,
    /// Whether it is the root of a crate, where the names of modules are paths.
    root: bool,
    /// The module that the file is.
    module: Vec<String>,
    /// Names that stand for a part in this file.
    bound: BTreeMap<String, String>,
}

impl Scan<'_> {
    fn tokens(&mut self, stream: TokenStream, module: &[String], mut test: bool) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        // Whether the item that begins here is under `#[cfg(test)]`.
        let mut item_test = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let inner = matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                    if let Some(TokenTree::Group(attribute)) = tokens.get(at + usize::from(inner))
                        && is_cfg_test(attribute)
                    {
                        *(if inner { &mut test } else { &mut item_test }) = true;
                    }
                }
                TokenTree::Punct(punct) if matches!(punct.as_char(), ';' | ',') => item_test = false,
                TokenTree::Group(group) => {
                    self.tokens(group.stream(), module, test || item_test);
                    item_test &= group.delimiter() != Delimiter::Brace;
                }
                TokenTree::Ident(ident) if ident == "mod" => {
                    let Some(TokenTree::Ident(name)) = tokens.get(at) else { continue };
                    let inside: Vec<String> = module.iter().cloned().chain([name.to_string()]).collect();
                    if let Some(TokenTree::Group(body)) = tokens.get(at + 1) {
                        self.tokens(body.stream(), &inside, test || item_test);
                        at += 2;
                        item_test = false;
                        continue;
                    }
                    if test || item_test {
                        self.code.tests.push(inside);
                    } else if self.root && module.is_empty() {
                        self.bound.insert(name.to_string(), name.to_string());
                    }
                }
                TokenTree::Ident(ident) => {
                    if let Some(start) = self.start(ident, &tokens, at, module) {
                        at = self.follow(&tokens, at, start, ident, test || item_test);
                    }
                }
                _ => {}
            }
        }
    }

    /// Where a path that begins with this word begins, if one does; `at` is behind the word.
    fn start(&self, ident: &Ident, tokens: &[TokenTree], at: usize, module: &[String]) -> Option<Vec<String>> {
        let (on, renamed) = (colons(tokens, at), word(tokens, at, "as"));
        let behind_colons = at >= 3 && colons(tokens, at - 3);
        match ident.to_string().as_str() {
            "crate" | "tertulia_server" if on || renamed => Some(Vec::new()),
            "tertulia_protocol" => Some(vec!["protocol".to_owned()]),
            "tertulia_proto" => Some(vec!["proto".to_owned()]),
            "super" if on && !behind_colons => Some(parent(module)),
            "self" if on => Some(module.to_vec()),
            name if on && !behind_colons => self.bound.get(name).map(|part| vec![part.clone()]),
            _ => None,
        }
    }

    /// Follows a path and every branch of its braces; answers where the tokens go on.
    fn follow(&mut self, tokens: &[TokenTree], at: usize, mut path: Vec<String>, first: &Ident, test: bool) -> usize {
        let mut at = at;
        while colons(tokens, at) {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(step)) => path = join(path, step),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    for branch in commas(group) {
                        match branch.first() {
                            Some(TokenTree::Ident(step)) => {
                                self.follow(&branch, 1, join(path.clone(), step), step, test);
                            }
                            _ => self.found(&path, first, test),
                        }
                    }
                    return at + 3;
                }
                // `::*`, `::<…>`: the path ends here.
                _ => break,
            }
            at += 3;
        }
        if let [part] = path.as_slice() {
            let renamed = tokens.get(at + 1).filter(|_| word(tokens, at, "as"));
            let name = renamed.map_or_else(|| part.clone(), ToString::to_string);
            self.bound.insert(name, part.clone());
        }
        self.found(&path, first, test);
        at
    }

    fn found(&mut self, path: &[String], first: &Ident, test: bool) {
        if path.first() == Some(&self.part) {
            return;
        }
        let path = if path.is_empty() { vec!["*".to_owned()] } else { path.to_vec() };
        let place = format!("{SERVER}/{}:{}", self.file, first.span().start().line);
        let (from, module) = (self.part.clone(), self.module.clone());
        self.code.uses.push(Use { place, from, module, path, test });
    }
}

fn word(tokens: &[TokenTree], at: usize, wanted: &str) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == wanted)
}

fn colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(at) && colon(at + 1)
}

fn parent(module: &[String]) -> Vec<String> {
    module.split_last().map_or_else(Vec::new, |(_, rest)| rest.to_vec())
}

fn join(mut path: Vec<String>, step: &Ident) -> Vec<String> {
    match step.to_string().as_str() {
        "self" => path,
        "super" => parent(&path),
        name => {
            path.push(name.to_owned());
            path
        }
    }
}

/// The branches of `{a, b::c}`.
fn commas(group: &Group) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let branches = tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','));
    branches.filter(|branch| !branch.is_empty()).map(<[TokenTree]>::to_vec).collect()
}

fn is_cfg_test(attribute: &Group) -> bool {
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}
