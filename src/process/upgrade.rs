//! The upgrade from a running process to the one that replaces it, over a unix socket that is theirs alone.
//!
//! 1. The new process connects and gets the listening sockets of the old one, with an offer that names their addresses.
//! 2. It opens all else that it needs, serves beside the old process, and sends `serving`. Up to then the old process
//!    works on unchanged, and so it does if the new one gives up.
//! 3. The old process reports the new main process to the supervisor, answers `yours`, and drains.
//!
//! The socket for the next upgrade is among those that are handed over.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use rustix::process::{Pid, geteuid, test_kill_process};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::sockets::Sockets;
use super::systemd::Address;
use crate::config::settings::Settings;
use crate::config::{Listen, StoreAddress};

/// The kernel passes as many at once (SCM_MAX_FD, unix(7)).
const MAX_SOCKETS: usize = 253;
/// Bytes of an offer: some hundred paths.
const MAX_OFFER: usize = 64 * 1024;
/// Each side replies at once.
const REPLY_TIME: Duration = Duration::from_secs(5);
/// From the offer to the word that the new process serves: it reads a large store's first pages in between.
const START_TIME: Duration = Duration::from_secs(60);
/// From a killed process's last word to its end: the kernel frees its memory in between.
const LAST_GASP: Duration = Duration::from_secs(3);
/// The new process serves.
const SERVING: &[u8; 8] = b"serving\n";
/// Sent by a caller that only looks; as long as [`SERVING`].
const LOOKING: &[u8; SERVING.len()] = b"looking\n";
/// The old process has stopped accepting.
const YOURS: &[u8] = b"yours\n";

/// An upgrade that did not take place.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// No process listens.
    #[error(
        "nothing to take over: no countersign that runs with the store {store} listens at {path}; start it without \
         --upgrade, or with the same RUNTIME_DIRECTORY and XDG_RUNTIME_DIR as the running one"
    )]
    Nobody {
        /// The store that the settings name.
        store: String,
        /// The socket's path.
        path: String,
    },
    /// It runs other settings.
    #[error(
        "the running process {pid} reads its settings from {theirs}, this one from {ours}; name the same file, or stop \
         the running process first"
    )]
    OtherSettings {
        /// The running process.
        pid: i32,
        /// Its settings file.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The folder or the process is another user's.
    #[error(
        "{what} belongs to user {owner}, this process to user {own}; run it as the user of the running process"
    )]
    Foreign {
        /// The folder, or the process.
        what: String,
        /// The owner's user id.
        owner: u32,
        /// Our user id.
        own: u32,
    },
    /// The new process would not outlive the running one.
    #[error("the running process {pid} cannot be replaced: {why}")]
    CannotOutlive {
        /// The running process.
        pid: i32,
        /// The reason for which the new one would end with it.
        why: String,
    },
    /// Others may enter the folder.
    #[error(
        "{0}: others than its owner may enter this folder; expected mode 0700, as countersign makes it"
    )]
    Open(String),
    /// Any other error of the system, or a missing reply of the other side.
    #[error("{0}")]
    Failed(String),
}

/// Everything that the new process needs beside the sockets.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    version: String,
    /// Resolved.
    settings: PathBuf,
    /// The settings' path as it was named, made absolute: a link on the way may lead elsewhere by now.
    #[serde(default)]
    settings_as_named: PathBuf,
    /// The reason for which nothing is handed over; the sockets are missing then.
    #[serde(default)]
    rejection: Option<String>,
    /// The addresses of the sockets, in their order; the socket for the next upgrade comes last and has none. With a
    /// rejection the addresses come alone.
    listeners: Vec<String>,
    #[serde(default)]
    supervisor: Address,
}

/// The socket of the upgrade, one for those who share a store.
struct UpgradeSocket {
    folder: PathBuf,
    path: PathBuf,
    store: String,
}

impl UpgradeSocket {
    fn of(settings: &Settings) -> Self {
        // Who shares a file is one sidecar; of those who share a database, each has its own settings.
        let (key, shown) = match &settings.inbox.store {
            StoreAddress::Sqlite(path) => (resolved(path), path.display().to_string()),
            // Named, not resolved: a link on the way may be turned between two versions of the settings.
            StoreAddress::Postgres(at) => (absolute(&settings.path), at.to_string()),
        };
        // A digest, because a path has slashes and may be longer than the 108 bytes of sun_path (unix(7)).
        let digest = Sha256::digest(key.as_os_str().as_encoded_bytes());
        let name: String = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let folder = folder(&key);
        Self {
            path: folder.join(name + ".sock"),
            store: shown,
            folder,
        }
    }

