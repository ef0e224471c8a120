//! Secrets between us and our own callers or apps: never shown, wiped when dropped, compared in constant time.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::file::Stamp;
use super::secret_file;

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

    /// Returns true if `given` is this token. The time it takes does not depend on either's length or start.
    pub fn is(&self, given: &str) -> bool {
        // Compared as digests: `ct_eq` returns at once for two lengths, and these have one.
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

/// A token that is followed: its file is read again when it changes, and a wrong one leaves the last good one valid.
#[derive(Clone)]
pub struct LiveToken {
    file: Option<PathBuf>,
    current: Arc<Mutex<(Option<Stamp>, Token)>>,
}

impl LiveToken {
    /// A token from the settings or the environment: it never changes.
    pub(super) fn fixed(token: Token) -> Self {
        Self {
            file: None,
            current: Arc::new(Mutex::new((None, token))),
        }
    }

    /// Reads a token's file, relative to `folder`.
    pub(super) fn from_file(folder: &Path, text: &str) -> Result<Self, String> {
        let path = folder.join(text);
        // Taken before the content, so that the next look notices a write in between.
        let stamp = Stamp::of(&path);
        let token = read_file(folder, text)?;
        Ok(Self {
            file: Some(path),
            current: Arc::new(Mutex::new((stamp.filter(|it| it.is_settled()), token))),
        })
    }

    /// Returns true if `given` is the token that is valid now.
    pub fn is(&self, given: &str) -> bool {
        let mut current = self.current.lock();
        if let Some(path) = &self.file {
            let stamp = Stamp::of(path);
            if stamp.is_none() || stamp != current.0 {
                self.read_again(path, stamp, &mut current);
            }
        }
        current.1.is(given)
    }

    fn read_again(&self, path: &Path, stamp: Option<Stamp>, current: &mut (Option<Stamp>, Token)) {
        match read_file(Path::new(""), &path.to_string_lossy()) {
            Ok(token) => {
                let is_new = token != current.1;
                *current = (stamp.filter(|it| it.is_settled()), token);
                if is_new {
                    tracing::info!(file = %path.display(), "the admin token was read again");
                }
            }
            // Once for each state of a file that is there; one that is missing has no state to compare.
            Err(why) if stamp != current.0 || stamp.is_none() => {
                current.0 = stamp;
                tracing::error!(file = %path.display(), why, "the admin token is rejected; the last good one stays valid");
            }
            Err(_) => {}
        }
    }
}

impl fmt::Debug for LiveToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveToken(…)")
    }
}

fn read_file(folder: &Path, text: &str) -> Result<Token, String> {
    let (_, bytes, _) = secret_file::named(folder, text);
    Token::parse(std::str::from_utf8(&bytes?).unwrap_or_default())
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
