//! The one place that records an outcome: a count, a log line, a span and an activity entry.
//!
//! Calls pass here at full speed: their counters are resolved beforehand, and nothing is allocated but the activity entry,
//! where there is room for one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::activity::ActivityLog;
use super::log;
use super::log::limit::LineLimits;
use super::metrics::Metrics;
use super::outcome::{
    CallKind, CallOutcome, CallbackKind, CallbackOutcome, DeliveryOutcome, Listed, ReconcileOutcome,
};
use super::trace::{Span, Tracer};
use crate::http::client::error::Sent;
use crate::http::server::client_address::ClientAddress;
use crate::inbox::activity::{ActivityEntry, ActivityKind, Weight};
use crate::protocol::subject::Subject;
use crate::time;
use crate::time::Millis;

/// Bytes of a path that a line shows.
const MAX_PATH: usize = 64;

/// The sinks of telemetry; clones write to the same places.
#[derive(Clone)]
pub struct Telemetry {
    /// Counters, gauges and histograms.
    pub metrics: Arc<Metrics>,
    /// Spans, where a collector is named.
    pub tracer: Arc<Tracer>,
    /// The entries of orders' timelines.
    pub activity: Arc<ActivityLog>,
    /// Bounds of what strangers can make the log write.
    pub line_limits: Arc<LineLimits>,
}

/// One finished piece of work.
pub struct Finished<'a> {
    /// The kind of work, and its outcome.
    pub work: Work<'a>,
    /// The merchant and the order, as far as they are known.
    pub subject: &'a Subject,
    /// The request's id; empty for work that no request caused.
    pub request_id: &'a str,
    /// The beginning of the work.
    pub started: Instant,
    /// The fingerprint of the old key that the platform signed with.
    pub old_key: Option<String>,
}

/// The kind of a finished piece of work, and its outcome.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// A call of an app.
    Call {
        /// The endpoint.
        kind: CallKind,
        /// The outcome.
        outcome: CallOutcome,
        /// The certainty that the request reached the platform.
        sent: Sent,
        /// The status of the reply.
        status: StatusCode,
    },
    /// A callback of the platform, or of a stranger in its name.
    Callback {
        /// The path.
        kind: CallbackKind,
        /// The outcome.
        outcome: CallbackOutcome,
        /// The status of the reply.
        status: StatusCode,
        /// The path as it was sent.
        path: &'a str,
        /// The sender, as far as that is known.
        client: Option<&'a ClientAddress>,
        /// The field that could not be read; empty where that is not the reason.
        field: &'a str,
        /// The error of the store or of the app; empty where there is none.
        error: &'a str,
    },
    /// An attempt to deliver an event.
    Delivery {
        /// The outcome.
        outcome: DeliveryOutcome,
        /// The event's id.
        event: &'a str,
        /// The attempt's number, from 1.
        attempt: u32,
        /// The reason for the outcome, in words.
        why: &'a str,
    },
    /// A query about an open order.
    Reconcile(ReconcileOutcome),
}

impl Telemetry {
    /// Records finished work and ends its span.
    pub fn finish(&self, done: Finished<'_>, span: Span) {
        let took = done.started.elapsed();
        self.count(done.work, took);
        if done.old_key.is_some() {
            self.metrics.old_key_answers.inc();
        }
        match done.work {
            Work::Callback { kind, outcome, .. } => {
                if let Some(left_out) = self.line_limits.admit(kind, outcome) {
                    write_callback(&done, took, left_out);
                }
            }
            Work::Call { outcome, .. } => {
                if let Some(left_out) = self.line_limits.admit_call(outcome) {
                    write_call(&done, took, left_out);
                }
            }
            Work::Delivery { .. } | Work::Reconcile(_) => write_line(&done, took),
        }
        end_span(&done, span);
        self.enter(done);
    }

    fn count(&self, work: Work<'_>, took: Duration) {
        let metrics = &self.metrics;
        match work {
            Work::Call { kind, outcome, .. } => {
                metrics.calls.of(kind, outcome).inc();
                metrics.call_seconds.of(kind).observe(took.as_secs_f64());
            }
            Work::Callback { kind, outcome, .. } => {
                metrics.callbacks.of(kind, outcome).inc();
                let seconds = metrics.callback_seconds.of(kind);
                seconds.observe(took.as_secs_f64());
            }
            Work::Delivery { outcome, .. } => metrics.delivery_attempts.of(outcome).inc(),
            Work::Reconcile(outcome) => metrics.watch_queries.of(outcome).inc(),
        }
    }

