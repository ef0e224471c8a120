//! The last step of the start: the supervisor and the old process learn that this one serves, and the next upgrade may come.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::sync::Notify;

use super::report::status;
use super::wiring::Parts;
use crate::config::settings::Settings;
use crate::process::upgrade::{Offered, Predecessor};
use crate::telemetry::log;

pub(super) struct Start {
    pub(super) settings: Settings,
    pub(super) parts: Parts,
    pub(super) taken: Mutex<Option<Predecessor>>,
    /// Signals no longer end the process hard.
    pub(super) is_watching: Arc<Notify>,
    /// The reason for which no other process can outlive this one.
    pub(super) bound: Option<String>,
}

#[async_trait]
impl BackgroundService for Start {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // A supervisor that reads READY may end the process at once, which must drain.
        self.is_watching.notified().await;
        let taken = self.taken.lock().take();
        let address = self.parts.supervisor.address().clone();
        let offered = match taken {
            Some(taken) => taken
                .serving(&self.settings, address)
                .unwrap_or_else(|error| {
                    tracing::error!(%error, "ending");
                    log::end();
                    std::process::exit(1);
                }),
            None => match Offered::at(&self.settings, address, self.bound.clone()) {
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
        // A thread of its own: it blocks until the next process comes, which may be never.
        std::thread::spawn(move || {
            offered.wait(&parts.sockets, |pid| parts.supervisor.replaced_by(pid));
            parts.drain.replace();
        });
    }
}

impl Start {
    fn ready(&self) {
        self.parts.drain.serving();
        tracing::info!("ready");
        self.parts.supervisor.ready(&status(&self.parts.watch));
    }
}
