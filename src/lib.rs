//! Countersign: sign, verify and keep the messages between a legacy app and its payment platform.

pub mod config;
pub mod protocol;
