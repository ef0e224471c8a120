//! The two files, through the library: every bad example beside its exact message, every way of saving an edit.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails should fail its test"
)]

mod config {
    mod examples;
    mod merchants;
    mod overrides;
    mod reload;
    mod secrets;
}
