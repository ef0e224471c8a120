//! Listeners: who is admitted, how a request is read, and how its reply is written.

mod rejection;

pub mod admission;

pub mod fast_path;

mod permits;

pub mod connection;

pub mod accept;

pub mod tls;
