//! From the file's bytes to merchants, or to every problem in them.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::merchant::{DeliveryForm, Merchant};
use super::rules::MerchantRules;
use crate::config::document;
use crate::config::document::Document;
use crate::config::file;
use crate::config::file::Contents;
use crate::config::problem::{Problem, Problems};
use crate::config::public_keys;
use crate::config::secret_file;
use crate::config::token::Token;
use crate::config::web_url;
use crate::config::web_url::Tail;
use crate::protocol::key::Key;

const FIELDS: [&str; 15] = [
    "merid",
    "key",
    "key_file",
    "key_env",
    "next_key",
    "next_key_file",
    "next_key_env",
    "old_keys",
    "back",
    "back_token",
    "back_token_file",
    "back_token_env",
    "deliver",
    "front",
    "front_redirect",
];
/// The three ways to give one secret.
const KEY: [&str; 3] = ["key", "key_file", "key_env"];
const NEXT_KEY: [&str; 3] = ["next_key", "next_key_file", "next_key_env"];
const BACK_TOKEN: [&str; 3] = ["back_token", "back_token_file", "back_token_env"];
/// The fields of a result (document §3.2.3, §3.3.3, §3.4.4), and of the envelope around it.
const RESULT_FIELDS: [&str; 11] = [
    "resultcode",
    "resultmsg",
    "queryid",
    "txnamt",
    "merid",
    "orderid",
    "paytime",
    "respcode",
    "respmsg",
    "resp",
    "sign",
];
const MAX_MERID: usize = 64;

/// The content of a merchants file.
pub(super) struct MerchantsFile {
    pub(super) merchants: Vec<Merchant>,
    /// `[end]` stated the right number of them.
    pub(super) count_stated: bool,
    /// Files of secrets that every user of the machine can read.
    pub(super) exposed: Vec<PathBuf>,
}

/// Understands a file's bytes; `contents` gets what each key file held.
pub(super) fn understand(
    rules: MerchantRules,
    path: &Path,
    bytes: &[u8],
    env: &dyn Fn(&str) -> Option<String>,
    contents: &mut Contents,
) -> Result<MerchantsFile, Problems> {
    let text = file::utf8(bytes).map_err(|(line, expected)| Problem {
        line: Some(line),
        ..Problem::new(path, "", expected)
    })?;
    let (mut document, table) = Document::parse(path, text);
    let mut reader = Reader {
        rules,
        document: &mut document,
        folder: path.parent().unwrap_or(path),
        env,
        contents,
        exposed: Vec::new(),
    };
    let merchants = reader.merchants(&table);
    let count_stated = reader.end(&table);
    reader.unknown_keys(&table, "", &["merchant", "end"]);
    let exposed = reader.exposed;
    Problems::none_of(document.into_problems())?;
    Ok(MerchantsFile {
        merchants,
        count_stated,
        exposed,
    })
}

type MerchantField<'t> = Spanned<DeValue<'t>>;

