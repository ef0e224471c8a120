//! The demands of a sidecar's settings on its merchants file.

use crate::config::settings::Settings;
use crate::config::web_url;

/// Settings that decide what a merchants file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MerchantRules {
    /// The platform is on this machine, so that keys which everybody knows do no harm.
    pub public_keys_allowed: bool,
    /// There is a listener for results that `back` could get.
    pub has_callbacks: bool,
}

impl MerchantRules {
    /// The rules for a file that no sidecar runs with.
    pub const LENIENT: Self = Self {
        public_keys_allowed: true,
        has_callbacks: true,
    };

    /// The rules of a sidecar with these settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            public_keys_allowed: web_url::is_loopback(&settings.platform.url),
            has_callbacks: settings.callbacks.is_some(),
        }
    }
}
