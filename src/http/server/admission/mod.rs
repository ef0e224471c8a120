//! Admission: permits and memory for connections, and the ones that go where there is not enough of either.

pub mod listener_metrics;

mod slot;

pub mod memory;

pub mod admit;
