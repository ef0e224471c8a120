//! Secrets that stand in a file of their own: read within limits, without the marks that editors leave around them.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::file;
use super::file::Seen;

/// Windows editors put it before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A secret's bytes, or why there are none.
pub type Secret = Result<Zeroizing<Vec<u8>>, String>;

/// Reads a secret: one byte order mark at its start and one line end at its end are dropped, all else is the secret.
pub fn read(path: &Path) -> Secret {
    observed(path).0
}

/// Reads the file that a setting names, relative to `folder`. The name of a file that is not there is not quoted: it may
/// be the secret itself, given in place of the path.
pub(super) fn named(folder: &Path, text: &str) -> (PathBuf, Secret, Seen) {
    let path = folder.join(text);
    if text.is_empty() || text.contains('\0') {
        let expected = "expected a file's path".to_owned();
        return (path, Err(expected.clone()), Seen::Unreadable(expected));
    }
    let (read, seen) = observed(&path);
    let read = match read {
        Ok(bytes) if bytes.is_empty() => Err("expected a non-empty file".to_owned()),
        read => read,
    };
    let read = read.map_err(|why| match path.symlink_metadata() {
        Ok(_) => format!("{why}: {}", path.display()),
        Err(_) => format!(
            "{why}; relative paths are looked for in {}",
            folder.display()
        ),
    });
    (path, read, seen)
}

fn observed(path: &Path) -> (Secret, Seen) {
    let read = file::read(path, file::MAX_KEY_FILE);
    let seen = file::seen(&read);
    (
        read.map(|bytes| Zeroizing::new(bare(&bytes).to_vec())),
        seen,
    )
}

fn bare(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mark_and_one_line_end_are_dropped() {
        for (file, secret) in [
            (&b"key"[..], &b"key"[..]),
            (b"key\n", b"key"),
            (b"key\r\n", b"key"),
            (b"\xef\xbb\xbfkey\r\n", b"key"),
            (b"\xef\xbb\xbf\xef\xbb\xbfkey", b"\xef\xbb\xbfkey"),
            (b"key\n\n", b"key\n"),
            (b"key\r", b"key\r"),
            (b" key ", b" key "),
        ] {
            assert_eq!(bare(file), secret, "{file:?}");
        }
    }
}
