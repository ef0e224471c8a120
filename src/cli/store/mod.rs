//! Commands over the store, also while the sidecar runs: results, orders, and the clock by which both are kept.

pub mod inbox;

pub mod orders;

pub mod clock;
