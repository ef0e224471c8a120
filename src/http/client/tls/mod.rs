//! TLS to servers.

pub mod explain;

pub mod roots;
