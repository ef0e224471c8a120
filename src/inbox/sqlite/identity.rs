//! The file that the path names: proof that it is still the one that was opened, and the lock of the instance that has it.
//!
//! A descriptor of our own stays open until every connection to the file is closed, and there is one for each file.
//! Closing it earlier would drop the POSIX locks that SQLite holds on the same file (fcntl(2), "record locks").

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::inbox::store::StoreError;

/// Files beside the store's: their loss is the loss of commits.
const BESIDE: [&str; 2] = ["-wal", "-shm"];
/// Files that show that there was a store, where its file is missing or empty.
const TRACES: [&str; 4] = ["-wal", "-shm", "-journal", ".lock"];
/// Offset of the file change counter in the header (SQLite file format, 1.3): it never goes back.
const CHANGE_COUNTER: u64 = 24;

/// Device and inode.
type FileIdentity = (u64, u64);

/// The descriptors of this process, one for each file, with the number of their users.
static OPEN: Mutex<Vec<Descriptor>> = Mutex::new(Vec::new());

struct Descriptor {
    identity: FileIdentity,
    file: Arc<File>,
    users: usize,
}

/// The store's file, held open. It outlives every connection to it.
pub(super) struct StoreFile {
    path: PathBuf,
    /// The path without links: SQLite puts its other files there.
    resolved: PathBuf,
    file: Option<Arc<File>>,
    identity: FileIdentity,
    known: Mutex<Known>,
    /// True where the file was made just now.
    pub(super) is_new: bool,
    /// True where another process, or an earlier one, left commits beside the file.
    pub(super) was_left_open: bool,
}

#[derive(Default)]
struct Known {
    beside: [Option<FileIdentity>; BESIDE.len()],
    /// Size and time of the file, with the counter that it had then.
    written: Option<(u64, i64, i64)>,
    counter: u32,
    /// Set once the file was overwritten in place.
    overwritten: bool,
}

impl StoreFile {
    /// Opens the file; makes an empty one where none is and none was, if `may_create`.
    pub(super) fn open(path: &Path, may_create: bool) -> Result<Self, StoreError> {
        let is_new = match path.metadata() {
            Ok(found) if found.len() > 0 => false,
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(at(path, &error)),
        };
        if is_new {
            if !may_create {
                return Err(StoreError::Absent(format!(
                    "{}: no sidecar has been started on this store",
                    path.display()
                )));
            }
            make(path)?;
        }
        let resolved = path.canonicalize().map_err(|error| at(path, &error))?;
        let (file, identity) = acquire(path).map_err(|error| at(path, &error))?;
        let wal = with_suffix(&resolved, BESIDE[0]);
        let was_left_open = wal.metadata().is_ok_and(|wal| wal.len() > 0);
        Ok(Self {
            path: path.to_owned(),
            resolved,
            file: Some(file),
            identity,
            known: Mutex::default(),
            is_new,
            was_left_open,
        })
    }

