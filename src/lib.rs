//! Countersign: sign, verify and keep the messages between a legacy app and its payment platform.
//!
//! A call goes `http/serve → outbound → protocol → http/client → protocol → answer`; a callback goes
//! `http/serve → inbound → protocol → inbox` and from there, in the background, to the app; an edit of the
//! merchants file goes `config`: read, check, swap. [`protocol`] is the library that others may use; it is pure.
//! The modules stand in reading order, and each names only those above it.

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
