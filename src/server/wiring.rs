//! The parts that the listeners and the background work share, and how each is built.

use std::sync::Arc;

use super::background::{Results, Upkeep};
use super::preflight::{StartError, to_platform};
use super::report::{log_start, watch};
use crate::admin::Admin;
use crate::admin::auth::Guard;
use crate::admin::context::AdminContext;
use crate::admin::decisions::DecisionWatch;
use crate::admin::pulse::Pulse;
use crate::config::settings::{CallbackSettings, Settings};
use crate::config::{Listen, LiveConfig, Snapshot, StoreAddress};
use crate::delivery::{Courier, Delivery, Wake};
use crate::http::client::Client;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::client::connect::Connector;
use crate::http::server::accept::Listener;
use crate::http::server::admission::admit::Admission;
use crate::http::server::admission::memory::MemoryBudget;
use crate::http::server::handler::Handler;
use crate::http::server::limits::{Limits, max_unfinished};
use crate::http::server::service::Service;
use crate::inbound::Inbound;
use crate::inbox;
use crate::inbox::store::Store;
use crate::outbound::Outbound;
use crate::platform::{KeyRotation, PlatformQuery};
use crate::process::drain::Drain;
use crate::process::sockets::Sockets;
use crate::process::systemd;
use crate::process::systemd::Systemd;
use crate::process::upgrade::Predecessor;
use crate::reconcile::Reconcile as OrderWatch;
use crate::telemetry::Telemetry;
use crate::telemetry::activity::ActivityLog;
use crate::telemetry::metrics::{AppConnections, Metrics};
use crate::telemetry::trace::Tracer;

/// The parts that the listeners and the background work share.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) supervisor: Arc<Systemd>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Arc<Tracer>,
    pub(super) drain: Arc<Drain>,
    pub(super) store: Arc<dyn Store>,
    pub(super) client: Arc<Client>,
    pub(super) watch: LiveConfig,
    pub(super) rotation: Arc<KeyRotation>,
    pub(super) apps: Arc<ClientsByOrigin>,
    pub(super) deliveries: Arc<ClientsByOrigin>,
    pub(super) wake: Arc<Wake>,
    pub(super) activity: Arc<ActivityLog>,
    pub(super) pulse: Arc<Pulse>,
    memory: Arc<MemoryBudget>,
}

impl Parts {
    pub(super) fn assemble(
        settings: &Settings,
        snapshot: Snapshot,
        sockets: Sockets,
        tracer: Tracer,
        taken: Option<&Predecessor>,
    ) -> Result<Self, StartError> {
        let before = taken.map_or_else(Default::default, |taken| taken.supervisor.clone());
        let supervisor = Systemd::at(systemd::Address::of_environment().or(before));
        let metrics = Arc::new(Metrics::default());
        let client = Arc::new(to_platform(settings, metrics.clone())?);
        // Directly, and by the system's roots: platform.proxy and platform.ca_file are about the platform alone.
        let to_apps = Connector::new(None, Arc::new(AppConnections(metrics.clone())))
            .map_err(StartError::lasting)?;
        let store = open_store(&settings.inbox.store, taken.is_some())?;
        log_start(settings, &snapshot);
        for warning in client.warnings() {
            tracing::warn!("{warning}");
        }
        tracing::info!(way = client.way(), "the platform is reached");
        Ok(Self {
            supervisor: Arc::new(supervisor),
            sockets: Arc::new(sockets),
            tracer: Arc::new(tracer),
            watch: watch(&settings.merchants, snapshot, &metrics)?,
            rotation: Arc::new(KeyRotation::new(Some(store.clone()), metrics.clone())),
            drain: Arc::default(),
            deliveries: Arc::new(ClientsByOrigin::within(
                to_apps.clone(),
                settings.inbox.delivery_timeout,
            )),
            apps: Arc::new(ClientsByOrigin::new(to_apps)),
            wake: Arc::default(),
            activity: Arc::new(ActivityLog::new(store.clone(), metrics.clone())),
            pulse: Arc::new(Pulse::new(metrics.clone(), store.clone())),
            memory: Arc::new(MemoryBudget::new(max_unfinished(settings.app.max_body))),
            metrics,
            store,
            client,
        })
    }

