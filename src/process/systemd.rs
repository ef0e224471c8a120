//! Notifications to a supervisor such as systemd (sd_notify(3)): ready, reloading, stopping, and the main process.
//!
//! They never block: a notification that the supervisor does not take at once is dropped.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The supervisor's socket and its watchdog interval. They are passed on to a replacing process, because a supervisor
/// gives them only to the process that it started itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Address {
    socket: Option<String>,
    watchdog_micros: Option<u64>,
}

impl Address {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn of_environment() -> Self {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        // Children inherit the variables; only the process that is named here must feed the watchdog
        // (sd_watchdog_enabled(3)).
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        Self {
            socket: env::var("NOTIFY_SOCKET").ok(),
            watchdog_micros: number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0),
        }
    }

    /// Returns this address, or `other` where this one is empty.
    pub fn or(self, other: Self) -> Self {
        if self.socket.is_some() { self } else { other }
    }
}

/// The supervisor; it may be absent.
pub struct Systemd {
    address: Address,
    socket: Option<UnixDatagram>,
    dismissed: AtomicBool,
}

impl Systemd {
    /// Connects to nothing yet. A socket that does not exist counts as no supervisor.
    pub fn at(address: Address) -> Self {
        let socket = address.socket.as_deref().and_then(connect);
        Self {
            address,
            socket,
            dismissed: AtomicBool::new(false),
        }
    }

    /// Returns the address for the process that replaces this one.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Reports that the listeners are open and the store is usable, or that a reload is complete.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports the begin of a reload.
    pub fn reloading(&self) {
        // Type=notify-reload needs the time, to tell this reload from an earlier one (sd_notify(3)).
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the merchants"
        ));
    }

    /// Reports the begin of the shutdown.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    /// Reports `pid` as the main process; this process reports nothing from then on.
    pub fn replaced_by(&self, pid: i32) {
        // The last word: with NotifyAccess=main nothing from this process counts any longer.
        self.say(&format!("MAINPID={pid}"));
        self.dismissed.store(true, Ordering::SeqCst);
    }

    /// Feeds the watchdog twice per interval until the task is dropped. Returns at once without a watchdog.
    pub async fn keep_posted(&self) {
        let Some(micros) = self.address.watchdog_micros else {
            return;
        };
        // Half the interval, as sd_watchdog_enabled(3) recommends.
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

/// Parses an address: `@NAME` is an abstract socket (unix(7)), anything else a path.
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
