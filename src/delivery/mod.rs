//! Delivery: every event is posted to its merchant's app until the app takes it.
//!
//! At least once, under the same id each time, one attempt at a time for an event and for a payment. A failing app
//! delays no other: [`rounds`] decides which event is next, [`dispatch`] starts the attempts, [`courier`] makes one.

mod schedule;

pub mod rounds;

#[cfg(test)]
mod fairness;

mod wake;

mod address;

mod app_reply;

mod message;

pub mod verdict;

mod courier;

mod news;

pub mod payments;

mod recorder;

mod memory;

mod dispatch;

pub use courier::Courier;
pub use dispatch::{Delivery, land};
pub use wake::Wake;
