//! The platform's protocol, pure: no clock, disk, socket or runtime.

pub mod key;
