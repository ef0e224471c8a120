//! Queries on our own behalf, and the one reading of whatever the platform responds.
//!
//! [`response`] opens a response up to its verified payload, for the apps' calls too. [`review`] keeps the payloads that
//! cannot be read. [`rotation`] chooses the key that signs while two are in use, and [`switches`] keeps its choices.
//! [`query`] asks the platform for the result of a payment (document §3.4), for `confirm`, for reconciliation and for
//! `countersign probe`. [`confirm`] decides what such a result says about an event that claims a payment.

pub mod response;

pub mod review;

pub mod switches;

pub mod rotation;

pub mod query;

pub mod confirm;

pub use query::{PlatformQuery, QueryError};
pub use rotation::KeyRotation;
