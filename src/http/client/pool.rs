//! Open connections that wait for the next request.
//!
//! A connection is watched by the thread that opened it, and using it from another costs two wake-ups: each thread has
//! its own shelf, and takes from another's only where its own is empty.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};

use crate::http::io::deadline::Deadline;
use crate::http::io::stream::IoStream;

/// A connection is dropped this long after its last request began: sooner than common servers close it, because a request
/// that meets a closing connection is a submit whose fate nobody knows.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// How often it is looked for connections that waited too long or were closed.
const SWEEP: Duration = Duration::from_secs(5);
/// Shelves; more threads than this share some.
const SHELVES: usize = 16;
/// Connections on one shelf.
const SHELF_SIZE: usize = 1024;

/// An open connection.
pub struct Connection {
    /// The stream, with nothing on it that was not asked for.
    pub stream: IoStream,
    /// When the exchange that is under way is given up.
    pub deadline: Deadline,
    address: SocketAddr,
    shelf: usize,
    /// When its last exchange began.
    last_used: Instant,
}

impl Connection {
    /// A connection to `address` that this thread has opened.
    pub fn new(stream: IoStream, address: SocketAddr, now: Instant, deadline: Instant) -> Self {
        Self {
            stream,
            deadline: Deadline::new(deadline),
            address,
            shelf: own_shelf(),
            last_used: now,
        }
    }

    /// Nothing may come on an idle connection, neither its end nor anything else. Costs no system call where nothing did.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let polled = Pin::new(&mut self.stream).poll_read(&mut context, &mut read);
        matches!(polled, Poll::Pending)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_used) < MAX_IDLE
    }
}

/// Connections in boxes, because they are passed from hand to hand.
type Shelf = Vec<Box<Connection>>;

/// The idle connections of one client.
pub struct Pool {
    shelves: [Mutex<Shelf>; SHELVES],
    swept: AtomicBool,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            shelves: [const { Mutex::new(Vec::new()) }; SHELVES],
            swept: AtomicBool::new(false),
        }
    }
}

impl Pool {
    /// An open connection to one of `addresses`.
    pub fn take(&self, addresses: &[SocketAddr], now: Instant) -> Option<Box<Connection>> {
        let own = own_shelf();
        (0..SHELVES).find_map(|step| self.take_from((own + step) % SHELVES, addresses, now))
    }

    fn take_from(
        &self,
        shelf: usize,
        addresses: &[SocketAddr],
        now: Instant,
    ) -> Option<Box<Connection>> {
        loop {
            // Those used last are the least likely to be closed.
            let mut connection = self.shelf(shelf).pop()?;
            if connection.is_fresh(now)
                && addresses.contains(&connection.address)
                && connection.is_quiet()
            {
                connection.last_used = now;
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub fn put(self: &Arc<Self>, connection: Box<Connection>) {
        let mut shelf = self.shelf(connection.shelf);
        if shelf.len() < SHELF_SIZE {
            shelf.push(connection);
        }
        drop(shelf);
        if !self.swept.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Drops connections that nobody wants any longer, until there are none.
    async fn sweep(self: Arc<Self>) {
        while !self.is_empty() {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            for shelf in 0..SHELVES {
                self.shelf(shelf)
                    .retain_mut(|connection| connection.is_fresh(now) && connection.is_quiet());
            }
        }
        self.swept.store(false, Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        (0..SHELVES).all(|shelf| self.shelf(shelf).is_empty())
    }

    fn shelf(&self, index: usize) -> MutexGuard<'_, Shelf> {
        self.shelves[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
