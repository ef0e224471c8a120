//! `merchants.toml`: the merchants in force, as one unchanging snapshot.
//!
//! Messages name keys of the file and never quote its values: any of them may be a misplaced secret.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::document;
use super::document::Document;
use super::file;
use super::file::{Contents, Seen};
use super::problem::{Problem, Problems};
use super::weak_keys;
use super::web_url;
use super::web_url::Tail;
use crate::protocol::key::Key;

const FIELDS: [&str; 7] = [
    "merid", "key", "key_file", "key_env", "old_keys", "back", "front",
];
const MAX_MERID: usize = 64;

/// One merchant of the platform and its app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merchant {
    /// 1 to 64 letters, digits, `-` and `_`.
    pub merid: String,
    /// Signs, and verifies.
    pub key: Key,
    /// Verify only: what the platform may still send after a change of keys.
    pub old_keys: Vec<Key>,
    /// Where the merchant's app takes results.
    pub back: Option<Url>,
    /// Where its customers come back to.
    pub front: Option<Url>,
}

impl Merchant {
    /// The keys that a sign may be made with: the current one first.
    pub fn verifying_keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(&self.old_keys)
    }

    /// The old key that a sign was made with, by its place among [`Merchant::verifying_keys`].
    pub fn old_key(&self, key_index: usize) -> Option<&Key> {
        self.old_keys.get(key_index.checked_sub(1)?)
    }
}

/// The merchants of one load, unchanging; a request takes one and keeps it.
pub struct Snapshot {
    merchants: Vec<Arc<Merchant>>,
    by_merid: HashMap<String, usize>,
    digest: String,
    warnings: Vec<String>,
    count_stated: bool,
    contents: Contents,
}

impl Snapshot {
    /// Reads the file and the key files it names, all of it or nothing.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        attempt(path, env).0
    }

    /// Merchants without a file. Of two with one merid, the first counts.
    pub fn from_merchants(merchants: Vec<Merchant>) -> Self {
        let mut hash = Sha256::new();
        for merchant in &merchants {
            hash.update(format!("{merchant:?}\n"));
        }
        Self::new(merchants, file::short_hex(&hash.finalize()))
    }

    /// The merchant, where it is in force.
    pub fn merchant(&self, merid: &str) -> Option<&Arc<Merchant>> {
        self.merchants.get(*self.by_merid.get(merid)?)
    }

    /// The merchant, where there is exactly one.
    pub fn sole(&self) -> Option<&Arc<Merchant>> {
        match self.merchants.as_slice() {
            [merchant] => Some(merchant),
            _ => None,
        }
    }

    /// All merchants, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Merchant>> {
        self.merchants.iter()
    }

    /// How many merchants.
    pub fn len(&self) -> usize {
        self.merchants.len()
    }

    /// Whether there is none; never so for a loaded file.
    pub fn is_empty(&self) -> bool {
        self.merchants.is_empty()
    }

    /// Twelve hex digits: of the file's SHA-256, or with key files of the SHA-256 of all their SHA-256s.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Weak and shared keys, by merid.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether `[end]` stated how many merchants there are.
    pub(super) fn count_stated(&self) -> bool {
        self.count_stated
    }

    /// What the file and its key files held.
    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    fn new(mut merchants: Vec<Merchant>, digest: String) -> Self {
        let mut by_merid = HashMap::with_capacity(merchants.len());
        merchants.retain(|merchant| {
            let next = by_merid.len();
            let place = *by_merid.entry(merchant.merid.clone()).or_insert(next);
            place == next
        });
        let keys: Vec<_> = merchants
            .iter()
            .map(|merchant| {
                let old_keys = merchant.old_keys.as_slice();
                (merchant.merid.as_str(), &merchant.key, old_keys)
            })
            .collect();
        Self {
            warnings: weak_keys::warnings(&keys),
            merchants: merchants.into_iter().map(Arc::new).collect(),
            by_merid,
            digest,
            count_stated: false,
            contents: Contents::new(),
        }
    }
}

/// Counts only: ten thousand merchants belong in no log line.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("merchants", &self.merchants.len())
            .field("digest", &self.digest)
            .field("warnings", &self.warnings.len())
            .finish()
    }
}

/// One load, and what each file held that it looked at, whatever came of it.
pub(super) fn attempt(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Result<Snapshot, Problems>, Contents) {
    let read = file::read(path, file::MAX_FILE);
    let mut contents = Contents::from([(path.to_owned(), file::seen(&read))]);
    let loaded = read
        .map_err(|why| Problem::new(path, "", why).into())
        .and_then(|bytes| understand(path, &bytes, env, &mut contents));
    let snapshot = loaded.map(|snapshot| Snapshot {
        digest: digest(path, &contents),
        contents: contents.clone(),
        ..snapshot
    });
    (snapshot, contents)
}