    /// The folder is made where it is missing, and must be ours alone.
    fn enter(&self) -> Result<(), UpgradeError> {
        let shown = self.folder.display().to_string();
        let failed = |error: io::Error| UpgradeError::Failed(format!("{shown}: {error}"));
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        // Not through a link: in a shared folder another user may have put one there.
        let metadata = self.folder.symlink_metadata().map_err(failed)?;
        let own = geteuid().as_raw();
        if metadata.uid() != own {
            return Err(UpgradeError::Foreign {
                what: shown,
                owner: metadata.uid(),
                own,
            });
        }
        if !metadata.is_dir() || metadata.mode() & 0o077 != 0 {
            return Err(UpgradeError::Open(shown));
        }
        Ok(())
    }
}

/// Resolves links, so that one file has one name.
fn resolved(path: &Path) -> PathBuf {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let there = parent.canonicalize().ok();
    there
        .and_then(|parent| Some(parent.join(path.file_name()?)))
        .unwrap_or_else(|| path.to_owned())
}

/// A folder that goes with the process or with the store, never one that others share.
fn folder(key: &Path) -> PathBuf {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folders) = named("RUNTIME_DIRECTORY") {
        // systemd names several as it names a PATH.
        return env::split_paths(&folders)
            .next()
            .unwrap_or_default()
            .join("upgrade");
    }
    if let Some(folder) = named("XDG_RUNTIME_DIR") {
        return PathBuf::from(folder).join("countersign");
    }
    key.with_file_name(".countersign")
}

/// The old process's side: waits for a new one.
pub struct Offered {
    listener: UnixListener,
    settings: PathBuf,
    settings_as_named: PathBuf,
    supervisor: Address,
    /// The reason for which the next process would end with this one.
    bound: Option<String>,
}

/// Returns why whatever this process starts, or is replaced by, ends with this process. Only known at its start: a
/// process whose parent has ended is given to process 1 as well.
pub fn bound_to_us() -> Option<String> {
    let all_end = "every process of its namespace ends with it; restart the container, or run it under a supervisor";
    if std::process::id() == 1 {
        return Some(format!("it is process 1, and {all_end}"));
    }
    // The init of a container ends when its child does, and the kernel ends all others then.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    (parent == Some(1) && env::var_os("NOTIFY_SOCKET").is_none()).then(|| {
        "process 1 started it and would end or restart it, without NOTIFY_SOCKET to hear of the new process; restart it instead"
            .to_owned()
    })
}

impl Offered {
    /// Listens unless another process does. A socket that a killed process left there is removed.
    pub fn at(
        settings: &Settings,
        supervisor: Address,
        bound: Option<String>,
    ) -> Result<Self, UpgradeError> {
        let place = UpgradeSocket::of(settings);
        place.enter()?;
        // bind(2) fails alike for a live socket and for one that a killed process left; connecting shows which it is.
        if UnixStream::connect(&place.path).is_ok() {
            let path = place.path.display();
            return Err(UpgradeError::Failed(format!(
                "{path}: another process with this store waits there"
            )));
        }
        let _ = fs::remove_file(&place.path);
        let listener = UnixListener::bind(&place.path)
            .map_err(|error| UpgradeError::Failed(format!("{}: {error}", place.path.display())))?;
        Ok(Self::new(listener, settings, supervisor, bound))
    }

    fn new(
        listener: UnixListener,
        settings: &Settings,
        supervisor: Address,
        bound: Option<String>,
    ) -> Self {
        Self {
            listener,
            settings: full_path(&settings.path),
            settings_as_named: absolute(&settings.path),
            supervisor,
            bound,
        }
    }

    /// Blocks until a new process serves, and returns its id; then `sockets` are to be closed. `replaced_by` is called first.
    pub fn wait(self, sockets: &Sockets, replaced_by: impl Fn(i32)) -> i32 {
        loop {
            let handed_over = self
                .listener
                .accept()
                .map_err(|error| UpgradeError::Failed(error.to_string()))
                .and_then(|(new, _)| self.hand_over(new, sockets, &replaced_by));
            match handed_over {
                Ok(Some(pid)) => return pid,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "the upgrade failed; this process goes on");
                    // Out of descriptors, most likely: some will be given back.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn offer(&self, addresses: &[Listen]) -> Offer {
        Offer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.settings.clone(),
            settings_as_named: self.settings_as_named.clone(),
            rejection: self.bound.clone(),
            listeners: addresses.iter().map(ToString::to_string).collect(),
            supervisor: self.supervisor.clone(),
        }
    }

