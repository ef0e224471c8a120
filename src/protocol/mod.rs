//! The platform's protocol, pure: no clock, disk, socket or runtime.
//!
//! A payload is one JSON object. It travels as an envelope: its bytes in base64 (`req` from the app's side,
//! `resp` from the platform's) and `sign`, the MD5 of that text followed by the merchant's key
//! (document §2.2). Signing covers bytes, so nothing here ever parses a payload and prints it again.
//!
//! Platforms vary. One reader judges a payload alike on every path: what means the same is accepted and counted
//! ([`oddity`]), everything else is an error that says what is wrong ([`result::ReadError`]).
//!
//! ```
//! use countersign::protocol::{envelope::{self, Envelope}, key::Key};
//!
//! let key = Key::new("7d0f1c0a9be84e6e8e1f6f6a2c5b9d31")?;
//! let query = r#"{"merid":"100000000000001","orderid":"ORD2017030100000001"}"#;
//!
//! // The app's side: plain JSON becomes the form that is posted.
//! let form = Envelope::seal(query.as_bytes(), &key).form("req");
//! assert!(form.ends_with("&sign=7d3c4fbcea6f4e436ae785b2f9c75053"));
//!
//! // The other side: nothing is believed before the signature fits.
//! let received = envelope::read(form.as_bytes(), "req")?;
//! let verified = received.verify([&key]).expect("signed with this key");
//! assert_eq!(verified.as_slice(), query.as_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod key;

pub mod json;

pub mod oddity;

pub mod signature;

pub mod envelope;

pub mod body;

pub mod field;

pub mod request;

pub mod result;

pub mod subject;

pub mod response;

pub mod explain;
