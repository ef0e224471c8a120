//! `countersign sandbox conformance`: tests a merchant's handler through a running sidecar.

use std::fs;
use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::process::Command;
use url::Url;

use crate::cli::config::environment;
use crate::cli::failure::Failure;
use crate::cli::keys::unknown_merchant;
use crate::cli::print::{note, say};
use crate::config::Snapshot;
use crate::config::public_keys::{DEMO_MERID, demo_key};
use crate::config::web_url;
use crate::config::web_url::Tail;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::client::connect::Connector;
use crate::protocol::key::Key;
use crate::sandbox::conformance::finding::{Doubt, junit};
use crate::sandbox::conformance::{CaseRun, SidecarAddresses};
use crate::telemetry::metrics::Uncounted;

/// Limit of a restart.
const RESTART_TIME: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(super) struct ConformanceCommand {
    /// The sidecar's callback listener, as in http://127.0.0.1:8081/notify/back
    #[arg(long, value_name = "URL", value_parser = callback_url)]
    back: Url,
    /// Its address for returning customers, as in http://127.0.0.1:8081/notify/front
    #[arg(long, value_name = "URL", value_parser = callback_url)]
    front: Option<Url>,
    /// The sidecar's app listener: it signs the orders, so that its ledger knows them
    #[arg(long, value_name = "URL", value_parser = listener_url, default_value = "http://127.0.0.1:8080")]
    app: Url,
    /// The sidecar's admin listener: its metrics count what the app accepted
    #[arg(long, value_name = "URL", value_parser = listener_url, default_value = "http://127.0.0.1:9900")]
    admin: Url,
    /// The sidecar's merchants file, for the key; without it, the merchant of the demo
    #[arg(long, value_name = "FILE")]
    merchants: Option<PathBuf>,
    /// The merchant, where the file has several
    #[arg(long, requires = "merchants")]
    merid: Option<String>,
    /// The time that the app may take for a result
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
    /// Command that restarts the sidecar, the app or both; without it you are prompted, where there is a terminal
    #[arg(long, value_name = "CMD")]
    restart_command: Option<String>,
    /// Also write JUnit XML to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// A host other than this machine that may be tested: the app behind it will book payments
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
}

pub(super) fn conformance(args: &ConformanceCommand) -> Result<(), Failure> {
    args.check_hosts()?;
    let merchant = args.merchant()?;
    let transport = Connector::new(None, Arc::new(Uncounted)).map_err(Failure::No)?;
    let at = SidecarAddresses {
        back: args.back.clone(),
        front: args.front.clone(),
        app: args.app.clone(),
        admin: args.admin.clone(),
    };
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    let findings = runtime.block_on(async {
        let patience = Duration::from_secs(args.wait);
        let trial = CaseRun::begin(at, ClientsByOrigin::new(transport), merchant, patience).await;
        let trial = trial.map_err(Failure::No)?;
        for (name, premise) in trial.premises().await {
            say!("{name:<9} {premise}");
        }
        say!("");
        let restart = async || args.restart().await;
        Ok::<_, Failure>(trial.run(restart, |finding| say!("{finding}")).await)
    })?;
    if let Some(file) = &args.junit {
        fs::write(file, junit(&findings))
            .map_err(|error| Failure::No(format!("{}: {error}", file.display())))?;
    }
    let broken = findings.iter().filter(|one| one.is_broken()).count();
    let held = findings.iter().filter(|one| one.outcome.is_ok()).count();
    let unseen = findings.len() - broken - held;
    say!("\n{held} held, {broken} did not hold, {unseen} were not seen");
    match broken {
        0 => Ok(()),
        _ => Err(Failure::No("the handler does not conform".to_owned())),
    }
}

impl ConformanceCommand {
    /// Allows this machine and the hosts that were named: a test ends in an app's books.
    fn check_hosts(&self) -> Result<(), Failure> {
        let urls = [
            ("--back", Some(&self.back)),
            ("--front", self.front.as_ref()),
            ("--app", Some(&self.app)),
            ("--admin", Some(&self.admin)),
        ];
        for (flag, url) in urls {
            let foreign = url.filter(|url| !web_url::is_loopback(url));
            let foreign = foreign.and_then(Url::host_str);
            if let Some(host) = foreign.filter(|host| !self.allow_host.iter().any(|it| it == host))
            {
                return Err(Failure::Usage(format!(
                    "{flag}: expected a loopback address, because the app behind {host} would book payments; \
                     if it is meant, add --allow-host {host}"
                )));
            }
        }
        Ok(())
    }

    fn merchant(&self) -> Result<(String, Key), Failure> {
        let Some(file) = &self.merchants else {
            return Ok((DEMO_MERID.to_owned(), demo_key(1)));
        };
        let snapshot = Snapshot::load(file, &environment)?;
        let merchant = match &self.merid {
            Some(merid) => snapshot.merchant(merid).ok_or_else(unknown_merchant)?,
            None => snapshot.sole().ok_or_else(|| {
                Failure::Usage(
                    "expected --merid, because the file has several merchants".to_owned(),
                )
            })?,
        };
        Ok((merchant.merid.clone(), merchant.key.clone()))
    }

    async fn restart(&self) -> Result<(), Doubt> {
        match &self.restart_command {
            Some(command) => run(command).await,
            None if stdin().is_terminal() => ask().await,
            None => Err(Doubt::Unseen(
                "no --restart-command, and no terminal to ask at".to_owned(),
            )),
        }
    }
}

async fn run(command: &str) -> Result<(), Doubt> {
    let failed = |why: String| Doubt::Broken(format!("--restart-command: {why}"));
    let ended = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        // tokio leaves a child running when its handle is dropped, and a time-out drops it.
        .kill_on_drop(true)
        .status();
    match tokio::time::timeout(RESTART_TIME, ended).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("not done within {RESTART_TIME:?}"))),
    }
}

async fn ask() -> Result<(), Doubt> {
    note!("restart the sidecar, the app or both now, then press Enter");
    let read = tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new())).await;
    match read {
        Ok(Ok(1..)) => Ok(()),
        _ => Err(Doubt::Unseen("nobody pressed Enter".to_owned())),
    }
}

fn callback_url(text: &str) -> Result<Url, String> {
    web_url::parse(text, Tail::Query)
}

fn listener_url(text: &str) -> Result<Url, String> {
    web_url::parse(text, Tail::Nothing)
}
