//! What the listeners and the background work share, and each of them made of it.

use std::sync::Arc;

use super::background::{Results, Upkeep};
use super::check::{CannotStart, to_platform};
use super::in_force::{log_start, watch};
use crate::admin::Admin;
use crate::admin::guard::Guard;
use crate::admin::pulse::Pulse;
use crate::config::settings::Settings;
use crate::config::{Listen, Snapshot, StoreAddress, Watch};
use crate::handover::Taken;
use crate::http::client::Client;
use crate::http::clients::Clients;
use crate::http::listener::Listener;
use crate::http::serve::{Door, Handler};
use crate::http::transport::Transport;
use crate::inbound::deliver::{Deliver, Wake};
use crate::inbound::watch::Watch as OrderWatch;
use crate::inbound::{Inbound, Platform};
use crate::inbox;
use crate::inbox::store::Store;
use crate::journal::Journal;
use crate::lifetime::Lifetime;
use crate::observe::{Metrics, Uncounted};
use crate::outbound::Outbound;
use crate::records::Records;
use crate::sockets::Sockets;
use crate::supervisor::{self, Supervisor};
use crate::trace::Tracer;

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
