//! A whole HTTP/1.1 exchange with one server, over pooled and verified connections.
//!
//! Knows nothing of payments. Redirects are the caller's business; nothing is followed here.

mod tls;

mod stream;

pub mod distrust;

mod pool;

mod response;

mod response_head;

pub mod proxy;

mod request;

pub mod exchange;

pub mod error;

pub mod lookup;

pub mod resolve;

pub mod race;

pub mod connect;

mod http_client;

pub mod by_origin;

pub use self::http_client::{Client, Repeat};
pub use self::request::Body;
pub use self::response::RawResponse;
