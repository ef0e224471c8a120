//! The way to the platform for the flows of a call.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::HeaderMap;
use url::Url;

use super::call::Call;
use super::rejection::CallRejection;
use super::response;
use super::route::Endpoint;
use crate::http::client::error::ClientError;
use crate::http::client::{Body, Client, RawResponse};
use crate::process::drain::Drain;
use crate::protocol::envelope::Verified;
use crate::protocol::response::PlatformResponse;
use crate::telemetry::metrics::Metrics;

/// The client of the platform, and what a flow needs around it.
pub(super) struct Upstream {
    client: Arc<Client>,
    drain: Arc<Drain>,
    metrics: Arc<Metrics>,
    /// `platform.url` without its trailing slashes.
    url: String,
    /// The address of submits.
    submits: Url,
}

impl Upstream {
    pub(super) fn new(
        url: &Url,
        client: Arc<Client>,
        drain: Arc<Drain>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut submits = url.clone();
        let path = format!("{}/api/icashier", url.path().trim_end_matches('/'));
        submits.set_path(&path);
        Self {
            client,
            drain,
            metrics,
            url: url.as_str().trim_end_matches('/').to_owned(),
            submits,
        }
    }

    /// `platform.url` without its trailing slashes.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The address that submits are posted to.
    pub(super) fn submits(&self) -> &Url {
        &self.submits
    }

    /// Posts to the platform as often as the endpoint allows, and stops waiting shortly before the process ends.
    pub(super) async fn post(
        &self,
        endpoint: Endpoint,
        path: &str,
        headers: &HeaderMap,
        body: &dyn Body,
    ) -> Result<RawResponse, ClientError> {
        let request = self.client.request(path, headers, body);
        let mut sent = pin!(self.client.send(&request, endpoint.repeat()));
        // The listener polls its handlers once more when the drain is over.
        poll_fn(|context| match sent.as_mut().poll(context) {
            Poll::Pending if self.drain.is_over() => Poll::Ready(Err(ClientError::CutShort)),
            polled => polled,
        })
        .await
    }

    /// Verifies the response to a call of this endpoint.
    pub(super) fn verify(
        &self,
        endpoint: Endpoint,
        call: &Call,
        response: &RawResponse,
    ) -> Result<Verified<PlatformResponse>, CallRejection> {
        response::verify(response, call, endpoint.completeness(), &self.metrics)
    }
}
