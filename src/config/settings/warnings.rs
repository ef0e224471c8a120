//! Warnings about settings that are allowed, and probably not meant.

use super::sections::Settings;
use crate::config::web_url;

/// Returns a line for each questionable setting.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let url = &settings.platform.url;
    if url.scheme() == "http" && !web_url::is_loopback(url) {
        warnings.push("platform.url: http, so anyone on the way can read and change calls".into());
    }
    let interface = ["/api/query", "/api/icashier", "/apis/icashier"];
    if interface
        .iter()
        .any(|path| url.path().trim_end_matches('/').ends_with(path))
    {
        warnings.push(
            "platform.url: ends in an interface's path, which is added to it again; expected what stands before /api"
                .into(),
        );
    }
    let public_url = settings
        .callbacks
        .as_ref()
        .and_then(|callbacks| callbacks.public_url.as_ref());
    if let Some(public_url) = public_url
        && !web_url::is_loopback(url)
        && web_url::is_private(public_url)
    {
        warnings.push(
            "callbacks.public_url: a loopback or private address, which a platform elsewhere cannot reach".into(),
        );
    }
    for (key, listen) in settings.listeners() {
        if key != "callbacks.listen" && !listen.is_local() {
            warnings.push(format!(
                "{key}: {listen} can be reached from other machines"
            ));
        }
    }
    if let Some(warning) = settings.inbox.store.warning() {
        warnings.push(format!("inbox.store: {warning}"));
    }
    if settings.inbox.keep < settings.inbox.retry_for {
        warnings.push("inbox.keep: shorter than inbox.retry_for".into());
    }
    warnings
}
