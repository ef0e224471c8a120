//! Countersign: sign, verify and keep the messages between a legacy app and its payment platform.

pub mod protocol;

pub mod http;
pub mod inbox;
pub mod lifetime;
pub mod observe;
