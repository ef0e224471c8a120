//! The wiring: listeners, background work, and the order of the end.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::listeners::ListenerConfig;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{Admin, Listeners};
use crate::config::settings::{Callbacks, Settings, Tls};
use crate::config::{self, Listen, ReloadOutcome, Snapshot, StoreAddress, Watch};
use crate::http::client::{Client, Count, Transport};
use crate::http::clients::Clients;
use crate::http::public::Public;
use crate::http::serve::{App, Door, Handler, Limits};
use crate::http::tls::{Certificate, acceptor};
use crate::inbound::deliver::{Deliver, Wake};
use crate::inbound::watch::Watch as OrderWatch;
use crate::inbound::{Inbound, Platform};
use crate::inbox;
use crate::inbox::store::Store;
use crate::lifetime::{DRAIN_TIME, Lifetime};
use crate::observe::{self, Metrics, Uncounted};
use crate::outbound::Outbound;

/// Requests to the admin listener at once, and the bytes of their bodies.
const ADMIN_LIMITS: Limits = Limits {
    max_body: 1024,
    max_in_flight: 64,
    max_connections: 256,
};
/// Callbacks at once: some hundred wait for one commit together.
const CALLBACK_LIMITS: Limits = Limits {
    max_body: 64 * 1024,
    max_in_flight: 1024,
    max_connections: 4096,
};
/// Connections of apps that are open and idle, beside those in flight.
const IDLE_CONNECTIONS: usize = 1024;
/// Descriptors for everything that is no connection.
const OTHER_DESCRIPTORS: usize = 384;
/// A connection's read and write buffer: a call and its answer fit, and an idle connection costs little.
const CONNECTION_BUFFER: usize = 4096;

/// Why the sidecar cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotStart(String);

/// Runs the sidecar until a signal ends the process. Returns where it cannot start.
pub fn run(settings: &Settings, snapshot: Snapshot) -> Result<(), CannotStart> {
    catch_sighup();
    observe::start_log(settings.log.format, &settings.log.level);
    keep_secrets_out_of_dumps();
    let callbacks = settings.callbacks.as_ref();
    let public: Vec<_> = callbacks
        .iter()
        .flat_map(|c| c.listen.iter().copied().map(Listen::Tcp))
        .collect();
    let admin = [Listen::Tcp(settings.admin.listen)];
    for listen in settings.app.listen.iter().chain(&public).chain(&admin) {
        check_free(listen)?;
    }
    check(settings)?;
    let parts = Parts::assemble(settings, snapshot)?;

    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(settings.threads));
    let mut limits = Limits {
        max_body: settings.app.max_body,
        max_in_flight: settings.app.max_in_flight,
        max_connections: settings.app.max_in_flight + IDLE_CONNECTIONS,
    };
    let mut callback_limits = CALLBACK_LIMITS;
    fit_descriptors(&mut limits, &mut callback_limits);
    let app = App::new(parts.outbound(settings), limits, parts.lifetime.clone());
    server.add_service(listener(
        "app",
        Door::plain(app),
        &settings.app.listen,
        None,
    ));
    let open = settings.app.listen.iter().chain(&public).cloned().collect();
    let ops = App::new(parts.admin(open), ADMIN_LIMITS, parts.lifetime.clone());
    server.add_service(listener("admin", Door::plain(ops), &admin, Some(1)));
    if let Some(callbacks) = callbacks {
        let certificate = certificate(callbacks)?;
        let guard = Public::new(
            callbacks.allow_from.clone(),
            callbacks.trust_forwarded_from.clone(),
        );
        let app = App::new(
            parts.inbound(settings),
            callback_limits,
            parts.lifetime.clone(),
        )
        .public(guard);
        let door = match certificate.clone() {
            Some(certificate) => Door::tls(app, acceptor(certificate)),
            None => Door::plain(app),
        };
        server.add_service(listener("callbacks", door, &public, None));
        if let Some(certificate) = certificate {
            server.add_service(background_service("certificate", Following(certificate)));
        }
    }
    server.add_service(background_service("upkeep", parts.upkeep()));
    server.add_service(background_service("results", parts.results(settings)));
    let end = End {
        lifetime: parts.lifetime,
        sockets: sockets(&settings.app.listen),
    };
    server.run(RunArgs {
        shutdown_signal: Box::new(end),
    });
    Ok(())
}