    fn enter(&self, done: Finished<'_>) {
        let Some(entry) = entry(done.work) else {
            return;
        };
        let weight = if self.is_step(&done) {
            Weight::Step
        } else {
            Weight::Common
        };
        let (merid, orderid) = (
            done.subject.merid.as_deref(),
            done.subject.orderid.as_deref(),
        );
        self.activity.note(weight, || {
            // The time is read before the duration, so that their difference is not after the beginning.
            let at = time::now();
            let took = Millis::try_from(done.started.elapsed().as_millis());
            let about = ActivityEntry::about(entry.what, merid, orderid, at);
            ActivityEntry {
                at,
                took: took.unwrap_or(Millis::MAX),
                merid: about.merid,
                orderid: about.orderid,
                request_id: done.request_id.to_owned(),
                old_key: done.old_key.unwrap_or_default(),
                ..entry
            }
        });
    }

    /// Separates steps of an order's timeline from entries that others can repeat at will.
    fn is_step(&self, done: &Finished<'_>) -> bool {
        match done.work {
            Work::Call {
                kind,
                outcome,
                sent,
                ..
            } => {
                let old_key = done.old_key.as_deref();
                let is_out = outcome == CallOutcome::Ok || sent != Sent::No;
                old_key.is_some_and(|key| self.activity.is_news(key))
                    || (kind.takes_orders() && is_out)
            }
            Work::Callback { kind, outcome, .. } => match outcome {
                CallbackOutcome::Accepted => kind == CallbackKind::Back,
                // A customer's browser holds envelopes, of our own request too, that it can bring again and again.
                _ if outcome.is_rejection() && outcome.is_verified() => {
                    let (merid, orderid) =
                        (done.subject.shown_merid(), done.subject.shown_orderid());
                    let (kind, outcome) = (kind.name(), outcome.name());
                    let what = format!("{kind} {outcome} {merid} {orderid}");
                    self.activity.is_news(&what)
                }
                _ => false,
            },
            Work::Delivery { .. } => false,
            // While the platform is away, each open order is queried about once a minute.
            Work::Reconcile(outcome) => outcome != ReconcileOutcome::NoAnswer,
        }
    }
}

/// Begins the activity entry of a kind of work. A delivery has none: the store keeps each attempt beside its event.
fn entry(work: Work<'_>) -> Option<ActivityEntry> {
    let plain = |kind| ActivityEntry::about(kind, None, None, 0);
    Some(match work {
        Work::Call {
            kind,
            outcome,
            sent,
            ..
        } => ActivityEntry {
            way: kind.name().into(),
            outcome: outcome.name().into(),
            sent: sent.name().into(),
            refused: outcome != CallOutcome::Ok,
            ..plain(ActivityKind::Call)
        },
        Work::Callback { kind, outcome, .. } => ActivityEntry {
            way: kind.name().into(),
            outcome: outcome.name().into(),
            refused: outcome.is_rejection(),
            stranger: !outcome.is_verified(),
            ..plain(ActivityKind::Callback)
        },
        Work::Delivery { .. } => return None,
        Work::Reconcile(outcome) => ActivityEntry {
            way: "watch".into(),
            outcome: outcome.name().into(),
            ..plain(ActivityKind::Question)
        },
    })
}

/// Writes the line of a call. `left_out` counts the lines of the same outcome that were not written since the last one.
fn write_call(done: &Finished<'_>, took: Duration, left_out: u64) {
    let Work::Call {
        kind,
        outcome,
        sent,
        status,
    } = done.work
    else {
        return;
    };
    tracing::info!(
        request_id = done.request_id,
        endpoint = kind.name(),
        merid = done.subject.shown_merid(),
        orderid = done.subject.shown_orderid(),
        outcome = outcome.name(),
        left_out = Some(left_out).filter(|left_out| *left_out > 0),
        status = status.as_u16(),
        sent = sent.name(),
        ms = log::millis(took),
        "call"
    );
}

