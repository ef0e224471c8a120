//! The platform's signature over an envelope's text: `sign` on the wire.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::key::Key;

/// MD5 over an envelope's text followed by the key (document §2.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 16]);

impl Signature {
    /// Signs a text as it will be sent.
    pub fn over(text: &[u8], key: &Key) -> Self {
        // With the key last, two texts that collide in MD5 collide under every key (as in RADIUS, CVE-2024-3596): a
        // valid signature is not enough, and results are compared with the ledger.
        let md5 = Md5::new().chain_update(text).chain_update(key.bytes());
        Self::finish(md5)
    }

    pub(super) fn finish(md5: Md5) -> Self {
        Self(md5.finalize().into())
    }

    /// Reads 32 hex digits of either case.
    pub fn parse(hex: &str) -> Option<Self> {
        let hex: &[u8; 32] = hex.as_bytes().try_into().ok()?;
        let mut signature = [0; 16];
        for (byte, pair) in signature.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(signature))
    }

    /// Returns true if the key gives this signature over the text; the comparison takes constant time.
    pub(super) fn fits(self, text: &[u8], key: &Key) -> bool {
        Self::over(text, key).0.ct_eq(&self.0).into()
    }

    pub(super) fn hex(self) -> [u8; 32] {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
        let mut hex = [0; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = digit(byte >> 4);
            pair[1] = digit(byte);
        }
        hex
    }
}

pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hex()
            .iter()
            .try_for_each(|&digit| write!(f, "{}", char::from(digit)))
    }
}

// A signature beside its text lets anyone replay the message, so no log shows one by accident.
impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(…)")
    }
}
