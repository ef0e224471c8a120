//! HTTP in and out: with `server.rs` the only place that names Pingora.

pub mod client;

pub mod clients;

mod refusal;

pub mod public;

pub mod serve;

pub mod listener;

pub mod tls;
