//! `countersign clock`: decisions about a clock that has jumped; also while the sidecar runs.

use ::time::UtcOffset;
use clap::{Args, Subcommand};

use crate::cli::config::Config;
use crate::cli::failure::Failure;
use crate::cli::print::say;
use crate::config::StoreAddress;
use crate::time;

#[derive(Args)]
pub(in crate::cli) struct ClockCommand {
    #[command(subcommand)]
    command: ClockAction,
}

#[derive(Subcommand)]
enum ClockAction {
    /// Accept the time that the clock shows now: what a jump held back is deleted, parked and given up again
    Confirm,
}

pub(in crate::cli) fn clock(config: &Config, args: &ClockCommand) -> Result<(), Failure> {
    let ClockAction::Confirm = args.command;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    let address = config.settings()?.inbox.store;
    let store = config.open_store()?;
    let confirmed = runtime.block_on(store.confirm_clock());
    confirmed.map_err(|error| Failure::No(format!("{address}: {error}")))?;
    match address {
        StoreAddress::Sqlite(_) => {
            let now = time::shown(time::now(), UtcOffset::UTC);
            say!("accepted: {now} UTC; a running sidecar follows within seconds");
        }
        StoreAddress::Postgres(_) => {
            say!(
                "accepted: the database's clock; every sidecar of the fleet follows within seconds"
            );
        }
    }
    Ok(())
}
