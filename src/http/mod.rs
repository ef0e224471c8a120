//! HTTP in and out: with `server` the only place that names Pingora.

mod io;

pub mod client;

pub mod request_id;

pub mod log_limit;

pub mod server;

#[cfg(any(test, fuzzing))]
pub mod differential;
