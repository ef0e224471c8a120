//! The wiring: listeners, background work, and the order of the end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::admin::guard::Guard;
use crate::admin::pulse::Pulse;
use crate::admin::{Admin, Listeners};
use crate::config::settings::{Callbacks, Settings, Tls};
use crate::config::{self, Listen, ReloadOutcome, Snapshot, StoreAddress, Watch};
use crate::handover::{NoHandover, Offered, Taken};
use crate::http::client::{Client, Count, Transport};
use crate::http::clients::Clients;
use crate::http::listener::Listener;
use crate::http::public::Public;
use crate::http::serve::{App, Door, Handler, Limits};
use crate::http::tls::{Certificate, acceptor};
use crate::inbound::deliver::{Deliver, Wake, land};
use crate::inbound::watch::Watch as OrderWatch;
use crate::inbound::{Inbound, Platform};
use crate::inbox;
use crate::inbox::store::Store;
use crate::journal::Journal;
use crate::lifetime::{DRAIN_TIME, Lifetime};
use crate::observe::{self, Metrics, Uncounted};
use crate::outbound::Outbound;
use crate::records::Records;
use crate::sockets::{CannotListen, Sockets};
use crate::supervisor::{self, Supervisor};
use crate::trace::{Export, Tracer};

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
/// What the store is given at the end to take the last notes.
const LAST_NOTES: Duration = Duration::from_millis(200);

/// Why the sidecar cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotStart(String);

impl From<CannotListen> for CannotStart {
    fn from(error: CannotListen) -> Self {
        Self(error.to_string())
    }
}

impl From<NoHandover> for CannotStart {
    fn from(error: NoHandover) -> Self {
        Self(error.to_string())
    }
}

