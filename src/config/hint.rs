//! File events, as a hint to look at once: nothing depends on them, since polling finds every change.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;

/// Folders that are watched; further ones are polled.
const MAX_FOLDERS: usize = 256;
/// Files; with fewer, following all links costs nothing.
const MANY: usize = 64;
/// Between two times that the links on the way to unchanged names are followed.
const FOLLOW_AGAIN: Duration = Duration::from_secs(10);
/// Steps from link to link, as many as the kernel takes (path_resolution(7)).
const MAX_LINKS: usize = 40;

type Names = Arc<Mutex<HashSet<OsString>>>;

/// Watches the folders of a few files and wakes the live configuration when one of the files may have changed.
pub(super) struct Hints {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeMap<PathBuf, Identity>,
    names: Names,
    warned: bool,
    /// The number of files that were followed, and the time.
    followed: Option<(usize, Instant)>,
}

/// A folder that was made anew under its old name needs a new watch.
type Identity = (u64, u64);

impl Hints {
    /// Never fails: without file events, polling goes on alone, and the log says so.
    pub(super) fn new(wake: SyncSender<()>) -> Self {
        let names = Names::default();
        let heard = Arc::clone(&names);
        let handler = move |event: notify::Result<Event>| {
            if matters(&event, &heard) {
                // A full channel holds a wake already.
                let _ = wake.try_send(());
            }
        };
        let mut hints = Self {
            watcher: None,
            folders: BTreeMap::new(),
            names,
            warned: false,
            followed: None,
        };
        match notify::recommended_watcher(handler) {
            Ok(watcher) => hints.watcher = Some(watcher),
            Err(error) => hints.warn(&error),
        }
        hints
    }

    /// Watches the folders of `main` and of `others`. Links are followed anew each time for a few files, and now and then
    /// for many: one may lead elsewhere by now, which polling finds in any case.
    pub(super) fn follow<'p>(&mut self, main: &'p Path, others: BTreeSet<&'p Path>) {
        if self.watcher.is_none() {
            return;
        }
        let count = others.len();
        let is_fresh =
            |(known, at): (usize, Instant)| known == count && at.elapsed() < FOLLOW_AGAIN;
        if count > MANY && self.followed.is_some_and(is_fresh) {
            return;
        }
        self.followed = Some((count, Instant::now()));
        let (folders, names) = surroundings(std::iter::once(main).chain(others));
        *self.names.lock() = names;
        let wanted: BTreeMap<PathBuf, Identity> = folders
            .into_iter()
            .filter_map(|folder| Some((folder.clone(), identity(&folder)?)))
            .collect();
        for folder in self
            .folders
            .keys()
            .filter(|old| self.folders.get(*old) != wanted.get(*old))
        {
            if let Some(watcher) = &mut self.watcher {
                // The folder may be gone, and its watch with it.
                let _ = watcher.unwatch(folder);
            }
        }
        self.folders
            .retain(|folder, identity| wanted.get(folder) == Some(identity));
        for (folder, identity) in wanted {
            self.watch(folder, identity);
        }
    }

    fn watch(&mut self, folder: PathBuf, identity: Identity) {
        let Some(watcher) = self.watcher.as_mut() else {
            return;
        };
        if self.folders.contains_key(&folder) {
            return;
        }
        match watcher.watch(&folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.folders.insert(folder, identity);
            }
            Err(error) => self.warn(&error),
        }
    }

    fn warn(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(%error, "file events do not work here, changes are found by polling");
        }
    }
}

/// Reading makes events too, and a database in the same folder makes thousands a second.
fn matters(event: &notify::Result<Event>, names: &Mutex<HashSet<OsString>>) -> bool {
    let Ok(event) = event else {
        return true;
    };
    let written = AccessKind::Close(AccessMode::Write);
    if matches!(event.kind, EventKind::Access(access) if access != written) {
        return false;
    }
    // The queue has overflowed, so that any file may have changed (inotify(7), IN_Q_OVERFLOW).
    if event.need_rescan() || event.paths.is_empty() {
        return true;
    }
    let names = names.lock();
    let known = |path: &PathBuf| path.file_name().is_some_and(|name| names.contains(name));
    event.paths.iter().any(known)
}

/// The folders to watch, and the names in them that lead to one of the files.
fn surroundings<'p>(
    paths: impl IntoIterator<Item = &'p Path>,
) -> (HashSet<PathBuf>, HashSet<OsString>) {
    let mut folders = HashSet::new();
    let mut names = HashSet::new();
    for path in paths {
        names.extend(path.file_name().map(OsString::from));
        // Watches are limited for each user, over all programs (inotify(7), max_user_watches).
        let is_room = folders.len() < MAX_FOLDERS;
        if is_room {
            folders.insert(folder(path));
        }
        // Only what is a link, or lies behind one, leads to another folder.
        if path.canonicalize().is_ok_and(|target| target != path) && is_room {
            folders.extend(path.canonicalize().ok().map(|target| folder(&target)));
            follow_links(path.to_owned(), &mut names);
        }
    }
    (folders, names)
}

/// A ConfigMap's file is a link to `..data/FILE`, and `..data` is the link that is swapped.
fn follow_links(mut path: PathBuf, names: &mut HashSet<OsString>) {
    for _ in 0..MAX_LINKS {
        let Ok(target) = std::fs::read_link(&path) else {
            return;
        };
        let normal = |component: Component<'_>| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        };
        names.extend(target.components().filter_map(normal));
        path = folder(&path).join(target);
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn identity(folder: &Path) -> Option<Identity> {
    let metadata = folder.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_way_through_links_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..2025");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("m.toml"), "").unwrap();
        std::os::unix::fs::symlink("..2025", dir.path().join("..data")).unwrap();
        let file = dir.path().join("link.toml");
        std::os::unix::fs::symlink("..data/m.toml", &file).unwrap();
        let (folders, names) = surroundings([file.as_path()]);
        assert!(folders.contains(dir.path()) && folders.contains(&data.canonicalize().unwrap()));
        for name in ["link.toml", "..data", "m.toml"] {
            assert!(names.contains(&OsString::from(name)), "{name}");
        }
    }

    #[test]
    fn reading_and_other_files_do_not_matter() {
        let names = Mutex::new(HashSet::from([OsString::from("m.toml")]));
        let event = |kind, path: &str| Ok(Event::new(kind).add_path(path.into()));
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(matters(&event(close, "/conf/m.toml"), &names));
        assert!(!matters(&event(open, "/conf/m.toml"), &names));
        assert!(!matters(&event(close, "/conf/countersign.db-wal"), &names));
        assert!(matters(&Ok(Event::new(EventKind::Any)), &names));
    }
}
