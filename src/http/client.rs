//! A whole HTTP/1.1 exchange with one server, over pooled and verified connections.
//!
//! Knows nothing of payments. Redirects are the caller's business; nothing is followed here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Response};
use pingora::upstreams::peer::HttpPeer;
use tokio::time::timeout_at;
use url::Url;

use super::addresses::Addresses;
use super::exchange::{Broken, exchange};
use super::fault::{Fault, Sent, Step, connect_fault};
use super::origin::Origin;
use super::pool::{Connection, Pool};
use super::transport::Transport;

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

/// The client for one origin.
pub struct Client {
    origin: Origin,
    addresses: Addresses,
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
            addresses: Addresses::of(url, connect_time)?,
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
        let Some(mut connection) = self.pool.take(&self.addresses.known(), now) else {
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
        self.addresses
            .find()
            .await
            .map_err(|reason| Fault::Unreachable {
                step: Step::Dns,
                reason,
                sent: Sent::No,
            })?;
        let until = deadline.min(Instant::now() + self.connect_time);
        let mut last = None;
        for address in self.addresses.known().iter().take(MAX_ADDRESSES) {
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
        self.addresses.doubt();
        Err(last.unwrap_or(Fault::TimedOut {
            after: self.connect_time,
            sent: Sent::No,
        }))
    }
}
