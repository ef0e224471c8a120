//! What is found out before anything is served: that the files which settings name can be used.

use std::sync::Arc;

use crate::config::settings::{CallbackSettings, Settings, TlsSettings};
use crate::http::client::Client;
use crate::http::client::connect::{Connector, Count};
use crate::http::server::tls::Certificate;
use crate::process::sockets::ListenError;
use crate::process::upgrade::UpgradeError;
use crate::telemetry::metrics::Uncounted;

/// Why the sidecar cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub(super) String);

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        Self(error.to_string())
    }
}

impl From<UpgradeError> for StartError {
    fn from(error: UpgradeError) -> Self {
        Self(error.to_string())
    }
}

/// Finds out whether the files that settings name can be used, as far as that changes nothing.
pub fn check(settings: &Settings) -> Result<(), StartError> {
    to_platform(settings, Arc::new(Uncounted))?;
    settings
        .callbacks
        .as_ref()
        .map_or(Ok(None), certificate)
        .map(|_| ())
}

/// The client for the platform, as settings say.
pub fn to_platform(settings: &Settings, count: Arc<dyn Count>) -> Result<Client, StartError> {
    let platform = &settings.platform;
    let transport = Connector::new(platform.ca_file.as_deref(), count)
        .map_err(|error| StartError(format!("platform.ca_file: {error}")))?
        .through(platform.proxy.clone());
    let client = Client::new(
        &platform.url,
        platform.connect_timeout,
        platform.timeout,
        transport,
    );
    client.map_err(|error| {
        StartError(format!(
            "{}: platform.url: {error}",
            settings.path.display()
        ))
    })
}

pub(super) fn certificate(
    callbacks: &CallbackSettings,
) -> Result<Option<Arc<Certificate>>, StartError> {
    let load = |tls: &TlsSettings| Certificate::load(&tls.cert, &tls.key).map(Arc::new);
    let certificate = callbacks.tls.as_ref().map(load).transpose();
    certificate.map_err(|error| StartError(format!("callbacks.tls: {error}")))
}
