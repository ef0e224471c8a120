//! The addresses of a host: looked up off the path of requests, and the last good ones kept while that fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use tokio::net::lookup_host;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;
use url::{Host, Url};

/// How old an address may get before the name is looked up again.
const REFRESH: Duration = Duration::from_secs(30);
/// The pause after a failed look-up; meanwhile the last good addresses are used.
const RETRY: Duration = Duration::from_secs(2);

/// What is known of one host.
pub(super) struct Resolver {
    host: String,
    port: u16,
    /// The host is an address itself.
    is_fixed: bool,
    known: ArcSwap<Vec<SocketAddr>>,
    doubted: Notify,
    /// Held while the name is looked up; the last failure.
    looking: Mutex<Option<(Instant, String)>>,
    /// One look-up's.
    time: Duration,
}

impl Resolver {
    /// None is known yet, unless the URL has one in the name's place. A look-up may take `time`.
    pub(super) fn of(url: &Url, time: Duration) -> Result<Self, String> {
        let host = url.host().ok_or("the URL has no host")?;
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        let fixed = match host {
            Host::Ipv4(ip) => Some(SocketAddr::new(ip.into(), port)),
            Host::Ipv6(ip) => Some(SocketAddr::new(ip.into(), port)),
            Host::Domain(_) => None,
        };
        Ok(Self {
            host: host.to_string(),
            port,
            is_fixed: fixed.is_some(),
            known: ArcSwap::from_pointee(Vec::from_iter(fixed)),
            doubted: Notify::new(),
            looking: Mutex::default(),
            time,
        })
    }

    /// Those that were found last.
    pub(super) fn known(&self) -> Guard<Arc<Vec<SocketAddr>>> {
        self.known.load()
    }

    /// Looks the name up now and then, and whenever it is in doubt, for ever. Returns at once where there is none.
    pub(super) async fn keep(&self) {
        if self.is_fixed {
            return;
        }
        let mut failing = false;
        loop {
            let pause = match self.look_up().await {
                Ok(()) => {
                    failing = false;
                    REFRESH
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(
                            host = self.host,
                            error,
                            "name look-up failed; the last good addresses stay"
                        );
                    }
                    failing = true;
                    RETRY
                }
            };
            let _ = timeout(pause, self.doubted.notified()).await;
        }
    }

    /// Whoever keeps them looks the name up now.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// None is known until the name is looked up again.
    pub(super) fn forget(&self) {
        if !self.is_fixed {
            self.known.store(Arc::default());
        }
    }

    /// Looks the name up where no address is known yet: one look-up for all that wait.
    pub(super) async fn find(&self) -> Result<(), String> {
        if !self.known.load().is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let mut failed = self.looking.lock().await;
        if !self.known.load().is_empty() {
            return Ok(());
        }
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(error.clone());
        }
        let looked_up = self.look_up().await;
        *failed = looked_up
            .as_ref()
            .err()
            .map(|error| (Instant::now(), error.clone()));
        looked_up
    }

    async fn look_up(&self) -> Result<(), String> {
        let found = lookup_host((self.host.as_str(), self.port));
        let found = timeout(self.time, found).await;
        let addresses: Vec<_> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no reply within {:?}", self.time)),
        };
        if addresses.is_empty() {
            return Err("the name has no address".to_owned());
        }
        self.known.store(Arc::new(addresses));
        Ok(())
    }
}
