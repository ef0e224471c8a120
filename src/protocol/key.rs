//! A merchant's signing key: shown only as a fingerprint, wiped when dropped.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The secret that a merchant shares with the platform: any bytes, at least one.
///
/// `Debug` and [`Key::fingerprint`] never show the bytes; comparison takes constant time for equal lengths.
#[derive(Clone)]
pub struct Key(Zeroizing<Box<[u8]>>);

/// A key of no bytes would let anyone sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key is empty")]
pub struct EmptyKeyError;

impl Key {
    /// Takes the key's bytes as they are: nothing is trimmed.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, EmptyKeyError> {
        let bytes = Zeroizing::new(bytes.into());
        if bytes.is_empty() {
            return Err(EmptyKeyError);
        }
        // A copy, not `into_boxed_slice`: that may move the bytes to shrink them, and leaves the old place unwiped.
        Ok(Self(Zeroizing::new(bytes.as_slice().into())))
    }

    /// Eight hex digits that tell keys apart and cannot be turned back into one.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::new_with_prefix(b"countersign key fingerprint\0")
            .chain_update(&*self.0)
            .finalize();
        digest[..4].iter().map(|b| format!("{b:02x}")).collect()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_a_fingerprint_and_no_bytes() {
        let key = Key::new("7d0f1c0a9be84e6e8e1f6f6a2c5b9d31").unwrap();
        let shown = format!("{key:?}");
        assert!(shown.starts_with("Key(") && shown.len() == 13, "{shown}");
        assert!(!shown.contains("7d0f"));
    }

    #[test]
    fn empty_key_is_refused() {
        assert_eq!(Key::new(""), Err(EmptyKeyError));
    }
}
