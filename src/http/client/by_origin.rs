//! Clients for the servers that others name, the merchants' apps above all: one for each origin, over one connector.

use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use url::Url;

use super::connect::Connector;
use super::http_client::Client;

/// Longest time to an open connection.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Longest time of an exchange: an app has taken an event, or shown its page.
const TIME: Duration = Duration::from_secs(10);
/// More origins than a merchants file names. The client that was used least recently makes room for one more; it takes
/// its idle connections along, and a request that it still carries goes on.
const MAX_CLIENTS: usize = 16_384;

/// Clients by origin.
pub struct ClientsByOrigin {
    connector: Connector,
    time: Duration,
    clients: Mutex<LruCache<String, Arc<Client>>>,
}

impl ClientsByOrigin {
    /// No client yet; each is made when it is needed first.
    pub fn new(connector: Connector) -> Self {
        Self::within(connector, TIME)
    }

    /// Builds it with this time for a whole exchange.
    pub fn within(connector: Connector, time: Duration) -> Self {
        Self {
            connector,
            time,
            // Grows with the clients: most sidecars have a handful.
            clients: Mutex::new(LruCache::unbounded()),
        }
    }

    /// Returns the client for the origin of `url`. Paths are given to it whole.
    pub fn client(&self, url: &Url) -> Option<Arc<Client>> {
        let origin = url.origin().ascii_serialization();
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&origin) {
            return Some(client.clone());
        }
        // Under the lock, so that two requests at once do not make two pools for one origin.
        let base = Url::parse(&origin).ok()?;
        let client =
            Arc::new(Client::new(&base, CONNECT_TIME, self.time, self.connector.clone()).ok()?);
        if clients.len() >= MAX_CLIENTS {
            clients.pop_lru();
        }
        clients.put(origin, client.clone());
        Some(client)
    }
}
