//! `merchants.toml`: the merchants in force, as one unchanging snapshot.
//!
//! Messages name keys of the file and never quote its values: any of them may be a misplaced secret.

mod read;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use url::Url;

use super::file;
use super::file::Contents;
use super::problem::Problems;
use super::settings::Settings;
use super::token::Token;
use super::weak_keys;
use super::weak_keys::KeyUse;
use super::web_url;
use crate::protocol::key::Key;
pub(super) use read::attempt;

/// Lines; a file with thousands of weak keys has said enough by then.
const MAX_WARNINGS: usize = 200;

/// One merchant of the platform and its app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merchant {
    /// 1 to 64 letters, digits, `-` and `_`.
    pub merid: String,
    /// Signs, and verifies.
    pub key: Key,
    /// Verifies at once, and signs from the moment the platform is seen to use it.
    pub next_key: Option<Key>,
    /// Verify only: what the platform may still send after a change of keys.
    pub old_keys: Vec<Key>,
    /// The address where the merchant's app takes results.
    pub back: Option<Url>,
    /// The secret that a delivery carries, so that the app knows the caller.
    pub back_token: Option<Token>,
    /// The form of a delivery.
    pub deliver: DeliveryForm,
    /// The page of the app that its customers come back to.
    pub front: Option<Url>,
    /// The page that a returning customer's browser is redirected to; never beside `front`.
    pub front_redirect: Option<Url>,
}

/// `deliver`: the form in which an app takes results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeliveryForm {
    /// Plain JSON, with what is known of it in headers.
    #[default]
    Json,
    /// A form of `resp` and `sign`, for an app that keeps its verifying code.
    Envelope,
}

/// One of a merchant's two keys that may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SigningKey {
    /// `key`
    #[default]
    Key,
    /// `next_key`
    NextKey,
}

impl SigningKey {
    /// The setting's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::NextKey => "next_key",
        }
    }
}

impl Merchant {
    /// A merchant with nothing but a key.
    pub fn new(merid: impl Into<String>, key: Key) -> Self {
        Self {
            merid: merid.into(),
            key,
            next_key: None,
            old_keys: Vec::new(),
            back: None,
            back_token: None,
            deliver: DeliveryForm::Json,
            front: None,
            front_redirect: None,
        }
    }

    /// The keys that a signature may be made with: `key`, then `next_key`, then the old ones.
    pub fn verifying_keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key)
            .chain(&self.next_key)
            .chain(&self.old_keys)
    }

    /// The old key that a signature was made with, by its place among [`Merchant::verifying_keys`].
    pub fn old_key(&self, key_index: usize) -> Option<&Key> {
        let signing = 1 + usize::from(self.next_key.is_some());
        self.old_keys.get(key_index.checked_sub(signing)?)
    }

    /// Returns true for the place of `next_key` among [`Merchant::verifying_keys`].
    pub fn is_next_key(&self, key_index: usize) -> bool {
        key_index == 1 && self.next_key.is_some()
    }

    /// The key itself; without a `next_key` there is only one.
    pub fn signing_key(&self, which: SigningKey) -> &Key {
        match which {
            SigningKey::Key => &self.key,
            SigningKey::NextKey => self.next_key.as_ref().unwrap_or(&self.key),
        }
    }

    /// Returns true if nobody else can make up a delivery to `back`.
    fn back_is_protected(&self) -> bool {
        self.back.as_ref().is_none_or(web_url::is_loopback)
            || self.back_token.is_some()
            || self.deliver == DeliveryForm::Envelope
    }
}

/// Settings that decide what a merchants file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MerchantRules {
    /// The platform is on this machine, so that keys which everybody knows do no harm.
    pub public_keys_allowed: bool,
    /// There is a listener for results that `back` could get.
    pub has_callbacks: bool,
}

impl MerchantRules {
    /// The rules for a file that no sidecar runs with.
    pub const LENIENT: Self = Self {
        public_keys_allowed: true,
        has_callbacks: true,
    };

    /// The rules of a sidecar with these settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            public_keys_allowed: web_url::is_loopback(&settings.platform.url),
            has_callbacks: settings.callbacks.is_some(),
        }
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
    pub(super) fn rules(&self) -> MerchantRules {
        self.rules
    }

    /// Returns true if `[end]` stated the number of merchants.
    pub(super) fn count_stated(&self) -> bool {
        self.count_stated
    }

    /// The content of the file and of its key files.
    pub(super) fn contents(&self) -> &Contents {
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
