//! The ledger's part of a call: an order and its try are recorded before the try is sent, and its outcome afterwards.

use std::sync::Arc;

use super::call::Call;
use super::rejection::{CallRejection, Code};
use super::reply::CallReply;
use crate::http::client::error::Sent;
use crate::inbox::order::{NewTry, RecordOutcome, Try, TryKind, TryState};
use crate::inbox::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::outcome::CallOutcome;
use crate::time;
use crate::time::Millis;

/// An order that may not have arrived is queried after this: it may still be on its way.
const QUERY_SOON: Millis = 2_000;

/// The orders that calls sign, and their tries.
pub(super) struct SignedOrders {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl SignedOrders {
    pub(super) fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    /// Waits until the call's order and its new try are on stable storage. `None` for a call without an order, and where the
    /// ledger fails: that stops no call.
    pub(super) async fn record(
        &self,
        call: &Call,
        kind: TryKind,
    ) -> Result<Option<Try>, CallRejection> {
        let (Some(merid), Some(order)) = (&call.subject.merid, &call.order) else {
            return Ok(None);
        };
        let new = NewTry {
            kind,
            backurl: call.backurl.as_deref(),
        };
        match self.store.record(merid, order, new, time::now()).await {
            Ok(RecordOutcome::Agrees(recorded)) => Ok(Some(recorded)),
            Ok(RecordOutcome::Conflicts) => {
                let detail =
                    "orderid: signed before with another amount or action; use a new orderid";
                Err(CallRejection::new(Code::OrderConflict, detail).at("orderid"))
            }
            // A store that is down must not stop payments; the metric has an alert.
            Err(error) => {
                self.metrics.ledger_failures.inc();
                tracing::error!(merid, orderid = order.orderid, %error, "the order is not in the ledger");
                Ok(None)
            }
        }
    }

    /// Records how a try ended, and follows up on it.
    ///
    /// One that was never sent frees the order's row where it created it, so that the app may change the order. One whose
    /// response is missing, comes from a gateway or cannot be read is queried soon.
    pub(super) async fn settle(&self, tried: Try, result: &Result<CallReply, CallRejection>) {
        let (is_ok, sent) = match result {
            Ok(reply) => (reply.outcome == CallOutcome::Ok, reply.sent),
            Err(rejection) => (false, rejection.sent),
        };
        // `No` is certain, anything else may have become a payment: only `No` frees the order.
        let state = match sent {
            Sent::No => TryState::No,
            Sent::Yes => TryState::Yes,
            Sent::Unknown => TryState::Unknown,
        };
        if is_ok {
            // The reply need not wait for it: where it is lost, the order is queried once more than needed.
            let store = self.store.clone();
            tokio::spawn(async move { report(&tried, store.settle_try(&tried, state).await) });
            return;
        }
        let soon = time::now() + QUERY_SOON;
        // First of the two, because it matters more should the process end in between.
        if sent != Sent::No {
            let hastened = self.store.hasten(&tried.merid, &tried.orderid, soon);
            report(&tried, hastened.await);
        }
        report(&tried, self.store.settle_try(&tried, state).await);
    }
}

fn report<T>(tried: &Try, settled: Result<T, StoreError>) {
    if let Err(error) = settled {
        let Try { merid, orderid, .. } = tried;
        tracing::warn!(merid, orderid, %error, "the end of a submit is not in the ledger");
    }
}
