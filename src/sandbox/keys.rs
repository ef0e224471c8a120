//! The sandbox's keys: one for each merchant at a time, and the one that a rotation changes to.

use std::collections::HashMap;

use crate::config::{Merchant, Snapshot};
use crate::protocol::key::Key;

/// The key that the platform knows of each merchant.
#[derive(Default)]
pub(super) struct SandboxKeys(HashMap<String, PlatformKeys>);

struct PlatformKeys {
    /// Verifies what the merchant sends, and signs all that it gets.
    current: Key,
    next: Option<Key>,
}

impl SandboxKeys {
    /// The key that counts for a merchant now.
    pub(super) fn of(&self, merid: &str) -> Option<Key> {
        Some(self.0.get(merid)?.current.clone())
    }

    /// Gives a merchant a key, and the one to change to.
    pub(super) fn set(&mut self, merid: &str, current: Key, next: Option<Key>) {
        self.0
            .insert(merid.to_owned(), PlatformKeys { current, next });
    }

    /// Knows these merchants and no others. An edit of the merchant's file is no rotation: where the platform's key is still
    /// in the file, it goes on counting.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let keys = snapshot.iter().map(|merchant| {
            let known = self.of(&merchant.merid);
            (merchant.merid.clone(), PlatformKeys::after(known, merchant))
        });
        self.0 = keys.collect();
    }

    /// Changes the keys of all merchants that have a next one, and returns their merids.
    pub(super) fn rotate(&mut self) -> Vec<String> {
        let mut changed = Vec::new();
        for (merid, keys) in &mut self.0 {
            if let Some(next) = &mut keys.next {
                std::mem::swap(next, &mut keys.current);
                changed.push(merid.clone());
            }
        }
        changed.sort();
        changed
    }
}

impl PlatformKeys {
    fn after(known: Option<Key>, merchant: &Merchant) -> Self {
        let (key, next_key) = (merchant.key.clone(), merchant.next_key.clone());
        if known.is_some() && known == next_key {
            return Self {
                current: known.unwrap_or_else(|| key.clone()),
                next: Some(key),
            };
        }
        Self {
            current: key,
            next: next_key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn file(current: &str, next: Option<&str>) -> Snapshot {
        let mut merchant = Merchant::new("1", key(current));
        merchant.next_key = next.map(key);
        Snapshot::from_merchants(vec![merchant])
    }

    #[test]
    fn an_edit_is_no_rotation_and_a_rotation_outlives_an_edit() {
        let mut keys = SandboxKeys::default();
        keys.follow(&file("old", None));
        assert!(keys.rotate().is_empty());
        keys.follow(&file("old", Some("new")));
        assert_eq!(keys.of("1"), Some(key("old")));
        // An edit that comes too early changes nothing at the platform.
        keys.follow(&file("new", Some("old")));
        assert_eq!(keys.of("1"), Some(key("old")));
        assert_eq!(keys.rotate(), ["1"]);
        assert_eq!(keys.of("1"), Some(key("new")));
        keys.follow(&file("new", None));
        assert_eq!(keys.of("1"), Some(key("new")));
        assert_eq!(keys.of("2"), None);
    }
}
