//! Which connections are let in, and how many of them at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::client_address::is_in;

/// Connections from one address.
const MAX_EACH: usize = 64;

/// The addresses that a listener knows, and its connections by address.
#[derive(Default)]
pub struct Admission {
    trusted: Vec<IpNet>,
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One open connection; it counts until this is dropped.
pub(super) struct Admitted {
    address: IpAddr,
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut connections = self.connections.lock();
        if let Some(count) = connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.address);
            }
        }
    }
}

impl Admission {
    /// Proxies in `trusted` say which client they speak for, and are bounded in all only.
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Self {
            trusted,
            connections: Arc::default(),
        }
    }

    /// Proxies that are believed about the client they speak for.
    pub(super) fn trusted(&self) -> &[IpNet] {
        &self.trusted
    }

    /// Counts a new connection, unless its address has too many.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let mut connections = self.connections.lock();
        let count = connections.entry(address).or_default();
        if *count >= MAX_EACH && !is_in(&self.trusted, address) {
            return None;
        }
        *count += 1;
        Some(Admitted {
            address,
            connections: self.connections.clone(),
        })
    }
}
