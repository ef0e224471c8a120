//! Generated histories against the real binary: whatever the platform, the app, the operator and the machine do, and in
//! whatever order, the promises about results hold. `tests/world/` plays more of them on the decisions alone.
//!
//! `COUNTERSIGN_HISTORIES_STEPS=N` makes a longer run, `COUNTERSIGN_HISTORIES_SEED=N` another one, and
//! `COUNTERSIGN_HISTORIES=FILE` replays a history. A history that breaks a promise is shortened by as many runs as
//! `COUNTERSIGN_HISTORIES_SHRINK=N` says, and written to a file.

mod keeping;
mod model;
mod neighbour;
mod scene;
mod step;
mod world;

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::keeping::Keeping;
use self::step::{HistoryStep, Kind};
use self::world::{Broken, World};
use crate::cluster::Cluster;
use crate::variants::number;
use crate::variants::rng::Rng;

/// Steps of a run by default.
const STEPS: u64 = 16;
/// The seed of such a run: a build that fails, fails again.
const SEED: u64 = 2344;
/// Steps of one history at most.
const LENGTH: usize = 32;
/// Runs that shorten a history at most.
const SHRINK: u64 = 40;

/// Steps under one policy.
#[derive(Clone)]
struct History {
    /// "Paid" is delivered only after the platform confirmed it.
    confirms: bool,
    steps: Vec<HistoryStep>,
}

impl History {
    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let confirms = match lines.next() {
            Some("confirm paid") => true,
            Some("confirm none") => false,
            other => {
                return Err(format!(
                    "expected `confirm paid` or `confirm none`: {other:?}"
                ));
            }
        };
        let steps = lines.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { confirms, steps })
    }

    fn text(&self) -> String {
        let policy = if self.confirms { "paid" } else { "none" };
        let mut text = format!("confirm {policy}\n");
        for step in &self.steps {
            writeln!(text, "{step}").unwrap();
        }
        text
    }

    fn play(&self, keeping: Keeping) -> Broken {
        let played = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(keeping, self.confirms);
            for (at, step) in self.steps.iter().enumerate() {
                let done = world.step(*step);
                done.map_err(|broken| format!("step {}, {step}: {broken}", at + 1))?;
            }
            world
                .settle()
                .map_err(|broken| format!("in the end: {broken}"))
        }));
        played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.unwrap_or_else(|| "a panic without a text".to_owned()))
        })
    }

    /// Leaves out what is not needed to fail, the larger parts first. Returns what the shorter one breaks, too.
    fn shrunk(mut self, mut broken: String, keeping: Keeping) -> (Self, String) {
        let mut runs = number("COUNTERSIGN_HISTORIES_SHRINK").unwrap_or(SHRINK);
        let mut part = self.steps.len() / 2;
        while part > 0 {
            let mut at = 0;
            while at < self.steps.len() && runs > 0 {
                let mut shorter = self.clone();
                shorter.steps.drain(at..(at + part).min(self.steps.len()));
                runs -= 1;
                match shorter.play(keeping) {
                    Err(its) => (self, broken) = (shorter, its),
                    Ok(()) => at += part,
                }
            }
            part /= 2;
        }
        (self, broken)
    }
}

/// Plays histories until there were enough steps, and prints how often each kind came.
fn campaign(name: &str, keeping: Keeping) {
    if let Ok(path) = std::env::var("COUNTERSIGN_HISTORIES") {
        let history = History::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        return history.play(keeping).unwrap();
    }
    let seed = number("COUNTERSIGN_HISTORIES_SEED");
    let seed = seed.unwrap_or(SEED);
    let steps = number("COUNTERSIGN_HISTORIES_STEPS").unwrap_or(STEPS) as usize;
    println!("{name}: COUNTERSIGN_HISTORIES_SEED={seed} COUNTERSIGN_HISTORIES_STEPS={steps}");
    let mut rng = Rng::new(seed);
    let mut counts = vec![0; Kind::ALL.len()];
    let (mut played, mut histories) = (0, 0);
    while played < steps {
        let confirms = rng.flip();
        let length = (steps - played).min(LENGTH);
        let steps = (0..length)
            .map(|_| step::next(&mut rng, &mut counts))
            .collect();
        let history = History { confirms, steps };
        if let Err(broken) = history.play(keeping) {
            fail(name, seed, &broken, history, keeping);
        }
        played += length;
        histories += 1;
    }
    let counted = Kind::ALL.iter().zip(&counts);
    let counted: Vec<_> = counted
        .map(|(kind, count)| format!("{} {count}", kind.name()))
        .collect();
    println!(
        "{name}: {played} steps in {histories} histories: {}",
        counted.join(", ")
    );
}

fn fail(name: &str, seed: u64, broken: &str, history: History, keeping: Keeping) -> ! {
    let before = history.steps.len();
    let path = std::env::temp_dir().join(format!("countersign-{name}-{seed}.history"));
    // Written before it is shortened, which takes minutes.
    fs::write(&path, history.text()).unwrap();
    let (history, last) = history.shrunk(broken.to_owned(), keeping);
    fs::write(&path, history.text()).unwrap();
    panic!(
        "{last}\n(at first: {broken})\nseed {seed}, {} of {before} steps, COUNTERSIGN_HISTORIES={} replays them:\n{}",
        history.steps.len(),
        path.display(),
        history.text()
    );
}

#[test]
fn no_history_on_a_file_breaks_a_promise() {
    // The harness gives every test a database then, and the other campaign uses it.
    if std::env::var_os("COUNTERSIGN_TEST_STORE").is_none_or(|store| store != "postgres") {
        campaign("histories-file", Keeping::File);
    }
}

#[test]
fn no_history_on_a_database_breaks_a_promise() {
    let name = "no_history_on_a_database_breaks_a_promise";
    if let Some(cluster) = Cluster::shared(name) {
        campaign("histories-database", Keeping::Database(cluster));
    }
}

#[test]
fn a_start_with_a_wrong_clock_deletes_nothing_from_a_database() {
    let name = "a_start_with_a_wrong_clock_deletes_nothing_from_a_database";
    if let Some(cluster) = Cluster::shared(name) {
        let text = "confirm none\nnotify 0 3\nwait 0 50\nclock 0 3\nwait 0 50\n";
        let history = History::parse(text).unwrap();
        history.play(Keeping::Database(cluster)).unwrap();
    }
}

#[test]
fn a_history_is_read_as_it_is_written() {
    let text = "confirm paid\nnotify 1 3\nkill-busy 0 20\n";
    assert_eq!(History::parse(text).unwrap().text(), text);
    assert!(History::parse("notify 1 3\n").is_err());
}
