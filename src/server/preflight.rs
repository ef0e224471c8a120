//! The checks before anything is served: files, addresses and the store can be used.

use std::sync::Arc;

use crate::config::StoreAddress;
use crate::config::settings::{CallbackSettings, Settings, TlsSettings};
use crate::http::client::Client;
use crate::http::client::connect::Connector;
use crate::http::client::distrust::Count;
use crate::http::server::tls::Certificate;
use crate::inbox;
use crate::inbox::store::{KeySwitch, StoreError};
use crate::process::sockets::{ListenError, Sockets};
use crate::process::upgrade::{Running, UpgradeError};
use crate::telemetry::metrics::Uncounted;

/// An error that keeps the sidecar from starting.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct StartError {
    why: String,
    /// Another try may succeed without an edit.
    pub may_pass: bool,
}

impl StartError {
    /// An error that only an edit or a decision mends.
    pub(super) fn lasting(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            may_pass: false,
        }
    }

    /// An error of the store.
    pub(super) fn of_store(address: &StoreAddress, error: &StoreError) -> Self {
        Self {
            why: format!("{address}: inbox.store: {error}"),
            may_pass: error.may_pass(),
        }
    }
}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        Self {
            why: error.to_string(),
            may_pass: error.may_pass,
        }
    }
}

impl From<UpgradeError> for StartError {
    fn from(error: UpgradeError) -> Self {
        Self::lasting(error.to_string())
    }
}

/// Finds out whether the files that settings name can be used, and changes nothing.
pub fn check_files(settings: &Settings) -> Result<(), StartError> {
    to_platform(settings, Arc::new(Uncounted))?;
    settings
        .callbacks
        .as_ref()
        .map_or(Ok(None), certificate)
        .map(|_| ())
}

/// Finds out whether the addresses and the store can be used, and creates nothing. What the running sidecar of the same
/// settings holds is fine.
pub fn check_resources(settings: &Settings) -> Vec<StartError> {
    // First, because the addresses and the store that a sidecar of these settings holds are no problem.
    let running = Running::find(settings);
    let held = running
        .as_ref()
        .map_or(&[][..], |running| &running.listeners);
    let tried = Sockets::try_out(&settings.listeners(), held);
    let mut errors: Vec<StartError> = tried.into_iter().map(StartError::from).collect();
    let address = &settings.inbox.store;
    if let Some(Running {
        pid,
        other_settings: Some(theirs),
        ..
    }) = &running
    {
        errors.push(StartError {
            why: format!(
                "{address}: inbox.store: in use by process {pid}, which reads its settings from {}",
                theirs.display()
            ),
            may_pass: true,
        });
    }
    if let Err(error) = inbox::inspect(address, running.is_some()) {
        errors.push(StartError::of_store(address, &error));
    }
    errors
}

/// Returns the switches of signing keys that a running sidecar made, where the store has any; none where it cannot be read.
pub fn key_switches(settings: &Settings) -> Vec<KeySwitch> {
    inbox::key_switches(&settings.inbox.store).unwrap_or_default()
}

/// The client for the platform, as settings say.
pub fn to_platform(settings: &Settings, count: Arc<dyn Count>) -> Result<Client, StartError> {
    let platform = &settings.platform;
    let transport = Connector::new(platform.ca_file.as_deref(), count)
        .map_err(|error| StartError::lasting(format!("platform.ca_file: {error}")))?
        .through(platform.proxy.clone());
    let client = Client::new(
        &platform.url,
        platform.connect_timeout,
        platform.timeout,
        transport,
    );
    client.map_err(|error| {
        StartError::lasting(format!(
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
    certificate.map_err(|error| StartError::lasting(format!("callbacks.tls: {error}")))
}
