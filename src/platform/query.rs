//! Asks the platform for the result of a payment, on our own behalf.

use std::sync::Arc;

use crate::config::Merchant;
use crate::http::client::error::ClientError;
use crate::http::client::{Client, RawResponse, Repeat};
use crate::platform::response;
use crate::platform::response::OpenError;
use crate::protocol::envelope::{Envelope, Verified};
use crate::protocol::json::quoted;
use crate::protocol::response::ResponseError;
use crate::protocol::result;
use crate::protocol::result::PaymentResult;
use crate::protocol::subject::Subject;
use crate::relay;
use crate::telemetry::metrics::Metrics;

/// The platform's query interface (document §3.4).
#[derive(Clone)]
pub struct PlatformQuery {
    client: Arc<Client>,
    metrics: Arc<Metrics>,
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

/// Why a query has no result.
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
    /// Queries through `client`, and counts oddities in `metrics`.
    pub fn new(client: Arc<Client>, metrics: Arc<Metrics>) -> Self {
        Self { client, metrics }
    }

    /// Returns the result of one payment. A result of another merchant, payment or order is an error.
    pub async fn result(
        &self,
        merchant: &Merchant,
        payment: PaymentName<'_>,
    ) -> Result<Verified<PaymentResult>, QueryError> {
        let (response, payload) = self.query(merchant, payment).await?;
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
        let form = Envelope::seal(query.as_bytes(), &merchant.key).form("req");
        let response = self
            .client
            // A query changes nothing, so a dead pooled connection costs no result.
            .post("/api/query", relay::own_headers(), &form, Repeat::Once)
            .await?;
        let payload = response::open(&response, merchant)?;
        Ok((response, payload))
    }
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
