//! One setting from three layers: `--set` over the environment over the file.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document;
use super::document::Document;
use super::problem::{Problem, Problems};

/// Every setting by its path; names of environment variables are derived from these.
pub(super) const KEYS: [&str; 33] = [
    "merchants",
    "threads",
    "app.listen",
    "app.max_body",
    "app.max_in_flight",
    "app.allow_origins",
    "platform.url",
    "platform.connect_timeout",
    "platform.timeout",
    "platform.ca_file",
    "platform.extra_paths",
    "platform.proxy",
    "platform.proxy_password_file",
    "callbacks.listen",
    "callbacks.public_url",
    "callbacks.tls.cert",
    "callbacks.tls.key",
    "callbacks.allow_from",
    "callbacks.trust_forwarded_from",
    "inbox.store",
    "inbox.acknowledge",
    "inbox.retry_for",
    "inbox.keep",
    "inbox.delivery_timeout",
    "inbox.confirm",
    "inbox.watch_orders",
    "inbox.watch_per_second",
    "admin.listen",
    "admin.names",
    "admin.token",
    "admin.token_file",
    "log.format",
    "log.level",
];

/// The place that problems of arguments name.
const ARGUMENT: &str = "--set";

type LayerValue<'t> = Spanned<DeValue<'t>>;

/// The place where a value was written.
#[derive(Clone)]
enum SettingPlace {
    File(Range<usize>),
    Outside(PathBuf),
}

/// The settings as given, not yet interpreted, and the problems found so far.
pub(super) struct Layers<'t> {
    document: Document<'t>,
    table: DeTable<'t>,
    outside: BTreeMap<&'static str, (PathBuf, String)>,
    problems: Vec<Problem>,
}

impl<'t> Layers<'t> {
    pub(super) fn new(
        file: &Path,
        text: &'t str,
        overrides: &[(String, String)],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let (mut document, table) = Document::parse(file, text);
        check_keys(&mut document, &table, "");
        let mut layers = Self {
            document,
            table,
            outside: environment(env),
            problems: Vec::new(),
        };
        for (key, text) in overrides {
            layers.set(key, text);
        }
        layers
    }

    /// Returns true where any setting of a section is given.
    pub(super) fn has_section(&self, name: &str) -> bool {
        let within = |key: &&str| {
            key.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.table.contains_key(name) || self.outside.keys().any(within)
    }

    /// Returns true where a setting is given, valid or not.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.outside.contains_key(key) || find(&self.table, key).is_some()
    }

    /// Returns the value of a setting that came by `--set`, where every user of the machine can read it.
    pub(super) fn argument(&self, key: &str) -> Option<&str> {
        let (place, text) = self.outside.get(key)?;
        (place == Path::new(ARGUMENT)).then_some(text)
    }

