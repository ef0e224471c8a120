//! The wiring: listeners, background work, and the order of the end.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::ListenerConfig;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{Admin, AppListener};
use crate::config::settings::Settings;
use crate::config::{self, Listen, ReloadOutcome, Snapshot, Watch};
use crate::http::client::{Client, Transport};
use crate::http::serve::{App, Handler, Limits};
use crate::inbox::ledger::Ledger;
use crate::lifetime::{DRAIN_TIME, Lifetime};
use crate::observe::{self, Metrics};
use crate::outbound::Outbound;

/// Requests to the admin listener at once, and the bytes of their bodies.
const ADMIN_LIMITS: Limits = Limits {
    max_body: 1024,
    max_in_flight: 64,
};
/// A connection's read and write buffer: a call and its answer fit, and an idle connection costs little.
const CONNECTION_BUFFER: usize = 4096;

/// Why the sidecar cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotStart(String);

/// Runs the sidecar until a signal ends the process. Returns only where it cannot start.
pub fn run(settings: &Settings, snapshot: Snapshot) -> Result<(), CannotStart> {
    observe::start_log(settings.log.format, &settings.log.level);
    for listen in &settings.app.listen {
        check_free(listen)?;
    }
    check_free(&Listen::Tcp(settings.admin.listen))?;
    let metrics = Arc::new(Metrics::default());
    let lifetime = Arc::new(Lifetime::default());
    let store = &settings.inbox.store;
    let ledger = Ledger::open(store)
        .map_err(|error| CannotStart(format!("{}: inbox.store: {error}", store.display())))?;
    let platform = &settings.platform;
    let transport =
        Transport::new(platform.ca_file.as_deref(), metrics.clone()).map_err(CannotStart)?;
    let client = Client::new(
        &platform.url,
        platform.connect_timeout,
        platform.timeout,
        transport,
    );
    let client = Arc::new(client.map_err(CannotStart)?);
    log_start(settings, &snapshot);
    let watch = watch(&settings.merchants, snapshot, &metrics)?;
    let outbound = Outbound::new(
        settings,
        watch.clone(),
        client.clone(),
        ledger.clone(),
        metrics.clone(),
    );
    let admin = Admin {
        watch: watch.clone(),
        ledger,
        metrics,
        lifetime: lifetime.clone(),
        app: AppListener::new(settings.app.listen.clone()),
    };

    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(settings.threads));
    let limits = Limits {
        max_body: settings.app.max_body,
        max_in_flight: settings.app.max_in_flight,
    };
    let app = App::new(outbound, limits, lifetime.clone());
    server.add_service(listener("app", app, &settings.app.listen, None));
    let admin = App::new(admin, ADMIN_LIMITS, lifetime.clone());
    server.add_service(listener(
        "admin",
        admin,
        &[Listen::Tcp(settings.admin.listen)],
        Some(1),
    ));
    server.add_service(background_service("upkeep", Upkeep { client, watch }));
    let end = End {
        lifetime,
        sockets: sockets(&settings.app.listen),
    };
    server.run(RunArgs {
        shutdown_signal: Box::new(end),
    });
    Ok(())
}

fn pingora_conf(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        // Costs a tenth of a call, and calls are all alike.
        work_stealing: false,
        // `End` ends the process; these only keep Pingora from doing so first.
        grace_period_seconds: Some(2 * DRAIN_TIME.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

fn listener<H: Handler>(
    name: &str,
    app: App<H>,
    addresses: &[Listen],
    threads: Option<usize>,
) -> Service<App<H>> {
    let mut service = Service::new(name.to_owned(), app);
    service.threads = threads;
    for address in addresses {
        let endpoint = match address {
            Listen::Tcp(address) => ListenerConfig::tcp(address.to_string()),
            Listen::Unix(path) => ListenerConfig::uds(path.to_string_lossy()),
        };
        let buffer = L4BufferSettings::new(CONNECTION_BUFFER, CONNECTION_BUFFER);
        service.add_listener(endpoint.l4_buffer(buffer));
    }
    service
}

/// Pingora finds an address taken only once it runs, half a minute later and on another thread.
fn check_free(listen: &Listen) -> Result<(), CannotStart> {
    let error = match listen {
        Listen::Tcp(address) => match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) => error.to_string(),
        },
        Listen::Unix(path) => match socket_in_use(path) {
            None => return Ok(()),
            Some(why) => why.to_owned(),
        },
    };
    Err(CannotStart(format!("cannot listen on {listen}: {error}")))
}

fn socket_in_use(path: &Path) -> Option<&'static str> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return Some("its folder does not exist");
    }
    let Ok(metadata) = path.symlink_metadata() else {
        return None;
    };
    if !metadata.file_type().is_socket() {
        return Some("a file that is no socket is in the way");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        _ => Some("another process listens there"),
    }
}

