//! What a supervisor such as systemd is told: ready, reloading, stopping, and which process is the main one (sd_notify(3)).
//!
//! Nobody waits for the supervisor: what it does not take at once is not said.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Where a supervisor listens, and how often it wants to hear from us. Handed on to the process that replaces us, because
/// a supervisor tells it to the one that it started itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Address {
    socket: Option<String>,
    watchdog_micros: Option<u64>,
}

impl Address {
    /// As the environment says.
    pub fn of_environment() -> Self {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        Self {
            socket: env::var("NOTIFY_SOCKET").ok(),
            watchdog_micros: number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0),
        }
    }

    /// This one, or where there is none, `other`.
    pub fn or(self, other: Self) -> Self {
        if self.socket.is_some() { self } else { other }
    }
}

/// The supervisor, where there is one.
pub struct Systemd {
    address: Address,
    socket: Option<UnixDatagram>,
    dismissed: AtomicBool,
}

impl Systemd {
    /// Nothing is said yet. A socket that is not there is as good as none.
    pub fn at(address: Address) -> Self {
        let socket = address.socket.as_deref().and_then(connect);
        Self {
            address,
            socket,
            dismissed: AtomicBool::new(false),
        }
    }

    /// Where it is, for the process that replaces us.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The listeners are open and the store can be used, or a reload is over.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the merchants"
        ));
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    /// The process `pid` is the main one from now on: nothing more is said by this one.
    pub fn replaced_by(&self, pid: i32) {
        self.say(&format!("MAINPID={pid}"));
        self.dismissed.store(true, Ordering::SeqCst);
    }

    /// Says that we live, twice as often as is asked for, until the task is dropped. Ready at once where nobody asks.
    pub async fn keep_posted(&self) {
        let Some(micros) = self.address.watchdog_micros else {
            return;
        };
        let mut rounds = tokio::time::interval(Duration::from_micros(micros.div_ceil(2)));
        loop {
            rounds.tick().await;
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, state: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        if self.dismissed.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::warn!(%error, "the supervisor could not be told");
        }
    }
}

/// `@NAME` is a name of the kernel's, anything else a path.
fn connect(name: &str) -> Option<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    Some(socket)
}
