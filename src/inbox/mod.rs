//! The store: the orders that were signed and the results for the app, which outlive the process.
//!
//! Knows no socket and no key. Keeps the promises that what is confirmed is on stable storage (I1), and that an
//! event goes on being offered until the app takes it (I4). [`Store`] is what a store must do; [`sqlite`] does it for one
//! sidecar, [`postgres`] for a fleet.

pub mod event;

pub mod order;

pub mod attempt;

pub mod review;

pub mod activity;

pub mod minutes;

pub mod listing;

pub mod store;

mod decide;

mod health;

#[cfg(test)]
pub(crate) mod commit_faults;

#[cfg(test)]
pub(crate) mod contract;

mod sqlite;

mod postgres;

use std::sync::Arc;

use crate::config::StoreAddress;
use postgres::Postgres;
use sqlite::Sqlite;
use store::{KeySwitch, Store, StoreError};

/// Opens or creates the sidecar's own store. Rejects one that is damaged, newer, another program's, or cannot be written.
pub fn open(address: &StoreAddress) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match address {
        StoreAddress::Sqlite(path) => Arc::new(Sqlite::open(path)?),
        StoreAddress::Postgres(at) => Arc::new(Postgres::open(at)?),
    })
}

/// Opens the store of a running sidecar, to take its place.
pub fn take_over(address: &StoreAddress) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match address {
        StoreAddress::Sqlite(path) => Arc::new(Sqlite::take_over(path)?),
        // Any number may share it anyway.
        StoreAddress::Postgres(at) => Arc::new(Postgres::open(at)?),
    })
}

/// Opens the store of a sidecar that may be running, for the command line.
pub fn open_beside(address: &StoreAddress) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match address {
        StoreAddress::Sqlite(path) => Arc::new(Sqlite::open_beside(path)?),
        StoreAddress::Postgres(at) => Arc::new(Postgres::open_beside(at)?),
    })
}

/// Finds out whether the store can be used, and creates nothing. `is_running`: our own sidecar has it open.
pub fn inspect(address: &StoreAddress, is_running: bool) -> Result<(), StoreError> {
    match address {
        StoreAddress::Sqlite(path) => sqlite::inspect(path, is_running),
        StoreAddress::Postgres(at) => Postgres::inspect(at),
    }
}

/// Reads the switches of signing keys, and creates nothing.
pub fn key_switches(address: &StoreAddress) -> Result<Vec<KeySwitch>, StoreError> {
    match address {
        StoreAddress::Sqlite(path) => sqlite::key_switches(path),
        StoreAddress::Postgres(at) => Postgres::inspect_key_switches(at),
    }
}
