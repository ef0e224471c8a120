//! The reader of each section: valid values, defaults, and what was expected otherwise.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::sections::{
    Acknowledge, AdminSettings, AppSettings, CallbackSettings, Confirm, InboxSettings, LogFormat,
    LogSettings, PlatformSettings, Settings, TlsSettings,
};
use super::warnings::warnings;
use crate::config::layers::Layers;
use crate::config::listen::Listen;
use crate::config::proxy::ProxySetting;
use crate::config::store_address::StoreAddress;
use crate::config::token::{LiveToken, Token};
use crate::config::web_url;
use crate::config::web_url::Tail;
use crate::config::{secret_file, units};

/// Below 1 KiB no payment fits; past 16 MiB memory is no longer bounded in earnest. In bytes.
const MAX_BODY: RangeInclusive<u64> = 1 << 10..=16 << 20;
/// Requests; each in flight costs some kilobytes.
const MAX_IN_FLIGHT: RangeInclusive<u64> = 1..=1_000_000;
/// Threads; far past any machine's cores, short of what would exhaust it.
const THREADS: RangeInclusive<u64> = 0..=1024;
/// The app's own patience ends long before this.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(15);
/// The platform waits as long before it repeats a notification (document §3.3.1).
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_FOR: Duration = Duration::from_secs(72 * 3_600);
const KEEP: Duration = Duration::from_secs(30 * 86_400);
/// Slow enough for any platform, and still 70,000 orders an hour.
const WATCH_PER_SECOND: usize = 20;
/// Longer than any bookkeeping asks for.
const MAX_KEEP: Duration = Duration::from_secs(3_650 * 86_400);
/// Paths that have a meaning of their own.
const OWN_PATHS: [&str; 3] = ["/api/query", "/api/icashier", "/apis/icashier"];

