//! All merchants of one load.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::merchant::Merchant;
use super::read::understand;
use super::rules::MerchantRules;
use crate::config::file;
use crate::config::file::{Contents, Seen};
use crate::config::problem::{Problem, Problems};
use crate::config::weak_keys;
use crate::config::weak_keys::KeyUse;

/// Lines; more would not help with a file of thousands of weak keys.
const MAX_WARNINGS: usize = 200;

/// The merchants of one load, unchanging; a request takes one and keeps it.
pub struct Snapshot {
    merchants: Vec<Arc<Merchant>>,
    by_merid: HashMap<String, usize>,
    digest: String,
    warnings: Vec<String>,
    count_stated: bool,
    contents: Contents,
    rules: MerchantRules,
}

impl Snapshot {
    /// Reads the file and the key files it names, all of it or nothing, as `rules` say.
    pub fn load_for(
        rules: MerchantRules,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        attempt(rules, path, env).0
    }

    /// Reads a file that no sidecar runs with.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        Self::load_for(MerchantRules::LENIENT, path, env)
    }

    /// Merchants without a file. Of two with one merid, the first counts.
    pub fn from_merchants(merchants: Vec<Merchant>) -> Self {
        let mut hash = Sha256::new();
        for merchant in &merchants {
            hash.update(format!("{merchant:?}\n"));
        }
        let digest = file::short_hex(&hash.finalize());
        Self::new(MerchantRules::LENIENT, merchants, digest)
    }

    /// The merchant with this merid.
    pub fn merchant(&self, merid: &str) -> Option<&Arc<Merchant>> {
        self.merchants.get(*self.by_merid.get(merid)?)
    }

    /// The only merchant; none where there are several.
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

    /// The number of merchants.
    pub fn len(&self) -> usize {
        self.merchants.len()
    }

    /// Returns true if there is none; never so for a loaded file.
    pub fn is_empty(&self) -> bool {
        self.merchants.is_empty()
    }

    /// Twelve hex digits: of the file's SHA-256, or with key files of the SHA-256 of all their SHA-256s.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Weak and shared keys and unprotected addresses, by merid.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The rules that the file was judged by.
    pub(in crate::config) fn rules(&self) -> MerchantRules {
        self.rules
    }

    /// Returns true if `[end]` stated the number of merchants.
    pub(in crate::config) fn count_stated(&self) -> bool {
        self.count_stated
    }

    /// The content of the file and of its key files.
    pub(in crate::config) fn contents(&self) -> &Contents {
        &self.contents
    }

    fn new(rules: MerchantRules, mut merchants: Vec<Merchant>, digest: String) -> Self {
        let mut by_merid = HashMap::with_capacity(merchants.len());
        merchants.retain(|merchant| {
            let next = by_merid.len();
            let place = *by_merid.entry(merchant.merid.clone()).or_insert(next);
            place == next
        });
        Self {
            warnings: warnings(rules, &merchants),
            merchants: merchants.into_iter().map(Arc::new).collect(),
            by_merid,
            digest,
            count_stated: false,
            contents: Contents::new(),
            rules,
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

fn warnings(rules: MerchantRules, merchants: &[Merchant]) -> Vec<String> {
    let keys: Vec<_> = merchants
        .iter()
        .map(|merchant| KeyUse {
            merid: &merchant.merid,
            key: &merchant.key,
            next_key: merchant.next_key.as_ref(),
            old_keys: &merchant.old_keys,
        })
        .collect();
    let mut warnings = weak_keys::warnings(&keys);
    for merchant in merchants {
        let merid = &merchant.merid;
        if merchant.back.is_some() && !rules.has_callbacks {
            warnings.push(format!(
                "merchant {merid}: back gets only results that are found by query, because there is no [callbacks]"
            ));
        }
        if !merchant.back_is_protected() {
            warnings.push(format!(
                "merchant {merid}: anyone who reaches back can make up a result; set back_token or deliver = \"envelope\", \
                 and check it in the app"
            ));
        }
    }
    if warnings.len() > MAX_WARNINGS {
        let more = warnings.len() - MAX_WARNINGS;
        warnings.truncate(MAX_WARNINGS);
        warnings.push(format!("{more} more warnings about merchants"));
    }
    warnings
}

/// Loads the file once, and returns the content of each file that it looked at, whatever came of it.
pub(in crate::config) fn attempt(
    rules: MerchantRules,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Result<Snapshot, Problems>, Contents) {
    let read = file::read(path, file::MAX_FILE);
    let mut contents = Contents::from([(path.to_owned(), file::seen(&read))]);
    let loaded = read
        .map_err(|why| Problem::new(path, "", why).into())
        .and_then(|bytes| understand(rules, path, &bytes, env, &mut contents));
    let snapshot = loaded.map(|file| {
        let mut snapshot = Snapshot::new(rules, file.merchants, digest(path, &contents));
        snapshot.count_stated = file.count_stated;
        snapshot.contents = contents.clone();
        if let Some(first) = file.exposed.first() {
            snapshot.warnings.push(format!(
                "{} of the files with keys or tokens can be read by every user of this machine, {} for one; chmod o-r",
                file.exposed.len(),
                first.display()
            ));
        }
        snapshot
    });
    (snapshot, contents)
}

fn digest(path: &Path, contents: &Contents) -> String {
    let content = |seen: &Seen| match seen {
        Seen::Content(digest) => *digest,
        // Never met: a file that cannot be read fails the load, which then has no digest.
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
