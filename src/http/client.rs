//! One HTTP/1.1 exchange with the platform, over pooled and verified connections.
//!
//! Knows nothing of payments. Every failure says whether the request may have arrived, because that decides
//! whether the app may try again. Redirects are the caller's business; nothing is followed here.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Response};
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{WrappedX509, parse_x509};
use pingora::{Error, ErrorType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::lookup_host;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout_at;
use url::{Host, Url};

use super::exchange::{Broken, MAX_ANSWER, exchange};
use super::pool::{Connection, Pool};

/// How old an address may get before the name is looked up again.
const REFRESH_NAME: Duration = Duration::from_secs(30);
/// The pause after a failed look-up; meanwhile the last good addresses are used.
const RETRY_NAME: Duration = Duration::from_secs(2);
/// Addresses that are tried when connecting fails.
const MAX_ADDRESSES: usize = 4;

/// Whether a request that failed may have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing left this machine.
    No,
    /// An answer came.
    Yes,
    /// Something left, nothing whole came back.
    Unknown,
}

impl Sent {
    /// The word that the app and the log read.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No connection.
    #[error("{step} failed: {reason}")]
    Unreachable {
        /// What did not work: the look-up of the name, connecting, TLS.
        step: Step,
        /// In the words of whoever failed.
        reason: String,
        /// `No`, but for a query that a dead connection may have carried before.
        sent: Sent,
    },
    /// The deadline passed.
    #[error("no whole answer within {after:?}")]
    TimedOut {
        /// The time that was given.
        after: Duration,
        /// `No` while still connecting.
        sent: Sent,
    },
    /// The connection ended before the answer did.
    #[error("the connection ended inside the exchange: {0}")]
    CutOff(String),
    /// The process ends and waits no longer.
    #[error("the sidecar ends and waits no longer")]
    CutShort,
    /// The answer is longer than we read.
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// What came back is not HTTP/1.1.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(&'static str),
}

impl Fault {
    /// Whether the request may have arrived.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Unreachable { sent, .. } | Self::TimedOut { sent, .. } => *sent,
            Self::CutOff(_) | Self::CutShort => Sent::Unknown,
            Self::TooLong | Self::NotHttp(_) => Sent::Yes,
        }
    }
}

impl Fault {
    fn of(broken: Broken) -> Self {
        match broken {
            Broken::Silent(reason) | Broken::Ended(reason) => Self::CutOff(reason),
            Broken::NotHttp(why) => Self::NotHttp(why),
            Broken::TooLong => Self::TooLong,
        }
    }

    fn but_sent(mut self, known: Sent) -> Self {
        if let Self::Unreachable { sent, .. } | Self::TimedOut { sent, .. } = &mut self {
            *sent = known;
        }
        self
    }
}

/// The steps to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The host's name to its addresses.
    Dns,
    /// The TCP connection.
    Connect,
    /// The handshake, and whether the certificate is believed.
    Tls,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "DNS look-up",
            Self::Connect => "connecting",
            Self::Tls => "TLS",
        })
    }
}

/// Whether a request may be sent a second time when a pooled connection turns out dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Never: it would be a second submit.
    Never,
    /// Once, on a fresh connection, while no byte of an answer was seen.
    Once,
}

/// Counts connections, for the metrics.
pub trait Count: Send + Sync {
    /// A connection was opened (`false`) or taken from the pool (`true`).
    fn connection(&self, reused: bool);
}

/// How connections are opened, whom they believe, and who counts them.
#[derive(Clone)]
pub struct Transport {
    connector: Arc<TransportConnector>,
    ca: Option<Arc<CaType>>,
    count: Arc<dyn Count>,
}

impl Transport {
    /// `ca_file` holds PEM certificates that are believed beside the system's.
    pub fn new(ca_file: Option<&Path>, count: Arc<dyn Count>) -> Result<Self, String> {
        // Idle connections are ours to keep.
        let connector = TransportConnector::new(Some(ConnectorOptions::new(0)));
        Ok(Self {
            connector: Arc::new(connector),
            ca: ca_file.map(believed_certificates).transpose()?,
            count,
        })
    }
}

/// The client for one origin.
pub struct Client {
    origin: Origin,
    transport: Transport,
    pool: Arc<Pool>,
    addresses: ArcSwap<Vec<SocketAddr>>,
    look_up_now: Notify,
    /// Held while the name is looked up; the last failure.
    looking: Mutex<Option<(Instant, String)>>,
    connect_time: Duration,
    time: Duration,
}

struct Origin {
    host: String,
    /// The host is an IP address.
    is_address: bool,
    port: u16,
    tls: bool,
    /// What the certificate must be for; never empty, because Pingora takes that for "do not verify".
    server_name: String,
    /// The `Host` header.
    authority: String,
    /// Before every path; without a slash at its end.
    prefix: String,
}