/// Runs the sidecar until a signal or the next upgrade ends the process, beginning with an `upgrade` of the one that runs.
/// Returns where it cannot start; then that one goes on.
pub fn run(settings: &Settings, snapshot: Snapshot, upgrade: bool) -> Result<(), CannotStart> {
    catch_sighup();
    observe::start_log(settings.log.format, &settings.log.level);
    keep_secrets_out_of_dumps();
    let callbacks = settings.callbacks.as_ref();
    let public: Vec<_> = callbacks
        .iter()
        .flat_map(|c| c.listen.iter().copied().map(Listen::Tcp))
        .collect();
    let admin = [Listen::Tcp(settings.admin.listen)];
    check(settings)?;
    let mut taken = upgrade.then(|| Taken::from_running(settings)).transpose()?;
    let inherited = taken
        .as_mut()
        .map(|taken| std::mem::take(&mut taken.sockets));
    let sockets = Sockets::open(
        settings.app.listen.iter().chain(&public).chain(&admin),
        inherited.unwrap_or_default(),
    )?;
    let (tracer, export) = Tracer::of_environment();
    let parts = Parts::assemble(settings, snapshot, sockets, tracer, taken.as_ref())?;

    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(settings));
    let mut limits = Limits {
        max_body: settings.app.max_body,
        max_in_flight: settings.app.max_in_flight,
        max_connections: settings.app.max_in_flight + IDLE_CONNECTIONS,
    };
    let mut callback_limits = CALLBACK_LIMITS;
    fit_descriptors(&mut limits, &mut callback_limits);
    let app = App::new(parts.outbound(settings), limits, parts.lifetime.clone());
    let listen = &settings.app.listen;
    server.add_service(parts.listener("app", Door::plain(app), listen, None)?);
    let open = settings.app.listen.iter().chain(&public).cloned().collect();
    let ops = parts.admin(settings, open);
    let ops = App::new(ops, ADMIN_LIMITS, parts.lifetime.clone());
    server.add_service(parts.listener("admin", Door::plain(ops), &admin, Some(1))?);
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
        server.add_service(parts.listener("callbacks", door, &public, None)?);
        if let Some(certificate) = certificate {
            server.add_service(background_service("certificate", Following(certificate)));
        }
    }
    server.add_service(background_service("upkeep", parts.upkeep()));
    server.add_service(background_service("results", parts.results(settings)));
    if let Some(export) = export {
        server.add_service(background_service("traces", Exporting(export)));
    }
    let start = Start {
        settings: settings.clone(),
        parts: parts.clone(),
        taken: Mutex::new(taken),
    };
    server.add_service(background_service("start", start));
    let end = End {
        files: socket_files(&settings.app.listen),
        lame_time: settings.platform.timeout + DRAIN_TIME,
        parts,
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
#[derive(Clone)]
struct Parts {
    supervisor: Arc<Supervisor>,
    sockets: Arc<Sockets>,
    metrics: Arc<Metrics>,
    tracer: Arc<Tracer>,
    lifetime: Arc<Lifetime>,
    store: Arc<dyn Store>,
    client: Arc<Client>,
    watch: Watch,
    apps: Arc<Clients>,
    wake: Arc<Wake>,
    journal: Arc<Journal>,
    pulse: Arc<Pulse>,
}

impl Parts {
    fn assemble(
        settings: &Settings,
        snapshot: Snapshot,
        sockets: Sockets,
        tracer: Tracer,
        taken: Option<&Taken>,
    ) -> Result<Self, CannotStart> {
        let before = taken.map_or_else(Default::default, |taken| taken.supervisor.clone());
        let supervisor = Supervisor::at(supervisor::Address::of_environment().or(before));
        let metrics = Arc::new(Metrics::default());
        let client = Arc::new(to_platform(settings, metrics.clone())?);
        let to_apps = Transport::new(None, Arc::new(Uncounted)).map_err(CannotStart)?;
        let store = open_store(&settings.inbox.store, taken.is_some())?;
        log_start(settings, &snapshot);
        Ok(Self {
            supervisor: Arc::new(supervisor),
            sockets: Arc::new(sockets),
            tracer: Arc::new(tracer),
            watch: watch(&settings.merchants, snapshot, &metrics)?,
            lifetime: Arc::default(),
            apps: Arc::new(Clients::new(to_apps)),
            wake: Arc::default(),
            journal: Arc::new(Journal::new(store.clone(), metrics.clone())),
            pulse: Arc::new(Pulse::new(metrics.clone())),
            metrics,
            store,
            client,
        })
    }

    fn listener<H: Handler>(
        &self,
        name: &str,
        door: Door<H>,
        addresses: &[Listen],
        threads: Option<usize>,
    ) -> Result<Listener<H>, CannotStart> {
        Listener::new(name, door, addresses, &self.sockets, threads)
            .map_err(|error| CannotStart(format!("the {name} listener cannot begin: {error}")))
    }

    fn outbound(&self, settings: &Settings) -> Outbound {
        Outbound::new(
            settings,
            self.watch.clone(),
            self.client.clone(),
            self.store.clone(),
            self.records(),
            self.lifetime.clone(),
        )
    }

    fn inbound(&self, settings: &Settings) -> Inbound {
        Inbound::new(
            settings,
            self.watch.clone(),
            self.store.clone(),
            self.apps.clone(),
            self.wake.clone(),
            self.records(),
        )
    }

    fn records(&self) -> Records {
        Records {
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            journal: self.journal.clone(),
        }
    }

    fn admin(&self, settings: &Settings, open: Vec<Listen>) -> Admin {
        Admin {
            watch: self.watch.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            lifetime: self.lifetime.clone(),
            listeners: Listeners::new(open),
            guard: Guard::new(&settings.admin),
            pulse: self.pulse.clone(),
        }
    }

    fn upkeep(&self) -> Upkeep {
        Upkeep {
            client: self.client.clone(),
            watch: self.watch.clone(),
            supervisor: self.supervisor.clone(),
            journal: self.journal.clone(),
            pulse: self.pulse.clone(),
        }
    }

    fn results(&self, settings: &Settings) -> Results {
        let inbox = &settings.inbox;
        let platform = Platform(self.client.clone());
        Results {
            lifetime: self.lifetime.clone(),
            store: self.store.clone(),
            deliver: Arc::new(Deliver {
                store: self.store.clone(),
                watch: self.watch.clone(),
                apps: self.apps.clone(),
                metrics: self.metrics.clone(),
                wake: self.wake.clone(),
                tracer: self.tracer.clone(),
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
                journal: self.journal.clone(),
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

fn open_store(address: &StoreAddress, upgrade: bool) -> Result<Arc<dyn Store>, CannotStart> {
    let opened = if upgrade {
        inbox::take_over(address)
    } else {
        inbox::open(address)
    };
    opened.map_err(|error| CannotStart(format!("{address}: inbox.store: {error}")))
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

fn socket_files(listen: &[Listen]) -> Vec<PathBuf> {
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
    supervisor: Arc<Supervisor>,
    journal: Arc<Journal>,
    pulse: Arc<Pulse>,
}

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, _shutdown: ShutdownWatch) {
        tokio::join!(
            self.client.keep_addresses(),
            self.reload_on_sighup(),
            self.supervisor.keep_posted(),
            self.journal.run(),
            self.pulse.run()
        );
    }
}

impl Upkeep {
    async fn reload_on_sighup(&self) {
        let mut hangup = listen_for(SignalKind::hangup());
        while hangup.recv().await.is_some() {
            self.supervisor.reloading();
            let watch = self.watch.clone();
            // A panic in there was logged there.
            let _ = tokio::task::spawn_blocking(move || watch.reload()).await;
            self.supervisor.ready(&status(&self.watch));
        }
    }
}

/// What the supervisor shows of a process that serves.
fn status(watch: &Watch) -> String {
    let merchants = watch.snapshot().len();
    match watch.last().1 {
        ReloadOutcome::Refused(_) => {
            format!("serving {merchants} merchants; their file as it is now is refused")
        }
        _ => format!("serving {merchants} merchants"),
    }
}

/// What becomes of results: delivered, and asked for where they did not come.
struct Results {
    lifetime: Arc<Lifetime>,
    store: Arc<dyn Store>,
    deliver: Arc<Deliver>,
    watch: Arc<OrderWatch>,
    watch_orders: bool,
    keep: Duration,
}

#[async_trait]
impl BackgroundService for Results {
    async fn start(&self, _shutdown: ShutdownWatch) {
        self.store.turn().await;
        let watch = async {
            if self.watch_orders {
                self.watch.run().await;
            }
        };
        let others = async { tokio::join!(watch, self.watch.forget(self.keep)) };
        let mut attempts = JoinSet::new();
        tokio::select! {
            () = self.deliver.clone().run(&mut attempts) => {}
            _ = others => {}
            () = self.lifetime.until_replaced() => {}
        }
        // The end waits for what is under way, and another process for its turn.
        let _busy = self.lifetime.enter();
        land(attempts).await;
        self.store.let_go();
    }
}

/// The way of traces to their collector.
struct Exporting(Export);

#[async_trait]
impl BackgroundService for Exporting {
    async fn start(&self, _shutdown: ShutdownWatch) {
        self.0.run().await;
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

/// The start's last step: whoever waits for us is told that we serve, and from then on another process may take over.
struct Start {
    settings: Settings,
    parts: Parts,
    taken: Mutex<Option<Taken>>,
}

#[async_trait]
impl BackgroundService for Start {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let taken = self
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let address = self.parts.supervisor.address().clone();
        let offered = match taken {
            Some(taken) => taken
                .serving(&self.settings, address)
                .unwrap_or_else(|error| {
                    tracing::error!(%error, "ending");
                    observe::end_log();
                    std::process::exit(1);
                }),
            None => match Offered::at(&self.settings, address) {
                Ok(offered) => offered,
                Err(error) => {
                    tracing::warn!(%error, "no other process can take over from this one");
                    self.ready();
                    return;
                }
            },
        };
        self.ready();
        let parts = self.parts.clone();
        std::thread::spawn(move || {
            offered.wait(&parts.sockets, |pid| parts.supervisor.replaced_by(pid));
            parts.lifetime.replace();
        });
    }
}

impl Start {
    fn ready(&self) {
        tracing::info!("ready");
        self.parts.supervisor.ready(&status(&self.parts.watch));
    }
}

/// The end: SIGTERM, SIGINT or a process that took over drains, a signal after that ends at once.
struct End {
    parts: Parts,
    /// Of the app's listeners.
    files: Vec<PathBuf>,
    /// For what is in flight when another process has taken over: nobody waits for the end.
    lame_time: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for End {
    async fn recv(&self) -> ShutdownSignal {
        let (mut terminate, mut interrupt) = (
            listen_for(SignalKind::terminate()),
            listen_for(SignalKind::interrupt()),
        );
        let lifetime = self.parts.lifetime.clone();
        let replaced = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            () = lifetime.until_replaced() => true,
        };
        // The socket's files are the other process's now.
        let (time, files) = if replaced {
            (self.lame_time, Vec::new())
        } else {
            (DRAIN_TIME, self.files.clone())
        };
        self.parts.supervisor.stopping();
        self.parts.sockets.close();
        tracing::info!(replaced, "draining; a signal from here on ends at once");
        let tracer = self.parts.tracer.clone();
        let journal = self.parts.journal.clone();
        // On a task of its own: Pingora blocks this one for the whole grace period.
        tokio::spawn(async move {
            tokio::select! {
                () = async {
                    lifetime.drain(time).await;
                    // What is not written by then is not worth a longer end.
                    let _ = tokio::time::timeout(LAST_NOTES, journal.write()).await;
                } => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            for file in files {
                let _ = std::fs::remove_file(file);
            }
            let _ = tokio::task::spawn_blocking(move || tracer.end()).await;
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
