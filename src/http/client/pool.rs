//! Open connections that wait for the next request.
//!
//! A connection is watched by the thread that opened it, and using it from another costs two wake-ups: each thread has
//! its own shelf, and takes from another's only where its own has none.
//!
//! HTTP/1.1 pairs a response with its request by nothing but its place on the connection. So a connection comes back here
//! only after exactly one response that was expected. A request that could take a stray response for its own gets only a
//! connection that has rested: nothing came on it for as long as its slowest exchange took. After a stray response the
//! server's connections are not used again for an hour (`distrust`).

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::distrust::Distrust;
use super::stream::{ClientStream, IdleState};
use crate::http::io::deadline::Deadline;

/// A connection is dropped this long after its last request began: sooner than common servers close it, because a request
/// that meets a closing connection is a submit whose fate is unknown.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// Pause between two looks for connections that waited too long or were closed.
const SWEEP: Duration = Duration::from_secs(5);
/// Shelves; more threads than this share some.
const SHELVES: usize = 16;
/// Connections on one shelf.
const SHELF_SIZE: usize = 1024;
/// Connections that are looked at for one that has rested; beyond these a new one is opened.
const LOOKED_AT: usize = 8;

/// The demand of a request on a pooled connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A response is verified by its content: another one is noticed.
    Verified,
    /// A response is taken as it comes: the connection must have rested.
    Unverified,
}

/// An open connection.
pub struct PooledConnection {
    /// The stream. While the connection is idle, any byte on it is a stray.
    pub stream: ClientStream,
    /// The time at which the exchange that is under way is given up.
    pub deadline: Deadline,
    /// The server's end, or the proxy's.
    pub address: SocketAddr,
    /// The state of the trusted roots that the server was verified with.
    roots: u32,
    shelf: usize,
    /// Start of its last exchange.
    last_used: Instant,
    /// Duration of its slowest exchange.
    slowest: Duration,
    /// End of its rest.
    rested: Instant,
    exchanges: u32,
}

impl PooledConnection {
    /// A connection to `address` that this thread has opened.
    pub fn new(
        stream: ClientStream,
        (address, roots): (SocketAddr, u32),
        deadline: Instant,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            deadline: Deadline::new(deadline),
            address,
            roots,
            shelf: own_shelf(),
            last_used: now,
            slowest: Duration::ZERO,
            rested: now,
            exchanges: 0,
        }
    }

    /// Returns true where it has carried an exchange before.
    pub fn is_reused(&self) -> bool {
        self.exchanges > 0
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_used) < MAX_IDLE
    }

    /// Notes that an exchange has ended well.
    fn rest(&mut self) {
        // The caller's verdict counts too: a few microseconds, and no second look at the clock.
        let now = Instant::now();
        let took = now.saturating_duration_since(self.last_used);
        self.slowest = self.slowest.max(took);
        self.rested = now + self.slowest;
        self.exchanges = self.exchanges.saturating_add(1);
    }
}

/// Connections in boxes, because they are passed from hand to hand.
type Shelf = Vec<Box<PooledConnection>>;

/// The idle connections of one client.
pub struct Pool {
    /// Made with the first connection: most clients of a large fleet of apps have none.
    shelves: OnceLock<Box<[Mutex<Shelf>; SHELVES]>>,
    swept: AtomicBool,
    distrust: Distrust,
}

impl Pool {
    /// No connection yet.
    pub(super) fn new(distrust: Distrust) -> Self {
        Self {
            shelves: OnceLock::new(),
            swept: AtomicBool::default(),
            distrust,
        }
    }

    /// Notes a response that may belong to another request, or to none.
    pub fn stray(&self) {
        self.distrust.begin(Instant::now());
    }

