//! The one place that records an outcome: a count, a log line, a span and an activity entry.
//!
//! Calls pass here at full speed: their counters are resolved beforehand, and nothing is allocated but the activity entry,
//! where there is room for one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::activity::ActivityLog;
use super::log;
use super::metrics::Metrics;
use super::outcome::{
    CallKind, CallOutcome, CallbackKind, CallbackOutcome, DeliveryOutcome, Listed, ReconcileOutcome,
};
use super::trace::{Span, Tracer};
use crate::http::client::error::Sent;
use crate::inbox::activity::{ActivityEntry, ActivityKind, Weight};
use crate::protocol::subject::Subject;
use crate::time;
use crate::time::Millis;

/// The sinks of telemetry; clones write to the same places.
#[derive(Clone)]
pub struct Telemetry {
    /// Counters, gauges and histograms.
    pub metrics: Arc<Metrics>,
    /// Spans, where a collector is named.
    pub tracer: Arc<Tracer>,
    /// The entries of orders' timelines.
    pub activity: Arc<ActivityLog>,
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
    /// A callback of the platform, or of somebody in its name.
    Callback {
        /// The path.
        kind: CallbackKind,
        /// The outcome.
        outcome: CallbackOutcome,
        /// The status of the reply.
        status: StatusCode,
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
        write_line(&done, took);
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

    /// Tells steps of an order's timeline from what others can repeat at will.
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

/// Writes the log line. Each kind of work has its own fields, which `tracing` wants to know when it is compiled.
fn write_line(done: &Finished<'_>, took: Duration) {
    let request_id = done.request_id;
    let (merid, orderid) = (done.subject.shown_merid(), done.subject.shown_orderid());
    let ms = log::millis(took);
    match done.work {
        Work::Call {
            kind,
            outcome,
            sent,
            status,
        } => tracing::info!(
            request_id,
            endpoint = kind.name(),
            merid,
            orderid,
            outcome = outcome.name(),
            status = status.as_u16(),
            sent = sent.name(),
            ms,
            "call"
        ),
        Work::Callback {
            kind,
            outcome,
            status,
        } => tracing::info!(
            request_id,
            kind = kind.name(),
            merid,
            orderid,
            outcome = outcome.name(),
            status = status.as_u16(),
            ms,
            "callback"
        ),
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
