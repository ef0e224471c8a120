//! Countersign signs, verifies and keeps the messages between a legacy app and its payment platform.
//!
//! - A call: `http/server → outbound → protocol (sign) → http/client → protocol (verify) → outbound/response`.
//! - A callback: `http/server → inbound → protocol (verify) → inbox`, then `0000`; from there, in the background,
//!   `delivery → http/client` to the app. `reconcile` asks for what never came.
//! - An edit of the merchants file: `config/live`, which reads, checks and swaps.
//!
//! `telemetry` counts, traces and logs each outcome, and `admin` shows it. `server` puts all of it together;
//! `process/upgrade` passes its sockets to the next process. [`protocol`] is the library that others may use; it is pure.
//! The modules stand in reading order, and each names only those above it.

mod time;

pub mod protocol;

pub mod config;

mod process;

mod http;

#[cfg(fuzzing)]
pub use http::differential;

mod web;

mod inbox;

mod telemetry;

mod relay;

mod platform;

mod outbound;

mod delivery;

mod reconcile;

mod inbound;

mod admin;

mod sandbox;

mod server;

pub mod cli;

#[cfg(test)]
#[path = "../tests/world/mod.rs"]
mod world;
