//! Asking the platform how a payment went, on our own behalf: for the watch and before the app is told "paid".

use std::sync::Arc;

use http::StatusCode;

use crate::config::Merchant;
use crate::http::client::error::ClientError;
use crate::http::client::{Client, Repeat};
use crate::protocol::envelope;
use crate::protocol::envelope::{Envelope, EnvelopeError, Verified, VerifyError};
use crate::protocol::json::quoted;
use crate::protocol::response::ResponseError;
use crate::protocol::result;
use crate::protocol::result::{PaymentResult, ReadError};
use crate::relay;

/// The platform's query interface (document §3.4).
#[derive(Clone)]
pub struct PlatformQuery(pub Arc<Client>);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The platform answered, signed, that it has none: no such order, for one.
    #[error("the platform has no result (respcode {0:?})")]
    Refused(String),
    /// No answer.
    #[error(transparent)]
    ClientError(#[from] ClientError),
    /// An answer with another status than 200.
    #[error("the platform answered with status {0}")]
    Status(u16),
    /// No envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Not believed.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Believed, and no result.
    #[error(transparent)]
    Answer(#[from] ResponseError),
}

impl PlatformQuery {
    /// The result of one order.
    pub async fn result(
        &self,
        merchant: &Merchant,
        orderid: &str,
    ) -> Result<Verified<PaymentResult>, QueryError> {
        let query = format!(
            r#"{{"merid":{},"orderid":{}}}"#,
            quoted(&merchant.merid),
            quoted(orderid)
        );
        let form = Envelope::seal(query.as_bytes(), &merchant.key).form("req");
        let response = self
            .0
            .post("/api/query", relay::own_headers(), &form, Repeat::Once)
            .await?;
        if response.status() != StatusCode::OK {
            return Err(QueryError::Status(response.status().as_u16()));
        }
        let message = envelope::read(response.body(), "resp")?.verify(merchant.verifying_keys())?;
        if let Some(respcode) = result::failed_respcode(&message) {
            return Err(QueryError::Refused(respcode));
        }
        let outcome = result::read_result(&message)?;
        if outcome.merid != merchant.merid {
            return Err(ResponseError::Foreign("merid").into());
        }
        if outcome.orderid != orderid {
            return Err(ResponseError::Foreign("orderid").into());
        }
        Ok(outcome)
    }
}

impl From<ReadError> for QueryError {
    fn from(error: ReadError) -> Self {
        Self::Answer(error.into())
    }
}