impl Client {
    /// A client for `url` (scheme, host, port, path prefix). `time` bounds a whole exchange, `connect_time` its
    /// connecting.
    pub fn new(
        url: &Url,
        connect_time: Duration,
        time: Duration,
        transport: Transport,
    ) -> Result<Self, String> {
        let origin = Origin::of(url)?;
        let addresses = match url.host() {
            Some(Host::Ipv4(ip)) => vec![SocketAddr::new(ip.into(), origin.port)],
            Some(Host::Ipv6(ip)) => vec![SocketAddr::new(ip.into(), origin.port)],
            _ => Vec::new(),
        };
        Ok(Self {
            origin,
            transport,
            pool: Arc::default(),
            addresses: ArcSwap::from_pointee(addresses),
            look_up_now: Notify::new(),
            looking: Mutex::default(),
            connect_time,
            time,
        })
    }

    /// Keeps the addresses fresh, off every request's path. Returns at once where the host is an address.
    pub async fn keep_addresses(&self) {
        if !self.addresses.load().is_empty() {
            return;
        }
        let mut failing = false;
        loop {
            let pause = match self.look_up().await {
                Ok(()) => {
                    failing = false;
                    REFRESH_NAME
                }
                Err(error) => {
                    if !failing {
                        let host = &self.origin.host;
                        tracing::warn!(
                            host,
                            error,
                            "name look-up failed; the last good addresses stay"
                        );
                    }
                    failing = true;
                    RETRY_NAME
                }
            };
            let _ = tokio::time::timeout(pause, self.look_up_now.notified()).await;
        }
    }

    /// The next connection looks the name up again. For hosts that nobody keeps fresh.
    pub fn forget_addresses(&self) {
        if !self.origin.is_address {
            self.addresses.store(Arc::default());
        }
    }

    /// Looks the name up where no address is known yet: one look-up for all that wait.
    async fn first_look_up(&self) -> Result<(), String> {
        if !self.addresses.load().is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let mut failed = self.looking.lock().await;
        if !self.addresses.load().is_empty() {
            return Ok(());
        }
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(error.clone());
        }
        let looked_up = self.look_up().await;
        *failed = looked_up
            .as_ref()
            .err()
            .map(|error| (Instant::now(), error.clone()));
        looked_up
    }

    /// Looks the name up once, within the time to connect.
    async fn look_up(&self) -> Result<(), String> {
        let found = lookup_host((self.origin.host.as_str(), self.origin.port));
        let found = tokio::time::timeout(self.connect_time, found).await;
        let addresses: Vec<_> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no reply within {:?}", self.connect_time)),
        };
        if addresses.is_empty() {
            return Err("the name has no address".to_owned());
        }
        self.addresses.store(Arc::new(addresses));
        Ok(())
    }

    /// Posts `body` to `path` below the prefix and reads the whole answer within the time given to the client.
    pub async fn post(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
        repeat: Repeat,
    ) -> Result<Response<Bytes>, Fault> {
        let request = self.origin.request("POST", path, headers, Some(&body));
        self.send(&request, repeat).await
    }

    /// Gets `path` below the prefix, as [`Client::post`] does.
    pub async fn get(&self, path: &str, headers: &HeaderMap) -> Result<Response<Bytes>, Fault> {
        let request = self.origin.request("GET", path, headers, None);
        self.send(&request, Repeat::Once).await
    }

    async fn send(&self, request: &[u8], repeat: Repeat) -> Result<Response<Bytes>, Fault> {
        let now = Instant::now();
        let deadline = now + self.time;
        let Some(mut connection) = self.pool.take(&self.addresses.load(), now) else {
            let connection = self.connect(deadline).await?;
            return self.exchange(connection, request).await?.map_err(Fault::of);
        };
        self.transport.count.connection(true);
        connection.deadline.set(deadline);
        match self.exchange(connection, request).await? {
            Err(Broken::Silent(reason)) if repeat == Repeat::Once => {
                tracing::debug!(
                    reason,
                    "a pooled connection was dead; the query goes out once more"
                );
                // The dead connection may have carried the request.
                let connected = self.connect(deadline).await;
                let connection = connected.map_err(|fault| fault.but_sent(Sent::Unknown))?;
                self.exchange(connection, request).await?.map_err(Fault::of)
            }
            answered => answered.map_err(Fault::of),
        }
    }

    /// Sends and reads until the connection's deadline, and keeps the connection where it can be used again.
    async fn exchange(
        &self,
        mut connection: Connection,
        request: &[u8],
    ) -> Result<Result<Response<Bytes>, Broken>, Fault> {
        let Connection {
            stream,
            buffer,
            deadline,
            ..
        } = &mut connection;
        let answered = deadline.limit(exchange(stream, buffer, request)).await;
        let answered = answered.ok_or(Fault::TimedOut {
            after: self.time,
            sent: Sent::Unknown,
        })?;
        Ok(answered.map(|answered| {
            if answered.reusable {
                self.pool.put(connection);
            }
            answered.response
        }))
    }

    /// A fresh connection to the first address that takes one. In a box: a handshake's state is large, and most requests
    /// need none.
    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Connection, Fault>> {
        Box::pin(self.open(deadline))
    }

    async fn open(&self, deadline: Instant) -> Result<Connection, Fault> {
        self.first_look_up()
            .await
            .map_err(|reason| Fault::Unreachable {
                step: Step::Dns,
                reason,
                sent: Sent::No,
            })?;
        let until = deadline.min(Instant::now() + self.connect_time);
        let mut last = None;
        for address in self.addresses.load().iter().take(MAX_ADDRESSES) {
            let mut peer =
                HttpPeer::new(*address, self.origin.tls, self.origin.server_name.clone());
            peer.options.ca.clone_from(&self.transport.ca);
            match timeout_at(until.into(), self.transport.connector.new_stream(&peer)).await {
                Ok(Ok(stream)) => {
                    self.transport.count.connection(false);
                    return Ok(Connection::new(stream, *address, deadline));
                }
                Ok(Err(error)) => last = Some(connect_fault(&error)),
                Err(_) => break,
            }
        }
        self.look_up_now.notify_one();
        Err(last.unwrap_or(Fault::TimedOut {
            after: self.connect_time,
            sent: Sent::No,
        }))
    }
}

