//! The addresses of one host: looked up off the path of requests, and the last good ones kept while that fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use url::{Host, Url};

use super::lookup::look_up;

/// Age at which addresses are looked up again.
const REFRESH: Duration = Duration::from_secs(30);
/// Pause after a failed lookup; meanwhile the last good addresses are used.
const RETRY: Duration = Duration::from_secs(2);
/// Shortest pause between two lookups of one name, however often its addresses fail.
const PAUSE: Duration = Duration::from_secs(1);
/// An address that worked is tried first for this time (RFC 8305 §4 lets a client remember that).
const REMEMBERED: Duration = Duration::from_secs(600);

/// The addresses of one host and port.
pub struct Resolver {
    host: String,
    port: u16,
    /// True where the host is an address itself.
    is_fixed: bool,
    known: ArcSwap<Vec<SocketAddr>>,
    history: Mutex<History>,
    is_refreshing: AtomicBool,
    /// Longest wait for one lookup.
    time: Duration,
}

#[derive(Default)]
struct History {
    looked_up: Option<Instant>,
    worked: Option<(SocketAddr, Instant)>,
}

impl Resolver {
    /// A resolver for the host of `url`. Nothing is known yet, unless the host is an address. A lookup may take `time`.
    pub fn of(url: &Url, time: Duration) -> Result<Self, String> {
        let host = url.host().ok_or("the URL has no host")?;
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        Ok(Self::new(&host.to_owned(), port, time))
    }

    /// A resolver for `host`, whose addresses get `port`.
    pub fn new(host: &Host, port: u16, time: Duration) -> Self {
        let fixed = match host {
            Host::Ipv4(ip) => Some(SocketAddr::new((*ip).into(), port)),
            Host::Ipv6(ip) => Some(SocketAddr::new((*ip).into(), port)),
            Host::Domain(_) => None,
        };
        Self {
            host: host.to_string(),
            port,
            is_fixed: fixed.is_some(),
            known: ArcSwap::from_pointee(Vec::from_iter(fixed)),
            history: Mutex::default(),
            is_refreshing: AtomicBool::new(false),
            time,
        }
    }

    /// The addresses that were found last, the best one first.
    pub fn known(&self) -> Guard<Arc<Vec<SocketAddr>>> {
        self.known.load()
    }

    /// Looks the name up every 30 seconds until it is dropped. Returns at once for an address.
    pub async fn keep(&self) {
        if self.is_fixed {
            return;
        }
        let mut failing = false;
        loop {
            let found = self.find_anew().await;
            if let Err(error) = &found
                && !failing
            {
                tracing::warn!(
                    host = self.host,
                    error,
                    "name lookup failed; the last good addresses stay"
                );
            }
            failing = found.is_err();
            // A fixed pause: getaddrinfo(3) passes no time to live on.
            sleep(if failing { RETRY } else { REFRESH }).await;
        }
    }

    /// Makes sure that an address is known. Waits for a lookup only where there is none; old addresses are looked up
    /// again in the background.
    pub async fn find(self: &Arc<Self>) -> Result<(), String> {
        if self.known.load().is_empty() {
            return self.find_anew().await;
        }
        if self.age().is_none_or(|age| age > REFRESH) {
            self.refresh();
        }
        Ok(())
    }

    /// Notes the address to which a connection was opened: the next one tries it first.
    pub fn worked(&self, address: SocketAddr) {
        self.history.lock().worked = Some((address, Instant::now()));
        // Nearly always it is first already, and a look is cheaper than a copy of the list for each connection.
        if self.known.load().first() != Some(&address) {
            self.known
                .rcu(|known| with_first(known.to_vec(), Some(address)));
        }
    }

    /// Looks the name up in the background: its addresses failed.
    pub fn doubt(self: &Arc<Self>) {
        if self.age().is_none_or(|age| age > PAUSE) {
            self.refresh();
        }
    }

    fn refresh(self: &Arc<Self>) {
        if self.is_fixed || self.is_refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let resolver = self.clone();
        tokio::spawn(async move {
            // The failure is logged by `keep`, or met by the next connection.
            let _ = resolver.find_anew().await;
            resolver.is_refreshing.store(false, Ordering::Release);
        });
    }

    fn age(&self) -> Option<Duration> {
        self.history.lock().looked_up.map(|at| at.elapsed())
    }

    async fn find_anew(&self) -> Result<(), String> {
        let was_found = !self.known.load().is_empty();
        let found = timeout(self.time, look_up(&self.host, was_found)).await;
        let silent = |_| {
            Err(format!(
                "no reply from the name server within {:?}",
                self.time
            ))
        };
        let mut found = found
            .unwrap_or_else(silent)
            .map_err(|error| format!("{}: {error}", self.host))?;
        if found.is_empty() {
            return Err(format!("{}: the name has no address", self.host));
        }
        found
            .iter_mut()
            .for_each(|address| address.set_port(self.port));
        // Locked until the list is replaced: an address that works meanwhile is then put first in the new one.
        let mut history = self.history.lock();
        history.looked_up = Some(Instant::now());
        let worked = history
            .worked
            .filter(|(_, at)| at.elapsed() < REMEMBERED)
            .map(|(address, _)| address);
        self.known
            .store(Arc::new(with_first(interleaved(found), worked)));
        Ok(())
    }
}

/// Addresses of both families in turn, beginning with the family that the system put first (RFC 8305 §4).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let mut second = second.into_iter();
    let mut mixed = Vec::new();
    for address in first {
        mixed.push(address);
        mixed.extend(second.next());
    }
    mixed.extend(second);
    mixed.dedup();
    mixed
}

/// Moves one of the addresses to the front, if it is among them.
fn with_first(mut addresses: Vec<SocketAddr>, first: Option<SocketAddr>) -> Vec<SocketAddr> {
    let at = addresses.iter().position(|address| Some(*address) == first);
    if let Some(at) = at {
        addresses[..=at].rotate_right(1);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts
            .iter()
            .map(|text| SocketAddr::new(text.parse().unwrap(), 443))
            .collect()
    }

    #[test]
    fn families_take_turns_and_the_address_that_worked_comes_first() {
        let mixed = interleaved(addresses(&[
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::3",
            "192.0.2.1",
        ]));
        let turns = addresses(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"]);
        assert_eq!(mixed, turns);
        let v4_first = interleaved(addresses(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        assert_eq!(
            v4_first,
            addresses(&["192.0.2.1", "2001:db8::1", "192.0.2.2"])
        );
        let worked = with_first(mixed, Some("[2001:db8::2]:443".parse().unwrap()));
        let first = addresses(&["2001:db8::2", "2001:db8::1", "192.0.2.1", "2001:db8::3"]);
        assert_eq!(worked, first);
        let gone = with_first(worked, Some("198.51.100.1:443".parse().unwrap()));
        assert_eq!(gone, first);
    }

    #[tokio::test]
    async fn last_good_addresses_outlive_a_failed_lookup() {
        let host = Host::Domain("nothing.invalid".to_owned());
        let resolver = Arc::new(Resolver::new(&host, 443, Duration::from_secs(5)));
        let error = resolver.find().await.unwrap_err();
        assert!(error.starts_with("nothing.invalid: "), "{error}");
        let good = addresses(&["192.0.2.1", "192.0.2.2"]);
        resolver.known.store(Arc::new(good.clone()));
        resolver.find().await.unwrap();
        resolver.find_anew().await.unwrap_err();
        assert_eq!(**resolver.known(), good);
        resolver.worked(good[1]);
        assert_eq!(**resolver.known(), [good[1], good[0]]);
    }
}
