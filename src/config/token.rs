//! Secrets between us and our own callers or apps: shown to nobody, wiped when dropped, compared in constant time.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Characters; with fewer, guessing is no longer hopeless.
const MIN: usize = 16;
/// Characters; it must fit a header beside others.
const MAX: usize = 512;

/// `admin.token` or a merchant's `back_token`: 16 to 512 printable characters without spaces.
#[derive(Clone)]
pub struct Token(Zeroizing<Box<str>>);

impl Token {
    /// Takes the text as it is.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let plain = text.bytes().all(|b| b.is_ascii_graphic());
        if !(MIN..=MAX).contains(&text.len()) || !plain {
            return Err(format!(
                "expected {MIN} to {MAX} letters, digits and signs, as from \"openssl rand -hex 32\""
            ));
        }
        Ok(Self(Zeroizing::new(text.into())))
    }

    /// The token itself, for the header of a request that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns true if `given` is this token. The time it takes tells nothing about either's length or start.
    pub fn is(&self, given: &str) -> bool {
        let [ours, theirs] = [&self.0, given].map(|text| Sha256::digest(text.as_bytes()));
        ours.ct_eq(&theirs).into()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_and_shows_nothing() {
        let token = Token::parse("3f786850e387550fdab836ed7e6dc881").unwrap();
        assert!(token.is("3f786850e387550fdab836ed7e6dc881"));
        for other in ["", "3f786850e387550fdab836ed7e6dc88", "x"] {
            assert!(!token.is(other));
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn short_and_odd_tokens_are_refused() {
        for text in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "密密密密密密密密",
        ] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
    }
}