struct Reader<'d, 't> {
    rules: MerchantRules,
    document: &'d mut Document<'t>,
    folder: &'d Path,
    env: &'d dyn Fn(&str) -> Option<String>,
    contents: &'d mut Contents,
    exposed: Vec<PathBuf>,
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
            let next_key = self.secret(entry, &path, NEXT_KEY, Self::key_of);
            let old_keys = self.old_keys(entry, &path);
            let back = self.url(entry, &path, "back");
            let back_token = self.secret(entry, &path, BACK_TOKEN, token_of);
            let deliver = self.deliver(entry, &path);
            let front = self.url(entry, &path, "front");
            let front_redirect = self.front_redirect(entry, &path);
            // Anything else that is wrong has been reported and fails the load, so that no merchant is taken with a
            // part missing.
            if let (Some(merid), Some(key)) = (merid, key) {
                merchants.push(Merchant {
                    merid,
                    key,
                    next_key,
                    old_keys,
                    back,
                    back_token,
                    deliver,
                    front,
                    front_redirect,
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
        if !KEY.iter().any(|name| entry.contains_key(*name)) {
            let expected = "expected one of key, key_file, key_env";
            self.document.missing(Some(at.clone()), path, expected);
            return None;
        }
        self.secret(entry, path, KEY, Self::key_of)
    }

    /// A secret that is given as text, as a file or as an environment variable; `names` are the fields for these.
    fn secret<T>(
        &mut self,
        entry: &DeTable<'_>,
        path: &str,
        names: [&'static str; 3],
        parse: impl Fn(&Self, &[u8]) -> Result<T, String>,
    ) -> Option<T> {
        let mut given = names
            .iter()
            .filter_map(|name| entry.get(*name).map(|value| (*name, value)));
        let (name, value) = given.next()?;
        if let Some((_, second)) = given.next() {
            let expected = format!("expected only one of {}", names.join(", "));
            self.document.problem(second.span(), path, expected);
            return None;
        }
        let secret = document::string(value.get_ref()).and_then(|text| {
            if name == names[1] {
                let (path, read, seen) = secret_file::named(self.folder, text);
                if path.metadata().is_ok_and(|file| file.mode() & 0o004 != 0) {
                    self.exposed.push(path.clone());
                }
                // Of two readings the first counts: a file that changed in between then differs from what is in force,
                // and is loaded anew.
                self.contents.entry(path).or_insert(seen);
                return parse(self, &read?);
            }
            if name == names[2] {
                let value = (self.env)(text).filter(|value| !value.is_empty());
                return value
                    .ok_or_else(|| "environment variable is unset or empty".into())
                    .and_then(|value| parse(self, value.as_bytes()));
            }
            parse(self, text.as_bytes())
        });
        self.taken(secret, value, &format!("{path}.{name}"))
    }

    fn key_of(&self, bytes: &[u8]) -> Result<Key, String> {
        let key = key(bytes)?;
        match public_keys::objection(&key) {
            Some(objection) if !self.rules.public_keys_allowed => Err(objection.into()),
            _ => Ok(key),
        }
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
            let key =
                document::string(value.get_ref()).and_then(|text| self.key_of(text.as_bytes()));
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

    fn deliver(&mut self, entry: &DeTable<'_>, path: &str) -> DeliveryForm {
        let Some(value) = entry.get("deliver") else {
            return DeliveryForm::default();
        };
        let form = match value.get_ref().as_str() {
            Some("json") => Ok(DeliveryForm::Json),
            Some("envelope") => Ok(DeliveryForm::Envelope),
            _ => Err("expected \"json\" or \"envelope\"".into()),
        };
        let path = format!("{path}.deliver");
        self.taken(form, value, &path).unwrap_or_default()
    }

    fn front_redirect(&mut self, entry: &DeTable<'_>, path: &str) -> Option<Url> {
        let url = self.url(entry, path, "front_redirect")?;
        let value = entry.get("front_redirect")?;
        let path = format!("{path}.front_redirect");
        let url = match url.query_pairs().find_map(|(name, _)| result_field(&name)) {
            _ if entry.contains_key("front") => {
                Err("expected only one of front and front_redirect".into())
            }
            Some(field) => Err(format!(
                "expected a query without {field}, which the result's own field would meet"
            )),
            None => Ok(url),
        };
        self.taken(url, value, &path)
    }

    /// Returns true if `[end]` states the right number of merchants; a wrong one is a problem.
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

fn key(bytes: &[u8]) -> Result<Key, String> {
    Key::new(bytes).map_err(|_| "expected a non-empty string".into())
}

fn token_of(_: &Reader<'_, '_>, bytes: &[u8]) -> Result<Token, String> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    // A template's variable is long and plain enough to pass for a token.
    match public_keys::template(text) {
        Some(objection) => Err(objection.into()),
        None => Token::parse(text),
    }
}

/// The field of a result that a query parameter would be taken for. PHP drops blanks before a name, ends it at a NUL,
/// and makes a list of `name[…]`; other readers ignore case.
fn result_field(name: &str) -> Option<&'static str> {
    let name = name.trim_start().to_ascii_lowercase();
    let end = name
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(name.len());
    let name = name.get(..end)?;
    RESULT_FIELDS.into_iter().find(|field| *field == name)
}