    /// Puts a handler behind a listener's limits. `callbacks` are the settings of the one that faces the internet.
    pub(super) fn service<H: Handler>(
        &self,
        name: &'static str,
        handler: H,
        limits: Limits,
        callbacks: Option<&CallbackSettings>,
    ) -> Service<H> {
        let (trusted, allowed) = callbacks.map_or_else(Default::default, |callbacks| {
            let trusted = callbacks.trust_forwarded_from.clone();
            (trusted, callbacks.allow_from.clone())
        });
        let (memory, metrics) = (self.memory.clone(), self.metrics.clone());
        let admission = Admission::new(name, limits, trusted, allowed, memory, metrics);
        Service::new(handler, limits, admission, self.drain.clone())
    }

    pub(super) fn listener<H: Handler>(
        &self,
        name: &str,
        service: Service<H>,
        addresses: &[Listen],
        threads: Option<usize>,
    ) -> Result<Listener<H>, StartError> {
        Listener::new(name, service, addresses, &self.sockets, threads).map_err(|error| {
            StartError::lasting(format!("the {name} listener cannot begin: {error}"))
        })
    }

    pub(super) fn outbound(&self, settings: &Settings) -> Outbound {
        Outbound::new(
            settings,
            self.watch.clone(),
            self.client.clone(),
            self.rotation.clone(),
            self.store.clone(),
            self.telemetry(),
            self.drain.clone(),
        )
    }

    pub(super) fn inbound(&self, settings: &Settings) -> Inbound {
        Inbound::new(
            settings,
            self.watch.clone(),
            self.store.clone(),
            self.apps.clone(),
            self.wake.clone(),
            self.telemetry(),
        )
    }

    fn telemetry(&self) -> Telemetry {
        Telemetry {
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            activity: self.activity.clone(),
            line_limits: Arc::default(),
        }
    }

    pub(super) fn admin(&self, settings: &Settings) -> Admin {
        Admin::new(AdminContext {
            watch: self.watch.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            drain: self.drain.clone(),
            guard: Guard::new(&settings.admin),
        })
    }

    pub(super) fn upkeep(&self) -> Upkeep {
        Upkeep {
            client: self.client.clone(),
            watch: self.watch.clone(),
            supervisor: self.supervisor.clone(),
            activity: self.activity.clone(),
            pulse: self.pulse.clone(),
            decisions: DecisionWatch {
                store: self.store.clone(),
                metrics: self.metrics.clone(),
            },
        }
    }

    pub(super) fn results(&self, settings: &Settings) -> Results {
        let inbox = &settings.inbox;
        let platform = PlatformQuery::new(
            self.client.clone(),
            self.rotation.clone(),
            self.metrics.clone(),
            Some(self.store.clone()),
        );
        Results {
            drain: self.drain.clone(),
            store: self.store.clone(),
            deliver: Arc::new(Delivery {
                store: self.store.clone(),
                wake: self.wake.clone(),
                courier: Arc::new(Courier {
                    live: self.watch.clone(),
                    apps: self.deliveries.clone(),
                    telemetry: self.telemetry(),
                    wake: self.wake.clone(),
                    platform: platform.clone(),
                    confirm: inbox.confirm,
                    retry_for: inbox.retry_for,
                }),
            }),
            watch: Arc::new(OrderWatch {
                store: self.store.clone(),
                merchants: self.watch.clone(),
                platform: platform.clone(),
                telemetry: self.telemetry(),
                wake: self.wake.clone(),
                per_second: inbox.watch_per_second,
            }),
            platform,
            merchants: self.watch.clone(),
            watch_orders: inbox.watch_orders,
            keep: inbox.keep,
        }
    }
}

fn open_store(address: &StoreAddress, upgrade: bool) -> Result<Arc<dyn Store>, StartError> {
    let opened = if upgrade {
        inbox::take_over(address)
    } else {
        inbox::open(address)
    };
    opened.map_err(|error| StartError::of_store(address, &error))
}