fn connect_fault(error: &Error) -> Fault {
    match error.etype() {
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => unreachable(Step::Tls, error),
        _ => unreachable(Step::Connect, error),
    }
}

fn unreachable(step: Step, error: &Error) -> Fault {
    Fault::Unreachable {
        step,
        reason: reason(error),
        sent: Sent::No,
    }
}

/// The innermost words: Pingora's outer ones repeat the peer's address and its options.
fn reason(error: &Error) -> String {
    if let Some(cause) = &error.cause {
        if let Some(inner) = cause.downcast_ref::<Box<Error>>() {
            return reason(inner);
        }
        if cause.is::<std::io::Error>() {
            return cause.to_string();
        }
    }
    match (error.etype(), &error.context) {
        (ErrorType::ConnectRefused, _) => "connection refused".to_owned(),
        (ErrorType::ConnectNoRoute, _) => "no route to host".to_owned(),
        (_, Some(context)) => context.as_str().to_owned(),
        (other, None) => other.as_str().to_owned(),
    }
}

impl Origin {
    /// A whole request, for one write. Names are written as old servers expect them.
    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &HeaderMap,
        body: Option<&[u8]>,
    ) -> Vec<u8> {
        let body_length = body.map_or(0, <[u8]>::len);
        let mut request = Vec::with_capacity(512 + body_length);
        let line = [
            method,
            " ",
            &self.prefix,
            path,
            " HTTP/1.1\r\nHost: ",
            &self.authority,
        ];
        for part in line {
            request.extend_from_slice(part.as_bytes());
        }
        if body.is_some() {
            request.extend_from_slice(b"\r\nContent-Length: ");
            request.extend_from_slice(itoa::Buffer::new().format(body_length).as_bytes());
        }
        for (name, value) in headers {
            request.extend_from_slice(b"\r\n");
            push_title_case(&mut request, name.as_str());
            request.extend_from_slice(b": ");
            request.extend_from_slice(value.as_bytes());
        }
        request.extend_from_slice(b"\r\n\r\n");
        request.extend_from_slice(body.unwrap_or_default());
        request
    }

    fn of(url: &Url) -> Result<Self, String> {
        let host = url.host_str().ok_or("the platform's URL has no host")?;
        let port = url
            .port_or_known_default()
            .ok_or("the platform's URL has no port")?;
        // Brackets around an IPv6 address belong to the URL alone.
        let host = host.trim_matches(['[', ']']).to_owned();
        if url.scheme() == "https" && host.contains('_') {
            // Pingora would verify the name with a dash instead.
            return Err(
                "the host of an https URL has an underscore: no certificate can be verified for it"
                    .to_owned(),
            );
        }
        Ok(Self {
            port,
            tls: url.scheme() == "https",
            is_address: !matches!(url.host(), Some(Host::Domain(_))),
            server_name: host.clone(),
            host,
            authority: url[url::Position::BeforeHost..url::Position::AfterPort].to_owned(),
            prefix: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

fn push_title_case(request: &mut Vec<u8>, name: &str) {
    let mut begins = true;
    request.extend(name.bytes().map(|byte| {
        let byte = if begins {
            byte.to_ascii_uppercase()
        } else {
            byte
        };
        begins = byte == b'-';
        byte
    }));
}

/// The system's certificates and the file's. Those that cannot anchor a chain are left out, as Pingora does
/// for the system's; the file must have at least one that can.
fn believed_certificates(file: &Path) -> Result<Arc<CaType>, String> {
    let shown = file.display();
    let own: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| {
            format!("{shown}: platform.ca_file: expected PEM certificates: {error}")
        })?;
    if own.is_empty() || !own.iter().all(anchors) {
        return Err(format!(
            "{shown}: platform.ca_file: expected PEM certificates that can anchor a chain"
        ));
    }
    let system = rustls_native_certs::load_native_certs().unwrap_or_default();
    let believed = system.into_iter().filter(anchors).chain(own);
    Ok(believed
        .map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509))
        .collect())
}

fn anchors(certificate: &CertificateDer<'_>) -> bool {
    let mut store = rustls::RootCertStore::empty();
    store.add(certificate.clone().into_owned()).is_ok()
}
