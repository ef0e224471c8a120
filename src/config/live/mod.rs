//! The merchants in force, kept in step with their file for as long as the process lives.
//!
//! One thread looks every two seconds, or less often where there are so many files that a look costs something, and at
//! once after a file event. It outlives its own panics: the snapshot stays, the log says why, and it looks again.

mod mass_deletion;
mod reload;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::hint::Hints;
use super::merchants::Snapshot;
pub use reload::ReloadOutcome;
use reload::{Follower, ReloadStep};

/// Between two looks where file events do not work.
const POLL: Duration = Duration::from_secs(2);
/// The pause after a look is so many times as long as the look itself: half a percent of a core at most.
const PAUSE_PER_LOOK: u32 = 200;
/// The longest pause, however many files there are.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// Events come in bursts; one look serves them all, and a busy folder cannot keep a core busy.
const BURST: Duration = Duration::from_millis(20);
/// The longest pause after look upon look has panicked.
const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// A handle on the merchants in force; clones share them. The thread ends with the last handle.
#[derive(Clone)]
pub struct LiveConfig(Arc<Shared>);

struct Shared {
    current: ArcSwap<Snapshot>,
    last: Mutex<(SystemTime, ReloadOutcome)>,
    turn: Mutex<Turn>,
}

/// The state that one reload at a time may touch.
struct Turn {
    follower: Follower,
    on_reload: Box<dyn Fn(&ReloadOutcome) + Send>,
}

/// Keeps `first`, loaded from `path`, in step with the file.
///
/// `on_reload` is called for each change that was applied or rejected, once for each content, and for the outcome of
/// [`LiveConfig::reload`] returns. It must not call `reload` itself. Fails only where no thread can be started.
pub fn watch(
    path: PathBuf,
    first: Snapshot,
    on_reload: impl Fn(&ReloadOutcome) + Send + 'static,
) -> io::Result<LiveConfig> {
    let outcome = ReloadOutcome::Applied {
        merchants: first.len(),
        digest: first.digest().into(),
        added: first.len(),
        removed: 0,
        changed: 0,
        took: Duration::ZERO,
        warnings: first.warnings().to_vec(),
    };
    let shared = Arc::new(Shared {
        turn: Mutex::new(Turn {
            follower: Follower::new(path, &first),
            on_reload: Box::new(on_reload),
        }),
        current: ArcSwap::from_pointee(first),
        last: Mutex::new((SystemTime::now(), outcome)),
    });
    let weak = Arc::downgrade(&shared);
    thread::Builder::new()
        .name("merchants".into())
        .spawn(move || follow(&weak))?;
    Ok(LiveConfig(shared))
}

impl LiveConfig {
    /// The merchants in force, to keep for the length of a request.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// The merchants in force, cheaper than [`LiveConfig::snapshot`] where they are not kept across an await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.current.load()
    }

    /// Looks now, without the wait for quiet; blocks until done.
    pub fn reload(&self) -> ReloadOutcome {
        let mut turn = self.0.turn.lock();
        let outcome = turn.follower.reload(&self.0.current);
        self.0.tell(&turn, outcome.clone());
        outcome
    }

    /// The time at which the merchants were last loaded, confirmed or rejected a change, and what came of it.
    pub fn last(&self) -> (SystemTime, ReloadOutcome) {
        self.0.last.lock().clone()
    }
}

impl fmt::Debug for LiveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&*self.load()).finish()
    }
}

impl Shared {
    /// One look; returns how long nothing needs to be done.
    fn look(&self, hints: &mut Hints) -> Duration {
        let mut turn = self.turn.lock();
        let began = Instant::now();
        // Watched before looked at: a change between the two is then at least hinted at.
        hints.follow(turn.follower.main_path(), turn.follower.paths());
        let step = turn.follower.look(Instant::now(), &self.current);
        let idle = (began.elapsed() * PAUSE_PER_LOOK).clamp(POLL, MAX_PAUSE);
        match step {
            ReloadStep::Settled { reverted: true } => {
                let merchants = self.current.load().len();
                self.note(ReloadOutcome::Unchanged { merchants });
                idle
            }
            ReloadStep::Settled { reverted: false } => idle,
            ReloadStep::Wait(rest) => rest.min(POLL),
            ReloadStep::Done(outcome) => {
                self.tell(&turn, outcome);
                idle
            }
        }
    }

    fn tell(&self, turn: &Turn, outcome: ReloadOutcome) {
        self.note(outcome.clone());
        (turn.on_reload)(&outcome);
    }

    fn note(&self, outcome: ReloadOutcome) {
        *self.last.lock() = (SystemTime::now(), outcome);
    }
}

fn follow(shared: &Weak<Shared>) {
    let (wake, woken) = sync_channel(1);
    let mut hints = Hints::new(wake);
    let mut back_off = POLL;
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // Safe to go on after a panic: parking_lot's locks do not poison, and the snapshot is swapped in one step.
        let look = catch_unwind(AssertUnwindSafe(|| shared.look(&mut hints)));
        drop(shared);
        match look {
            Ok(idle) => {
                back_off = POLL;
                wait(&woken, idle);
            }
            Err(_) => {
                tracing::error!(
                    ?back_off,
                    "looking at the merchants file panicked, the last good merchants stay"
                );
                thread::sleep(back_off);
                back_off = (back_off * 2).min(MAX_BACK_OFF);
            }
        }
    }
}

fn wait(woken: &Receiver<()>, idle: Duration) {
    match woken.recv_timeout(idle) {
        Ok(()) => {
            thread::sleep(BURST);
            // What came during the burst is seen by the look that follows.
            let _ = woken.try_recv();
        }
        Err(RecvTimeoutError::Timeout) => {}
        // Without file events the other end is closed.
        Err(RecvTimeoutError::Disconnected) => thread::sleep(idle),
    }
}
