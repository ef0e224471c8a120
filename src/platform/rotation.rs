//! Rotation: which of a merchant's two keys signs while `next_key` is set.
//!
//! Signing switches to `next_key` on a verified response to a query of ours that is signed with it. A callback switches
//! nothing: anyone can send an old one again. The switch is kept in the store with the fingerprints of both keys, so that
//! it ends where the file is edited.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::response;
use super::response::OpenError;
use crate::config::{Merchant, SigningKey, Snapshot};
use crate::http::client::RawResponse;
use crate::http::client::error::ClientError;
use crate::inbox::store::{KeySwitch, Store, StoreError};
use crate::protocol::envelope::Verified;
use crate::protocol::key::Key;
use crate::protocol::result;
use crate::telemetry::metrics::Metrics;
use crate::time;

/// The switches to a `next_key` that are in force.
pub struct KeyRotation {
    /// None for a command that has no store at hand: then nothing switches.
    store: Option<Arc<dyn Store>>,
    metrics: Arc<Metrics>,
    switches: RwLock<HashMap<String, KeySwitch>>,
    /// True once the store's switches were read.
    is_read: AtomicBool,
}

impl KeyRotation {
    /// Begins without a switch; the store is read when the first one could matter.
    pub fn new(store: Option<Arc<dyn Store>>, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            metrics,
            switches: RwLock::default(),
            is_read: AtomicBool::new(false),
        }
    }

    /// Returns the key that signs for a merchant.
    pub async fn signing_key<'m>(&self, merchant: &'m Merchant) -> &'m Key {
        // A call of a merchant whose keys do not rotate takes no lock and waits for nothing.
        if merchant.next_key.is_none() {
            return &merchant.key;
        }
        if !self.is_read.load(Ordering::Acquire)
            && let Err(error) = self.read().await
        {
            let merid = merchant.merid.as_str();
            tracing::error!(merid, %error, "the switches of keys cannot be read; the old key signs");
        }
        merchant.signing_key(self.state(merchant))
    }

    /// Sends a query with `post` and opens its response.
    ///
    /// While a `next_key` is set, a query that the platform rejects for its signature is sent once more with the other key:
    /// the platform does not say when it switches, and a query changes nothing.
    pub async fn query<P>(
        &self,
        merchant: &Merchant,
        post: impl Fn(&Key) -> P,
    ) -> Result<(RawResponse, Result<Verified<Vec<u8>>, OpenError>), ClientError>
    where
        P: Future<Output = Result<RawResponse, ClientError>>,
    {
        let key = self.signing_key(merchant).await;
        let mut response = post(key).await?;
        let mut opened = response::open(&response, merchant);
        if let Some(other) = other_key(merchant, key)
            && rejects_signature(&opened, merchant, key)
        {
            // Once: where both keys are rejected, the key is not what is wrong.
            response = post(other).await?;
            opened = response::open(&response, merchant);
        }
        if let Ok(payload) = &opened {
            self.notice(merchant, payload.key_index()).await;
        }
        Ok((response, opened))
    }

    /// Returns true for a merchant whose platform has not been seen to use its `next_key`.
    pub fn is_waiting(&self, merchant: &Merchant) -> bool {
        merchant.next_key.is_some() && self.state(merchant) == SigningKey::Key
    }

    /// Reads the switches of other sidecars, and drops those between keys that the file does not have any more.
    pub async fn keep_in_step(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.read().await?;
        let Some(store) = &self.store else {
            return Ok(());
        };
        let switches: Vec<_> = self.switches.read().values().cloned().collect();
        for switch in switches {
            // A merchant that is missing may be back with the next edit.
            let edited = |merchant: &Merchant| !is_between_keys_of(&switch, merchant);
            let merchant = snapshot.merchant(&switch.merid);
            if merchant.is_some_and(|merchant| edited(merchant)) {
                store.forget_key_switch(&switch.merid).await?;
                self.switches.write().remove(&switch.merid);
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let switches = store.key_switches().await?;
        let by_merid = switches
            .into_iter()
            .map(|switch| (switch.merid.clone(), switch));
        *self.switches.write() = by_merid.collect();
        // Not on an error: the next call of a rotating merchant reads again.
        self.is_read.store(true, Ordering::Release);
        Ok(())
    }

    fn state(&self, merchant: &Merchant) -> SigningKey {
        let switches = self.switches.read();
        let switch = switches.get(&merchant.merid);
        match switch.is_some_and(|switch| is_between_keys_of(switch, merchant)) {
            true => SigningKey::NextKey,
            false => SigningKey::Key,
        }
    }

    /// Switches where a fresh response is the first that is signed with `next_key`.
    async fn notice(&self, merchant: &Merchant, key_index: usize) {
        let (Some(next_key), Some(store)) = (&merchant.next_key, &self.store) else {
            return;
        };
        if !merchant.is_next_key(key_index) || !self.is_waiting(merchant) {
            return;
        }
        let switch = KeySwitch {
            merid: merchant.merid.clone(),
            from_key: merchant.key.fingerprint(),
            to_key: next_key.fingerprint(),
            at: time::now(),
        };
        // In memory first: queries sign with the new key from now on, even where the store cannot keep the switch.
        let known = self
            .switches
            .write()
            .insert(switch.merid.clone(), switch.clone());
        // Many queries may be the first at once.
        if known.is_some_and(|known| known.to_key == switch.to_key) {
            return;
        }
        self.metrics.key_switches.inc();
        tracing::warn!(
            merid = switch.merid,
            from_key = switch.from_key,
            to_key = switch.to_key,
            "the platform signs with next_key, and so does the sidecar from now on; make it the merchant's key in the file"
        );
        if let Err(error) = store.key_switched(switch).await {
            let merid = merchant.merid.as_str();
            tracing::error!(merid, %error, "the switch to next_key is not in the store; a restart begins with the old key");
        }
    }
}

/// Returns the key that a query is repeated with; `None` without a `next_key`.
fn other_key<'m>(merchant: &'m Merchant, key: &Key) -> Option<&'m Key> {
    let next_key = merchant.next_key.as_ref()?;
    Some(if key == next_key {
        &merchant.key
    } else {
        next_key
    })
}

/// Returns true where a switch was made between the very keys that the file has.
fn is_between_keys_of(switch: &KeySwitch, merchant: &Merchant) -> bool {
    let next_key = merchant.next_key.as_ref().map(Key::fingerprint);
    switch.from_key == merchant.key.fingerprint() && Some(&switch.to_key) == next_key.as_ref()
}

/// Returns true where the platform did not know the key that signed a query: it leaves its own signature empty (document
/// §2.2), or signs a failure with the other key.
fn rejects_signature(
    opened: &Result<Verified<Vec<u8>>, OpenError>,
    merchant: &Merchant,
    signed_with: &Key,
) -> bool {
    match opened {
        Ok(payload) => {
            let key = merchant.verifying_keys().nth(payload.key_index());
            key != Some(signed_with) && result::failed_respcode(payload).is_some()
        }
        Err(error) => matches!(error, OpenError::Unsigned(_)),
    }
}