    fn hand_over(
        &self,
        new: UnixStream,
        sockets: &Sockets,
        replaced_by: &impl Fn(i32),
    ) -> Result<Option<i32>, UpgradeError> {
        if self.bound.is_some() {
            // The other end may be outside of our namespace of processes, where it has no id that we could ask for.
            set_times(&new, REPLY_TIME)?;
            // Without the sockets: `check` wants to know what this process listens on all the same.
            sockets.show(|addresses, _| send(&new, &self.offer(addresses), &[]))?;
            let _ = (&new).read(&mut [0; LOOKING.len()]);
            return Ok(None);
        }
        let pid = same_user(&new)?;
        set_times(&new, START_TIME)?;
        // Sent under the lock, so that a shutdown which begins now closes all of them before or after, and none in
        // between.
        sockets.show(|addresses, sockets| {
            if sockets.is_empty() {
                return Err(UpgradeError::Failed("this process is ending".to_owned()));
            }
            let mut all = sockets.to_vec();
            all.push(self.listener.as_fd());
            send(&new, &self.offer(addresses), &all)
        })?;
        let mut said = [0; SERVING.len()];
        let mut reader = &new;
        match reader.read_exact(&mut said) {
            Ok(()) if said == *SERVING => tracing::info!(pid, "another process takes over"),
            Ok(()) if said == *LOOKING => return Ok(None),
            _ => {
                return Err(UpgradeError::Failed(format!(
                    "the new process {pid} gave up before it served"
                )));
            }
        }
        // If we were too slow to read it, it has ended, and no process would serve.
        if !is_there(&new) {
            return Err(UpgradeError::Failed(format!(
                "the new process {pid} ended before it was heard"
            )));
        }
        // First, because a main process that ends before its successor is known counts as the end of the service.
        replaced_by(pid);
        // There is no way back, whether the message arrives or not.
        let _ = (&new).write_all(YOURS);
        Ok(Some(pid))
    }
}

/// The new process's side: what it was given.
pub struct Predecessor {
    /// The listening sockets, by their addresses.
    pub sockets: Vec<(Listen, OwnedFd)>,
    /// The old process's supervisor.
    pub supervisor: Address,
    /// The old process.
    pub pid: i32,
    old: UnixStream,
    next: UnixListener,
}

impl Predecessor {
    /// Asks the process that runs with these settings.
    pub fn from_running(settings: &Settings) -> Result<Self, UpgradeError> {
        let (old, pid, offer, mut sockets) = ask(settings)?;
        if let Some(why) = offer.rejection {
            return Err(UpgradeError::CannotOutlive { pid, why });
        }
        if !is_offered_for(&offer, settings) {
            return Err(UpgradeError::OtherSettings {
                pid,
                theirs: offer.settings.display().to_string(),
                ours: full_path(&settings.path).display().to_string(),
            });
        }
        let next = sockets.pop();
        let Some(next) = next.filter(|_| sockets.len() == offer.listeners.len()) else {
            return Err(UpgradeError::Failed(format!(
                "the running process {pid} names other sockets than it sends"
            )));
        };
        tracing::info!(pid, version = offer.version, "taking over");
        // An address that this version does not understand is none that it listens on.
        let known = offer
            .listeners
            .iter()
            .zip(sockets)
            .filter_map(|(name, socket)| Some((name.parse().ok()?, socket)));
        Ok(Self {
            sockets: known.collect(),
            supervisor: offer.supervisor,
            pid,
            old,
            next: next.into(),
        })
    }

    /// Says that this process serves, and returns once the old one has stopped accepting. Fails where the old one is
    /// there and did not wait so long.
    pub fn serving(
        self,
        settings: &Settings,
        supervisor: Address,
    ) -> Result<Offered, UpgradeError> {
        let mut said = [0; YOURS.len()];
        let mut old = &self.old;
        let heard = old
            .write_all(SERVING)
            .and_then(|()| old.read_exact(&mut said));
        if heard.is_err() || said != *YOURS {
            let pid = self.pid;
            if !ends_within(pid, LAST_GASP) {
                return Err(UpgradeError::Failed(format!(
                    "the running process {pid} did not wait for this one, and goes on"
                )));
            }
            tracing::warn!(pid, "the old process ended before it confirmed the upgrade");
        }
        Ok(Offered::new(self.next, settings, supervisor, None))
    }
}

/// A sidecar that runs with the same store.
pub struct Running {
    /// Its process.
    pub pid: i32,
    /// Its settings file, where that is another one than ours.
    pub other_settings: Option<PathBuf>,
    /// The addresses that it listens on.
    pub listeners: Vec<Listen>,
}