    /// Takes an open connection to one of `addresses`, opened with these `roots`.
    pub fn take(
        &self,
        (addresses, roots): (&[SocketAddr], u32),
        trust: Trust,
        now: Instant,
    ) -> Option<Box<PooledConnection>> {
        // No connection was ever kept: looking at sixteen empty shelves would cost more.
        self.shelves.get()?;
        if self.distrust.applies(now) {
            return None;
        }
        let own = own_shelf();
        let is_good = |connection: &mut PooledConnection| {
            connection.is_fresh(now)
                && connection.roots == roots
                // An address that the name no longer has may belong to a machine that is being taken out of service.
                && addresses.contains(&connection.address)
                && self.is_quiet(connection.stream.idle_state(), now)
        };
        let is_certain = |connection: &mut PooledConnection| {
            is_good(connection) && self.is_quiet(connection.stream.certain_idle_state(), now)
        };
        (0..SHELVES).find_map(|step| {
            let mut shelf = self.shelf((own + step) % SHELVES);
            let mut connection = match trust {
                Trust::Verified => pop(&mut shelf, is_good)?,
                Trust::Unverified => pop_rested(&mut shelf, now, is_certain)?,
            };
            connection.last_used = now;
            Some(connection)
        })
    }

    /// Keeps a connection for the next request.
    fn put(self: &Arc<Self>, mut connection: Box<PooledConnection>) {
        connection.rest();
        if self.distrust.applies(connection.last_used) {
            return;
        }
        let mut shelf = self.shelf(connection.shelf);
        if shelf.len() < SHELF_SIZE {
            shelf.push(connection);
        }
        drop(shelf);
        // One sweeper a pool, and none while it is empty: thousands of apps must not mean thousands of timers.
        self.begin_sweep();
    }

    /// Returns true where an idle connection can be used. A stray changes the standing of its server.
    fn is_quiet(&self, state: IdleState, now: Instant) -> bool {
        if state == IdleState::Stray {
            self.distrust.begin(now);
        }
        state == IdleState::Quiet
    }

    fn begin_sweep(self: &Arc<Self>) {
        if !self.swept.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Drops connections that are too old or no longer quiet, until none is left.
    async fn sweep(self: Arc<Self>) {
        while !self.is_empty() {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            for shelf in 0..SHELVES {
                // A connection that its server has closed holds a descriptor here until it is looked at.
                self.shelf(shelf).retain_mut(|connection| {
                    connection.is_fresh(now) && self.is_quiet(connection.stream.idle_state(), now)
                });
            }
        }
        self.swept.store(false, Ordering::Release);
        // One that was put since the last look has found a sweeper, and began none.
        if !self.is_empty() {
            self.begin_sweep();
        }
    }

    fn is_empty(&self) -> bool {
        (0..SHELVES).all(|shelf| self.shelf(shelf).is_empty())
    }

    fn shelf(&self, index: usize) -> MutexGuard<'_, Shelf> {
        let shelves = self
            .shelves
            .get_or_init(|| Box::new([const { Mutex::new(Vec::new()) }; SHELVES]));
        shelves[index].lock()
    }
}

/// Takes the connection that was used last: it is the least likely to be closed. Drops those that are of no use.
fn pop(
    shelf: &mut Shelf,
    is_good: impl Fn(&mut PooledConnection) -> bool,
) -> Option<Box<PooledConnection>> {
    loop {
        let mut connection = shelf.pop()?;
        if is_good(&mut connection) {
            return Some(connection);
        }
    }
}

/// Takes the connection that was used last of those that have rested.
fn pop_rested(
    shelf: &mut Shelf,
    now: Instant,
    is_good: impl Fn(&mut PooledConnection) -> bool,
) -> Option<Box<PooledConnection>> {
    let mut looked_at = 0;
    let mut index = shelf.len();
    while index > 0 && looked_at < LOOKED_AT {
        index -= 1;
        looked_at += 1;
        // Left where it is: a request that verifies its response may still take it.
        if shelf[index].rested > now {
            continue;
        }
        let mut connection = shelf.remove(index);
        if is_good(&mut connection) {
            return Some(connection);
        }
    }
    None
}

/// A connection that has carried an exchange, until it is known whether the response was the expected one. Dropped, it
/// closes the connection.
pub struct Lease {
    pool: Arc<Pool>,
    connection: Box<PooledConnection>,
}

impl Lease {
    /// Holds `connection` for `pool`.
    pub fn new(pool: Arc<Pool>, connection: Box<PooledConnection>) -> Self {
        Self { pool, connection }
    }

    /// Gives the connection back.
    pub fn end(self) {
        self.pool.put(self.connection);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.connection.address)
    }
}

/// The shelf of this thread.
fn own_shelf() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        own.get().unwrap_or_else(|| {
            let shelf = NEXT.fetch_add(1, Ordering::Relaxed) % SHELVES;
            own.set(Some(shelf));
            shelf
        })
    })
}