fn digest(path: &Path, contents: &Contents) -> String {
    let content = |seen: &Seen| match seen {
        Seen::Content(digest) => *digest,
        Seen::Unreadable(_) => [0; 32],
    };
    let file = contents.get(path).map(content).unwrap_or_default();
    if contents.len() == 1 {
        return file::short_hex(&file);
    }
    let mut hash = Sha256::new_with_prefix(file);
    for (_, seen) in contents.iter().filter(|(other, _)| *other != path) {
        hash.update(content(seen));
    }
    file::short_hex(&hash.finalize())
}

fn understand(
    path: &Path,
    bytes: &[u8],
    env: &dyn Fn(&str) -> Option<String>,
    contents: &mut Contents,
) -> Result<Snapshot, Problems> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(path, bytes, error))?;
    let (mut document, table) = Document::parse(path, text);
    let mut reader = Reader {
        document: &mut document,
        folder: path.parent().unwrap_or(path),
        env,
        contents,
    };
    let merchants = reader.merchants(&table);
    let count_stated = reader.end(&table);
    reader.unknown_keys(&table, "", &["merchant", "end"]);
    Problems::none_of(document.into_problems())?;
    let mut snapshot = Snapshot::new(merchants, String::new());
    snapshot.count_stated = count_stated;
    Ok(snapshot)
}

fn not_utf8(path: &Path, bytes: &[u8], error: std::str::Utf8Error) -> Problem {
    let before = bytes.iter().take(error.valid_up_to());
    Problem {
        line: Some(1 + before.filter(|b| **b == b'\n').count()),
        ..Problem::new(path, "", "expected utf-8 text")
    }
}

type MerchantField<'t> = Spanned<DeValue<'t>>;

struct Reader<'d, 't> {
    document: &'d mut Document<'t>,
    folder: &'d Path,
    env: &'d dyn Fn(&str) -> Option<String>,
    contents: &'d mut Contents,
}

impl Reader<'_, '_> {
    fn merchants(&mut self, table: &DeTable<'_>) -> Vec<Merchant> {
        let entries = match table.get("merchant") {
            None => {
                self.document
                    .missing(None, "merchant", "expected at least one [[merchant]]");
                return Vec::new();
            }
            Some(value) => self.entries(value),
        };
        let mut lines = HashMap::new();
        let mut merchants = Vec::with_capacity(entries.len());
        for (i, (entry, at)) in entries.into_iter().enumerate() {
            let path = format!("merchant[{}]", i + 1);
            self.unknown_keys(entry, &path, &FIELDS);
            let merid = self.merid(entry, &at, &path, &mut lines);
            let key = self.key(entry, &at, &path);
            let old_keys = self.old_keys(entry, &path);
            let back = self.url(entry, &path, "back");
            let front = self.url(entry, &path, "front");
            if let (Some(merid), Some(key)) = (merid, key) {
                merchants.push(Merchant {
                    merid,
                    key,
                    old_keys,
                    back,
                    front,
                });
            }
        }
        merchants
    }

    fn entries<'v, 't>(
        &mut self,
        value: &'v MerchantField<'t>,
    ) -> Vec<(&'v DeTable<'t>, Range<usize>)> {
        let expected = "expected [[merchant]], once for each merchant";
        let Some(array) = value.get_ref().as_array() else {
            self.document.problem(value.span(), "merchant", expected);
            return Vec::new();
        };
        if array.is_empty() {
            let expected = "expected at least one [[merchant]]";
            self.document
                .missing(Some(value.span()), "merchant", expected);
        }
        let mut entries = Vec::with_capacity(array.len());
        for (i, entry) in array.iter().enumerate() {
            match entry.get_ref().as_table() {
                Some(table) => entries.push((table, entry.span())),
                None => {
                    let path = format!("merchant[{}]", i + 1);
                    self.document.problem(entry.span(), &path, expected);
                }
            }
        }
        entries
    }

    fn merid(
        &mut self,
        entry: &DeTable<'_>,
        at: &Range<usize>,
        path: &str,
        lines: &mut HashMap<String, usize>,
    ) -> Option<String> {
        let path = format!("{path}.merid");
        let Some(value) = entry.get("merid") else {
            self.document
                .missing(Some(at.clone()), &path, "expected a merid");
            return None;
        };
        let merid = match document::string(value.get_ref()).and_then(merid) {
            Ok(merid) => merid,
            Err(expected) => {
                self.document.problem(value.span(), &path, expected);
                return None;
            }
        };
        if let Some(start) = lines.insert(merid.clone(), value.span().start) {
            let lines = [start, value.span().start].map(|start| self.document.line(start));
            let expected = format!("same merid on lines {} and {}", lines[0], lines[1]);
            self.document.problem(value.span(), &path, expected);
        }
        Some(merid)
    }

