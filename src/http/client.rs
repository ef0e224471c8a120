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
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, StatusCode, header};
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::utils::tls::{WrappedX509, parse_x509};
use pingora::{Error, ErrorType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::lookup_host;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout_at;
use url::{Host, Url};

/// An answer is read this far; the document's are well under one KiB, its payment pages some ten.
const MAX_ANSWER: usize = 1 << 20;
/// Interim answers (1xx) before the final one.
const MAX_INTERIM: usize = 8;
/// A pooled connection is dropped after this: sooner than common servers close it, because a request that
/// meets a closing connection is a submit whose fate nobody knows.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Connections kept for the next request.
const POOL_SIZE: usize = 1024;
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
    NotHttp(String),
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

/// Connections and whom they believe; clones share one pool.
#[derive(Clone)]
pub struct Transport {
    connector: Arc<TransportConnector>,
    ca: Option<Arc<CaType>>,
    count: Arc<dyn Count>,
}

impl Transport {
    /// `ca_file` holds PEM certificates that are believed beside the system's.
    pub fn new(ca_file: Option<&Path>, count: Arc<dyn Count>) -> Result<Self, String> {
        let connector = TransportConnector::new(Some(ConnectorOptions::new(POOL_SIZE)));
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
        let header = self.request_header(Method::POST, path, headers, Some(body.len()));
        self.send(header, body, repeat).await
    }

    /// Gets `path` below the prefix, as [`Client::post`] does.
    pub async fn get(&self, path: &str, headers: &HeaderMap) -> Result<Response<Bytes>, Fault> {
        let header = self.request_header(Method::GET, path, headers, None);
        self.send(header, Bytes::new(), Repeat::Once).await
    }

    async fn send(
        &self,
        header: pingora::Result<RequestHeader>,
        body: Bytes,
        repeat: Repeat,
    ) -> Result<Response<Bytes>, Fault> {
        let deadline = Instant::now() + self.time;
        let header = Box::new(header.map_err(|e| unreachable(Step::Connect, &e))?);
        let Some((peer, stream)) = self.pooled().await else {
            let (peer, stream) = self.connect(deadline).await?;
            return self
                .finish(deadline, self.exchange(&peer, stream, header, &body))
                .await;
        };
        self.transport.count.connection(true);
        let again = (repeat == Repeat::Once).then(|| header.clone());
        let exchange = self.exchange(&peer, stream, header, &body);
        let result = timeout_at(deadline.into(), exchange).await;
        match (result, again) {
            (
                Ok(Err(Failed {
                    fault,
                    silent: true,
                })),
                Some(header),
            ) => {
                tracing::debug!(%fault, "a pooled connection was dead; the query goes out once more");
                // The dead connection may have carried the request.
                let connected = self.connect(deadline).await;
                let (peer, stream) = connected.map_err(|fault| fault.but_sent(Sent::Unknown))?;
                self.finish(deadline, self.exchange(&peer, stream, header, &body))
                    .await
            }
            (Ok(exchanged), _) => exchanged.map_err(|failed| failed.fault),
            (Err(_), _) => Err(self.timed_out()),
        }
    }

    async fn finish(
        &self,
        deadline: Instant,
        exchange: impl Future<Output = Result<Response<Bytes>, Failed>>,
    ) -> Result<Response<Bytes>, Fault> {
        match timeout_at(deadline.into(), exchange).await {
            Ok(exchanged) => exchanged.map_err(|failed| failed.fault),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> Fault {
        Fault::TimedOut {
            after: self.time,
            sent: Sent::Unknown,
        }
    }

    fn request_header(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        length: Option<usize>,
    ) -> pingora::Result<RequestHeader> {
        let path = format!("{}{path}", self.origin.prefix);
        let mut request = RequestHeader::build(method, path.as_bytes(), Some(headers.len() + 2))?;
        request.insert_header(header::HOST, self.origin.authority.as_str())?;
        if let Some(length) = length {
            request.insert_header(header::CONTENT_LENGTH, length)?;
        }
        for (name, value) in headers {
            request.append_header(name.clone(), value.clone())?;
        }
        Ok(request)
    }

    async fn pooled(&self) -> Option<(HttpPeer, Stream)> {
        for address in self.addresses.load().iter().take(MAX_ADDRESSES) {
            let peer = self.peer(*address);
            if let Some(stream) = self.transport.connector.reused_stream(&peer).await {
                return Some((peer, stream));
            }
        }
        None
    }

    /// A fresh connection to the first address that takes one.
    async fn connect(&self, deadline: Instant) -> Result<(HttpPeer, Stream), Fault> {
        self.first_look_up()
            .await
            .map_err(|reason| Fault::Unreachable {
                step: Step::Dns,
                reason,
                sent: Sent::No,
            })?;
        let deadline = deadline.min(Instant::now() + self.connect_time);
        let mut last = None;
        for address in self.addresses.load().iter().take(MAX_ADDRESSES) {
            let peer = self.peer(*address);
            match timeout_at(deadline.into(), self.transport.connector.new_stream(&peer)).await {
                Ok(Ok(stream)) => {
                    self.transport.count.connection(false);
                    return Ok((peer, stream));
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

    fn peer(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, self.origin.tls, self.origin.server_name.clone());
        peer.options.ca.clone_from(&self.transport.ca);
        peer
    }

    async fn exchange(
        &self,
        peer: &HttpPeer,
        stream: Stream,
        header: Box<RequestHeader>,
        body: &[u8],
    ) -> Result<Response<Bytes>, Failed> {
        let mut session = HttpSession::new_with_options(stream, peer);
        let written = async {
            session.write_request_header(header).await?;
            if !body.is_empty() {
                session.write_body(body).await?;
            }
            session.finish_body().await
        };
        // A server may answer and close before it has read everything: the answer counts.
        let write_error = written.await.err();
        let answer = read_answer(&mut session).await;
        let response = match (answer, write_error) {
            (Ok(response), _) => response,
            (Err(failed), None) => return Err(failed),
            (Err(failed), Some(error)) => {
                return Err(Failed {
                    fault: Fault::CutOff(reason(&error)),
                    silent: failed.silent,
                });
            }
        };
        session.respect_keepalive();
        if let Some(stream) = session.reuse().await {
            self.transport
                .connector
                .release_stream(stream, peer.reuse_hash(), Some(POOL_IDLE));
        }
        Ok(response)
    }
}

/// A failed exchange, and whether the connection ended before any byte of an answer.
struct Failed {
    fault: Fault,
    silent: bool,
}

async fn read_answer(session: &mut HttpSession) -> Result<Response<Bytes>, Failed> {
    let mut head = None;
    for _ in 0..=MAX_INTERIM {
        session
            .read_response()
            .await
            .map_err(|error| head_failed(&error))?;
        match session.get_status() {
            // Behind this one Pingora would take the next answer for a stream of another protocol.
            Some(StatusCode::SWITCHING_PROTOCOLS) => break,
            Some(status) if status.is_informational() => {}
            _ => {
                head = session.resp_header().map(|head| head.as_owned_parts());
                break;
            }
        }
    }
    let head = head.ok_or_else(|| Failed {
        fault: Fault::NotHttp("no final status".to_owned()),
        silent: false,
    })?;
    let broken = |fault| Failed {
        fault,
        silent: false,
    };
    let mut body = BytesMut::new();
    loop {
        let part = session.read_body_bytes().await;
        let part = part.map_err(|error| broken(body_fault(&error)))?;
        let Some(part) = part else { break };
        if body.len() + part.len() > MAX_ANSWER {
            return Err(broken(Fault::TooLong));
        }
        body.extend_from_slice(&part);
    }
    Ok(Response::from_parts(head, body.freeze()))
}

fn head_failed(error: &Error) -> Failed {
    let (fault, silent) = match error.etype() {
        ErrorType::InvalidHTTPHeader => {
            (Fault::NotHttp("its header is malformed".to_owned()), false)
        }
        ErrorType::ConnectionClosed => (Fault::CutOff(reason(error)), true),
        _ => (Fault::CutOff(reason(error)), is_reset(error)),
    };
    Failed { fault, silent }
}

fn body_fault(error: &Error) -> Fault {
    // Pingora keeps the names of its body errors to itself.
    match error.etype() {
        ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => {
            Fault::NotHttp("its body is malformed".to_owned())
        }
        _ => Fault::CutOff(reason(error)),
    }
}

fn is_reset(error: &Error) -> bool {
    let cause = error.cause.as_deref();
    let io = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        matches!(io.kind(), ConnectionReset | BrokenPipe)
    })
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
