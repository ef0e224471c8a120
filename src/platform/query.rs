//! Asks the platform for the result of a payment, on our own behalf.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::response::OpenError;
use super::review;
use super::review::UnreadPayload;
use super::rotation::KeyRotation;
use crate::config::{LiveConfig, Merchant, Snapshot};
use crate::http::client::error::ClientError;
use crate::http::client::{Client, RawResponse, Repeat};
use crate::inbox::event::Source;
use crate::inbox::store::{Store, StoreError};
use crate::protocol::envelope::{Envelope, Verified};
use crate::protocol::json::quoted;
use crate::protocol::key::Key;
use crate::protocol::response::ResponseError;
use crate::protocol::result;
use crate::protocol::result::{PaymentResult, ReadError};
use crate::protocol::subject::Subject;
use crate::relay;
use crate::telemetry::metrics::Metrics;

/// The pause between two looks for merchants that are due for a probe, or were edited.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Looks between two readings of what other sidecars of a fleet found out.
const LOOKS_PER_READING: u32 = 12;
/// Probes in flight; a platform that hangs holds each for `platform.timeout`.
const PROBES_AT_ONCE: usize = 8;

/// The platform's query interface (document §3.4).
#[derive(Clone)]
pub struct PlatformQuery {
    client: Arc<Client>,
    rotation: Arc<KeyRotation>,
    metrics: Arc<Metrics>,
    /// None for a command that has no store at hand: then nothing is kept for review.
    store: Option<Arc<dyn Store>>,
}

/// The payment that a query names. The platform ignores `orderid` where `queryid` is sent (document §3.4.3), so one of them
/// is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentName<'a> {
    /// The platform's own number: exactly one try of an order.
    Queryid(&'a str),
    /// The merchant's order number: whichever try the platform takes for the order's.
    Orderid(&'a str),
}

/// A query without a result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The platform responded, signed, that it has none: no such order, for one.
    #[error("the platform has no result (respcode {0:?})")]
    Failed(String),
    /// No response.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No verified payload.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A verified payload that is no result, or the result of another payment.
    #[error("{error}")]
    Payload {
        /// The rule that it breaks.
        error: ResponseError,
        /// The payload, which may need review.
        payload: Vec<u8>,
    },
}

impl PlatformQuery {
    /// Queries through `client` with the keys that `rotation` chooses, counts oddities in `metrics`, and keeps payloads for
    /// review in `store`.
    pub fn new(
        client: Arc<Client>,
        rotation: Arc<KeyRotation>,
        metrics: Arc<Metrics>,
        store: Option<Arc<dyn Store>>,
    ) -> Self {
        Self {
            client,
            rotation,
            metrics,
            store,
        }
    }

