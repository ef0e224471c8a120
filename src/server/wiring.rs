//! What the listeners and the background work share, and each of them made of it.

use std::sync::Arc;

use super::background::{Results, Upkeep};
use super::preflight::{CannotStart, to_platform};
use super::report::{log_start, watch};
use crate::admin::Admin;
use crate::admin::auth::Guard;
use crate::admin::pulse::Pulse;
use crate::config::settings::Settings;
use crate::config::{Listen, Snapshot, StoreAddress, Watch};
use crate::delivery::{Deliver, Wake};
use crate::http::client::Client;
use crate::http::client::by_origin::Clients;
use crate::http::client::connect::Transport;
use crate::http::server::accept::Listener;
use crate::http::server::connection::{Door, Handler};
use crate::inbound::Inbound;
use crate::inbox;
use crate::inbox::store::Store;
use crate::outbound::Outbound;
use crate::platform::Platform;
use crate::process::drain::Lifetime;
use crate::process::sockets::Sockets;
use crate::process::systemd;
use crate::process::systemd::Supervisor;
use crate::process::upgrade::Taken;
use crate::reconcile::Watch as OrderWatch;
use crate::telemetry::Records;
use crate::telemetry::activity::Journal;
use crate::telemetry::metrics::{Metrics, Uncounted};
use crate::telemetry::trace::Tracer;

/// What the listeners and the background work share.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) supervisor: Arc<Supervisor>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Arc<Tracer>,
    pub(super) lifetime: Arc<Lifetime>,
    pub(super) store: Arc<dyn Store>,
    pub(super) client: Arc<Client>,
    pub(super) watch: Watch,
    pub(super) apps: Arc<Clients>,
    pub(super) wake: Arc<Wake>,
    pub(super) journal: Arc<Journal>,
    pub(super) pulse: Arc<Pulse>,
}

impl Parts {
    pub(super) fn assemble(
        settings: &Settings,
        snapshot: Snapshot,
        sockets: Sockets,
        tracer: Tracer,
        taken: Option<&Taken>,
    ) -> Result<Self, CannotStart> {
        let before = taken.map_or_else(Default::default, |taken| taken.supervisor.clone());
        let supervisor = Supervisor::at(systemd::Address::of_environment().or(before));
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

    pub(super) fn listener<H: Handler>(
        &self,
        name: &str,
        door: Door<H>,
        addresses: &[Listen],
        threads: Option<usize>,
    ) -> Result<Listener<H>, CannotStart> {
        Listener::new(name, door, addresses, &self.sockets, threads)
            .map_err(|error| CannotStart(format!("the {name} listener cannot begin: {error}")))
    }

    pub(super) fn outbound(&self, settings: &Settings) -> Outbound {
        Outbound::new(
            settings,
            self.watch.clone(),
            self.client.clone(),
            self.store.clone(),
            self.records(),
            self.lifetime.clone(),
        )
    }

    pub(super) fn inbound(&self, settings: &Settings) -> Inbound {
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

    pub(super) fn admin(&self, settings: &Settings) -> Admin {
        Admin {
            watch: self.watch.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            lifetime: self.lifetime.clone(),
            guard: Guard::new(&settings.admin),
            pulse: self.pulse.clone(),
        }
    }

    pub(super) fn upkeep(&self) -> Upkeep {
        Upkeep {
            client: self.client.clone(),
            watch: self.watch.clone(),
            supervisor: self.supervisor.clone(),
            journal: self.journal.clone(),
            pulse: self.pulse.clone(),
        }
    }

    pub(super) fn results(&self, settings: &Settings) -> Results {
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

fn open_store(address: &StoreAddress, upgrade: bool) -> Result<Arc<dyn Store>, CannotStart> {
    let opened = if upgrade {
        inbox::take_over(address)
    } else {
        inbox::open(address)
    };
    opened.map_err(|error| CannotStart(format!("{address}: inbox.store: {error}")))
}
