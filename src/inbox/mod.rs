//! What must outlive the process: the orders that were signed, and the results that the app is to hear of.
//!
//! Knows no socket and no key. Keeps the promises that what is confirmed is on stable storage (I1), and that an
//! event goes on being offered until the app takes it (I4). [`Store`] is what a store must do; [`sqlite`] does it.

pub mod event;

pub mod note;

pub mod store;

pub mod sqlite;
