//! Bytes from a file that may be anything: read within limits, never waited for, known by their digest.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// 10,000 merchants take 2 MiB; this leaves room and still bounds memory.
pub(super) const MAX_FILE: u64 = 64 << 20;
/// A key is some dozens of bytes; a file past this is not a key.
pub(super) const MAX_KEY_FILE: u64 = 64 << 10;

/// The content of one file at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Content([u8; 32]),
    Unreadable(String),
}

/// The metadata of a file, which the system gives without reading it. Any write changes the time of the last change, which no program can
/// set (inode(7)); another file of the same name has another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Follows links, as reading does; none for what is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns true once a later write would get another time: file systems count in steps of up to two seconds.
    pub(super) fn is_settled(self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let latest = self.changed.0.max(self.modified.0);
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX) > latest.saturating_add(2)
    }
}

/// The content of each file of one load.
pub(super) type Contents = BTreeMap<PathBuf, Seen>;

/// The whole file. The buffer is sized first, so that no copy of a key is left behind by growing it.
pub(super) fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let (file, length) = open(path, limit)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    // One byte too many shows a file that has grown since it was opened.
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| reason(&error))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(limit));
    }
    Ok(bytes)
}

/// Digests a file in little memory; the outcome equals [`seen`] on the result of [`read`].
pub(super) fn look(path: &Path, limit: u64) -> Seen {
    match digest(path, limit) {
        Ok(digest) => Seen::Content(digest),
        Err(why) => Seen::Unreadable(why),
    }
}

pub(super) fn seen(read: &Result<Zeroizing<Vec<u8>>, String>) -> Seen {
    match read {
        Ok(bytes) => Seen::Content(Sha256::digest(bytes.as_slice()).into()),
        Err(why) => Seen::Unreadable(why.clone()),
    }
}

/// The text of a file, or the line and the likely encoding of one that is not UTF-8.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, (usize, String)> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.iter().take(error.valid_up_to());
        let line = 1 + before.filter(|b| **b == b'\n').count();
        let expected = match guessed_encoding(bytes) {
            Some(name) => format!(
                "expected UTF-8 text, and this looks like {name}; convert it with: iconv -f {name} -t UTF-8"
            ),
            None => "expected UTF-8 text".to_owned(),
        };
        (line, expected)
    })
}

/// The encoding that Chinese or Windows editors save by default.
fn guessed_encoding(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Some("UTF-16");
    }
    let text = encoding_rs::GBK.decode_without_bom_handling_and_without_replacement(bytes)?;
    // Stray bytes decode too, but to rare characters: those of everyday texts come first in the table, from U+4E00 on.
    let is_common = |c: char| {
        ('\u{4e00}'..='\u{9fff}').contains(&c)
            || ('\u{3000}'..='\u{303f}').contains(&c)
            || ('\u{ff00}'..='\u{ffef}').contains(&c)
    };
    let foreign = text.chars().filter(|c| !c.is_ascii());
    let (common, all) = foreign.fold((0, 0), |(common, all), c| {
        (common + usize::from(is_common(c)), all + 1)
    });
    (all > 0 && common * 10 >= all * 9).then_some("GBK")
}

/// Twelve hex digits, enough to tell versions of a file apart in a log.
pub(super) fn short_hex(digest: &[u8]) -> String {
    digest.iter().take(6).map(|b| format!("{b:02x}")).collect()
}

fn digest(path: &Path, limit: u64) -> Result<[u8; 32], String> {
    let (mut file, length) = open(path, limit)?;
    // Wiping is what reading a small file costs most.
    let size = (length as usize + 1).min(64 << 10);
    let mut buffer = Zeroizing::new(vec![0; size]);
    let mut hash = Sha256::new();
    let mut total = 0;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(reason(&error)),
        };
        total += n as u64;
        if total > limit {
            return Err(too_large(limit));
        }
        hash.update(buffer.get(..n).unwrap_or_default());
    }
}

/// `O_NONBLOCK`: opening a FIFO for reading would otherwise wait for its writer.
fn open(path: &Path, limit: u64) -> Result<(File, u64), String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| reason(&error))?;
    // Of the open file: the path may lead to another one by now.
    let metadata = file.metadata().map_err(|error| reason(&error))?;
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    if metadata.len() > limit {
        return Err(too_large(limit));
    }
    Ok((file, metadata.len()))
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        kind => format!("cannot be read, {kind}"),
    }
}

fn too_large(limit: u64) -> String {
    if limit >= 1 << 20 {
        format!("larger than {} MiB", limit >> 20)
    } else {
        format!("larger than {} KiB", limit >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_and_read_agree() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for (content, limit) in [("", 9), ("abc", 9), ("0123456789", 9)] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(look(&file, limit), seen(&read(&file, limit)), "{content}");
        }
        assert_eq!(look(dir.path(), 9), seen(&read(dir.path(), 9)));
    }

    #[test]
    fn limit_is_the_last_size_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "0123456789").unwrap();
        assert!(read(&file, 10).is_ok());
        assert_eq!(read(&file, 9).unwrap_err(), "larger than 0 KiB");
    }

    #[test]
    fn device_is_refused() {
        assert_eq!(
            read(Path::new("/dev/zero"), 9).unwrap_err(),
            "not a regular file"
        );
    }
}