    /// Reads a text setting. Other types are reported like an empty text.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let from_file = |value: &DeValue<'_>| parse(value.as_str().unwrap_or_default());
        self.one(key, from_file, &parse)
    }

    /// Reads a number within limits; `parse` and `shown` know its unit.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        limits: RangeInclusive<u64>,
        parse: impl Fn(&str) -> Result<u64, String>,
        shown: impl Fn(u64) -> String,
    ) -> Option<usize> {
        let within = |number: u64| {
            let [least, most] = [limits.start(), limits.end()].map(|limit| shown(*limit));
            let fits = limits
                .contains(&number)
                .then(|| usize::try_from(number).ok());
            fits.flatten()
                .ok_or_else(|| format!("expected {least} to {most}"))
        };
        let from_file = |value: &DeValue<'_>| match value {
            DeValue::Integer(_) => document::whole_number(value).and_then(within),
            // Other types are reported like a text that is no number.
            other => parse(other.as_str().unwrap_or_default()).and_then(within),
        };
        self.one(key, from_file, |text| parse(text).and_then(within))
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let expected = "expected true or false";
        let from_file = |value: &DeValue<'_>| value.as_bool().ok_or_else(|| expected.into());
        self.one(key, from_file, |text| {
            text.parse().map_err(|_| expected.into())
        })
    }

    /// Reads a list, comma-separated outside the file; a repeated entry is a problem.
    pub(super) fn list<T: PartialEq>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let mut entries = Vec::new();
        let given = self.entries(key)?;
        let count = given.len();
        for (i, (place, text)) in given.into_iter().enumerate() {
            let path = || format!("{key}[{}]", i + 1);
            match text.and_then(|text| parse(&text)) {
                Ok(entry) if entries.contains(&entry) => {
                    self.report(&place, &path(), "is there twice".into());
                }
                Ok(entry) => entries.push(entry),
                Err(expected) => self.report(&place, &path(), expected),
            }
        }
        (entries.len() == count).then_some(entries)
    }

    /// Reports a problem of a value that is valid on its own.
    pub(super) fn problem(&mut self, key: &'static str, expected: impl Into<String>) {
        let expected = expected.into();
        if let Some((name, _)) = self.outside.get(key) {
            self.report(&SettingPlace::Outside(name.clone()), key, expected);
        } else if let Some(value) = find(&self.table, key) {
            let place = SettingPlace::File(value.span());
            self.report(&place, key, expected);
        } else {
            self.document.missing(None, key, &expected);
        }
    }

    pub(super) fn finish(self) -> Result<(), Problems> {
        let mut problems = self.document.into_problems();
        problems.extend(self.problems);
        Problems::none_of(problems)
    }

    fn one<T>(
        &mut self,
        key: &'static str,
        from_file: impl Fn(&DeValue<'_>) -> Result<T, String>,
        from_text: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (place, outcome) = if let Some((name, text)) = self.outside.get(key) {
            (SettingPlace::Outside(name.clone()), from_text(text))
        } else {
            let value = find(&self.table, key)?;
            (SettingPlace::File(value.span()), from_file(value.get_ref()))
        };
        outcome
            .map_err(|expected| self.report(&place, key, expected))
            .ok()
    }

    fn entries(
        &mut self,
        key: &'static str,
    ) -> Option<Vec<(SettingPlace, Result<String, String>)>> {
        if let Some((name, text)) = self.outside.get(key) {
            let place = SettingPlace::Outside(name.clone());
            let parts = text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty());
            return Some(
                parts
                    .map(|part| (place.clone(), Ok(part.to_owned())))
                    .collect(),
            );
        }
        let value = find(&self.table, key)?;
        let Some(array) = value.get_ref().as_array() else {
            let place = SettingPlace::File(value.span());
            self.report(&place, key, "expected a list of strings".into());
            return None;
        };
        let entry = |value: &LayerValue<'_>| {
            let text = document::string(value.get_ref()).map(str::to_owned);
            (SettingPlace::File(value.span()), text)
        };
        Some(array.iter().map(entry).collect())
    }

    fn set(&mut self, key: &str, text: &str) {
        let name = PathBuf::from(ARGUMENT);
        match KEYS.iter().find(|known| **known == key) {
            Some(known) => {
                // Over what the environment gave: an argument is the more deliberate word.
                self.outside.insert(known, (name, text.to_owned()));
            }
            None => {
                let expected = document::unknown_key(key, &KEYS);
                self.problems.push(Problem::new(&name, key, expected));
            }
        }
    }

    fn report(&mut self, place: &SettingPlace, path: &str, expected: String) {
        match place {
            SettingPlace::File(span) => self.document.problem(span.clone(), path, expected),
            SettingPlace::Outside(name) => self.problems.push(Problem::new(name, path, expected)),
        }
    }
}

/// An empty variable counts as unset: that is how many launchers pass on "nothing".
fn environment(env: &dyn Fn(&str) -> Option<String>) -> BTreeMap<&'static str, (PathBuf, String)> {
    let given = |key: &&'static str| {
        let name = format!("COUNTERSIGN_{}", key.replace('.', "_").to_uppercase());
        let text = env(&name).filter(|text| !text.is_empty())?;
        Some((*key, (PathBuf::from(name), text)))
    };
    KEYS.iter().filter_map(given).collect()
}

fn find<'a, 't>(table: &'a DeTable<'t>, key: &str) -> Option<&'a LayerValue<'t>> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => find(table.get(section)?.get_ref().as_table()?, rest),
    }
}

/// Reports the keys that no setting has; `prefix` is empty or ends with a dot.
fn check_keys(document: &mut Document<'_>, table: &DeTable<'_>, prefix: &str) {
    for (key, value) in table {
        let path = format!("{prefix}{}", shown(key.get_ref()));
        let section = format!("{path}.");
        if key.get_ref().contains('.') {
            document.problem(key.span(), &path, "expected a key without dots in it");
        } else if KEYS.iter().any(|known| known.starts_with(&section)) {
            match value.get_ref().as_table() {
                Some(table) => check_keys(document, table, &section),
                None => document.problem(value.span(), &path, "expected a section"),
            }
        } else if !KEYS.contains(&path.as_str()) {
            let expected = document::unknown_key(key.get_ref(), &siblings(prefix));
            document.problem(key.span(), &path, expected);
        }
    }
}

/// A key with anything odd in it is left to the line number: it may be a value that lost its place.
fn shown(key: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if key.len() <= 40 && key.bytes().all(plain) {
        key
    } else {
        "(key)"
    }
}

/// Lists the keys of a section, each once.
fn siblings(prefix: &str) -> Vec<&'static str> {
    let name = |key: &&'static str| key.strip_prefix(prefix)?.split('.').next();
    let mut names: Vec<_> = KEYS.iter().filter_map(name).collect();
    names.dedup();
    names
}
