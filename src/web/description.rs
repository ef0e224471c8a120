//! The description of the app's interface and of the deliveries, as OpenAPI.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::reply::{JSON, typed};

/// The path on the app's listener and on the operators'.
pub const PATH: &str = "/openapi.json";

const DOCUMENT: &str = include_str!("../../conf/openapi.json");

/// Replies with the document.
pub fn description() -> Response<Bytes> {
    typed(StatusCode::OK, JSON, DOCUMENT)
}