    fn key(&mut self, entry: &DeTable<'_>, at: &Range<usize>, path: &str) -> Option<Key> {
        let given =
            ["key", "key_file", "key_env"].map(|name| entry.get(name).map(|value| (name, value)));
        let mut given = given.into_iter().flatten();
        let Some((name, value)) = given.next() else {
            let expected = "expected one of key, key_file, key_env";
            self.document.missing(Some(at.clone()), path, expected);
            return None;
        };
        if let Some((_, second)) = given.next() {
            let expected = "expected only one of key, key_file, key_env";
            self.document.problem(second.span(), path, expected);
            return None;
        }
        let key = document::string(value.get_ref()).and_then(|text| match name {
            "key_file" => self.key_file(text),
            "key_env" => (self.env)(text)
                .filter(|key| !key.is_empty())
                .ok_or_else(|| "environment variable is unset or empty".into())
                .and_then(key),
            _ => key(text),
        });
        self.taken(key, value, &format!("{path}.{name}"))
    }

    /// Loses one line end at its end; what else is in the file is the key.
    fn key_file(&mut self, text: &str) -> Result<Key, String> {
        if text.is_empty() || text.contains('\0') {
            return Err("expected a file's path".into());
        }
        let path = self.folder.join(text);
        let read = file::read(&path, file::MAX_KEY_FILE);
        self.contents
            .entry(path)
            .or_insert_with(|| file::seen(&read));
        let bytes = read?;
        let key = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let key = key
            .strip_suffix(b"\r")
            .filter(|_| bytes.ends_with(b"\n"))
            .unwrap_or(key);
        Key::new(key).map_err(|_| "expected a non-empty file".into())
    }

    fn old_keys(&mut self, entry: &DeTable<'_>, path: &str) -> Vec<Key> {
        let Some(value) = entry.get("old_keys") else {
            return Vec::new();
        };
        let path = format!("{path}.old_keys");
        let Some(array) = value.get_ref().as_array() else {
            self.document
                .problem(value.span(), &path, "expected a list of strings");
            return Vec::new();
        };
        let old_key = |(i, value): (usize, &MerchantField<'_>)| {
            let key = document::string(value.get_ref()).and_then(key);
            self.taken(key, value, &format!("{path}[{}]", i + 1))
        };
        array.iter().enumerate().filter_map(old_key).collect()
    }

    fn url(&mut self, entry: &DeTable<'_>, path: &str, name: &str) -> Option<Url> {
        let value = entry.get(name)?;
        let url =
            document::string(value.get_ref()).and_then(|text| web_url::parse(text, Tail::Query));
        self.taken(url, value, &format!("{path}.{name}"))
    }

    /// Whether `[end]` states the count; a wrong one is a problem.
    fn end(&mut self, table: &DeTable<'_>) -> bool {
        let Some(end) = table.get("end") else {
            return false;
        };
        let Some(fields) = end.get_ref().as_table() else {
            self.document
                .problem(end.span(), "end", "expected a section");
            return false;
        };
        self.unknown_keys(fields, "end", &["merchants"]);
        let Some(stated) = fields.get("merchants") else {
            let expected = "expected the number of merchants";
            self.document
                .missing(Some(end.span()), "end.merchants", expected);
            return false;
        };
        let count = table
            .get("merchant")
            .and_then(|value| value.get_ref().as_array());
        let count = count.map_or(0, |merchants| merchants.len());
        match document::whole_number(stated.get_ref()) {
            Ok(stated) if stated == count as u64 => return true,
            // After a syntax error the file may hold more than could be read.
            Ok(_) if self.document.is_torn() => {}
            Ok(_) => {
                let expected = format!("expected {count}, the number of [[merchant]] above");
                self.document
                    .problem(stated.span(), "end.merchants", expected);
            }
            Err(expected) => self
                .document
                .problem(stated.span(), "end.merchants", expected),
        }
        false
    }

    /// Names no key that is unknown: a slip of a quote can make a secret one.
    fn unknown_keys(&mut self, table: &DeTable<'_>, path: &str, known: &[&str]) {
        for (key, _) in table
            .iter()
            .filter(|(key, _)| !known.contains(&key.get_ref().as_ref()))
        {
            let expected = document::unknown_key(key.get_ref(), known);
            self.document.problem(key.span(), path, expected);
        }
    }

    fn taken<T>(
        &mut self,
        value: Result<T, String>,
        at: &MerchantField<'_>,
        path: &str,
    ) -> Option<T> {
        value
            .map_err(|expected| self.document.problem(at.span(), path, expected))
            .ok()
    }
}

fn merid(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.is_empty() || text.len() > MAX_MERID || !text.bytes().all(plain) {
        return Err("expected 1 to 64 letters, digits, \"-\" and \"_\"".into());
    }
    Ok(text.to_owned())
}

fn key(text: impl Into<Vec<u8>>) -> Result<Key, String> {
    Key::new(text).map_err(|_| "expected a non-empty string".into())
}
