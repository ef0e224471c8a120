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
    current: Arc<Mutex<CurrentToken>>,
}

struct CurrentToken {
    /// The file's state at the last look; `None` where another look is needed.
    stamp: Option<Stamp>,
    token: Token,
    /// The reason that was logged last for keeping an older token: each call looks at a file that is missing.
    rejected: Option<String>,
}

impl CurrentToken {
    fn new(stamp: Option<Stamp>, token: Token) -> Self {
        Self {
            stamp: stamp.filter(|it| it.is_settled()),
            token,
            rejected: None,
        }
    }
}

impl LiveToken {
    /// A token from the settings or the environment: it never changes.
    pub(super) fn fixed(token: Token) -> Self {
        Self {
            file: None,
            current: Arc::new(Mutex::new(CurrentToken::new(None, token))),
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
            current: Arc::new(Mutex::new(CurrentToken::new(stamp, token))),
        })
    }

    /// Returns true if `given` is the token that is valid now.
    pub fn is(&self, given: &str) -> bool {
        let mut current = self.current.lock();
        if let Some(path) = &self.file {
            let stamp = Stamp::of(path);
            if stamp.is_none() || stamp != current.stamp {
                self.read_again(path, stamp, &mut current);
            }
        }
        current.token.is(given)
    }

    fn read_again(&self, path: &Path, stamp: Option<Stamp>, current: &mut CurrentToken) {
        match read_file(Path::new(""), &path.to_string_lossy()) {
            Ok(token) => {
                let is_new = token != current.token;
                *current = CurrentToken::new(stamp, token);
                if is_new {
                    tracing::info!(file = %path.display(), "the admin token was read again");
                }
            }
            Err(why) => {
                // Looked at again until it has settled: a correction may come within the same time stamp.
                current.stamp = stamp.filter(|it| it.is_settled());
                if current.rejected.as_ref() != Some(&why) {
                    tracing::error!(file = %path.display(), why, "the admin token is rejected; the last good one stays valid");
                    current.rejected = Some(why);
                }
            }
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
    fn a_correction_is_read_however_soon_it_comes_and_a_reason_is_noted_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("0123456789abcdef");
        let live = LiveToken::from_file(folder.path(), "token").unwrap();
        for round in 0..50 {
            write("0123456789 bcdef");
            live.is("");
            let corrected = format!("0123456789abc{round:03}");
            write(&corrected);
            assert!(live.is(&corrected), "{round}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(live.is("0123456789abc049"));
        let first = live.current.lock().rejected.clone();
        assert!(first.is_some());
        live.is("");
        assert_eq!(live.current.lock().rejected, first);
        write("fedcba9876543210");
        assert!(live.is("fedcba9876543210"));
        assert_eq!(live.current.lock().rejected, None);
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
