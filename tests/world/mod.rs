//! A small world around the product's decisions: a platform, an app and an operator act in generated histories on a real
//! store, and a model says after each step what must hold.
//!
//! Compiled into the crate's unit tests, so that it drives the product's own functions: the store with its decisions,
//! the comparison behind `confirm = "paid"`, and the verdict on an attempt. A history that breaks an invariant is shrunk
//! and written to a file, one step a line. `COUNTERSIGN_WORLD=FILE` replays such a file, `COUNTERSIGN_WORLD_SEED=N` a
//! run, `COUNTERSIGN_WORLD_CASES=N` sets the number of histories.

mod step;

mod model;

mod run;

use std::fs;

use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use run::World;
use step::{Step, any_step};

/// Histories of a run that nobody asked for more of.
const CASES: u32 = 60;
/// Steps of one history at most.
const STEPS: usize = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays a history, and returns the invariant that it breaks, with the number of the step.
fn play(steps: &[Step]) -> Result<(), String> {
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
        world
            .settle()
            .await
            .map_err(|broken| format!("in the end: {broken}"))
    })
}

#[test]
fn no_history_breaks_an_invariant() {
    if let Ok(path) = std::env::var("COUNTERSIGN_WORLD") {
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<Step> = text.lines().map(|line| line.parse().unwrap()).collect();
        return play(&steps).unwrap();
    }
    let seed = number("COUNTERSIGN_WORLD_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let cases = number("COUNTERSIGN_WORLD_CASES").and_then(|it| u32::try_from(it).ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let histories = vec(any_step(), 1..STEPS);
    let played = runner.run(&histories, |steps| {
        play(&steps).map_err(TestCaseError::fail)
    });
    if let Err(TestError::Fail(reason, steps)) = played {
        let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
        let path = std::env::temp_dir().join(format!("countersign-world-{seed}.history"));
        fs::write(&path, &text).unwrap();
        let length = steps.len();
        let path = path.display();
        panic!(
            "{reason}\nseed {seed}, {length} steps, COUNTERSIGN_WORLD={path} replays them:\n{text}"
        );
    }
}

#[test]
fn a_history_is_read_as_it_is_written() {
    let mut runner = TestRunner::deterministic();
    let read = runner.run(&any_step(), |step| {
        let again: Step = step.to_string().parse().map_err(TestCaseError::fail)?;
        (again == step)
            .then_some(())
            .ok_or_else(|| TestCaseError::fail(step.to_string()))
    });
    read.unwrap();
}
