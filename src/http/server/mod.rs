//! Listeners: who is admitted, how a request is read, and how its response is written.

pub mod limits;

pub mod handler;

mod permits;

pub mod caller;

pub mod client_address;

pub mod admission;

pub mod framing;

pub mod fast_path;

pub mod tls;

pub mod service;

mod session;

mod connection;

pub mod accept;
