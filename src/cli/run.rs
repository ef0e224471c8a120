//! `countersign run`

use clap::Args;

use super::config::Config;
use super::failure::Failure;
use crate::server;
use crate::telemetry::log;

#[derive(Args)]
pub(super) struct RunCommand {
    /// Take the listeners over from the running process, which finishes what it has in flight and ends
    #[arg(long)]
    upgrade: bool,
}

pub(super) fn run(config: &Config, run: &RunCommand) -> Result<(), Failure> {
    let (settings, snapshot) = config.load()?;
    let ran = server::run(&settings, snapshot, run.upgrade);
    log::end();
    Ok(ran?)
}
