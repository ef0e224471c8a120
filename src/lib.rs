//! Countersign: sign, verify and keep the messages between a legacy app and its payment platform.

pub mod protocol;

pub mod config;
pub mod http;
pub mod inbox;
pub mod lifetime;
pub mod observe;

pub mod outbound;

pub mod admin;

pub mod server;

pub mod sandbox;

pub mod cli;
