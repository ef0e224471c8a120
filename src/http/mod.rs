//! HTTP in and out: with `server.rs` the only place that names Pingora.

mod deadline;

mod exchange;

mod pool;

pub mod client;

pub mod clients;

mod refusal;

pub mod public;

mod plain;

#[cfg(any(test, fuzzing))]
pub mod oracle;

pub mod serve;

pub mod tls;
