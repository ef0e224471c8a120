//! One merchant: its keys, and where its app takes results.

use url::Url;

use crate::config::token::Token;
use crate::config::web_url;
use crate::protocol::key::Key;

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
    /// Both, the key that signs without a rotation first.
    pub const ALL: [Self; 2] = [Self::Key, Self::NextKey];

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
        self.signing_keys().chain(&self.old_keys)
    }

    /// The keys that a signature of ours may be made with: `key`, then `next_key`.
    pub fn signing_keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(&self.next_key)
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

    /// Returns true if no other host can make up a delivery to `back`.
    pub(super) fn back_is_protected(&self) -> bool {
        self.back.as_ref().is_none_or(web_url::is_loopback)
            || self.back_token.is_some()
            || self.deliver == DeliveryForm::Envelope
    }
}