/// Writes the log line. Each kind of work has its own fields, which `tracing` wants to know when it is compiled.
fn write_line(done: &Finished<'_>, took: Duration) {
    let (merid, orderid) = (done.subject.shown_merid(), done.subject.shown_orderid());
    let ms = log::millis(took);
    match done.work {
        Work::Call { .. } | Work::Callback { .. } => {}
        Work::Delivery {
            outcome,
            event,
            attempt,
            why,
        } => tracing::info!(
            event,
            merid,
            orderid,
            attempt,
            outcome = outcome.name(),
            why,
            ms,
            "delivery"
        ),
        // While the platform is away, each open order would have a line a minute.
        Work::Reconcile(ReconcileOutcome::NoAnswer) => {
            tracing::debug!(merid, orderid, outcome = "no-answer", ms, "reconcile");
        }
        Work::Reconcile(outcome) => {
            tracing::info!(merid, orderid, outcome = outcome.name(), ms, "reconcile");
        }
    }
}

/// Writes the line of a callback. A rejected one names its path and its sender: the platform's settings may be wrong, or
/// a proxy's. `left_out` counts the lines of the same outcome that were not written since the last one.
fn write_callback(done: &Finished<'_>, took: Duration, left_out: u64) {
    let Work::Callback {
        kind,
        outcome,
        status,
        path,
        client,
        field,
        error,
    } = done.work
    else {
        return;
    };
    let is_rejected = outcome.is_rejection();
    if !error.is_empty() {
        let orderid = done.subject.shown_orderid();
        tracing::error!(
            request_id = done.request_id,
            orderid,
            error,
            "callback failed"
        );
    }
    tracing::info!(
        request_id = done.request_id,
        kind = kind.name(),
        merid = done.subject.shown_merid(),
        orderid = done.subject.shown_orderid(),
        outcome = outcome.name(),
        field = Some(field).filter(|field| !field.is_empty()),
        path = is_rejected.then(|| cut(path)),
        from = client.filter(|_| is_rejected).map(tracing::field::display),
        left_out = Some(left_out).filter(|left_out| *left_out > 0),
        status = status.as_u16(),
        ms = log::millis(took),
        "callback"
    );
}

/// Cuts a path where parameters could begin, if they were escaped: an envelope is no matter for the log.
fn cut(path: &str) -> &str {
    let bytes = path.as_bytes();
    let is_end = |at: usize| {
        matches!(bytes[at], b'?' | b'=')
            || bytes[at..]
                .get(..3)
                .is_some_and(|escape| escape.eq_ignore_ascii_case(b"%3f"))
    };
    let end = (0..bytes.len())
        .find(|at| is_end(*at))
        .unwrap_or(bytes.len());
    let mut end = end.min(MAX_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

fn end_span(done: &Finished<'_>, span: Span) {
    let (merid, orderid) = (done.subject.shown_merid(), done.subject.shown_orderid());
    let request_id = ("countersign.request_id", done.request_id);
    let about = [
        ("countersign.merid", merid),
        ("countersign.orderid", orderid),
    ];
    match done.work {
        Work::Call {
            kind,
            outcome,
            sent,
            status,
        } => span.end(
            // On a server's span only 5xx is an error (OpenTelemetry, "Semantic conventions for HTTP spans").
            &["call", kind.name()],
            status.is_server_error(),
            &[
                ("http.response.status_code", status.as_str()),
                request_id,
                about[0],
                about[1],
                ("countersign.outcome", outcome.name()),
                ("countersign.sent", sent.name()),
            ],
        ),
        Work::Callback {
            kind,
            outcome,
            status,
            ..
        } => span.end(
            &["callback", kind.name()],
            status.is_server_error(),
            &[
                ("http.response.status_code", status.as_str()),
                request_id,
                about[0],
                about[1],
                ("countersign.outcome", outcome.name()),
            ],
        ),
        Work::Delivery { outcome, event, .. } => span.end(
            &["delivery"],
            outcome != DeliveryOutcome::Taken,
            &[
                ("countersign.event", event),
                about[0],
                about[1],
                ("countersign.outcome", outcome.name()),
            ],
        ),
        Work::Reconcile(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_log_has_no_parameters_and_is_short() {
        for (path, shown) in [
            ("/notify/back", "/notify/back"),
            ("/notify/back%3Fresp%3Dabc", "/notify/back"),
            ("/notify/back%3fresp=abc", "/notify/back"),
            ("/resp=abc", "/resp"),
            ("/a?b", "/a"),
            ("/%3", "/%3"),
        ] {
            assert_eq!(cut(path), shown);
        }
        assert_eq!(cut(&"/x".repeat(200)).len(), MAX_PATH);
        assert_eq!(cut(&"汉".repeat(200)).len(), MAX_PATH - 1);
    }
}
