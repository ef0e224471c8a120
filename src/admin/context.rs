//! Everything that the pages of the admin listener read and act on.

use std::sync::Arc;

use super::auth::Guard;
use crate::config::LiveConfig;
use crate::inbox::store::Store;
use crate::process::drain::Drain;
use crate::telemetry::metrics::Metrics;

/// The parts of the sidecar that operators see.
pub struct AdminContext {
    /// The live merchants.
    pub watch: LiveConfig,
    /// The ledger, the events and the activity log.
    pub store: Arc<dyn Store>,
    /// The metrics that `/metrics` exposes.
    pub metrics: Arc<Metrics>,
    /// The state of the graceful shutdown.
    pub drain: Arc<Drain>,
    /// Authentication of callers.
    pub guard: Guard,
}
