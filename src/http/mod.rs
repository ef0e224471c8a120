//! HTTP in and out: with `server` the only place that names Pingora.

mod deadline;

mod buffer;

mod wire;

mod response;

mod exchange;

mod pool;

pub mod fault;

pub mod transport;

mod origin;

mod addresses;

pub mod client;

pub mod clients;

mod refusal;

pub mod request_id;

pub mod public;

mod plain;

mod places;

#[cfg(any(test, fuzzing))]
pub mod oracle;

pub mod serve;

pub mod listener;

pub mod tls;
