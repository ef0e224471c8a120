//! The work beside the requests.

use std::env;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::signal::unix::SignalKind;
use tokio::task::JoinSet;

use super::process::listen_for;
use super::report::status;
use crate::admin::decisions::DecisionWatch;
use crate::admin::pulse::Pulse;
use crate::config::LiveConfig;
use crate::delivery::{Delivery, land};
use crate::http::client::Client;
use crate::http::server::tls::Certificate;
use crate::inbox::store::Store;
use crate::platform::PlatformQuery;
use crate::process::drain::Drain;
use crate::process::systemd::Systemd;
use crate::reconcile::Reconcile as OrderWatch;
use crate::telemetry::activity::ActivityLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Export;

/// Fresh addresses, SIGHUP, the supervisor, and what the console shows.
pub(super) struct Upkeep {
    pub(super) client: Arc<Client>,
    pub(super) watch: LiveConfig,
    pub(super) supervisor: Arc<Systemd>,
    pub(super) activity: Arc<ActivityLog>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) decisions: DecisionWatch,
}

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, _shutdown: ShutdownWatch) {
        tokio::join!(
            self.client.keep_fresh(),
            self.reload_on_sighup(),
            upgrade_on_sigusr2(),
            self.supervisor.keep_posted(),
            self.activity.run(),
            self.pulse.run(),
            self.decisions.run()
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

/// Starts the next process with this one's arguments, from the program that its name leads to by now.
async fn upgrade_on_sigusr2() {
    let mut asked = listen_for(SignalKind::user_defined2());
    while asked.recv().await.is_some() {
        match successor().spawn() {
            Ok(mut child) => {
                tracing::info!(pid = child.id(), "SIGUSR2: the next process starts");
                // Waited for, so that one which cannot start leaves no zombie; where it can, it outlives us.
                let ended = tokio::task::spawn_blocking(move || child.wait()).await;
                tracing::warn!(
                    ?ended,
                    "the next process ended; its reason is in the log above"
                );
            }
            Err(error) => tracing::error!(%error, "SIGUSR2: the next process cannot be started"),
        }
    }
}

fn successor() -> Command {
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_else(|| "countersign".into());
    let arguments: Vec<_> = arguments.collect();
    let mut command = Command::new(program);
    command.args(&arguments).stdin(Stdio::null());
    if !arguments.iter().any(|argument| argument == "--upgrade") {
        command.arg("--upgrade");
    }
    command
}

/// The work on results: delivery, and reconciliation of orders without one.
pub(super) struct Results {
    pub(super) drain: Arc<Drain>,
    pub(super) store: Arc<dyn Store>,
    pub(super) deliver: Arc<Delivery>,
    pub(super) watch: Arc<OrderWatch>,
    pub(super) platform: PlatformQuery,
    pub(super) merchants: LiveConfig,
    pub(super) watch_orders: bool,
    pub(super) keep: Duration,
}

#[async_trait]
impl BackgroundService for Results {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // In an upgrade the process before may still deliver: two at once would send every event twice.
        self.store.turn().await;
        let watch = async {
            if self.watch_orders {
                self.watch.run().await;
            }
        };
        let probes = self.platform.probe_rotating(&self.merchants);
        let others = async { tokio::join!(watch, self.watch.forget(self.keep), probes) };
        let mut attempts = JoinSet::new();
        tokio::select! {
            () = self.deliver.clone().run(&mut attempts) => {}
            _ = others => {}
            () = self.drain.until_replaced() => {}
        }
        // The end waits for what is under way, and another process for its turn.
        let _busy = self.drain.enter();
        land(attempts).await;
        self.store.let_go();
    }
}

/// The way of traces to their collector.
pub(super) struct Exporting(pub(super) Export);

#[async_trait]
impl BackgroundService for Exporting {
    async fn start(&self, _shutdown: ShutdownWatch) {
        self.0.run().await;
    }
}

/// The callbacks' certificate, kept in step with its files, and its expiry in the metrics.
pub(super) struct Following {
    certificate: Arc<Certificate>,
    metrics: Arc<Metrics>,
}

impl Following {
    pub(super) fn new(certificate: Arc<Certificate>, metrics: Arc<Metrics>) -> Self {
        let following = Self {
            certificate,
            metrics,
        };
        following.show_expiry();
        following
    }

    fn show_expiry(&self) {
        if let Some(seconds) = self.certificate.not_after() {
            self.metrics.certificate_expiry.set(seconds);
        }
    }
}

#[async_trait]
impl BackgroundService for Following {
    async fn start(&self, _shutdown: ShutdownWatch) {
        self.certificate.follow(|| self.show_expiry()).await;
    }
}
