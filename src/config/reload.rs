//! From a changed file to a new snapshot: loaded at first sight, in force once the content has been quiet.
//!
//! Knows contents, not events, and is told the time. Keeps promise I6: what cannot be taken whole leaves the last good
//! snapshot in force.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::merchants::{self, Merchant, Snapshot};
use super::problem::{Problem, Problems};
use super::source::{self, Contents};

/// Covers an editor that empties a file before it writes it.
const QUIET: Duration = Duration::from_millis(300);
/// Where merchants vanish, a slow writer that has reached the end of an entry looks just the same.
const QUIET_WHERE_MERCHANTS_VANISH: Duration = Duration::from_secs(5);
/// Merchants; taking out fewer at a time is everyday work.
const MASS_DELETION: usize = 5;

/// What came of one reload.
#[derive(Debug, Clone)]
pub enum ReloadOutcome {
    /// The new snapshot is in force.
    Applied {
        /// Merchants in force.
        merchants: usize,
        /// The snapshot's digest.
        digest: String,
        /// Merchants that were not there before.
        added: usize,
        /// Merchants that are gone.
        removed: usize,
        /// Merchants with another key, other old keys or other URLs.
        changed: usize,
        /// Reading and checking, without the wait for quiet.
        took: Duration,
        /// Weak and shared keys, by merid.
        warnings: Vec<String>,
    },
    /// The files hold what is in force.
    Unchanged {
        /// Merchants in force.
        merchants: usize,
    },
    /// The last good snapshot stays in force.
    Refused(Problems),
}

/// What one look found.
pub(super) enum Step {
    /// Nothing to do; `reverted` where refused content has gone back to what is in force.
    Settled { reverted: bool },
    /// Look again after this long.
    Wait(Duration),
    /// A change was applied or refused.
    Done(ReloadOutcome),
}

/// Follows one merchants file and the key files it names.
pub(super) struct Follower {
    path: PathBuf,
    in_force: Contents,
    refused: Contents,
    pending: Option<Pending>,
}

struct Pending {
    trial: Trial,
    since: Instant,
    quiet: Duration,
}

struct Trial {
    result: Result<Snapshot, Problems>,
    contents: Contents,
    took: Duration,
}

impl Follower {
    pub(super) fn new(path: PathBuf, first: &Snapshot) -> Self {
        Self {
            path,
            in_force: first.contents().clone(),
            refused: Contents::new(),
            pending: None,
        }
    }

    /// The files that matter: those in force, those last refused, and those about to be taken.
    pub(super) fn paths(&self) -> BTreeSet<&Path> {
        let pending = self
            .pending
            .iter()
            .flat_map(|pending| pending.trial.contents.keys());
        self.in_force
            .keys()
            .chain(self.refused.keys())
            .chain(pending)
            .chain([&self.path])
            .map(PathBuf::as_path)
            .collect()
    }

    /// Applies a change once it has been the same for long enough; reports one refusal for each content.
    pub(super) fn look(&mut self, now: Instant, current: &ArcSwap<Snapshot>) -> Step {
        let seen = self.observe();
        if holds(&seen, &self.in_force) {
            self.pending = None;
            let reverted = !std::mem::take(&mut self.refused).is_empty();
            return Step::Settled { reverted };
        }
        if holds(&seen, &self.refused) {
            self.pending = None;
            return Step::Settled { reverted: false };
        }
        let pending = match self.pending.take() {
            Some(pending) if holds(&seen, &pending.trial.contents) => pending,
            _ => self.first_sight(now, current),
        };
        let waited = now.saturating_duration_since(pending.since);
        if waited < pending.quiet {
            let rest = pending.quiet - waited;
            self.pending = Some(pending);
            return Step::Wait(rest);
        }
        Step::Done(self.decide(pending.trial, current))
    }

    /// Looks now, without the wait for quiet.
    pub(super) fn reload(&mut self, current: &ArcSwap<Snapshot>) -> ReloadOutcome {
        self.pending = None;
        let trial = self.load();
        if trial.result.is_ok() && trial.contents == self.in_force {
            self.refused.clear();
            return ReloadOutcome::Unchanged {
                merchants: current.load().len(),
            };
        }
        self.decide(trial, current)
    }

    fn observe(&self) -> Contents {
        let look = |path: &Path| {
            let limit = if path == self.path {
                source::MAX_FILE
            } else {
                source::MAX_KEY_FILE
            };
            (path.to_owned(), source::look(path, limit))
        };
        self.paths().into_iter().map(look).collect()
    }

    fn first_sight(&self, now: Instant, current: &ArcSwap<Snapshot>) -> Pending {
        let trial = self.load();
        let quiet = match &trial.result {
            Ok(new) if vanished(&current.load(), new) > 0 => QUIET_WHERE_MERCHANTS_VANISH,
            _ => QUIET,
        };
        Pending {
            trial,
            since: now,
            quiet,
        }
    }

    fn load(&self) -> Trial {
        let start = Instant::now();
        let (result, contents) = merchants::attempt(&self.path, &|name| std::env::var(name).ok());
        Trial {
            result,
            contents,
            took: start.elapsed(),
        }
    }

    fn decide(&mut self, trial: Trial, current: &ArcSwap<Snapshot>) -> ReloadOutcome {
        let old = current.load_full();
        let checked = trial.result.and_then(|new| self.guard(&old, new));
        match checked {
            Ok(new) => {
                let outcome = applied(&old, &new, trial.took);
                self.in_force = trial.contents;
                self.refused.clear();
                current.store(new.into());
                outcome
            }
            Err(problems) => {
                self.refused = trial.contents;
                ReloadOutcome::Refused(problems)
            }
        }
    }

    /// A file cut short at the end of an entry is a good file; only its author can tell that it is meant.
    fn guard(&self, old: &Snapshot, new: Snapshot) -> Result<Snapshot, Problems> {
        let vanished = vanished(old, &new);
        if new.count_stated() || vanished < MASS_DELETION || vanished * 2 <= old.len() {
            return Ok(new);
        }
        let expected = format!(
            "{vanished} of {} merchants would vanish, add [end] with merchants = {} if this is meant",
            old.len(),
            new.len()
        );
        Err(Problem::new(&self.path, "end.merchants", expected).into())
    }
}

/// Whether every file of `wanted` was seen as it is there; nothing holds an empty load.
fn holds(seen: &Contents, wanted: &Contents) -> bool {
    !wanted.is_empty()
        && wanted
            .iter()
            .all(|(path, content)| seen.get(path) == Some(content))
}

fn vanished(old: &Snapshot, new: &Snapshot) -> usize {
    let gone = |merchant: &&Merchant| new.merchant(&merchant.merid).is_none();
    old.iter().filter(gone).count()
}

fn applied(old: &Snapshot, new: &Snapshot, took: Duration) -> ReloadOutcome {
    let differs = |before: &&Merchant| {
        new.merchant(&before.merid)
            .is_some_and(|after| after != *before)
    };
    ReloadOutcome::Applied {
        merchants: new.len(),
        digest: new.digest().into(),
        added: vanished(new, old),
        removed: vanished(old, new),
        changed: old.iter().filter(differs).count(),
        took,
        warnings: new.warnings().to_vec(),
    }
}
