//! Countersign: sign, verify and keep the messages between a legacy app and its payment platform.
//!
//! - A call: `http/serve → outbound → protocol (sign) → http/client → protocol (verify) → outbound/answer`.
//! - A callback: `http/serve → inbound → protocol (verify) → inbox`, then `0000`; from there, in the background,
//!   `inbound/deliver → http/client` to the app. `inbound/watch` asks for what never came.
//! - An edit of the merchants file: `config`, which reads, checks and swaps.
//!
//! What happened on the way goes through `records` to metrics, traces and the journal, and `admin` shows it.
//! `server` puts all of it together, `handover` passes its sockets to the next process. [`protocol`] is the library that
//! others may use; it is pure. The modules stand in reading order, and each names only those above it.

pub mod protocol;

pub mod config;

mod lifetime;

mod supervisor;

mod sockets;

mod handover;

mod http;

#[cfg(fuzzing)]
pub use http::oracle;

mod inbox;

mod clock;

mod language;

mod log;

mod observe;

mod trace;

mod journal;

mod records;

mod outbound;

mod inbound;

mod admin;

mod sandbox;

mod server;

pub mod cli;
