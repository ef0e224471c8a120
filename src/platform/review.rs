//! Verified payloads that cannot be read as a result: kept for manual review alike, whichever way they came.

use crate::inbox::event::{ReviewReason, Source};
use crate::inbox::review::{Review, ReviewOutcome};
use crate::inbox::store::{Store, StoreError};
use crate::protocol::result::ReadError;
use crate::protocol::subject::Subject;
use crate::telemetry::metrics::Metrics;
use crate::time;

/// A verified payload that cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct UnreadPayload<'a> {
    /// The merchant whose key signed it.
    pub merid: &'a str,
    /// The order and the payment that it names, or that were queried.
    pub subject: &'a Subject,
    /// The decoded payload.
    pub bytes: &'a [u8],
    /// The way it came.
    pub source: Source,
}

/// Keeps a payload for review, once however often it comes, and counts and logs it with its field when it is new. Does
/// nothing with a request or a failed query's response.
pub async fn keep(
    store: &dyn Store,
    metrics: &Metrics,
    unread: UnreadPayload<'_>,
    error: &ReadError,
) -> Result<(), StoreError> {
    let Some(field) = error.field_in_review() else {
        return Ok(());
    };
    let reason = match error {
        ReadError::Malformed(_) => ReviewReason::Malformed,
        _ => ReviewReason::Unreadable,
    };
    let subject = unread.subject;
    let review = Review {
        merid: unread.merid.to_owned(),
        orderid: plain(subject.orderid.as_deref()),
        queryid: plain(subject.queryid.as_deref()),
        payload: unread.bytes.to_vec(),
        reason,
        field: field.to_owned(),
        source: unread.source,
        at: time::now(),
    };
    match store.put_for_review(review).await? {
        ReviewOutcome::Kept { id } => metrics.count_review(reason, field, &id, subject),
        ReviewOutcome::Repeated { .. } => {}
        ReviewOutcome::Full => metrics.review_full.inc(),
    }
    Ok(())
}

/// Returns a number as the store may hold it: 1 to 64 printable ASCII characters. Anything else becomes empty.
fn plain(number: Option<&str>) -> String {
    let fits = |text: &&str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
    number.filter(fits).unwrap_or_default().to_owned()
}
