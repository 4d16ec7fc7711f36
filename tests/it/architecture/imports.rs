//! Which module imports from which, read from the sources.
//!
//! Read as text: `crate::`, `super::`, `self::` and paths that begin with a child module. A name that a
//! `mod.rs` re-exports counts as imported from where it is defined.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

/// A module: the names from the crate's root to it.
pub(super) type Module = Vec<String>;

/// The imports between the modules of a crate.
pub(super) struct Imports {
    modules: BTreeSet<Module>,
    /// Name in a module → the module that defines it.
    re_exports: BTreeMap<Module, Module>,
    pub(super) edges: BTreeMap<Module, BTreeSet<Module>>,
}

impl Imports {
    pub(super) fn of(sources: &[Source]) -> Self {
        let mut imports = Self {
            modules: sources.iter().map(module).collect(),
            re_exports: BTreeMap::new(),
            edges: BTreeMap::new(),
        };
        for source in sources {
            imports.read_re_exports(source);
        }
        for source in sources {
            let from = module(source);
            let mut targets = BTreeSet::new();
            for path in imports.paths(&from, &source.code()) {
                targets.extend(imports.defining_module(&path));
            }
            targets.remove(&from);
            imports.edges.insert(from, targets);
        }
        imports
    }

    fn read_re_exports(&mut self, source: &Source) {
        let from = module(source);
        let code = source.code();
        let statements = code.split(';').filter_map(|text| {
            let at = text.find("pub")?;
            let (_, path) = text[at..].split_once("use ")?;
            let only_visibility = text[at..].find("use ")? < "pub(crate) use".len();
            only_visibility.then(|| path.to_owned())
        });
        for statement in statements.collect::<Vec<_>>() {
            for path in self.paths(&from, &format!("{statement};")) {
                if let Some(name) = path.last() {
                    let mut exported = from.clone();
                    exported.push(name.clone());
                    if exported != path {
                        self.re_exports.insert(exported, path);
                    }
                }
            }
        }
    }

    /// The absolute paths in `code`, which stands in the module `from`.
    fn paths(&self, from: &Module, code: &str) -> Vec<Module> {
        let mut found = Vec::new();
        let in_name = |c: char| c.is_alphanumeric() || c == '_';
        let mut at = 0;
        while let Some(offset) = code[at..].find("::") {
            let separator = at + offset;
            let head = &code[..separator];
            let start = head.len() - head.chars().rev().take_while(|&c| in_name(c)).count();
            at = separator + 2;
            if head[..start].ends_with("::") || head[..start].ends_with('\'') {
                continue;
            }
            let first = &head[start..];
            let child = [from.as_slice(), &[first.to_owned()]].concat();
            let root = match first {
                "crate" => Vec::new(),
                "self" => from.clone(),
                "super" => from[..from.len() - 1].to_vec(),
                _ if self.modules.contains(&child) => child,
                _ => continue,
            };
            tails(&code[at..], &root, &mut found);
        }
        found
    }

    /// The module in which the last name of `path` is defined.
    fn defining_module(&self, path: &Module) -> Option<Module> {
        for length in (1..=path.len()).rev() {
            // A module before a function of the same name.
            if self.modules.contains(&path[..length]) {
                return Some(path[..length].to_vec());
            }
            if let Some(original) = self.re_exports.get(&path[..length]) {
                return self.defining_module(original);
            }
        }
        None
    }

    /// The module in which the type `name`, as the module `from` knows it, is defined.
    pub(super) fn type_home(&self, from: &Source, name: &str) -> Option<Module> {
        let paths = self.paths(&module(from), &from.code());
        let path = paths
            .iter()
            .find(|path| path.last().is_some_and(|l| l == name))?;
        self.defining_module(path)
    }

    /// The edges between groups of modules; `group` names the group of a module, if it is in one.
    pub(super) fn grouped(
        &self,
        group: impl Fn(&[String]) -> Option<Module>,
    ) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (from, targets) in &self.edges {
            let Some(from) = group(from) else { continue };
            let targets = targets.iter().filter_map(|target| group(target));
            let targets = targets.filter(|target| *target != from).collect::<Vec<_>>();
            edges.entry(from).or_default().extend(targets);
        }
        edges
    }
}

/// The module that a file is.
pub(super) fn module(source: &Source) -> Module {
    let path = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// What follows the `::` of a path, groups in braces included.
fn tails(text: &str, root: &Module, found: &mut Vec<Module>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut depth = 0;
        let mut item = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    tails(&group[item..at], root, found);
                    item = at + 1;
                    if c == '}' {
                        return;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let length = text
        .chars()
        .take_while(|&c| c.is_alphanumeric() || c == '_')
        .count();
    let (name, rest) = text.split_at(length);
    let next = match name {
        "" => return,
        "self" => root.clone(),
        "super" => root[..root.len() - 1].to_vec(),
        _ => [root.as_slice(), &[name.to_owned()]].concat(),
    };
    match rest.trim_start().strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => tails(rest, &next, found),
        _ => found.push(next),
    }
}

/// The modules of which each imports the next, and the last the first, if there are any.
pub(super) fn circle(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    let mut left: BTreeMap<_, BTreeSet<_>> = edges.clone();
    loop {
        let known: BTreeSet<_> = left.keys().cloned().collect();
        for targets in left.values_mut() {
            targets.retain(|target| known.contains(target));
        }
        let before = left.len();
        left.retain(|_, targets| !targets.is_empty());
        if left.len() == before {
            break;
        }
    }
    let mut way = vec![left.keys().next()?];
    loop {
        let next = left[*way.last()?].first()?;
        if let Some(start) = way.iter().position(|module| *module == next) {
            let circle = way[start..].iter().chain([&next]);
            return Some(circle.map(|module| module.join("::")).collect());
        }
        way.push(next);
    }
}
