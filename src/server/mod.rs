//! The wiring: listeners, background work, and the order of the end.

mod preflight;

mod process;

mod certificate;

mod report;

mod background;

mod wiring;

mod start;

mod shutdown;

use std::sync::Arc;

use parking_lot::Mutex;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::background::background_service;
use tokio::sync::Notify;

use crate::config::settings::Settings;
use crate::config::{Listen, Snapshot};
use crate::http::server::limits::Limits;
use crate::http::server::tls::acceptor;
use crate::process::drain::DRAIN_TIME;
use crate::process::sockets::Sockets;
use crate::process::upgrade::{Predecessor, bound_to_us};
use crate::telemetry::log;
use crate::telemetry::trace::Tracer;
use background::{Exporting, Following};
use preflight::certificate;
use process::{fit_descriptors, keep_secrets_out_of_dumps, warn_of_terminal};
use shutdown::{End, socket_files};
use start::Start;
use wiring::Parts;

pub use preflight::{StartError, check_files, check_resources, key_switches, to_platform};
pub use process::catch_early_signals;
pub use report::warnings;

/// Runs the sidecar until a signal or the next upgrade ends the process, beginning with an `upgrade` of the one that runs.
/// Returns where it cannot start; then that one goes on.
pub fn run(settings: &Settings, snapshot: Snapshot, upgrade: bool) -> Result<(), StartError> {
    catch_early_signals();
    let bound = bound_to_us();
    log::start(settings.log.format, &settings.log.level);
    keep_secrets_out_of_dumps();
    // Before the running process is contacted: a start that fails here must not have touched it.
    check_files(settings)?;
    if upgrade {
        warn_of_terminal();
    }
    let mut taken = upgrade
        .then(|| Predecessor::from_running(settings))
        .transpose()?;
    let inherited = taken
        .as_mut()
        .map(|taken| std::mem::take(&mut taken.sockets));
    // Before the store: a taken address must not leave a new store behind.
    let sockets = Sockets::open(&settings.listeners(), inherited.unwrap_or_default())?;
    let (tracer, export) = Tracer::of_environment();
    let parts = Parts::assemble(settings, snapshot, sockets, tracer, taken.as_ref())?;

    if taken.is_some() {
        // A probe of the shared address may reach either process, and the old one serves.
        parts.drain.serving();
    }
    // Without Pingora's options: its own upgrade stops the old process whether the new one lives or not.
    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(settings));
    add_listeners(&mut server, settings, &parts)?;
    server.add_service(background_service("upkeep", parts.upkeep()));
    server.add_service(background_service("results", parts.results(settings)));
    if let Some(export) = export {
        server.add_service(background_service("traces", Exporting(export)));
    }
    let is_watching = Arc::<Notify>::default();
    let start = Start {
        is_watching: is_watching.clone(),
        settings: settings.clone(),
        parts: parts.clone(),
        taken: Mutex::new(taken),
        bound,
    };
    server.add_service(background_service("start", start));
    let end = End {
        is_watching,
        files: socket_files(&settings.app.listen),
        lame_time: settings.platform.timeout + DRAIN_TIME,
        parts,
    };
    server.run(RunArgs {
        shutdown_signal: Box::new(end),
    });
    Ok(())
}

fn add_listeners(
    server: &mut Server,
    settings: &Settings,
    parts: &Parts,
) -> Result<(), StartError> {
    let mut limits = Limits::app(settings.app.max_body, settings.app.max_in_flight);
    let mut callback_limits = Limits::CALLBACKS;
    fit_descriptors(&mut limits, &mut callback_limits);
    let app = parts.outbound(settings);
    let service = parts.service("app", app, limits, None);
    server.add_service(parts.listener("app", service, &settings.app.listen, None)?);
    let ops = parts.admin(settings);
    let service = parts.service("admin", ops, Limits::ADMIN, None);
    server.add_service(parts.listener(
        "admin",
        service,
        &[Listen::Tcp(settings.admin.listen)],
        // Each service of Pingora's has its own runtime: a probe is answered even while calls keep the other threads
        // busy.
        Some(1),
    )?);
    let Some(callbacks) = &settings.callbacks else {
        return Ok(());
    };
    let platform = parts.inbound(settings);
    let mut service = parts.service("callbacks", platform, callback_limits, Some(callbacks));
    if let Some(certificate) = certificate(callbacks)? {
        let following = Following::new(certificate.clone(), parts.metrics.clone());
        server.add_service(background_service("certificate", following));
        service = service.tls(acceptor(certificate));
    }
    let addresses: Vec<_> = callbacks.listen.iter().copied().map(Listen::Tcp).collect();
    server.add_service(parts.listener("callbacks", service, &addresses, None)?);
    Ok(())
}

fn pingora_conf(settings: &Settings) -> ServerConf {
    ServerConf {
        threads: settings.threads,
        // Costs a tenth of a call, and calls are all alike.
        work_stealing: false,
        // `End` ends the process; these only keep Pingora from doing so first.
        grace_period_seconds: Some((settings.platform.timeout + 2 * DRAIN_TIME).as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}
