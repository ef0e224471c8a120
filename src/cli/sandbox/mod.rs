//! `countersign sandbox`: a stand-in platform, as a process of its own.

mod conformance;

mod moment;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use tokio::net::TcpListener;

use super::config::environment;
use super::failure::Failure;
use crate::cli::print::{note, say};
use crate::config;
use crate::config::public_keys::{DEMO_KEYS, DEMO_MERID, demo_key};
use crate::config::{ReloadOutcome, Snapshot};
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::client::connect::Connector;
use crate::http::server::accept::serve;
use crate::http::server::service::Service;
use crate::process::holder::holder;
use crate::sandbox::fault::SandboxFault;
use crate::sandbox::{Options, Sandbox as Platform};
use crate::telemetry::metrics::Uncounted;
use moment::PointInTime;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SandboxCommand {
    #[command(subcommand)]
    command: Option<Box<SandboxAction>>,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// A merchants file, followed as the sidecar follows it; without it, the demo's merchant
    #[arg(long, value_name = "FILE")]
    merchants: Option<PathBuf>,
    /// Notifications come this many times faster than documented
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Post notifications instead of getting them
    #[arg(long)]
    post: bool,
    /// An action that is not opened: Bank, WeiXin, AliPay or Arbi
    #[arg(long, value_name = "ACTION", value_parser = ["Bank", "WeiXin", "AliPay", "Arbi"])]
    closed: Vec<String>,
    /// Go wrong on purpose, for all orders; the page and POST /sandbox/faults change it
    #[arg(long, value_name = "FAULT", value_parser = SandboxFault::parse)]
    fault: Vec<SandboxFault>,
    /// Change to the next_key of each merchant that has one at this time: so long from now, as in 30s, or a moment, as
    /// in 2026-03-01T12:00:00+08:00; POST /sandbox/rotate does it at once
    #[arg(long, value_name = "WHEN", value_parser = PointInTime::parse)]
    rotate_at: Option<PointInTime>,
    /// Write each message in other dialects, without changing what it means
    #[arg(long, value_name = "DIALECT", value_parser = ["random"])]
    dialect: Option<String>,
}

#[derive(Subcommand)]
enum SandboxAction {
    /// Try a merchant's own handler through a running sidecar: a table of what held
    Conformance(conformance::ConformanceCommand),
}

pub(super) fn sandbox(args: &SandboxCommand) -> Result<(), Failure> {
    if let Some(SandboxAction::Conformance(args)) = args.command.as_deref() {
        return conformance::conformance(args);
    }
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let listener = bind(args.listen).await?;
        let platform = platform(
            &listener,
            args.speed,
            args.post,
            args.closed.clone(),
            args.dialect.is_some(),
        )?;
        platform.set_faults(None, args.fault.clone());
        let _watch = match &args.merchants {
            Some(file) => Some(follow(file, &platform)?),
            None => {
                platform.set_keys(DEMO_MERID, demo_key(0), Some(demo_key(1)));
                say!(
                    "merchant {DEMO_MERID}, key {}, next_key {}",
                    DEMO_KEYS[0],
                    DEMO_KEYS[1]
                );
                None
            }
        };
        open(listener, &platform);
        if let Some(moment) = args.rotate_at {
            tokio::spawn(rotate(platform, moment));
        }
        say!(
            "platform http://{}, what happened: http://{}/",
            args.listen,
            args.listen
        );
        super::interrupted().await
    })
}

/// A listener, or why there is none.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        let holder =
            holder(address).map_or_else(String::new, |holder| format!(" ({holder} listens there)"));
        Failure::Later(format!("cannot listen on {address}: {error}{holder}"))
    })
}

/// A platform without merchants that is reached at `listener`, once it is open.
pub(super) fn platform(
    listener: &TcpListener,
    speed: f64,
    post: bool,
    closed: Vec<String>,
    random_dialect: bool,
) -> Result<Arc<Platform>, Failure> {
    let address = listener
        .local_addr()
        .map_err(|error| Failure::No(error.to_string()))?;
    let transport = Connector::new(None, Arc::new(Uncounted)).map_err(Failure::No)?;
    let options = Options {
        origin: format!("http://{address}"),
        speed,
        post,
        closed,
        random_dialect,
    };
    Ok(Arc::new(Platform::new(
        options,
        ClientsByOrigin::new(transport),
    )))
}

/// Serves a platform from now on; who called before has waited.
pub(super) fn open(listener: TcpListener, platform: &Arc<Platform>) {
    let service = Service::unmeasured("platform", platform.clone());
    tokio::spawn(serve(listener, Arc::new(service)));
}

async fn rotate(platform: Arc<Platform>, moment: PointInTime) {
    tokio::time::sleep(moment.left()).await;
    match platform.rotate().as_slice() {
        [] => note!("--rotate-at: no merchant has a next_key to change to"),
        merids => say!("next_key counts from now on for {}", merids.join(", ")),
    }
}

fn follow(file: &Path, platform: &Arc<Platform>) -> Result<config::LiveConfig, Failure> {
    let snapshot = Snapshot::load(file, &environment)?;
    platform.set_merchants(&snapshot);
    let (followed, path) = (platform.clone(), file.to_owned());
    let watch = config::watch(file.to_owned(), snapshot, move |outcome| match outcome {
        ReloadOutcome::Applied { .. } => {
            // Loaded again: the outcome has no merchants in it, and the handle on them exists only once this closure
            // does.
            if let Ok(snapshot) = Snapshot::load(&path, &environment) {
                followed.set_merchants(&snapshot);
            }
        }
        ReloadOutcome::Unchanged { .. } => {}
        ReloadOutcome::Refused(problems) => note!("{problems}"),
    });
    watch.map_err(|error| Failure::No(format!("{}: {error}", file.display())))
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    let sound = (0.001..=100_000.0).contains(&speed);
    sound
        .then_some(speed)
        .ok_or_else(|| "expected 0.001 to 100000".to_owned())
}
