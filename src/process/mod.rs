//! The process and its surroundings: sockets, systemd, graceful shutdown, and the upgrade to the next process.

pub mod drain;

pub mod systemd;

pub mod holder;

pub mod sockets;

pub mod upgrade;