impl Running {
    /// Finds the sidecar that runs with the same store, and changes nothing there.
    pub fn find(settings: &Settings) -> Option<Self> {
        let (old, pid, offer, _) = ask(settings).ok()?;
        // Without this word the other one would log that an upgrade failed.
        let _ = (&old).write_all(LOOKING);
        let known = offer.listeners.iter().filter_map(|name| name.parse().ok());
        Some(Self {
            pid,
            listeners: known.collect(),
            other_settings: (!is_offered_for(&offer, settings)).then_some(offer.settings),
        })
    }
}

/// Connects to the running process; its answer with the sockets beside it.
fn ask(settings: &Settings) -> Result<(UnixStream, i32, Offer, Vec<OwnedFd>), UpgradeError> {
    let place = UpgradeSocket::of(settings);
    let nobody = || UpgradeError::Nobody {
        store: place.store.clone(),
        path: place.path.display().to_string(),
    };
    // Looked at first, because `enter` makes the folder, and a look must leave nothing behind.
    if !place.folder.exists() {
        return Err(nobody());
    }
    place.enter()?;
    let old = UnixStream::connect(&place.path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => nobody(),
        _ => UpgradeError::Failed(format!("{}: {error}", place.path.display())),
    })?;
    let pid = same_user(&old)?;
    set_times(&old, REPLY_TIME)?;
    let (offer, sockets) = receive(&old).map_err(|error| {
        UpgradeError::Failed(format!(
            "the running process {pid} does not hand over: {error}"
        ))
    })?;
    Ok((old, pid, offer, sockets))
}

/// Compares the file, and its name: a link on the way may have been turned since.
fn is_offered_for(offer: &Offer, settings: &Settings) -> bool {
    offer.settings == full_path(&settings.path)
        || offer.settings_as_named == absolute(&settings.path)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Waits until a process has ended; one that is not yet reaped has. Its sockets close before it counts as ended.
fn ends_within(pid: i32, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while is_alive(pid) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn is_alive(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The state follows the name, which may have brackets and blanks in it (proc_pid_stat(5)).
        Ok(stat) => {
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            !matches!(state, Some('Z' | 'X' | 'x'))
        }
        Err(_) => Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok()),
    }
}

fn full_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The id of the process at the other end, which must be our own user's.
fn same_user(peer: &UnixStream) -> Result<i32, UpgradeError> {
    let peer = socket_peercred(peer).map_err(|error| UpgradeError::Failed(error.to_string()))?;
    let (pid, own) = (peer.pid.as_raw_nonzero().get(), geteuid());
    if peer.uid == own {
        return Ok(pid);
    }
    Err(UpgradeError::Foreign {
        what: format!("process {pid}"),
        owner: peer.uid.as_raw(),
        own: own.as_raw(),
    })
}

/// Says nothing more for now, and has not closed its end.
fn is_there(peer: &UnixStream) -> bool {
    let nothing = recv(peer, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    nothing.is_err_and(|error| error == Errno::WOULDBLOCK)
}

fn set_times(stream: &UnixStream, time: Duration) -> Result<(), UpgradeError> {
    stream
        .set_read_timeout(Some(time))
        .and_then(|()| stream.set_write_timeout(Some(REPLY_TIME)))
        .map_err(|error| UpgradeError::Failed(error.to_string()))
}

/// One line of JSON, with the sockets beside its first bytes.
fn send(to: &UnixStream, offer: &Offer, sockets: &[BorrowedFd<'_>]) -> Result<(), UpgradeError> {
    let failed = |error: io::Error| UpgradeError::Failed(format!("the offer: {error}"));
    let mut line = serde_json::to_vec(offer).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(UpgradeError::Failed(format!(
            "more than {MAX_SOCKETS} sockets cannot be handed over"
        )));
    }
    let sent = sendmsg(
        to,
        &[IoSlice::new(&line)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    let sent = sent.map_err(|error| failed(error.into()))?;
    let mut rest = to;
    rest.write_all(&line[sent.min(line.len())..])
        .map_err(failed)
}

fn receive(from: &UnixStream) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0; 4096];
    // The first read must be this one: a plain read would take the bytes and close the descriptors beside them
    // (unix(7)).
    let received = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut first)],
        &mut control,
        // A process that is started meanwhile would otherwise keep the listeners open.
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            sockets.extend(passed);
        }
    }
    let first = first.get(..received.bytes).unwrap_or_default();
    let limit = u64::try_from(MAX_OFFER).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    BufReader::new(first.chain(from).take(limit)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "it said nothing"));
    }
    Ok((serde_json::from_slice(&line)?, sockets))
}
