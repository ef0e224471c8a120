//! Health, metrics, version and reload, for probes, scrapers and scripts.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use super::context::AdminContext;
use crate::config::ReloadOutcome;
use crate::inbox::store::Counts;
use crate::time;
use crate::web::reply::{JSON, text, typed};

pub async fn ready(admin: &AdminContext) -> Response<Bytes> {
    if admin.drain.is_draining() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    // Who reads "ready" may end the process at once, which must drain, or upgrade it.
    if !admin.drain.is_serving() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "starting\n");
    }
    match admin.store.check().await {
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(error) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the store cannot be written: {error}\n"),
        ),
    }
}

pub async fn metrics(admin: &AdminContext) -> Response<Bytes> {
    // A rejected file that is restored is no reload, but the last look at it was good.
    let (_, last) = admin.watch.last();
    let refused = matches!(last, ReloadOutcome::Refused(_));
    admin.metrics.reload_ok.set(i64::from(!refused));
    // Without this one, or the figure would never be 0 when it is read.
    let others = admin.drain.in_flight().saturating_sub(1);
    let others = i64::try_from(others).unwrap_or(i64::MAX);
    admin.metrics.requests_in_flight.set(others);
    let jump = time::doubted_jump().unwrap_or_default();
    admin.metrics.clock_jump.set(jump / 1000);
    let sound = admin.store.check().await.is_ok();
    admin.metrics.store_ok.set(i64::from(sound));
    match admin.store.counts().await {
        Ok(counts) => {
            // One sidecar of a fleet has the store's figures, so that a sum over all is right.
            let counts = if counts.is_exported {
                counts
            } else {
                Counts::default()
            };
            admin.metrics.set_counts(&counts, time::now());
        }
        Err(error) => tracing::warn!(%error, "events cannot be counted"),
    }
    typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        admin.metrics.text(),
    )
}

pub fn version() -> Response<Bytes> {
    let body = json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
    json_body(StatusCode::OK, &body)
}

pub async fn reload(admin: &AdminContext) -> Response<Bytes> {
    let watch = admin.watch.clone();
    // Reads and checks files: not on a thread that serves others.
    let Ok(outcome) = tokio::task::spawn_blocking(move || watch.reload()).await else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reload failed inside; the log has more\n",
        );
    };
    match outcome {
        ReloadOutcome::Applied {
            merchants,
            digest,
            added,
            removed,
            changed,
            warnings,
            ..
        } => json_body(
            StatusCode::OK,
            &json!({
                "result": "applied", "merchants": merchants, "digest": digest,
                "added": added, "removed": removed, "changed": changed, "warnings": warnings,
            }),
        ),
        ReloadOutcome::Unchanged { merchants } => json_body(
            StatusCode::OK,
            &json!({ "result": "unchanged", "merchants": merchants }),
        ),
        ReloadOutcome::Refused(problems) => {
            let problems: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
            let body = json!({
                "result": "refused", "merchants": admin.watch.snapshot().len(), "problems": problems,
            });
            json_body(StatusCode::UNPROCESSABLE_ENTITY, &body)
        }
    }
}

fn json_body(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    typed(status, JSON, format!("{body}\n"))
}
