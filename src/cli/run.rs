//! `countersign run`

use clap::Args;

use super::sandbox::demo_key;
use super::{Config, DEMO_VARIABLE, Failure, environment};
use crate::config::Snapshot;
use crate::server;
use crate::telemetry::log;

#[derive(Args)]
pub(super) struct RunCommand {
    #[command(flatten)]
    config: Config,
    /// Take the listeners over from the running process, which finishes what it has in flight and ends
    #[arg(long)]
    upgrade: bool,
}

pub(super) fn run(run: &RunCommand) -> Result<(), Failure> {
    let (settings, snapshot) = run.config.load()?;
    refuse_demo_keys(&snapshot)?;
    let ran = server::run(&settings, snapshot, run.upgrade);
    log::end();
    ran.map_err(|error| Failure::Config(error.to_string()))
}

/// The demo's keys are printed by every copy of this program.
fn refuse_demo_keys(snapshot: &Snapshot) -> Result<(), Failure> {
    let known = [demo_key(0), demo_key(1)];
    let with_one = snapshot
        .iter()
        .find(|merchant| merchant.verifying_keys().any(|key| known.contains(key)));
    match with_one {
        Some(merchant) if environment(DEMO_VARIABLE).is_none() => Err(Failure::Config(format!(
            "merchant {}: this is the demo's key, which everybody has; expected the platform's own",
            merchant.merid
        ))),
        _ => Ok(()),
    }
}