/// Finds out whether the files that settings name can be used, as far as that changes nothing.
pub fn check(settings: &Settings) -> Result<(), CannotStart> {
    to_platform(settings, Arc::new(Uncounted))?;
    settings
        .callbacks
        .as_ref()
        .map_or(Ok(None), certificate)
        .map(|_| ())
}

/// What is allowed but worth a look, in both files.
pub fn warnings<'a>(
    settings: &'a Settings,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = &'a str> {
    settings
        .warnings
        .iter()
        .chain(snapshot.warnings())
        .map(String::as_str)
}

/// The client for the platform, as settings say.
pub fn to_platform(settings: &Settings, count: Arc<dyn Count>) -> Result<Client, CannotStart> {
    let platform = &settings.platform;
    let transport = Transport::new(platform.ca_file.as_deref(), count).map_err(CannotStart)?;
    let client = Client::new(
        &platform.url,
        platform.connect_timeout,
        platform.timeout,
        transport,
    );
    client.map_err(|error| {
        CannotStart(format!(
            "{}: platform.url: {error}",
            settings.path.display()
        ))
    })
}

/// What the listeners and the background work share.
struct Parts {
    metrics: Arc<Metrics>,
    lifetime: Arc<Lifetime>,
    store: Arc<dyn Store>,
    client: Arc<Client>,
    watch: Watch,
    apps: Arc<Clients>,
    wake: Arc<Wake>,
}

impl Parts {
    fn assemble(settings: &Settings, snapshot: Snapshot) -> Result<Self, CannotStart> {
        let metrics = Arc::new(Metrics::default());
        let client = Arc::new(to_platform(settings, metrics.clone())?);
        let to_apps = Transport::new(None, Arc::new(Uncounted)).map_err(CannotStart)?;
        let store = open_store(&settings.inbox.store)?;
        log_start(settings, &snapshot);
        Ok(Self {
            watch: watch(&settings.merchants, snapshot, &metrics)?,
            lifetime: Arc::default(),
            apps: Arc::new(Clients::new(to_apps)),
            wake: Arc::default(),
            metrics,
            store,
            client,
        })
    }

    fn outbound(&self, settings: &Settings) -> Outbound {
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        let (watch, client) = (self.watch.clone(), self.client.clone());
        Outbound::new(
            settings,
            watch,
            client,
            store,
            metrics,
            self.lifetime.clone(),
        )
    }

    fn inbound(&self, settings: &Settings) -> Inbound {
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        Inbound::new(
            settings,
            self.watch.clone(),
            store,
            metrics,
            self.apps.clone(),
            self.wake.clone(),
        )
    }

    fn admin(&self, open: Vec<Listen>) -> Admin {
        Admin {
            watch: self.watch.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            lifetime: self.lifetime.clone(),
            listeners: Listeners::new(open),
        }
    }

    fn upkeep(&self) -> Upkeep {
        Upkeep {
            client: self.client.clone(),
            watch: self.watch.clone(),
        }
    }

    fn results(&self, settings: &Settings) -> Results {
        let inbox = &settings.inbox;
        let platform = Platform(self.client.clone());
        Results {
            deliver: Arc::new(Deliver {
                store: self.store.clone(),
                watch: self.watch.clone(),
                apps: self.apps.clone(),
                metrics: self.metrics.clone(),
                wake: self.wake.clone(),
                platform: platform.clone(),
                confirm: inbox.confirm,
                retry_for: inbox.retry_for,
            }),
            watch: Arc::new(OrderWatch {
                store: self.store.clone(),
                merchants: self.watch.clone(),
                platform,
                metrics: self.metrics.clone(),
                wake: self.wake.clone(),
                per_second: inbox.watch_per_second,
            }),
            watch_orders: inbox.watch_orders,
            keep: inbox.keep,
        }
    }
}

