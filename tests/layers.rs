//! The structure of the source, held by tests.
//!
//! - A module names only modules above it in `src/lib.rs`, and a file of a folder only those above it in `mod.rs`.
//! - A file of a folder takes no item from its own `mod.rs` and implements no type of it.
//! - A type name belongs to one file, and a doc comment opens with a noun or a verb.
//!
//! `tests/prose.py --list` shows the places of the last two, and further counts.

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
        let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
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

/// Files that take an item of their own `mod.rs` or implement one of its types. Each is one too many: the item belongs in
/// a module above both. This list may only shrink.
const REACHING_UP: &[&str] = &["sandbox"];

/// Names that two files give to types of their own, with the reason. None at present.
const SHARED_NAMES: &[(&str, &str)] = &[];

/// Doc comments that may open with a clause, in percent.
const CLAUSES: f64 = 3.0;

/// The part of a file before its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or(text)
}

/// The name that a line without indentation defines after one of these keywords.
fn defined<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let mut rest = line;
    if let Some(visible) = rest.strip_prefix("pub") {
        rest = match visible.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1.trim_start(),
            None => visible.trim_start(),
        };
    }
    rest = rest.strip_prefix("async ").unwrap_or(rest);
    let (keyword, rest) = rest.split_once(' ')?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    let name = &rest[..end.unwrap_or(rest.len())];
    (keywords.contains(&keyword) && !name.is_empty()).then_some(name)
}

#[test]
fn a_file_takes_nothing_from_its_own_mod() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut looked_at, mut broken) = (0, BTreeSet::new());
    for path in files(&src) {
        let folder = path.parent().unwrap();
        let above = folder.join("mod.rs");
        if path.ends_with("mod.rs") || !above.exists() {
            continue;
        }
        let parent = fs::read_to_string(&above).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let in_tests = ["", "pub(crate) "].map(|it| format!("#[cfg(test)]\n{it}mod {name};"));
        if in_tests.iter().any(|it| parent.contains(it.as_str())) {
            continue;
        }
        let parent = without_tests(&parent);
        let of = |keywords: &[&str]| -> BTreeSet<String> {
            let lines = parent.lines();
            let names = lines.filter_map(|line| defined(line, keywords));
            names.map(str::to_owned).collect()
        };
        let items = of(&["struct", "enum", "trait", "type", "fn", "const", "static"]);
        let types = of(&["struct", "enum"]);
        let own = module(path.strip_prefix(&src).unwrap().to_str().unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let text = without_tests(&text);
        looked_at += 1;
        let folder = folder.strip_prefix(&src).unwrap().to_str().unwrap();
        let up = &own[..own.len() - 1];
        let taken = named(&own, text)
            .into_iter()
            .filter(|path| path.len() > up.len() && path.starts_with(up))
            .map(|path| path[up.len()].clone())
            .filter(|name| items.contains(name));
        let implemented = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("impl")?;
            let rest = rest.split_once("> ").map_or(rest, |(_, rest)| rest);
            let rest = rest.trim_start();
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            types.contains(&rest[..end]).then(|| rest[..end].to_owned())
        });
        for name in taken.chain(implemented) {
            if !REACHING_UP.contains(&folder) {
                broken.insert((own.join("::"), name));
            }
        }
    }
    assert!(looked_at > 80, "{looked_at} files");
    assert!(
        broken.is_empty(),
        "(module, what it takes from its mod.rs): {broken:#?}"
    );
}

#[test]
fn a_type_name_belongs_to_one_file() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut places = BTreeMap::<String, BTreeSet<String>>::new();
    for path in files(&src) {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(&src).unwrap().to_str().unwrap();
        for line in without_tests(&text).lines() {
            let kinds = ["struct", "enum", "trait", "type", "union"];
            if let Some(name) = defined(line, &kinds) {
                let at = places.entry(name.to_owned()).or_default();
                at.insert(file.to_owned());
            }
        }
    }
    assert!(places.len() > 200, "{} types", places.len());
    let allowed = |name: &str| SHARED_NAMES.iter().any(|(known, _)| *known == name);
    places.retain(|name, at| at.len() > 1 && !allowed(name));
    assert!(places.is_empty(), "types of one name: {places:#?}");
}

#[test]
fn a_doc_comment_opens_with_a_noun_or_a_verb() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = fs::read_to_string(root.join("tests/prose.toml")).unwrap();
    let rules: toml::Table = rules.parse().unwrap();
    let openers: Vec<_> = rules["openers"].as_array().unwrap().iter().collect();
    let openers: Vec<_> = openers.iter().map(|it| it.as_str().unwrap()).collect();
    assert!(openers.len() > 10);
    let (mut docs, mut clauses) = (0, Vec::new());
    for path in files(&root.join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let mut before = "";
        for line in without_tests(&text).lines().map(str::trim_start) {
            let doc = |line: &str| line.starts_with("///") || line.starts_with("//!");
            let opens = doc(line) && !doc(before);
            before = line;
            if !opens {
                continue;
            }
            docs += 1;
            let text = line[3..].trim_start();
            let begins = |opener: &&str| {
                let rest = text.strip_prefix(*opener);
                rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            };
            if openers.iter().any(begins) {
                clauses.push(format!("{}: {line}", path.display()));
            }
        }
    }
    assert!(docs > 1000, "{docs} doc comments");
    let share = 100.0 * clauses.len() as f64 / docs as f64;
    assert!(share <= CLAUSES, "{share:.1} %: {clauses:#?}");
}
