//! The way to the platform for the flows of a call.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::HeaderMap;
use url::Url;

use super::call::Call;
use super::rejection::CallRejection;
use super::route::Endpoint;
use crate::http::client::error::ClientError;
use crate::http::client::{Body, Client, RawResponse};
use crate::inbox::event::Source;
use crate::inbox::store::Store;
use crate::platform;
use crate::platform::KeyRotation;
use crate::platform::review;
use crate::platform::review::UnreadPayload;
use crate::process::drain::Drain;
use crate::protocol::envelope::{Envelope, Verified};
use crate::protocol::key::Key;
use crate::protocol::response;
use crate::protocol::response::{PlatformResponse, ResponseError, UnreadResponse};
use crate::protocol::result::ReadError;
use crate::relay::FormBody;
use crate::telemetry::metrics::Metrics;

/// The client of the platform, and what a flow needs around it.
pub(super) struct Upstream {
    client: Arc<Client>,
    rotation: Arc<KeyRotation>,
    drain: Arc<Drain>,
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    /// `platform.url` without its trailing slashes.
    url: String,
    /// The address of submits.
    submits: Url,
}

impl Upstream {
    pub(super) fn new(
        url: &Url,
        client: Arc<Client>,
        rotation: Arc<KeyRotation>,
        drain: Arc<Drain>,
        metrics: Arc<Metrics>,
        store: Arc<dyn Store>,
    ) -> Self {
        let mut submits = url.clone();
        let path = format!("{}/api/icashier", url.path().trim_end_matches('/'));
        // Redirects are compared with it, so it has the prefix of `platform.url`.
        submits.set_path(&path);
        Self {
            client,
            rotation,
            drain,
            metrics,
            store,
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

    /// Seals a call with the key that signs for its merchant now.
    pub(super) async fn seal(&self, call: &Call) -> FormBody {
        let key = self.rotation.signing_key(&call.merchant).await;
        FormBody(Envelope::seal(&call.json, key))
    }

    /// Has the key of a submit tried soon by a query.
    pub(super) fn doubt_key(&self, call: &Call) {
        self.rotation.doubt(&call.merchant);
    }

    /// Sends a query and returns its verified response; around a switch of keys it may go out with either key.
    pub(super) async fn query(
        &self,
        call: &Call,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Verified<PlatformResponse>, CallRejection> {
        let endpoint = Endpoint::Query;
        let post = |key: &Key| {
            let form = FormBody(Envelope::seal(&call.json, key));
            async move { self.post(endpoint, path, headers, &form).await }
        };
        let (raw, opened) = self.rotation.query(&call.merchant, post).await?;
        let verified = self.read(endpoint, call, opened?).await?;
        raw.keep_connection();
        Ok(verified)
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

    /// Verifies the response to a call of this endpoint: an envelope with status 200.
    pub(super) async fn verify(
        &self,
        endpoint: Endpoint,
        call: &Call,
        response: &RawResponse,
    ) -> Result<Verified<PlatformResponse>, CallRejection> {
        let payload = platform::response::open(response, &call.merchant)?;
        let verified = self.read(endpoint, call, payload).await?;
        response.keep_connection();
        Ok(verified)
    }

    /// Reads a verified payload as the response to a call. One that cannot be read is kept for review, as a callback's is.
    async fn read(
        &self,
        endpoint: Endpoint,
        call: &Call,
        payload: Verified<Vec<u8>>,
    ) -> Result<Verified<PlatformResponse>, CallRejection> {
        let completeness = endpoint.completeness();
        match response::read_response(payload, &call.json, &call.subject, completeness) {
            Ok(verified) => {
                self.metrics.count_oddities(&verified);
                Ok(verified)
            }
            Err(UnreadResponse { error, payload }) => {
                // The document of a further interface is not ours, so its payloads are no results.
                if let (true, ResponseError::Read(error)) = (endpoint != Endpoint::Extra, &error) {
                    self.review(call, &payload, error).await;
                }
                Err(error.into())
            }
        }
    }

    async fn review(&self, call: &Call, payload: &[u8], error: &ReadError) {
        let unread = UnreadPayload {
            merid: &call.merchant.merid,
            subject: &call.subject,
            bytes: payload,
            source: Source::Query,
        };
        let kept = review::keep(&*self.store, &self.metrics, unread, error).await;
        if let Err(error) = kept {
            let merid = call.merchant.merid.as_str();
            tracing::error!(merid, %error, "a response could not be kept for review");
        }
    }
}