    /// Locks the file itself, by whatever path or link it was opened.
    pub(super) fn try_lock(&self) -> Result<(), StoreError> {
        let file = self.file().map_err(|error| at(&self.path, &error))?;
        // flock(2), which belongs to the descriptor and is apart from SQLite's fcntl locks on local file systems. On
        // NFS, Linux emulates one by the other, and they collide.
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                Err(StoreError::InUse(self.resolved.display().to_string()))
            }
            Err(TryLockError::Error(error)) => Err(at(&self.path, &error)),
        }
    }

    /// Waits for that lock.
    pub(super) fn lock(&self) -> io::Result<()> {
        self.file()?.lock()
    }

    /// Gives that lock back.
    pub(super) fn unlock(&self) {
        if let Err(error) = self.file().and_then(File::unlock) {
            tracing::error!(%error, path = %self.path.display(), "the store's lock cannot be given back");
        }
    }

    /// Rejects a file that is older than the commits beside it: a copy was put in its place. `checkpointed` is the change
    /// counter that the last checkpoint left.
    pub(super) fn check_age(&self, checkpointed: u32) -> Result<(), StoreError> {
        let counter = self.counter().map_err(|error| at(&self.path, &error))?;
        if self.was_left_open && counter < checkpointed {
            return Err(StoreError::Damaged(format!(
                "{} is an older copy, and the -wal beside it belongs to a later one: to use the copy, move its -wal and \
                 -shm away; commits after the copy are lost then",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// Returns the bytes of commits beside the file.
    pub(super) fn wal_bytes(&self) -> u64 {
        let wal = with_suffix(&self.resolved, BESIDE[0]).metadata();
        wal.map_or(0, |wal| wal.len())
    }

    /// Flushes the file.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let flushed = self.file().and_then(File::sync_data);
        flushed.map_err(|error| at(&self.path, &error))
    }

    /// Remembers the files beside it, once SQLite has made them.
    pub(super) fn remember(&self) {
        let mut known = self.known.lock();
        for (suffix, slot) in BESIDE.iter().zip(&mut known.beside) {
            let found = with_suffix(&self.resolved, suffix).metadata();
            *slot = found.ok().map(|it| identity(&it));
        }
        known.counter = self.counter().unwrap_or_default();
    }

    /// Returns an error unless the path, the open file and the files beside it are those that were opened: only what is
    /// in them is found by the next start.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        let moved = |why: &str| {
            let path = self.path.display();
            Err(StoreError::Moved(format!("{path} {why}")))
        };
        let Ok(named) = self.path.metadata() else {
            return moved("is gone: put the file back, or restart to begin with what is there");
        };
        let open = self.file().and_then(File::metadata);
        let open = open.map_err(|error| at(&self.path, &error))?;
        if identity(&named) != identity(&open) || open.nlink() == 0 {
            return moved("is another file than the one in use: restart, once it is the right one");
        }
        let mut known = self.known.lock();
        if known.overwritten || self.is_overwritten(&mut known, &open) {
            known.overwritten = true;
            return moved(
                "was overwritten with an older copy: stop, move -wal and -shm away, start",
            );
        }
        for (suffix, known) in BESIDE.iter().zip(known.beside) {
            let found = with_suffix(&self.resolved, suffix).metadata();
            let found = found.ok().map(|it| identity(&it));
            if known.is_some() && known != found {
                return moved(&format!(
                    "has lost its {suffix}, which holds commits: restart"
                ));
            }
        }
        Ok(())
    }

    /// Only a checkpoint writes the file, and none takes its change counter back.
    fn is_overwritten(&self, known: &mut Known, open: &Metadata) -> bool {
        let written = Some((open.len(), open.mtime(), open.mtime_nsec()));
        // For nearly every commit `stat` is enough: only a checkpoint writes this file.
        if known.written == written {
            return false;
        }
        let counter = self.counter().unwrap_or_default();
        let is_older = counter < known.counter;
        if !is_older {
            known.written = written;
            known.counter = counter;
        }
        is_older
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_deref().ok_or(io::ErrorKind::NotFound.into())
    }

    /// Reads the change counter; 0 of an empty file.
    pub(super) fn counter(&self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        match self.file()?.read_exact_at(&mut bytes, CHANGE_COUNTER) {
            Ok(()) => Ok(u32::from_be_bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Opens the file, or shares the descriptor that this process has of it.
fn acquire(path: &Path) -> io::Result<(Arc<File>, FileIdentity)> {
    let mut open = OPEN.lock();
    let named = identity(&path.metadata()?);
    if let Some(found) = open.iter_mut().find(|it| it.identity == named) {
        found.users += 1;
        return Ok((found.file.clone(), named));
    }
    let file = Arc::new(File::options().read(true).write(true).open(path)?);
    let identity = identity(&file.metadata()?);
    open.push(Descriptor {
        identity,
        file: file.clone(),
        users: 1,
    });
    Ok((file, identity))
}

impl Drop for StoreFile {
    /// Closes the descriptor with its last user. Under the lock, so that no thread opens the file, and takes locks on it,
    /// between the last use and the closing.
    fn drop(&mut self) {
        let mut open = OPEN.lock();
        let Some(index) = open.iter().position(|it| it.identity == self.identity) else {
            return;
        };
        open[index].users -= 1;
        if open[index].users == 0 {
            // The descriptor closes with `self.file` below, its last reference, while `OPEN` is still locked.
            open.swap_remove(index);
        }
        self.file = None;
    }
}

/// Makes an empty file where there is no trace of another, for its owner alone.
fn make(path: &Path) -> Result<(), StoreError> {
    let shown = path.display();
    for suffix in TRACES {
        let trace = with_suffix(path, suffix);
        if trace.symlink_metadata().is_ok() {
            return Err(StoreError::Lost(format!(
                "{shown} is missing or empty, but {} is there: put the file back; or, to begin with an empty store, \
                 move that away",
                trace.display()
            )));
        }
    }
    // An unmounted volume behind a link must not become a new, empty store in its place.
    if path.symlink_metadata().is_ok_and(|it| it.is_symlink()) && path.metadata().is_err() {
        return Err(StoreError::Absent(format!(
            "{shown} is a link to a file that is not there"
        )));
    }
    match private().create(true).truncate(false).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Absent(format!(
            "{shown}: its folder is not there"
        ))),
        Err(error) => Err(at(path, &error)),
    }
}

/// Builds options for files of the sidecar's user alone; SQLite's other files take after the store's.
pub(super) fn private() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

/// Appends a suffix to the file's name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn identity(file: &Metadata) -> FileIdentity {
    (file.dev(), file.ino())
}

fn at(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed(format!("{}: {error}", path.display()))
}