/// All of them; `None` where there is no telling what platform is meant. Problems go to `layers`.
pub(super) fn settings(
    layers: &mut Layers<'_>,
    path: &Path,
    digest: String,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<Settings> {
    let folder = match path.parent() {
        // A bare name would let SQLite take ":memory:" for what it means to SQLite.
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    let merchants = layers.text("merchants", |text| file(folder, text));
    let threads = layers
        .number("threads", THREADS, whole, plain)
        .filter(|threads| *threads > 0);
    let app = app(layers, folder);
    let platform = platform(layers, folder);
    let callbacks = callbacks(layers, folder);
    let inbox = inbox(layers, folder, env);
    let admin = admin(layers, folder);
    let log = log(layers);
    let mut settings = Settings {
        path: path.to_owned(),
        digest,
        merchants: merchants.unwrap_or_else(|| folder.join("merchants.toml")),
        threads: threads.unwrap_or_else(cores),
        app,
        platform: platform?,
        callbacks,
        inbox,
        admin,
        log,
        warnings: Vec::new(),
    };
    check_listeners(layers, &settings);
    settings.warnings = warnings(&settings);
    Some(settings)
}

fn app(layers: &mut Layers<'_>, folder: &Path) -> AppSettings {
    let listen = layers.list("app.listen", |text| {
        let listen: Listen = text.parse().map_err(|error| format!("{error}"))?;
        listen.within(folder)
    });
    let listen = at_least_one(layers, "app.listen", listen);
    AppSettings {
        listen: listen.unwrap_or_else(|| vec![Listen::Tcp(([127, 0, 0, 1], 8080).into())]),
        max_body: layers
            .number("app.max_body", MAX_BODY, units::size, units::shown_size)
            .unwrap_or(64 << 10),
        max_in_flight: layers
            .number("app.max_in_flight", MAX_IN_FLIGHT, whole, plain)
            .unwrap_or(1024),
        allow_origins: layers.list("app.allow_origins", origin).unwrap_or_default(),
    }
}

fn platform(layers: &mut Layers<'_>, folder: &Path) -> Option<PlatformSettings> {
    let url = layers.text("platform.url", |text| web_url::parse(text, Tail::Nothing));
    if !layers.is_given("platform.url") {
        layers.problem("platform.url", "expected the platform's url");
    }
    let timeout = time(layers, "platform.timeout", MAX_TIMEOUT, TIMEOUT);
    // A short platform.timeout alone must not contradict the default of the other.
    let default = timeout.min(CONNECT_TIMEOUT);
    let connect_timeout = time(layers, "platform.connect_timeout", MAX_TIMEOUT, default);
    if connect_timeout > timeout {
        let expected = "expected at most platform.timeout, which is the whole exchange";
        layers.problem("platform.connect_timeout", expected);
    }
    let ca_file = layers.text("platform.ca_file", |text| file(folder, text));
    let extra_paths = layers
        .list("platform.extra_paths", extra_path)
        .unwrap_or_default();
    let proxy = proxy(layers, folder);
    Some(PlatformSettings {
        url: url?,
        proxy,
        connect_timeout,
        timeout,
        ca_file,
        extra_paths,
    })
}

fn proxy(layers: &mut Layers<'_>, folder: &Path) -> ProxySetting {
    let given = layers.text("platform.proxy", ProxySetting::parse);
    let argument = layers.argument("platform.proxy");
    if argument.is_some_and(ProxySetting::names_password) {
        let expected = "expected no password among the arguments, which every user here can read; use \
                        platform.proxy_password_file";
        layers.problem("platform.proxy", expected);
    }
    // A broken platform.proxy is reported already; that it has no user either would only confuse.
    let is_right = given.is_some() || !layers.is_given("platform.proxy");
    let mut proxy = given.unwrap_or_default();
    let password = layers.text("platform.proxy_password_file", |text| {
        secret_file::named(folder, text).1
    });
    if let Some(password) = password.filter(|_| is_right)
        && let Err(expected) = proxy.take_password(&password)
    {
        layers.problem("platform.proxy_password_file", expected);
    }
    proxy
}

fn callbacks(layers: &mut Layers<'_>, folder: &Path) -> Option<CallbackSettings> {
    if !layers.has_section("callbacks") {
        return None;
    }
    let listen = layers.list("callbacks.listen", address);
    let listen = at_least_one(layers, "callbacks.listen", listen);
    Some(CallbackSettings {
        listen: listen.unwrap_or_else(|| vec![([0, 0, 0, 0], 8081).into()]),
        public_url: layers.text("callbacks.public_url", |text| {
            web_url::parse(text, Tail::Nothing)
        }),
        tls: tls(layers, folder),
        allow_from: layers
            .list("callbacks.allow_from", network)
            .unwrap_or_default(),
        trust_forwarded_from: layers
            .list("callbacks.trust_forwarded_from", network)
            .unwrap_or_default(),
    })
}

fn tls(layers: &mut Layers<'_>, folder: &Path) -> Option<TlsSettings> {
    let cert = layers.text("callbacks.tls.cert", |text| file(folder, text));
    let key = layers.text("callbacks.tls.key", |text| file(folder, text));
    let given = ["callbacks.tls.cert", "callbacks.tls.key"].map(|key| layers.is_given(key));
    match given {
        [true, false] => layers.problem("callbacks.tls.key", "expected beside callbacks.tls.cert"),
        [false, true] => layers.problem("callbacks.tls.cert", "expected beside callbacks.tls.key"),
        _ => {}
    }
    Some(TlsSettings {
        cert: cert?,
        key: key?,
    })
}

fn inbox(
    layers: &mut Layers<'_>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> InboxSettings {
    let store = layers.text("inbox.store", |text| StoreAddress::parse(folder, text, env));
    let given = layers.argument("inbox.store");
    if given.is_some_and(|text| StoreAddress::names_password(folder, text)) {
        let expected = "expected no password among the arguments, which every user here can read; use PGPASSFILE or PGPASSWORD";
        layers.problem("inbox.store", expected);
    }
    let acknowledge = layers.text("inbox.acknowledge", |text| match text {
        "stored" => Ok(Acknowledge::Stored),
        "delivered" => Ok(Acknowledge::Delivered),
        _ => Err("expected \"stored\" or \"delivered\"".into()),
    });
    let confirm = layers.text("inbox.confirm", |text| match text {
        "off" => Ok(Confirm::Off),
        "paid" => Ok(Confirm::Paid),
        _ => Err("expected \"off\" or \"paid\"".into()),
    });
    InboxSettings {
        store: store.unwrap_or_else(|| StoreAddress::Sqlite(folder.join("countersign.db"))),
        acknowledge: acknowledge.unwrap_or(Acknowledge::Stored),
        retry_for: time(layers, "inbox.retry_for", MAX_KEEP, RETRY_FOR),
        keep: time(layers, "inbox.keep", MAX_KEEP, KEEP),
        delivery_timeout: time(
            layers,
            "inbox.delivery_timeout",
            MAX_TIMEOUT,
            DELIVERY_TIMEOUT,
        ),
        confirm: confirm.unwrap_or(Confirm::Off),
        watch_orders: layers.flag("inbox.watch_orders").unwrap_or(true),
        watch_per_second: layers
            .number("inbox.watch_per_second", 1..=10_000, whole, plain)
            .unwrap_or(WATCH_PER_SECOND),
    }
}

fn admin(layers: &mut Layers<'_>, folder: &Path) -> AdminSettings {
    let listen = layers
        .text("admin.listen", address)
        .unwrap_or(([127, 0, 0, 1], 9900).into());
    let names = layers.list("admin.names", host_name).unwrap_or_default();
    let given = layers.text("admin.token", Token::parse);
    if layers.argument("admin.token").is_some() {
        let expected = "expected no token among the arguments, which every user here can read; use admin.token_file or \
                        COUNTERSIGN_ADMIN_TOKEN";
        layers.problem("admin.token", expected);
    }
    let from_file = layers.text("admin.token_file", |text| {
        LiveToken::from_file(folder, text)
    });
    let is_given = ["admin.token", "admin.token_file"].map(|key| layers.is_given(key));
    if is_given == [true, true] {
        let expected = "expected only one of admin.token and admin.token_file";
        layers.problem("admin.token_file", expected);
    }
    if is_given == [false, false] && !listen.ip().is_loopback() {
        let expected =
            "can be reached from other machines, expected admin.token or admin.token_file";
        layers.problem("admin.listen", expected);
    }
    AdminSettings {
        listen,
        names,
        token: given.map(LiveToken::fixed).or(from_file),
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    // The 255 octets of a name in DNS leave 253 characters (RFC 1035 §2.3.4).
    if text.is_empty() || text.len() > 253 || !text.bytes().all(plain) {
        return Err("expected a host's name without port, as in \"ops.example.com\"".into());
    }
    Ok(text.to_ascii_lowercase())
}

fn log(layers: &mut Layers<'_>) -> LogSettings {
    let format = layers.text("log.format", |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected \"text\" or \"json\"".into()),
    });
    let level = layers.text("log.level", |text| match text {
        "error" | "warn" | "info" | "debug" | "trace" => Ok(text.to_owned()),
        _ => Err("expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\"".into()),
    });
    LogSettings {
        format: format.unwrap_or(LogFormat::Text),
        level: level.unwrap_or_else(|| "info".into()),
    }
}

fn time(layers: &mut Layers<'_>, key: &'static str, most: Duration, default: Duration) -> Duration {
    let within = |text: &str| match units::duration(text)? {
        Duration::ZERO => Err("expected more than nothing".into()),
        time if time > most => Err(format!("expected at most {}", units::shown_duration(most))),
        time => Ok(time),
    };
    layers.text(key, within).unwrap_or(default)
}

fn at_least_one<T>(
    layers: &mut Layers<'_>,
    key: &'static str,
    list: Option<Vec<T>>,
) -> Option<Vec<T>> {
    if list.as_ref().is_some_and(Vec::is_empty) {
        layers.problem(key, "expected at least one address");
    }
    list
}

fn check_listeners(layers: &mut Layers<'_>, settings: &Settings) {
    let listeners = settings.listeners();
    for (i, (key, listen)) in listeners.iter().enumerate() {
        let earlier = listeners.iter().take(i);
        // A double within one list has been reported there.
        if let Some((other, _)) = earlier
            .filter(|(other, _)| other != key)
            .find(|(_, other)| other == listen && listen.exclusive())
        {
            layers.problem(key, format!("expected another address than {other}"));
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number".into())
}

fn plain(number: u64) -> String {
    number.to_string()
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an ip address and port, as in \"127.0.0.1:8080\"".into())
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    let network: Option<IpNet> = text.parse().ok().or_else(address);
    // Bits past the prefix are a slip that would be read in two ways.
    network
        .filter(|network| network.network() == network.addr())
        .ok_or_else(|| "expected a network, as in \"203.0.113.0/24\"".into())
}

fn file(folder: &Path, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("expected a file's path".into());
    }
    Ok(folder.join(text))
}

/// Takes an origin as browsers write it (RFC 6454 §6.2): compared byte by byte, anything else would never match.
fn origin(text: &str) -> Result<String, String> {
    let url = Url::parse(text).ok();
    url.filter(|url| url.origin().ascii_serialization() == text && text != "null")
        .map(|_| text.to_owned())
        .ok_or_else(|| {
            "expected an origin as browsers send it, as in \"https://shop.example.com\", without a slash at its end".into()
        })
}

fn extra_path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && !"?#\\\"<>".contains(c);
    // A proxy in front of the platform may resolve dots (RFC 3986 §5.2.4), and the call would reach another interface.
    if !text.starts_with('/') || !text.chars().all(plain) || text.contains("..") {
        return Err("expected a path, as in \"/api/refund\"".into());
    }
    if OWN_PATHS.contains(&text) {
        return Err(format!(
            "expected a path other than {}",
            OWN_PATHS.join(", ")
        ));
    }
    Ok(text.to_owned())
}
