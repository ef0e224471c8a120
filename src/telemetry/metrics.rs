//! The metrics of a running process.
//!
//! Labels come from fixed lists, so the number of series is bounded.

use std::sync::Arc;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use super::listed::{CounterTable, Counters, Durations};
use super::log;
use super::outcome::{
    CallKind, CallOutcome, CallbackKind, CallbackOutcome, DeliveryOutcome, ReconcileOutcome,
};
use crate::config::SigningKey;
use crate::http::client::distrust::Count;
use crate::http::server::admission::listener_metrics::{
    HandshakeFailure, ListenerMetrics, ShedReason,
};
use crate::inbox::event::{EventState, ReviewReason};
use crate::inbox::review::DecisionKind;
use crate::inbox::store::Counts;
use crate::protocol::envelope::Verified;
use crate::protocol::oddity::{Oddities, Oddity};
use crate::protocol::subject::Subject;
use crate::time::Millis;

/// The fields of a result that a reader can fail at (document §3.2.3, §3.4.4).
const RESULT_FIELDS: [&str; 8] = [
    "respcode",
    "resultcode",
    "resultmsg",
    "queryid",
    "txnamt",
    "merid",
    "orderid",
    "paytime",
];

/// Every metric, by its Prometheus name in the registry.
pub struct Metrics {
    registry: Registry,
    process: Registry,
    /// Calls by endpoint and outcome; the outcome is `ok` or the rejection's code.
    pub calls: CounterTable<CallKind, CallOutcome>,
    /// Seconds from a call's header to its response, by endpoint.
    pub call_seconds: Durations<CallKind>,
    /// Connections to the platform that were opened.
    connections_opened: IntCounter,
    /// Connections to the platform that were used again.
    connections_reused: IntCounter,
    stray_responses: IntCounter,
    /// Calls of apps that sign themselves: `match` or `mismatch`.
    pub shadow: IntCounterVec,
    /// Tolerated oddities of answers, by kind.
    pub oddities: IntCounterVec,
    /// Answers that fitted an old key only.
    pub old_key_answers: IntCounter,
    /// Switches of a merchant's signing key, by the key that signs since.
    key_switches: IntCounterVec,
    /// Merchants with a `next_key`, by the key that signs.
    rotating: IntGaugeVec,
    /// Reloads of the merchants file: `applied`, `refused`, or `unchanged` after a request for one.
    pub reloads: IntCounterVec,
    /// Seconds to read, check and swap in a changed file.
    pub reload_seconds: Histogram,
    /// The time at which the live snapshot was taken, in seconds since 1970.
    pub loaded_at: Gauge,
    /// 1 where the last look at the files was good.
    pub reload_ok: IntGauge,
    /// Merchants in force.
    pub merchants: IntGauge,
    /// Orders that could not be written to the ledger.
    pub ledger_failures: IntCounter,
    /// Callbacks by kind and outcome: `accepted`, `repeated`, or the reason of the rejection.
    pub callbacks: CounterTable<CallbackKind, CallbackOutcome>,
    /// Seconds from a callback's header to its response, by kind; for `back` the commit is in them.
    pub callback_seconds: Durations<CallbackKind>,
    /// Attempts to deliver an event, by what came of them.
    pub delivery_attempts: Counters<DeliveryOutcome>,
    /// Results that need manual review, by the reason and the field that could not be read.
    pub disputes: IntCounterVec,
    /// Payloads and results that were not kept for review, because the merchant has too many there.
    pub review_full: IntCounter,
    /// Operators' decisions about results.
    pub decisions: IntCounterVec,
    /// Questions about open orders, by what came of them.
    pub watch_queries: Counters<ReconcileOutcome>,
    /// Events in the store, by state.
    pub events: IntGaugeVec,
    /// The age of the oldest pending event, in seconds.
    pub oldest_undelivered: Gauge,
    /// Orders without a final result.
    pub open_orders: IntGauge,
    /// Connections that were closed before their client was done, by listener and reason.
    connections_shed: IntCounterVec,
    /// TLS handshakes of callers that came to nothing, by reason.
    handshakes_failed: IntCounterVec,
    /// The time at which the callback listener's certificate expires, in seconds since 1970; 0 without TLS.
    pub certificate_expiry: IntGauge,
    /// 1 where the store can be written.
    pub store_ok: IntGauge,
    /// Requests being handled, on whichever listener.
    pub requests_in_flight: IntGauge,
    /// Activity entries that were dropped.
    pub notes_dropped: IntCounter,
    /// Seconds by which the wall clock has jumped and is not believed yet; 0 where it is.
    pub clock_jump: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new().expect("names and labels are constants that differ")
    }
}

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("countersign".to_owned()), None)?;
        // Other exporters call them `process_…` too, and dashboards for any process expect them without a prefix.
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self()))?;
        let build = Opts::new("build_info", "Always 1; the label says what is running");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))?;
        build.set(1);
        registry.register(Box::new(build))?;
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
                let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        // Each value is initialised to 0: a rate does not see a series that begins at 1.
        let counters_of =
            |name: &str, help: &str, label, values: &[&str]| -> prometheus::Result<IntCounterVec> {
                let metric = counters(name, help, &[label])?;
                for value in values {
                    metric.with_label_values(&[value]);
                }
                Ok(metric)
            };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let reload_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "reload_duration_seconds",
                "Time to read, check and swap in merchants",
            )
            .buckets(vec![0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0]),
        )?;
        registry.register(Box::new(reload_seconds.clone()))?;
        let events = IntGaugeVec::new(
            Opts::new("events", "Events in the store, by state"),
            &["state"],
        )?;
        registry.register(Box::new(events.clone()))?;
        let oldest_undelivered = Gauge::new(
            "oldest_undelivered_seconds",
            "How long the oldest pending event has been waiting",
        )?;
        registry.register(Box::new(oldest_undelivered.clone()))?;
        let connections = counters_of(
            "platform_connections_total",
            "Connections to the platform that were opened, or reused for another call",
            "state",
            &["opened", "reused"],
        )?;
        let stray_responses = IntCounter::new(
            "stray_responses_total",
            "Responses of platforms and apps that belonged to no request",
        )?;
        registry.register(Box::new(stray_responses.clone()))?;
        let connections_shed = counters(
            "connections_shed_total",
            "Connections that were closed before their client was done, by listener and reason",
            &["listener", "reason"],
        )?;
        for listener in ["app", "callbacks", "admin"] {
            for reason in ShedReason::ALL {
                connections_shed.with_label_values(&[listener, reason.name()]);
            }
        }
        let loaded_at = Gauge::new(
            "merchants_loaded_timestamp_seconds",
            "When the merchants in force were loaded",
        )?;
        registry.register(Box::new(loaded_at.clone()))?;
        registry.register(Box::new(log::lost_lines()))?;
        Ok(Self {
            calls: CounterTable::register(
                &registry,
                "calls_total",
                "Calls of apps, by endpoint and outcome",
                "endpoint",
            )?,
            call_seconds: Durations::register(
                &registry,
                "call_duration_seconds",
                "Time from a call's header to its response, by endpoint",
                "endpoint",
            )?,
            connections_opened: connections.with_label_values(&["opened"]),
            connections_reused: connections.with_label_values(&["reused"]),
            stray_responses,
            shadow: counters_of(
                "shadow_calls_total",
                "Calls that came signed, by what our key says",
                "verdict",
                &["match", "mismatch"],
            )?,
            oddities: counters_of(
                "oddities_total",
                "Oddities of answers and callbacks that were tolerated",
                "kind",
                &Oddity::ALL.map(Oddity::name),
            )?,
            old_key_answers: counter(
                "old_key_answers_total",
                "Answers signed with one of a merchant's old keys",
            )?,
            key_switches: counters_of(
                "key_switches_total",
                "Switches of a merchant's signing key, to next_key or back to key",
                "to",
                &SigningKey::ALL.map(SigningKey::name),
            )?,
            rotating: rotating(&registry)?,
            reloads: counters_of(
                "reloads_total",
                "Reloads of the merchants file, by result",
                "result",
                &["applied", "refused", "unchanged"],
            )?,
            reload_seconds,
            loaded_at,
            reload_ok: gauge(
                "last_reload_ok",
                "1 where the files as they are now are in force, 0 where they were refused",
            )?,
            merchants: gauge("merchants", "Merchants in force")?,
            ledger_failures: counter(
                "ledger_failures_total",
                "Orders that could not be written to the ledger",
            )?,
            callbacks: CounterTable::register(
                &registry,
                "callbacks_total",
                "Callbacks, by kind and outcome",
                "kind",
            )?,
            callback_seconds: Durations::register(
                &registry,
                "callback_duration_seconds",
                "Time from a callback's header to its response, the commit included, by kind",
                "kind",
            )?,
            delivery_attempts: Counters::register(
                &registry,
                "delivery_attempts_total",
                "Attempts to deliver an event, by outcome",
            )?,
            disputes: disputes(&registry)?,
            review_full: counter(
                "review_full_total",
                "Payloads and results that were not kept for review, because their merchant has too many there",
            )?,
            decisions: decisions(&registry)?,
            watch_queries: Counters::register(
                &registry,
                "watch_queries_total",
                "Queries about open orders, by outcome",
            )?,
            events,
            oldest_undelivered,
            open_orders: gauge(
                "open_orders",
                "Orders without a final result that are asked about",
            )?,
            connections_shed,
            certificate_expiry: gauge(
                "callbacks_certificate_expiry_timestamp_seconds",
                "When the certificate of the callback listener expires; 0 where it has none",
            )?,
            handshakes_failed: counters_of(
                "tls_handshakes_failed_total",
                "TLS handshakes on the callback listener that came to nothing, by reason",
                "reason",
                &HandshakeFailure::ALL.map(HandshakeFailure::name),
            )?,
            store_ok: gauge("store_ok", "1 where the store can be written, 0 where not")?,
            requests_in_flight: gauge(
                "requests_in_flight",
                "Requests being handled on all listeners, this one not counted",
            )?,
            notes_dropped: counter(
                "notes_dropped_total",
                "Notes for the console that were dropped, because there were too many or the store took none",
            )?,
            clock_jump: gauge(
                "clock_jump_seconds",
                "Seconds by which the clock has jumped ahead, or back below 0, while the jump is in doubt; else 0",
            )?,
            registry,
            process,
        })
    }

    /// Counts what was tolerated in a response.
    pub fn count_oddities<T>(&self, message: &Verified<T>) {
        self.count_oddities_of(message.oddities());
    }

    /// Counts what was tolerated.
    pub fn count_oddities_of(&self, oddities: Oddities) {
        for kind in oddities.names() {
            self.oddities.with_label_values(&[kind]).inc();
        }
    }

    /// Counts and logs a payload or a result that needs manual review, when it is seen first.
    pub fn count_review(&self, reason: ReviewReason, field: &str, id: &str, subject: &Subject) {
        let reason = reason.name();
        self.disputes.with_label_values(&[reason, field]).inc();
        let (merid, orderid) = (subject.shown_merid(), subject.shown_orderid());
        let field = Some(field).filter(|field| !field.is_empty());
        tracing::error!(
            event = id,
            merid,
            orderid,
            reason,
            field,
            "needs manual review"
        );
    }

    /// Returns the counter of switches to this key.
    pub fn key_switches(&self, to: SigningKey) -> IntCounter {
        self.key_switches.with_label_values(&[to.name()])
    }

    /// Sets the number of merchants with a `next_key` for whom this key signs.
    pub fn set_rotating(&self, signs_with: SigningKey, merchants: i64) {
        let labels = [signs_with.name()];
        self.rotating.with_label_values(&labels).set(merchants);
    }

    /// Sets what only the store knows.
    pub fn set_counts(&self, counts: &Counts, now: Millis) {
        for (state, count) in EventState::ALL.into_iter().zip(counts.events) {
            self.events.with_label_values(&[state.name()]).set(count);
        }
        let waiting = counts
            .oldest_pending
            .map_or(0, |oldest| (now - oldest).max(0));
        self.oldest_undelivered.set(waiting as f64 / 1000.0);
        self.open_orders.set(counts.open_orders);
    }

    /// The exposition format, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without a name.
        for registry in [&self.registry, &self.process] {
            let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn rotating(registry: &Registry) -> prometheus::Result<IntGaugeVec> {
    let about = Opts::new(
        "rotating_merchants",
        "Merchants with a next_key, by the key that signs for them",
    );
    let metric = IntGaugeVec::new(about, &["signs_with"])?;
    registry.register(Box::new(metric.clone()))?;
    for key in SigningKey::ALL {
        metric.with_label_values(&[key.name()]);
    }
    Ok(metric)
}

/// Each reason is initialised to 0, and each field that a result can be unreadable in.
fn decisions(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let about = Opts::new(
        "decisions_total",
        "Operators' decisions about results, at the console and on the command line",
    );
    let metric = IntCounterVec::new(about, &["decision"])?;
    registry.register(Box::new(metric.clone()))?;
    for kind in DecisionKind::ALL {
        metric.with_label_values(&[kind.name()]);
    }
    Ok(metric)
}

fn disputes(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let about = Opts::new(
        "disputes_total",
        "Results that need manual review, by reason and unreadable field",
    );
    let metric = IntCounterVec::new(about, &["reason", "field"])?;
    registry.register(Box::new(metric.clone()))?;
    for reason in ReviewReason::ALL {
        match reason {
            ReviewReason::Unreadable => {
                for field in RESULT_FIELDS {
                    metric.with_label_values(&[reason.name(), field]);
                }
            }
            _ => {
                metric.with_label_values(&[reason.name(), ""]);
            }
        }
    }
    Ok(metric)
}

impl Count for Metrics {
    fn connection(&self, reused: bool) {
        if reused {
            self.connections_reused.inc();
        } else {
            self.connections_opened.inc();
        }
    }

    fn stray(&self) {
        self.stray_responses.inc();
    }
}

impl ListenerMetrics for Metrics {
    fn shed(&self, listener: &'static str, reason: ShedReason) {
        let labels = [listener, reason.name()];
        self.connections_shed.with_label_values(&labels).inc();
    }

    fn handshake_failed(&self, reason: HandshakeFailure) {
        let labels = [reason.name()];
        self.handshakes_failed.with_label_values(&labels).inc();
    }
}

/// Counts of the connections to apps: only the strays, because the other counts are the platform's.
pub struct AppConnections(pub Arc<Metrics>);

impl Count for AppConnections {
    fn connection(&self, _reused: bool) {}

    fn stray(&self) {
        self.0.stray();
    }
}

/// A counter that counts nothing.
pub struct Uncounted;

impl Count for Uncounted {
    fn connection(&self, _reused: bool) {}

    fn stray(&self) {}
}
