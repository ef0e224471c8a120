//! The client for one server: sends requests over pooled connections, and opens new ones where none is idle.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use url::Url;

use super::connect::{Connector, Route};
use super::error::{ClientError, Sent};
use super::exchange::{ExchangeError, exchange};
use super::pool::{Connection, Pool, Trust};
use super::request::{Body, RequestWriter};
use super::response::RawResponse;

/// Says whether a request may be sent a second time when a pooled connection turns out dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Never: it would be a second submit.
    Never,
    /// Once, on a fresh connection, while no byte of a response was seen.
    Once,
}

/// A whole request as it is sent.
pub struct RawRequest(Vec<u8>);

/// The client for one server.
pub struct Client {
    requests: RequestWriter,
    route: Route,
    connector: Connector,
    pool: Arc<Pool>,
    connect_time: Duration,
    time: Duration,
}

impl Client {
    /// A client for `url` (scheme, host, port, path prefix). `time` limits a whole exchange, `connect_time` its
    /// connecting.
    pub fn new(
        url: &Url,
        connect_time: Duration,
        time: Duration,
        connector: Connector,
    ) -> Result<Self, String> {
        Ok(Self {
            requests: RequestWriter::to(url),
            route: Route::to(url, connect_time)?,
            connector,
            pool: Arc::default(),
            connect_time,
            time,
        })
    }

    /// Keeps the server's addresses and the trusted certificates fresh, off every request's path, for ever.
    pub async fn keep_fresh(&self) {
        tokio::join!(self.route.resolver.keep(), self.connector.roots.follow());
    }

    /// Writes a request that posts `body` to `path` below the prefix.
    pub fn request(&self, path: &str, headers: &HeaderMap, body: &dyn Body) -> RawRequest {
        RawRequest(self.requests.write("POST", path, headers, Some(body)))
    }

    /// Posts `body` to `path` below the prefix, and reads the response as [`Client::send`] does.
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

    /// Gets `path` below the prefix, and reads the response as [`Client::send`] does.
    pub async fn get(&self, path: &str, headers: &HeaderMap) -> Result<RawResponse, ClientError> {
        let request = RawRequest(self.requests.write("GET", path, headers, None));
        self.send(&request, Repeat::Once).await
    }

    /// Sends a request of this client's and reads the whole response within the time given to the client.
    pub async fn send(
        &self,
        request: &RawRequest,
        repeat: Repeat,
    ) -> Result<RawResponse, ClientError> {
        let request = request.0.as_slice();
        let now = Instant::now();
        let deadline = now + self.time;
        // Only a query's response is verified to be about what was asked.
        let trust = match repeat {
            Repeat::Never => Trust::Unverified,
            Repeat::Once => Trust::Verified,
        };
        let usable = (self.route.resolver.known(), self.connector.roots.changes());
        let pooled = self.pool.take((&usable.0, usable.1), trust, now);
        let Some(mut connection) = pooled else {
            let connection = self.connect(deadline).await?;
            return self
                .exchange(connection, request)
                .await?
                .map_err(ClientError::of);
        };
        self.connector.count.connection(true);
        connection.deadline.set(deadline);
        match self.exchange(connection, request).await? {
            Err(error) if repeat == Repeat::Once && error.is_of_the_connection() => {
                tracing::debug!(
                    %error,
                    "a pooled connection was of no use; the query is sent once more"
                );
                // The dead connection may have carried the request.
                let connected = self.connect(deadline).await;
                let connection = connected.map_err(|error| error.but_sent(Sent::Unknown))?;
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
        let answered = answered.ok_or_else(|| {
            // The name may have another address by now.
            self.route.resolver.doubt();
            ClientError::TimedOut {
                detail: format!("no complete response within {:?}", self.time),
                sent: Sent::Unknown,
            }
        })?;
        Ok(answered.and_then(|answered| {
            // More than one response on a connection that carried others: this one may belong to an earlier request.
            if answered.has_more && connection.is_reused() {
                return Err(ExchangeError::Stray);
            }
            if answered.reusable {
                self.pool.put(connection);
            }
            Ok(answered.response)
        }))
    }

    /// Opens a connection. In a box: a handshake's state is large, and most requests need none.
    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<Connection>, ClientError>> {
        Box::pin(async move {
            let now = Instant::now();
            let until = deadline.min(now + self.connect_time);
            let roots = self.connector.roots.changes();
            let opened = self.connector.open(&self.route, self.connect_time, until);
            let (stream, address) = opened.await?;
            self.connector.count.connection(false);
            Ok(Box::new(Connection::new(
                stream,
                (address, roots),
                now,
                deadline,
            )))
        })
    }
}
