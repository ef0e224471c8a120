//! A whole HTTP/1.1 exchange with one server, over pooled and verified connections.
//!
//! Knows nothing of payments. Redirects are the caller's business; nothing is followed here.

mod response;

mod request;

pub mod exchange;

mod pool;

pub mod error;

pub mod connect;

mod resolve;

pub mod by_origin;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use pingora::upstreams::peer::HttpPeer;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use url::Url;

use super::client::connect::Transport;
use super::client::error::{ClientError, ExchangeStep, Sent, connect_fault, tls_fault};
use super::client::exchange::{ExchangeError, exchange};
use super::client::pool::{Connection, Pool};
pub use super::client::request::Body;
use super::client::request::Origin;
use super::client::resolve::Resolver;
pub use super::client::response::RawResponse;
use super::io::stream::IoStream;

/// Addresses that are tried when connecting fails.
const MAX_ADDRESSES: usize = 4;

/// Whether a request may be sent a second time when a pooled connection turns out dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Never: it would be a second submit.
    Never,
    /// Once, on a fresh connection, while no byte of an answer was seen.
    Once,
}

/// A whole request as it goes out.
pub struct RawRequest(Vec<u8>);

/// The client for one origin.
pub struct Client {
    origin: Origin,
    addresses: Resolver,
    transport: Transport,
    pool: Arc<Pool>,
    connect_time: Duration,
    time: Duration,
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
        Ok(Self {
            origin: Origin::of(url)?,
            addresses: Resolver::of(url, connect_time)?,
            transport,
            pool: Arc::default(),
            connect_time,
            time,
        })
    }

    /// Keeps the addresses fresh, off every request's path. Returns at once where the host is an address.
    pub async fn keep_addresses(&self) {
        self.addresses.keep().await;
    }

    /// The next connection looks the name up again. For hosts that nobody keeps fresh.
    pub fn forget_addresses(&self) {
        self.addresses.forget();
    }

    /// A request that posts `body` to `path` below the prefix.
    pub fn request(&self, path: &str, headers: &HeaderMap, body: &dyn Body) -> RawRequest {
        RawRequest(self.origin.request("POST", path, headers, Some(body)))
    }

    /// Posts `body` to `path` below the prefix, and reads the answer as [`Client::send`] does.
    pub async fn post(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: &dyn Body,
        repeat: Repeat,
    ) -> Result<RawResponse, ClientError> {
        let request = self.request(path, headers, body);
        self.send(&request, repeat).await
    }

    /// Gets `path` below the prefix, and reads the answer as [`Client::send`] does.
    pub async fn get(&self, path: &str, headers: &HeaderMap) -> Result<RawResponse, ClientError> {
        let request = RawRequest(self.origin.request("GET", path, headers, None));
        self.send(&request, Repeat::Once).await
    }

    /// Sends a request of this client's and reads the whole answer within the time given to the client.
    pub async fn send(
        &self,
        request: &RawRequest,
        repeat: Repeat,
    ) -> Result<RawResponse, ClientError> {
        let request = request.0.as_slice();
        let now = Instant::now();
        let deadline = now + self.time;
        let Some(mut connection) = self.pool.take(&self.addresses.known(), now) else {
            let connection = self.connect(deadline).await?;
            return self
                .exchange(connection, request)
                .await?
                .map_err(ClientError::of);
        };
        self.transport.count.connection(true);
        connection.deadline.set(deadline);
        match self.exchange(connection, request).await? {
            Err(ExchangeError::Silent(reason)) if repeat == Repeat::Once => {
                tracing::debug!(
                    reason,
                    "a pooled connection was dead; the query goes out once more"
                );
                // The dead connection may have carried the request.
                let connected = self.connect(deadline).await;
                let connection = connected.map_err(|fault| fault.but_sent(Sent::Unknown))?;
                self.exchange(connection, request)
                    .await?
                    .map_err(ClientError::of)
            }
            answered => answered.map_err(ClientError::of),
        }
    }

    /// Sends and reads until the connection's deadline, and keeps the connection where it can be used again.
    async fn exchange(
        &self,
        mut connection: Box<Connection>,
        request: &[u8],
    ) -> Result<Result<RawResponse, ExchangeError>, ClientError> {
        let answered = {
            let Connection {
                stream, deadline, ..
            } = &mut *connection;
            deadline.limit(pin!(exchange(stream, request))).await
        };
        let answered = answered.ok_or(ClientError::TimedOut {
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
    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<Connection>, ClientError>> {
        Box::pin(self.open(deadline))
    }

    async fn open(&self, deadline: Instant) -> Result<Box<Connection>, ClientError> {
        self.addresses
            .find()
            .await
            .map_err(|reason| ClientError::Unreachable {
                step: ExchangeStep::Dns,
                reason,
                sent: Sent::No,
            })?;
        let now = Instant::now();
        let until = deadline.min(now + self.connect_time);
        let mut last = None;
        for address in self.addresses.known().iter().take(MAX_ADDRESSES) {
            match timeout_at(until.into(), self.reach(*address)).await {
                Ok(Ok(wire)) => {
                    self.transport.count.connection(false);
                    return Ok(Box::new(Connection::new(wire, *address, now, deadline)));
                }
                Ok(Err(fault)) => last = Some(fault),
                Err(_) => break,
            }
        }
        self.addresses.doubt();
        Err(last.unwrap_or(ClientError::TimedOut {
            after: self.connect_time,
            sent: Sent::No,
        }))
    }

    async fn reach(&self, address: SocketAddr) -> Result<IoStream, ClientError> {
        if self.origin.tls {
            let mut peer = HttpPeer::new(address, true, self.origin.server_name.clone());
            peer.options.ca.clone_from(&self.transport.ca);
            let stream = self.transport.connector.new_stream(&peer).await;
            return stream
                .map(IoStream::Pingora)
                .map_err(|error| tls_fault(&error));
        }
        let connected = TcpStream::connect(address).await.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        connected
            .map(IoStream::Tcp)
            .map_err(|error| connect_fault(&error))
    }
}
