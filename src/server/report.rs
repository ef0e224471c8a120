//! The configuration in force: reported at the start and after each reload, in the log, the metrics and the supervisor's status.

use std::path::Path;
use std::sync::Arc;

use super::certificate;
use super::preflight::StartError;
use crate::config;
use crate::config::settings::Settings;
use crate::config::{LiveConfig, ReloadOutcome, Snapshot};
use crate::telemetry::metrics::Metrics;

/// Everything that is allowed and probably not meant, in both files and in the certificate.
pub fn warnings(settings: &Settings, snapshot: &Snapshot) -> Vec<String> {
    let callbacks = settings.callbacks.as_ref();
    let tls = callbacks.and_then(|callbacks| callbacks.tls.as_ref());
    let public_url = callbacks.and_then(|callbacks| callbacks.public_url.as_ref());
    let certificate = tls.map(|tls| certificate::warnings(&tls.cert, public_url));
    let files = settings.warnings.iter().chain(snapshot.warnings()).cloned();
    files.chain(certificate.into_iter().flatten()).collect()
}

pub(super) fn log_start(settings: &Settings, snapshot: &Snapshot) {
    for warning in warnings(settings, snapshot) {
        tracing::warn!("{warning}");
    }
    let app: Vec<_> = settings
        .app
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    let callbacks = settings
        .callbacks
        .iter()
        .flat_map(|callbacks| &callbacks.listen);
    let callbacks: Vec<_> = callbacks.map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        settings = %settings.path.display(),
        settings_digest = settings.digest,
        merchants_file = %settings.merchants.display(),
        merchants = snapshot.len(),
        merchants_digest = snapshot.digest(),
        app = app.join(","),
        callbacks = callbacks.join(","),
        admin = %settings.admin.listen,
        platform = %settings.platform.url,
        connect_timeout = ?settings.platform.connect_timeout,
        timeout = ?settings.platform.timeout,
        max_body = settings.app.max_body,
        max_in_flight = settings.app.max_in_flight,
        threads = settings.threads,
        store = %settings.inbox.store,
        "starting"
    );
}

pub(super) fn watch(
    path: &Path,
    snapshot: Snapshot,
    metrics: &Arc<Metrics>,
) -> Result<LiveConfig, StartError> {
    let counted = metrics.clone();
    counted
        .merchants
        .set(i64::try_from(snapshot.len()).unwrap_or(i64::MAX));
    counted.loaded_at.set(seconds_since_1970());
    config::watch(path.to_owned(), snapshot, move |outcome| {
        log_reload(outcome, &counted)
    })
    .map_err(|error| StartError::lasting(format!("cannot watch {}: {error}", path.display())))
}

fn log_reload(outcome: &ReloadOutcome, metrics: &Metrics) {
    match outcome {
        ReloadOutcome::Applied {
            merchants,
            digest,
            added,
            removed,
            changed,
            took,
            warnings,
        } => {
            metrics.reloads.with_label_values(&["applied"]).inc();
            metrics.reload_seconds.observe(took.as_secs_f64());
            metrics.loaded_at.set(seconds_since_1970());
            metrics
                .merchants
                .set(i64::try_from(*merchants).unwrap_or(i64::MAX));
            tracing::info!(
                merchants,
                digest,
                added,
                removed,
                changed,
                "merchants reloaded"
            );
            for warning in warnings {
                tracing::warn!("{warning}");
            }
        }
        ReloadOutcome::Unchanged { .. } => metrics.reloads.with_label_values(&["unchanged"]).inc(),
        ReloadOutcome::Refused(problems) => {
            metrics.reloads.with_label_values(&["refused"]).inc();
            tracing::error!("the merchants file is refused; the last good merchants stay in force");
            for problem in &problems.0 {
                tracing::error!("{problem}");
            }
        }
    }
}

fn seconds_since_1970() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// The status that the supervisor shows of a serving process.
pub(super) fn status(watch: &LiveConfig) -> String {
    let merchants = watch.snapshot().len();
    match watch.last().1 {
        ReloadOutcome::Refused(_) => {
            format!("serving {merchants} merchants; their file as it is now is refused")
        }
        _ => format!("serving {merchants} merchants"),
    }
}
