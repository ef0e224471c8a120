//! From a changed file to a new snapshot: loaded at first sight, in force once the content has been quiet.
//!
//! Knows contents, not events, and gets the time from its caller. Keeps promise I6: what cannot be taken whole leaves the last good
//! snapshot in force.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::mass_deletion;
use crate::config::file;
use crate::config::file::{Contents, Seen, Stamp};
use crate::config::merchants;
use crate::config::merchants::{Merchant, MerchantRules, Snapshot};
use crate::config::problem::Problems;

/// Covers an editor that empties a file before it writes it.
const QUIET: Duration = Duration::from_millis(300);
/// Applies where merchants vanish: a slow writer at the end of an entry looks just the same.
const QUIET_WHERE_MERCHANTS_VANISH: Duration = Duration::from_secs(5);
/// Content is read, not only looked at, this often.
const READ_ALL: Duration = Duration::from_secs(120);

/// The outcome of one reload.
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

/// The finding of one look.
pub(super) enum ReloadStep {
    /// Nothing to do; `reverted` where rejected content has gone back to the live one.
    Settled { reverted: bool },
    /// Look again after this long.
    Wait(Duration),
    /// A change was applied or rejected.
    Done(ReloadOutcome),
}

/// Follows one merchants file and the key files it names.
pub(super) struct Follower {
    path: PathBuf,
    rules: MerchantRules,
    in_force: Contents,
    refused: Contents,
    pending: Option<Pending>,
    /// The content of each file, valid as long as the file does not change.
    read: HashMap<PathBuf, (Stamp, Seen)>,
    /// The time at which every file was last read, whatever its stamp.
    read_all: Instant,
}

struct Pending {
    trial: ReloadTrial,
    since: Instant,
    quiet: Duration,
}

struct ReloadTrial {
    result: Result<Snapshot, Problems>,
    contents: Contents,
    took: Duration,
}

impl Follower {
    pub(super) fn new(path: PathBuf, first: &Snapshot) -> Self {
        Self {
            path,
            rules: first.rules(),
            in_force: first.contents().clone(),
            refused: Contents::new(),
            pending: None,
            read: HashMap::new(),
            read_all: Instant::now(),
        }
    }

    /// The merchants file.
    pub(super) fn main_path(&self) -> &Path {
        &self.path
    }

    /// The files that matter: those in force, those last rejected, and those about to be taken.
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

