//! Clients for whatever origins others name, the merchants' apps above all: one each, over one connector.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::connect::Connector;
use super::http_client::Client;

/// To an open connection.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// An exchange is over in this time: an app has taken an event, or shown its page.
const TIME: Duration = Duration::from_secs(10);
/// More origins than a merchants file has; beyond that the old ones are forgotten.
const MAX_CLIENTS: usize = 4096;

/// Clients by origin.
pub struct ClientsByOrigin {
    connector: Connector,
    clients: Mutex<HashMap<String, Arc<Client>>>,
}

impl ClientsByOrigin {
    /// No client yet.
    pub fn new(connector: Connector) -> Self {
        Self {
            connector,
            clients: Mutex::default(),
        }
    }

    /// The client for a URL's origin; paths are given whole.
    pub fn client(&self, url: &Url) -> Option<Arc<Client>> {
        let origin = url.origin().ascii_serialization();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&origin) {
            return Some(client.clone());
        }
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let base = Url::parse(&origin).ok()?;
        let client = Arc::new(Client::new(&base, CONNECT_TIME, TIME, self.connector.clone()).ok()?);
        clients.insert(origin, client.clone());
        Some(client)
    }
}
