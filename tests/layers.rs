//! The order of the modules, held over the source: a module names only those above it in `src/lib.rs`, and a file of a
//! folder only those above it in the folder's `mod.rs`.

#![allow(
    clippy::unwrap_used,
    reason = "a source tree that cannot be read fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the crate and of each folder, in the order of their `mod` lines.
struct Order(BTreeMap<Vec<String>, Vec<String>>);

impl Order {
    fn read(src: &Path) -> Self {
        let mut folders = BTreeMap::new();
        for path in files(src) {
            let file = path.strip_prefix(src).unwrap().to_str().unwrap();
            let folder = match file.strip_suffix("/mod.rs") {
                Some(folder) => words(folder, '/'),
                None if file == "lib.rs" => Vec::new(),
                None => continue,
            };
            folders.insert(folder, declared(&fs::read_to_string(&path).unwrap()));
        }
        Self(folders)
    }

    /// What the module `own` may not name of `named`, both written from the crate's root.
    fn broken_by(&self, own: &[String], named: &[String]) -> Option<String> {
        let together = own.iter().zip(named);
        let shared = together.take_while(|(own, named)| own == named).count();
        let order = self.0.get(&own[..shared])?;
        is_below(order, own.get(shared)?, named.get(shared)?).then(|| named[..=shared].join("::"))
    }
}

fn words(text: &str, between: char) -> Vec<String> {
    text.split(between).map(str::to_owned).collect()
}

/// Whether both are modules and `named` is declared after `own`.
fn is_below(order: &[String], own: &str, named: &str) -> bool {
    let place = |name: &str| order.iter().position(|known| known == name);
    place(named).is_some_and(|named| place(own).is_none_or(|own| own < named))
}

/// The modules that a file declares, in their order.
fn declared(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let name = line
            .strip_prefix("mod ")
            .and_then(|it| it.strip_suffix(';'));
        found.extend(name.map(str::to_owned));
    }
    found
}

/// Every module or item of the crate that a file names with `crate::` or `super::`, written from the crate's root.
fn named(own: &[String], text: &str) -> BTreeSet<Vec<String>> {
    let (code, tests) = text.split_once("\nmod tests {").unwrap_or((text, ""));
    let inside: Vec<_> = own.iter().cloned().chain(["tests".to_owned()]).collect();
    let mut found = BTreeSet::new();
    for (own, code) in [(own, code), (inside.as_slice(), tests)] {
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let code: Vec<_> = code.lines().filter(is_code).collect();
        let code = code.join("\n");
        for root in ["crate::", "super::"] {
            for (at, _) in code.match_indices(root) {
                let before = code[..at].chars().next_back();
                if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    found.extend(
                        tree(&code[at..])
                            .0
                            .into_iter()
                            .filter_map(|path| from_root(own, path)),
                    );
                }
            }
        }
    }
    found
}

/// A path that begins with `crate` or with any number of `super`.
fn from_root(own: &[String], path: Vec<String>) -> Option<Vec<String>> {
    if path.first()? == "crate" {
        return Some(path[1..].to_vec());
    }
    let up = path.iter().take_while(|name| *name == "super").count();
    let parent = &own[..own.len().checked_sub(up)?];
    Some([parent, &path[up..]].concat())
}

/// The paths of a use tree such as `a::{b, c::d}` at the start of a text, and what stands behind it.
fn tree(text: &str) -> (Vec<Vec<String>>, &str) {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        let mut paths = Vec::new();
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(behind) = rest.strip_prefix('}') {
                return (paths, behind);
            }
            let (further, behind) = tree(rest);
            assert!(behind.len() < rest.len(), "no use tree: {text}");
            paths.extend(further);
            rest = behind;
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.to_owned();
    match rest.strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => {
            let (paths, rest) = tree(rest);
            let below = |path| [vec![name.clone()], path].concat();
            (paths.into_iter().map(below).collect(), rest)
        }
        _ => {
            let rest = rest.trim_start();
            let alias = rest.strip_prefix("as ").map(|it| {
                it.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ' ')
            });
            (vec![vec![name]], alias.unwrap_or(rest))
        }
    }
}

/// The source files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `outbound/parse.rs` is `outbound::parse`, `outbound/mod.rs` is `outbound`.
fn module(file: &str) -> Vec<String> {
    words(file.trim_end_matches(".rs").trim_end_matches("/mod"), '/')
}

#[test]
fn a_module_names_only_modules_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = Order::read(&src);
    let (mut names, mut broken) = (0, BTreeSet::new());
    for path in files(&src) {
        let file = path.strip_prefix(&src).unwrap().to_str().unwrap();
        if ["lib.rs", "main.rs"].contains(&file) {
            continue;
        }
        let own = module(file);
        let (name, folder) = own.split_last().unwrap();
        let declared = order.0.get(folder).is_some_and(|it| it.contains(name));
        assert!(declared, "{file} is in no mod line");
        for named in named(&own, &fs::read_to_string(&path).unwrap()) {
            names += 1;
            let what = order.broken_by(&own, &named);
            broken.extend(what.map(|what| (file.to_owned(), what)));
        }
    }
    assert!(names > 150, "{names} names were found");
    assert!(order.0.len() > 6, "{} folders", order.0.len());
    assert!(
        broken.is_empty(),
        "(file, what it names from below): {broken:#?}"
    );
}

#[test]
fn a_name_from_below_is_found_however_it_is_written() {
    let order = Order(BTreeMap::from([
        (Vec::new(), words("first second third", ' ')),
        (words("second", ' '), words("early own late", ' ')),
        (words("second own", ' '), words("inner outer", ' ')),
    ]));
    let own = words("second own", ' ');
    let broken = |text: &str| {
        let named = named(&own, text);
        let broken = named.iter().filter_map(|it| order.broken_by(&own, it));
        Vec::from_iter(broken.collect::<BTreeSet<_>>())
    };
    for text in [
        "use crate::third::Thing;",
        "pub use crate::{first::A, third};",
        "use crate::{first as f, third::{self, b}};",
        "let x = crate::third::f();",
        "use super::super::third;",
    ] {
        assert_eq!(broken(text), ["third"], "{text}");
    }
    for text in [
        "use super::late::Thing;",
        "use super::{Item, early, late};",
        "use crate::second::late;",
        "fn f(x: &super::late::Thing) {}",
        "\nmod tests {\n    use super::super::late;\n}",
    ] {
        assert_eq!(broken(text), ["second::late"], "{text}");
    }
    for text in [
        "use crate::first::{a, b::{self, c}};",
        "use super::{Item, early::Thing};",
        "pub(super) fn late() {}",
        "// not crate::third",
        "\nmod tests {\n    use super::*;\n    use super::late;\n}",
    ] {
        assert!(broken(text).is_empty(), "{text}");
    }
    let inner = words("second own inner", ' ');
    let named = named(&inner, "use super::outer;\nuse super::super::late;\n");
    let broken: Vec<_> = named.iter().map(|it| order.broken_by(&inner, it)).collect();
    let late = "second::late".to_owned();
    assert_eq!(broken, [Some(late), Some("second::own::outer".to_owned())]);
}