/// From here on SIGHUP ends nothing, also while we are still starting.
fn catch_sighup() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    if let Ok(runtime) = runtime {
        // The handler stays when the runtime is gone.
        runtime.block_on(async { drop(listen_for(SignalKind::hangup())) });
    }
}

/// A core dump would have keys and customers' data in it.
fn keep_secrets_out_of_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let limited = setrlimit(Resource::Core, none);
    let refused = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if limited.is_err() || refused.is_err() {
        tracing::warn!("core dumps could not be switched off");
    }
}

/// Raises the limit on descriptors as far as allowed, and takes fewer connections where that is not far enough: a crowd
/// that says nothing must leave some for ops. A call in flight has two connections, one of them to the platform.
fn fit_descriptors(app: &mut Limits, callbacks: &mut Limits) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    let raised = if setrlimit(Resource::Nofile, raised).is_ok() {
        raised
    } else {
        before
    };
    let Some(allowed) = raised
        .current
        .and_then(|allowed| usize::try_from(allowed).ok())
    else {
        return;
    };
    let needed =
        app.max_connections + app.max_in_flight + callbacks.max_connections + OTHER_DESCRIPTORS;
    if allowed >= needed {
        return;
    }
    tracing::warn!(
        allowed,
        needed,
        "fewer descriptors than connections may need; raise RLIMIT_NOFILE"
    );
    let share = allowed.saturating_sub(OTHER_DESCRIPTORS).max(64) / 4;
    app.max_connections = app.max_connections.min(share);
    app.max_in_flight = app.max_in_flight.min(2 * share);
    callbacks.max_connections = callbacks.max_connections.min(share);
}

fn certificate(callbacks: &Callbacks) -> Result<Option<Arc<Certificate>>, CannotStart> {
    let load = |tls: &Tls| Certificate::load(&tls.cert, &tls.key).map(Arc::new);
    let certificate = callbacks.tls.as_ref().map(load).transpose();
    certificate.map_err(|error| CannotStart(format!("callbacks.tls: {error}")))
}

fn open_store(address: &StoreAddress) -> Result<Arc<dyn Store>, CannotStart> {
    inbox::open(address).map_err(|error| CannotStart(format!("{address}: inbox.store: {error}")))
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
    door: Door<H>,
    addresses: &[Listen],
    threads: Option<usize>,
) -> Service<Door<H>> {
    let mut service = Service::new(name.to_owned(), door);
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
    counted.loaded_at.set(seconds_since_1970());
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
            metrics.loaded_at.set(seconds_since_1970());
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
    for warning in warnings(settings, snapshot) {
        tracing::warn!("{warning}");
    }
    let app: Vec<_> = settings
        .app
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    let callbacks = settings
        .callbacks
        .iter()
        .flat_map(|callbacks| &callbacks.listen);
    let callbacks: Vec<_> = callbacks.map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        settings = %settings.path.display(),
        settings_digest = settings.digest,
        merchants_file = %settings.merchants.display(),
        merchants = snapshot.len(),
        merchants_digest = snapshot.digest(),
        app = app.join(","),
        callbacks = callbacks.join(","),
        admin = %settings.admin.listen,
        platform = %settings.platform.url,
        connect_timeout = ?settings.platform.connect_timeout,
        timeout = ?settings.platform.timeout,
        max_body = settings.app.max_body,
        max_in_flight = settings.app.max_in_flight,
        threads = settings.threads,
        store = %settings.inbox.store,
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

/// What becomes of results: delivered, and asked for where they did not come.
struct Results {
    deliver: Arc<Deliver>,
    watch: Arc<OrderWatch>,
    watch_orders: bool,
    keep: Duration,
}

#[async_trait]
impl BackgroundService for Results {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let watch = async {
            if self.watch_orders {
                self.watch.run().await;
            }
        };
        tokio::join!(
            self.deliver.clone().run(),
            watch,
            self.watch.forget(self.keep)
        );
    }
}

/// The callbacks' certificate, kept in step with its files.
struct Following(Arc<Certificate>);

#[async_trait]
impl BackgroundService for Following {
    async fn start(&self, _shutdown: ShutdownWatch) {
        self.0.follow().await;
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