    /// Probes the merchants whose keys rotate, with a query about an order that no shop has, until the task is dropped.
    pub async fn probe_rotating(&self, merchants: &LiveConfig) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looked, mut read) = (0_u32, None);
        loop {
            tokio::select! {
                _ = looks.tick() => looked = looked.wrapping_add(1),
                () = self.rotation.doubted() => {}
            }
            let snapshot = merchants.snapshot();
            let turn = Some((snapshot.digest().to_owned(), looked / LOOKS_PER_READING));
            if read != turn {
                if let Err(error) = self.rotation.keep_in_step(&snapshot).await {
                    tracing::error!(%error, "the switches of signing keys cannot be brought up to date");
                }
                read = turn;
            }
            self.probe_due(&snapshot).await;
            self.rotation.count(&snapshot);
        }
    }

    async fn probe_due(&self, snapshot: &Snapshot) {
        let due = snapshot.iter().filter(|it| self.rotation.is_due(it));
        let mut probes = JoinSet::new();
        for merchant in due {
            if probes.len() >= PROBES_AT_ONCE {
                probes.join_next().await;
            }
            let (platform, merchant) = (self.clone(), merchant.clone());
            probes.spawn(async move { platform.probe(&merchant).await });
        }
        while probes.join_next().await.is_some() {}
    }

    async fn probe(&self, merchant: &Merchant) {
        let orderid = unknown_orderid();
        // A response under `next_key` switches; without one the next probe tries again.
        if let Err(error) = self.payload(merchant, PaymentName::Orderid(&orderid)).await {
            let merid = merchant.merid.as_str();
            tracing::debug!(merid, %error, "a probe for next_key failed");
        }
    }

    /// Returns the result of one payment. A result of another merchant, payment or order is an error.
    pub async fn result(
        &self,
        merchant: &Merchant,
        payment: PaymentName<'_>,
    ) -> Result<Verified<PaymentResult>, QueryError> {
        let (response, payload) = self.query(merchant, payment).await?;
        // Before anything is compared: a failure names no payment (§3.4.4).
        if let Some(respcode) = result::failed_respcode(&payload) {
            response.keep_connection();
            return Err(QueryError::Failed(respcode));
        }
        let read = result::read_result(&payload).map_err(ResponseError::from);
        let compared =
            read.and_then(
                |result| match payment.asked_of(merchant).differs_from(&result) {
                    Some(field) => Err(ResponseError::Foreign(field)),
                    None => Ok(result),
                },
            );
        match compared {
            Ok(result) => {
                response.keep_connection();
                self.metrics.count_oddities(&result);
                Ok(result)
            }
            Err(error) => Err(QueryError::Payload {
                error,
                payload: payload.into_inner(),
            }),
        }
    }

    /// Keeps the payload of a response for review, where it is one for review: the query was about `subject`.
    pub async fn review(
        &self,
        subject: &Subject,
        payload: &[u8],
        error: &ReadError,
    ) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let unread = UnreadPayload {
            merid: subject.merid.as_deref().unwrap_or_default(),
            subject,
            bytes: payload,
            source: Source::Query,
        };
        review::keep(&**store, &self.metrics, unread, error).await
    }

    /// Returns the verified payload of a query's response, whatever it states.
    pub async fn payload(
        &self,
        merchant: &Merchant,
        payment: PaymentName<'_>,
    ) -> Result<Verified<Vec<u8>>, QueryError> {
        let (_, payload) = self.query(merchant, payment).await?;
        Ok(payload)
    }

    async fn query(
        &self,
        merchant: &Merchant,
        payment: PaymentName<'_>,
    ) -> Result<(RawResponse, Verified<Vec<u8>>), QueryError> {
        let (name, value) = match payment {
            PaymentName::Queryid(queryid) => ("queryid", queryid),
            PaymentName::Orderid(orderid) => ("orderid", orderid),
        };
        let (merid, value) = (quoted(&merchant.merid), quoted(value));
        let query = format!(r#"{{"merid":{merid},"{name}":{value}}}"#);
        let post = |key: &Key| {
            let form = Envelope::seal(query.as_bytes(), key).form("req");
            // A query changes nothing, so it may go out again on a fresh connection.
            let (headers, repeat) = (relay::own_headers(), Repeat::Once);
            async move { self.client.post("/api/query", headers, &form, repeat).await }
        };
        let (response, opened) = self.rotation.query(merchant, post).await?;
        Ok((response, opened?))
    }
}

/// Returns the number of an order that no shop has given out.
pub fn unknown_orderid() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // 8 to 32 letters and digits (document §3.1.3).
    format!("PROBE{:X}{:X}", now.as_nanos(), std::process::id())
        .chars()
        .take(32)
        .collect()
}

impl PaymentName<'_> {
    fn asked_of(self, merchant: &Merchant) -> Subject {
        let mut subject = Subject {
            merid: Some(merchant.merid.clone()),
            ..Subject::default()
        };
        match self {
            Self::Queryid(queryid) => subject.queryid = Some(queryid.to_owned()),
            Self::Orderid(orderid) => subject.orderid = Some(orderid.to_owned()),
        }
        subject
    }
}