fn watch(path: &Path, snapshot: Snapshot, metrics: &Arc<Metrics>) -> Result<Watch, CannotStart> {
    let counted = metrics.clone();
    counted
        .merchants
        .set(i64::try_from(snapshot.len()).unwrap_or(i64::MAX));
    counted.reload_time.set(seconds_since_1970());
    config::watch(path.to_owned(), snapshot, move |outcome| {
        log_reload(outcome, &counted)
    })
    .map_err(|error| CannotStart(format!("cannot watch {}: {error}", path.display())))
}

fn log_reload(outcome: &ReloadOutcome, metrics: &Metrics) {
    match outcome {
        ReloadOutcome::Applied {
            merchants,
            digest,
            added,
            removed,
            changed,
            took,
            warnings,
        } => {
            metrics.reloads.with_label_values(&["applied"]).inc();
            metrics.reload_seconds.observe(took.as_secs_f64());
            metrics.reload_time.set(seconds_since_1970());
            metrics
                .merchants
                .set(i64::try_from(*merchants).unwrap_or(i64::MAX));
            tracing::info!(
                merchants,
                digest,
                added,
                removed,
                changed,
                "merchants reloaded"
            );
            for warning in warnings {
                tracing::warn!("{warning}");
            }
        }
        ReloadOutcome::Unchanged { .. } => metrics.reloads.with_label_values(&["unchanged"]).inc(),
        ReloadOutcome::Refused(problems) => {
            metrics.reloads.with_label_values(&["refused"]).inc();
            tracing::error!("the merchants file is refused; the last good merchants stay in force");
            for problem in &problems.0 {
                tracing::error!("{problem}");
            }
        }
    }
}

fn seconds_since_1970() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

fn log_start(settings: &Settings, snapshot: &Snapshot) {
    for warning in settings
        .warnings
        .iter()
        .map(String::as_str)
        .chain(snapshot.warnings().iter().map(String::as_str))
    {
        tracing::warn!("{warning}");
    }
    if settings.callbacks.is_some() {
        tracing::warn!("[callbacks] is set, but this version does not listen for callbacks yet");
    }
    let app: Vec<_> = settings
        .app
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        settings = %settings.path.display(),
        settings_digest = settings.digest,
        merchants_file = %settings.merchants.display(),
        merchants = snapshot.len(),
        merchants_digest = snapshot.digest(),
        app = app.join(","),
        admin = %settings.admin.listen,
        platform = %settings.platform.url,
        connect_timeout = ?settings.platform.connect_timeout,
        timeout = ?settings.platform.timeout,
        max_body = settings.app.max_body,
        max_in_flight = settings.app.max_in_flight,
        threads = settings.threads,
        store = %settings.inbox.store.display(),
        "starting"
    );
}

fn sockets(listen: &[Listen]) -> Vec<PathBuf> {
    let path = |listen: &Listen| match listen {
        Listen::Unix(path) => Some(path.clone()),
        Listen::Tcp(_) => None,
    };
    listen.iter().filter_map(path).collect()
}

/// What goes on beside the requests: fresh addresses, and SIGHUP.
struct Upkeep {
    client: Arc<Client>,
    watch: Watch,
}

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, _shutdown: ShutdownWatch) {
        tokio::join!(self.client.keep_addresses(), self.reload_on_sighup());
    }
}

impl Upkeep {
    async fn reload_on_sighup(&self) {
        let mut hangup = listen_for(SignalKind::hangup());
        while hangup.recv().await.is_some() {
            let watch = self.watch.clone();
            // A panic in there was logged there.
            let _ = tokio::task::spawn_blocking(move || watch.reload()).await;
        }
    }
}

/// The end: SIGTERM or SIGINT drains, a second one ends at once.
struct End {
    lifetime: Arc<Lifetime>,
    sockets: Vec<PathBuf>,
}

#[async_trait]
impl ShutdownSignalWatch for End {
    async fn recv(&self) -> ShutdownSignal {
        let (mut terminate, mut interrupt) = (
            listen_for(SignalKind::terminate()),
            listen_for(SignalKind::interrupt()),
        );
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining; a second signal ends at once");
        let (lifetime, sockets) = (self.lifetime.clone(), self.sockets.clone());
        // On a task of its own: Pingora blocks this one for the whole grace period.
        tokio::spawn(async move {
            tokio::select! {
                () = lifetime.drain() => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            for socket in sockets {
                let _ = std::fs::remove_file(socket);
            }
            tracing::info!("ended");
            observe::end_log();
            std::process::exit(0);
        });
        ShutdownSignal::GracefulTerminate
    }
}

fn listen_for(kind: SignalKind) -> Signal {
    signal(kind).expect("the process may handle its own signals")
}
