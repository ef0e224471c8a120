//! The settings by section, as types that cannot be wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::config::listen::Listen;
use crate::config::proxy::ProxySetting;
use crate::config::store_address::StoreAddress;
use crate::config::token::LiveToken;

/// Everything that `countersign.toml`, the environment and `--set` say, understood and within limits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The settings file, as it was named.
    pub path: PathBuf,
    /// First 12 hex digits of the file's SHA-256.
    pub digest: String,
    /// The merchants file, relative to the settings file where it is relative.
    pub merchants: PathBuf,
    /// Worker threads; 0 in the file has become the number of cores.
    pub threads: usize,
    /// The listener for the app.
    pub app: AppSettings,
    /// The payment platform.
    pub platform: PlatformSettings,
    /// The listener for callbacks; none without a `[callbacks]` section.
    pub callbacks: Option<CallbackSettings>,
    /// The store, and how long results are kept and delivered.
    pub inbox: InboxSettings,
    /// The listener for operations.
    pub admin: AdminSettings,
    /// The log's form and level.
    pub log: LogSettings,
    /// Warnings: allowed, and probably not meant.
    pub warnings: Vec<String>,
}

/// `[app]`
#[derive(Debug, Clone)]
pub struct AppSettings {
    /// At least one; relative socket paths count from the settings file.
    pub listen: Vec<Listen>,
    /// Bytes of one request body.
    pub max_body: usize,
    /// Calls at once; one more is rejected.
    pub max_in_flight: usize,
    /// Origins, as browsers send them, whose pages may call; empty = none.
    pub allow_origins: Vec<String>,
}

/// `[platform]`
#[derive(Debug, Clone)]
pub struct PlatformSettings {
    /// Scheme, host, port and a path prefix; no query, no fragment, no user.
    pub url: Url,
    /// To an open connection, TLS included.
    pub connect_timeout: Duration,
    /// The whole exchange.
    pub timeout: Duration,
    /// Roots beside the system's; relative to the settings file.
    pub ca_file: Option<PathBuf>,
    /// Further interfaces with the same envelope.
    pub extra_paths: Vec<String>,
    /// The way out.
    pub proxy: ProxySetting,
}

/// `[callbacks]`
#[derive(Debug, Clone)]
pub struct CallbackSettings {
    /// At least one.
    pub listen: Vec<SocketAddr>,
    /// The URL by which the outside reaches this listener.
    pub public_url: Option<Url>,
    /// Certificate and key, where the listener speaks https itself.
    pub tls: Option<TlsSettings>,
    /// Networks that may call back; empty = any.
    pub allow_from: Vec<IpNet>,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trust_forwarded_from: Vec<IpNet>,
}

/// `callbacks.tls`: PEM files, relative to the settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[inbox]`
#[derive(Debug, Clone)]
pub struct InboxSettings {
    /// The store of orders and events.
    pub store: StoreAddress,
    /// The moment at which a callback is acknowledged with `0000`.
    pub acknowledge: Acknowledge,
    /// The time for which an event is delivered again and again.
    pub retry_for: Duration,
    /// The time for which events are kept.
    pub keep: Duration,
    /// The whole exchange of one delivery.
    pub delivery_timeout: Duration,
    /// The results that a query confirms before they are delivered.
    pub confirm: Confirm,
    /// Queries the platform for orders without a result.
    pub watch_orders: bool,
    /// Queries for such orders a second, at most.
    pub watch_per_second: usize,
}

/// The moment at which a callback is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once the event is on disk.
    Stored,
    /// Once the app took it.
    Delivered,
}

/// The results that are confirmed by a query first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// None.
    Off,
    /// Those that say paid.
    Paid,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Health, metrics, console, reload.
    pub listen: SocketAddr,
    /// The names, in lower case, that the listener is called by, beside its addresses.
    pub names: Vec<String>,
    /// The secret for it; always there where it is not on loopback.
    pub token: Option<LiveToken>,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// For people or for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