    /// Applies a change once it has been the same for long enough; reports one rejection for each content.
    pub(super) fn look(&mut self, now: Instant, current: &ArcSwap<Snapshot>) -> ReloadStep {
        let seen = self.observe(now);
        // Compared with what is in force first: an edit that is taken back in time changes nothing and is not reported.
        if holds(&seen, &self.in_force) {
            self.pending = None;
            let reverted = !std::mem::take(&mut self.refused).is_empty();
            return ReloadStep::Settled { reverted };
        }
        if holds(&seen, &self.refused) {
            self.pending = None;
            return ReloadStep::Settled { reverted: false };
        }
        let pending = match self.pending.take() {
            Some(pending) if holds(&seen, &pending.trial.contents) => pending,
            // Each further change begins the wait anew, so that a slow writer is not caught in the middle.
            _ => self.first_sight(now, current),
        };
        let waited = now.saturating_duration_since(pending.since);
        if waited < pending.quiet {
            let rest = pending.quiet - waited;
            self.pending = Some(pending);
            return ReloadStep::Wait(rest);
        }
        ReloadStep::Done(self.decide(pending.trial, current))
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

    /// Reads what changed since the last look. Now and then all of it: a network's file system may keep stale times.
    fn observe(&mut self, now: Instant) -> Contents {
        let before = if now.saturating_duration_since(self.read_all) < READ_ALL {
            std::mem::take(&mut self.read)
        } else {
            self.read_all = now;
            HashMap::new()
        };
        let mut read = HashMap::with_capacity(before.len());
        let mut seen = Contents::new();
        for path in self.paths() {
            // Before the content: what is written in between is then read again.
            let stamp = Stamp::of(path);
            let content = match (stamp, before.get(path)) {
                (Some(stamp), Some((known, content))) if stamp == *known => content.clone(),
                _ => file::look(path, self.limit(path)),
            };
            if let Some(stamp) = stamp.filter(|stamp| stamp.is_settled()) {
                read.insert(path.to_owned(), (stamp, content.clone()));
            }
            seen.insert(path.to_owned(), content);
        }
        self.read = read;
        seen
    }

    fn limit(&self, path: &Path) -> u64 {
        if path == self.path {
            file::MAX_FILE
        } else {
            file::MAX_KEY_FILE
        }
    }

    fn first_sight(&self, now: Instant, current: &ArcSwap<Snapshot>) -> Pending {
        let trial = self.load();
        let quiet = match &trial.result {
            // Loaded at first sight, because only the result shows how long to wait.
            Ok(new) if mass_deletion::vanished(&current.load(), new) > 0 => {
                QUIET_WHERE_MERCHANTS_VANISH
            }
            _ => QUIET,
        };
        Pending {
            trial,
            since: now,
            quiet,
        }
    }

    fn load(&self) -> ReloadTrial {
        let start = Instant::now();
        let (result, contents) =
            merchants::attempt(self.rules, &self.path, &|name| std::env::var(name).ok());
        ReloadTrial {
            result,
            contents,
            took: start.elapsed(),
        }
    }

    fn decide(&mut self, trial: ReloadTrial, current: &ArcSwap<Snapshot>) -> ReloadOutcome {
        let old = current.load_full();
        let checked = trial
            .result
            .and_then(|new| mass_deletion::guard(&self.path, &old, new));
        match checked {
            Ok(new) => {
                let outcome = applied(&old, &new, trial.took);
                self.in_force = trial.contents;
                self.refused.clear();
                current.store(new.into());
                outcome
            }
            Err(problems) => {
                // Kept, so that the same content is reported once, however often it is looked at.
                self.refused = trial.contents;
                ReloadOutcome::Refused(problems)
            }
        }
    }
}

/// Returns true if every file of `wanted` was seen as it is there; nothing holds an empty load.
fn holds(seen: &Contents, wanted: &Contents) -> bool {
    !wanted.is_empty()
        && wanted
            .iter()
            .all(|(path, content)| seen.get(path) == Some(content))
}

fn applied(old: &Snapshot, new: &Snapshot, took: Duration) -> ReloadOutcome {
    let differs = |before: &&Arc<Merchant>| {
        new.merchant(&before.merid)
            .is_some_and(|after| after != *before)
    };
    ReloadOutcome::Applied {
        merchants: new.len(),
        digest: new.digest().into(),
        added: mass_deletion::vanished(new, old),
        removed: mass_deletion::vanished(old, new),
        changed: old.iter().filter(differs).count(),
        took,
        warnings: new.warnings().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Desk {
        dir: tempfile::TempDir,
        follower: Follower,
        current: ArcSwap<Snapshot>,
        now: Instant,
    }

    fn entry(n: usize) -> String {
        format!("[[merchant]]\nmerid = \"{n}\"\nkey = \"7d0f1c0a9be84e6e8e1f{n:04}\"\n")
    }

    fn entries(count: usize) -> String {
        (1..=count).map(entry).collect()
    }

    impl Desk {
        fn new(count: usize) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("m.toml");
            fs::write(&path, entries(count)).unwrap();
            let first = Snapshot::load(&path, &|_| None).unwrap();
            Self {
                dir,
                follower: Follower::new(path, &first),
                current: ArcSwap::from_pointee(first),
                now: Instant::now(),
            }
        }

        fn write(&self, text: &str) {
            fs::write(self.dir.path().join("m.toml"), text).unwrap();
        }

        fn look_after(&mut self, ms: u64) -> ReloadStep {
            self.now += Duration::from_millis(ms);
            self.follower.look(self.now, &self.current)
        }

        fn outcome_after(&mut self, ms: u64) -> ReloadOutcome {
            match self.look_after(ms) {
                ReloadStep::Done(outcome) => outcome,
                ReloadStep::Wait(rest) => panic!("waits for {rest:?}"),
                ReloadStep::Settled { .. } => panic!("settled"),
            }
        }

        fn is_settled_after(&mut self, ms: u64) -> bool {
            matches!(self.look_after(ms), ReloadStep::Settled { .. })
        }

        fn waits_after(&mut self, ms: u64) -> Duration {
            match self.look_after(ms) {
                ReloadStep::Wait(rest) => rest,
                ReloadStep::Done(outcome) => panic!("{outcome:?}"),
                ReloadStep::Settled { .. } => panic!("settled"),
            }
        }
    }

    #[test]
    fn change_counts_after_its_quiet_time_and_no_earlier() {
        let mut desk = Desk::new(2);
        assert!(desk.is_settled_after(0));
        desk.write(&entries(3));
        assert_eq!(desk.waits_after(0), QUIET);
        assert_eq!(desk.waits_after(299), Duration::from_millis(1));
        assert!(matches!(
            desk.outcome_after(1),
            ReloadOutcome::Applied { added: 1, .. }
        ));
        assert_eq!(desk.current.load().len(), 3);
        assert!(desk.is_settled_after(2_000));
    }

    #[test]
    fn slow_writer_starts_the_quiet_time_over() {
        let mut desk = Desk::new(1);
        for count in 2..20 {
            desk.write(&entries(count));
            assert_eq!(desk.waits_after(100), QUIET);
        }
        assert_eq!(desk.current.load().len(), 1);
        assert!(matches!(
            desk.outcome_after(300),
            ReloadOutcome::Applied { merchants: 19, .. }
        ));
    }

    #[test]
    fn vanishing_merchant_takes_five_seconds() {
        let mut desk = Desk::new(3);
        desk.write(&entries(2));
        assert_eq!(desk.waits_after(0), QUIET_WHERE_MERCHANTS_VANISH);
        assert_eq!(desk.waits_after(4_999), Duration::from_millis(1));
        assert!(matches!(
            desk.outcome_after(1),
            ReloadOutcome::Applied { removed: 1, .. }
        ));
    }

    #[test]
    fn file_cut_at_an_entry_and_then_completed_never_takes_a_merchant_out() {
        let mut desk = Desk::new(3);
        desk.write(&entries(2));
        desk.waits_after(0);
        desk.write(&entries(4));
        assert_eq!(desk.waits_after(4_900), QUIET);
        assert!(matches!(
            desk.outcome_after(300),
            ReloadOutcome::Applied {
                added: 1,
                removed: 0,
                ..
            }
        ));
    }

    #[test]
    fn refusal_is_reported_once_for_each_content() {
        let mut desk = Desk::new(2);
        for broken in ["[[merchant", "[[merchant]", "[[merchant"] {
            desk.write(broken);
            desk.waits_after(2_000);
            assert!(matches!(desk.outcome_after(300), ReloadOutcome::Refused(_)));
            assert!(desk.is_settled_after(2_000) && desk.is_settled_after(2_000));
        }
        assert_eq!(desk.current.load().len(), 2);
    }

    #[test]
    fn going_back_to_what_is_in_force_is_no_reload() {
        let mut desk = Desk::new(2);
        desk.write("broken");
        desk.waits_after(0);
        desk.write(&entries(2));
        assert!(matches!(
            desk.look_after(300),
            ReloadStep::Settled { reverted: false }
        ));
        desk.write("broken");
        desk.waits_after(0);
        desk.outcome_after(300);
        desk.write(&entries(2));
        assert!(matches!(
            desk.look_after(300),
            ReloadStep::Settled { reverted: true }
        ));
        assert!(matches!(
            desk.look_after(300),
            ReloadStep::Settled { reverted: false }
        ));
    }

    #[test]
    fn key_file_that_is_still_being_written_is_waited_for() {
        let mut desk = Desk::new(1);
        let key_file = desk.dir.path().join("2.key");
        fs::write(&key_file, "7d0f").unwrap();
        let second = "[[merchant]]\nmerid = \"2\"\nkey_file = \"2.key\"\n";
        desk.write(&(entry(1) + second));
        desk.waits_after(0);
        fs::write(&key_file, "7d0f1c0a9be84e6e8e1f").unwrap();
        assert_eq!(desk.waits_after(300), QUIET);
        desk.outcome_after(300);
        let now = desk.current.load();
        assert!(!now.warnings().iter().any(|it| it.contains("shorter")));
        drop(now);
        fs::write(&key_file, "7d0f1c0a9be84e6e8e1f-next").unwrap();
        desk.waits_after(0);
        assert!(matches!(
            desk.outcome_after(300),
            ReloadOutcome::Applied { changed: 1, .. }
        ));
    }

    #[test]
    fn most_merchants_vanish_only_where_the_file_says_so() {
        let mut desk = Desk::new(9);
        desk.write(&entries(4));
        let ReloadOutcome::Refused(problems) = desk.follower.reload(&desk.current) else {
            panic!("5 of 9 are gone");
        };
        let expected =
            "5 of 9 merchants would vanish, add [end] with merchants = 4 if this is meant";
        assert_eq!(problems.0[0].expected, expected);
        desk.write(&(entries(4) + "[end]\nmerchants = 4\n"));
        let outcome = desk.follower.reload(&desk.current);
        assert!(matches!(outcome, ReloadOutcome::Applied { removed: 5, .. }));
    }

    #[test]
    fn fewer_than_five_or_half_may_vanish() {
        for (before, after) in [(4, 1), (10, 5), (5, 1)] {
            let mut desk = Desk::new(before);
            desk.write(&entries(after));
            let outcome = desk.follower.reload(&desk.current);
            assert!(
                matches!(outcome, ReloadOutcome::Applied { .. }),
                "{before} to {after}"
            );
        }
    }
}
