//! The switches between a merchant's two keys, in memory and in the store.
//!
//! A switch names both keys by their fingerprints, so it ends where the file is edited. The store's row outlives the
//! process and is shared by a fleet; memory decides, so that a store that cannot be reached delays no call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::config::{Merchant, SigningKey, Snapshot};
use crate::inbox::store::{KeySwitch, Store, StoreError};
use crate::protocol::key::Key;
use crate::time;
use crate::time::Millis;

/// The longest wait of a query for the store; what is not kept by then is kept in a later round.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before a call tries again to read a store that failed.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Milliseconds within which the other sidecars of a fleet get an edited file: a row that does not fit ours may fit theirs.
const FLEET_EDIT: Millis = 60 * 60 * 1000;

/// The key that signs for a merchant according to a switch; `None` where the switch is between other keys than the file has.
pub fn signing_key(switch: &KeySwitch, merchant: &Merchant) -> Option<SigningKey> {
    let next_key = merchant.next_key.as_ref().map(Key::fingerprint)?;
    let key = merchant.key.fingerprint();
    match (&switch.from_key, &switch.to_key) {
        (from, to) if *from == key && *to == next_key => Some(SigningKey::NextKey),
        (from, to) if *from == next_key && *to == key => Some(SigningKey::Key),
        _ => None,
    }
}

/// The newest switch of each merchant.
pub(super) struct KeySwitches {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<String, KnownSwitch>>,
    /// True once the store was read.
    is_read: AtomicBool,
    /// The time of the next attempt at a first reading; held while one goes on.
    read_again: Mutex<Instant>,
}

struct KnownSwitch {
    switch: KeySwitch,
    is_saved: bool,
}

impl KeySwitches {
    /// Begins without a switch; the store is read when the first one could matter.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            known: RwLock::default(),
            is_read: AtomicBool::new(false),
            read_again: Mutex::new(Instant::now()),
        }
    }

    /// Returns the key that signs for a merchant whose keys rotate.
    pub(super) async fn current(&self, merchant: &Merchant) -> SigningKey {
        if !self.is_read.load(Ordering::Acquire) {
            self.read_first().await;
        }
        self.known_key(merchant)
    }

    /// Returns the same by what is in memory.
    pub(super) fn known_key(&self, merchant: &Merchant) -> SigningKey {
        let known = self.known.read();
        let known = known.get(&merchant.merid);
        known
            .and_then(|known| signing_key(&known.switch, merchant))
            .unwrap_or_default()
    }

    /// Makes `to` the key that signs. Returns the switch, or `None` where another query was faster.
    pub(super) fn switch(&self, merchant: &Merchant, to: SigningKey) -> Option<KeySwitch> {
        let next_key = merchant.next_key.as_ref()?;
        let (from_key, to_key) = match to {
            SigningKey::NextKey => (&merchant.key, next_key),
            SigningKey::Key => (next_key, &merchant.key),
        };
        let switch = KeySwitch {
            merid: merchant.merid.clone(),
            from_key: from_key.fingerprint(),
            to_key: to_key.fingerprint(),
            at: time::now(),
        };
        let mut known = self.known.write();
        let before = known.get(&switch.merid);
        let before = before.and_then(|known| signing_key(&known.switch, merchant));
        if before.unwrap_or_default() == to {
            return None;
        }
        let made = KnownSwitch {
            switch: switch.clone(),
            is_saved: false,
        };
        known.insert(switch.merid.clone(), made);
        Some(switch)
    }

    /// Keeps a switch in the store, or logs why a restart would not know of it.
    pub(super) async fn save(&self, switch: KeySwitch) {
        let saved = timeout(PATIENCE, self.store.key_switched(switch.clone())).await;
        let error = match saved {
            Ok(Ok(())) => {
                let mut known = self.known.write();
                let same = known.get_mut(&switch.merid);
                if let Some(known) = same.filter(|known| known.switch == switch) {
                    known.is_saved = true;
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("nothing was kept within {PATIENCE:?}"),
        };
        let merid = switch.merid.as_str();
        tracing::error!(
            merid,
            error,
            "the switch of the signing key is not in the store; it is tried again, and a restart before begins with key"
        );
    }

    /// Reads the switches of other sidecars, keeps in the store what is not there yet, and drops what is between other keys
    /// than the file has.
    pub(super) async fn keep_in_step(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let ended = self.end_edited(snapshot);
        let rows = self.store.key_switches().await?;
        for row in &rows {
            // A merchant that is missing may be back with the next edit.
            let is_edited = snapshot
                .merchant(&row.merid)
                .is_some_and(|merchant| signing_key(row, merchant).is_none());
            if is_edited && (ended.contains(row) || row.at < time::now() - FLEET_EDIT) {
                self.store.forget_key_switch(&row.merid).await?;
            }
        }
        self.merge(rows);
        let unsaved: Vec<_> = {
            let known = self.known.read();
            let unsaved = known.values().filter(|known| !known.is_saved);
            unsaved.map(|known| known.switch.clone()).collect()
        };
        for switch in unsaved {
            self.save(switch).await;
        }
        Ok(())
    }

    async fn read_first(&self) {
        let mut read_again = self.read_again.lock().await;
        if self.is_read.load(Ordering::Acquire) || Instant::now() < *read_again {
            return;
        }
        let error = match timeout(PATIENCE, self.store.key_switches()).await {
            Ok(Ok(rows)) => return self.merge(rows),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no response within {PATIENCE:?}"),
        };
        *read_again = Instant::now() + READ_AGAIN;
        tracing::error!(
            error,
            "the switches of signing keys cannot be read from the store; merchants with next_key sign with key meanwhile"
        );
    }

    /// Takes what the store has. A switch that was made while it was read is newer, and stays.
    fn merge(&self, rows: Vec<KeySwitch>) {
        let mut known = self.known.write();
        for row in rows {
            match known.get_mut(&row.merid) {
                // What is in memory fits the file; this row is of a sidecar whose file was edited before ours, or after.
                Some(known) if !is_same_pair(&known.switch, &row) => {}
                Some(known) if known.switch.at >= row.at => known.is_saved &= known.switch == row,
                _ => {
                    let read = KnownSwitch {
                        switch: row.clone(),
                        is_saved: true,
                    };
                    known.insert(row.merid, read);
                }
            }
        }
        // Not on an error: a later call of a rotating merchant reads again.
        self.is_read.store(true, Ordering::Release);
    }

    /// Forgets the switches between keys that the file does not have any more, and returns them.
    fn end_edited(&self, snapshot: &Snapshot) -> Vec<KeySwitch> {
        let mut ended = Vec::new();
        self.known.write().retain(|merid, known| {
            let merchant = snapshot.merchant(merid);
            let fits = merchant.is_none_or(|it| signing_key(&known.switch, it).is_some());
            if !fits {
                ended.push(known.switch.clone());
            }
            fits
        });
        ended
    }
}

fn is_same_pair(one: &KeySwitch, other: &KeySwitch) -> bool {
    let same = (&one.from_key, &one.to_key) == (&other.from_key, &other.to_key);
    same || (&one.from_key, &one.to_key) == (&other.to_key, &other.from_key)
}
