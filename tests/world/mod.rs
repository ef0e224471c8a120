//! A small world around the product's decisions: a platform, apps, operators, clocks and disks act in generated histories
//! on a real store, and a model says after each step what must hold.
//!
//! Compiled into the crate's unit tests, so that it drives the product's own functions: the store with its decisions,
//! the rounds of the delivery, the trusted time, the comparison behind `confirm = "paid"`, and the verdict on an attempt.
//! A history that breaks an invariant is shrunk and written to a file, one step a line. tests/README.md says how to run
//! more of them and how to replay one.

mod step;

mod clocks;

mod model;

mod platform;

mod attempts;

mod deliver;

mod run;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use run::World;
use step::{Step, any_crowd, any_step};

/// Steps of a run of the suite.
const WANTED: u64 = 1_000;
/// Steps of one history at most.
const STEPS: usize = 80;
/// The seed of the short run: the same histories on every machine.
const SEED: u64 = 17;
/// Histories that are generated from one state of the seed.
const BATCH: u32 = 16;
/// Threads of a long run.
const THREADS: u64 = 2;

/// Counts of what was played.
#[derive(Default)]
struct Tally {
    steps: AtomicU64,
    histories: AtomicU64,
    injected: Mutex<BTreeMap<&'static str, u64>>,
}

impl Tally {
    fn add(&self, steps: usize, world: &World) {
        self.steps.fetch_add(steps as u64, Ordering::Relaxed);
        self.histories.fetch_add(1, Ordering::Relaxed);
        let mut injected = self.injected.lock();
        for (name, count) in &world.injected {
            *injected.entry(name).or_default() += count;
        }
    }

    fn print(&self, seed: u64, began: Instant) {
        println!(
            "seed {seed}: {} steps in {} histories, {} s",
            self.steps.load(Ordering::Relaxed),
            self.histories.load(Ordering::Relaxed),
            began.elapsed().as_secs()
        );
        for (name, count) in &*self.injected.lock() {
            println!("{count:>9}  {name}");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays a history, and returns the invariant that it breaks, with the number of the step.
fn play(steps: &[Step], tally: &Tally) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut world = World::new();
        for (at, step) in steps.iter().enumerate() {
            let done = world.step(*step).await;
            done.map_err(|broken| format!("step {}, {step}: {broken}", at + 1))?;
        }
        let settled = world.settle().await;
        settled.map_err(|broken| format!("in the end: {broken}"))?;
        tally.add(steps.len(), &world);
        Ok(())
    })
}

/// Histories, one in sixteen of them beside a crowd.
fn any_history() -> impl Strategy<Value = Vec<Step>> {
    let steps = || vec(any_step(), 1..STEPS);
    prop_oneof![
        15 => steps(),
        1 => (any_crowd(), steps(), any::<prop::sample::Index>()).prop_map(|(crowd, mut steps, at)| {
            steps.insert(at.index(steps.len()), crowd);
            steps
        }),
    ]
}

/// Plays histories of this seed until so many steps were played; writes down one that breaks an invariant.
fn play_many(seed: u64, wanted: u64, tally: &Tally) -> Result<(), String> {
    let config = Config {
        cases: BATCH,
        failure_persistence: None,
        max_shrink_iters: 1_500,
        ..Config::default()
    };
    for batch in 0u64.. {
        if tally.steps.load(Ordering::Relaxed) >= wanted {
            break;
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&batch.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config.clone(), rng);
        let played = runner.run(&any_history(), |steps| {
            play(&steps, tally).map_err(TestCaseError::fail)
        });
        if let Err(TestError::Fail(reason, steps)) = played {
            let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
            let path = std::env::temp_dir().join(format!("countersign-world-{seed}.history"));
            fs::write(&path, &text).map_err(|error| error.to_string())?;
            let (length, path) = (steps.len(), path.display());
            return Err(format!(
                "{reason}\nseed {seed}, {length} steps, COUNTERSIGN_WORLD={path} replays them:\n{text}"
            ));
        }
    }
    Ok(())
}

#[test]
fn no_history_breaks_an_invariant() {
    let (tally, began) = (Tally::default(), Instant::now());
    if let Ok(path) = std::env::var("COUNTERSIGN_WORLD") {
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<Step> = text.lines().map(|line| line.parse().unwrap()).collect();
        return play(&steps, &tally).unwrap();
    }
    let seed = number("COUNTERSIGN_WORLD_SEED").unwrap_or(SEED);
    let wanted = number("COUNTERSIGN_WORLD_STEPS").unwrap_or(WANTED);
    let threads = if wanted > WANTED { THREADS } else { 1 };
    let ends: Vec<_> = std::thread::scope(|scope| {
        let tally = &tally;
        let play = |thread| scope.spawn(move || play_many(seed + thread, wanted, tally));
        let threads: Vec<_> = (0..threads).map(play).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    tally.print(seed, began);
    for end in ends {
        end.unwrap_or_else(|broken| panic!("{broken}"));
    }
}

#[test]
fn a_history_is_read_as_it_is_written() {
    let mut runner = TestRunner::deterministic();
    let read = runner.run(&prop_oneof![any_step(), any_crowd()], |step| {
        let again: Step = step.to_string().parse().map_err(TestCaseError::fail)?;
        (again == step)
            .then_some(())
            .ok_or_else(|| TestCaseError::fail(step.to_string()))
    });
    read.unwrap();
}
