//! The client for one server: sends requests over pooled connections, and opens new ones where none is idle.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::task::yield_now;
use url::Url;

use super::connect::{Connector, Route};
use super::distrust::Distrust;
use super::error::{ClientError, ExchangeStep, Sent};
use super::exchange::{Exchange, ExchangeError};
use super::pool::{Lease, Pool, PooledConnection, Trust};
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
    warnings: Vec<String>,
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
        let route = Route::to(url, connect_time, &connector)?;
        let mut warnings = route.way.warnings.clone();
        warnings.extend(connector.check_roots(url));
        let origin = url.origin().ascii_serialization();
        let distrust = Distrust::of(origin, connector.count.clone());
        Ok(Self {
            requests: RequestWriter::to(url, route.forwarder()),
            route,
            connector,
            pool: Arc::new(Pool::new(distrust)),
            connect_time,
            time,
            warnings,
        })
    }

    /// Says which way connections take: directly or through which proxy, and what decided.
    pub fn way(&self) -> String {
        self.route.way.describe()
    }

    /// Returns the problems that the configuration shows: variables that are not used, no root certificates.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Keeps the server's addresses and the trusted certificates fresh, off every request's path. Runs until it is dropped.
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
        let request = self.requests.write("GET", path, headers, None);
        self.send_bytes(&request, Repeat::Once, Trust::Unverified)
            .await
    }

    /// Sends a request of this client's and reads the whole response within the time given to the client. The
    /// connection is closed afterwards unless [`RawResponse::keep_connection`] is called.
    pub async fn send(
        &self,
        request: &RawRequest,
        repeat: Repeat,
    ) -> Result<RawResponse, ClientError> {
        // A query's response says what it is about; a page or a "0000" could be any request's.
        let trust = match repeat {
            Repeat::Never => Trust::Unverified,
            Repeat::Once => Trust::Verified,
        };
        self.send_bytes(&request.0, repeat, trust).await
    }

    async fn send_bytes(
        &self,
        request: &[u8],
        repeat: Repeat,
        trust: Trust,
    ) -> Result<RawResponse, ClientError> {
        let now = Instant::now();
        let deadline = now + self.time;
        let usable = (self.route.resolver.known(), self.connector.roots.changes());
        let Some(mut connection) = self.pool.take((&usable.0, usable.1), trust, now) else {
            let connection = self.connect(deadline).await?;
            let exchanged = self.exchange(connection, request, trust).await?;
            return exchanged.map_err(ClientError::of);
        };
        // Not held across an await: each guard takes one of its thread's few fast slots (arc_swap::Guard).
        drop(usable);
        self.connector.count.connection(true);
        connection.deadline.set(deadline);
        match self.exchange(connection, request, trust).await? {
            // Queries and GETs change nothing, so they may go out twice; a submit never gets here (I3).
            Err(error) if repeat == Repeat::Once && error.is_of_the_connection() => {
                tracing::debug!(
                    %error,
                    "a pooled connection was of no use; the query is sent once more"
                );
                // The useless connection may have carried the request, whatever becomes of this one.
                let carried = |error: ClientError| error.but_sent(Sent::Unknown);
                let connection = self.connect(deadline).await.map_err(carried)?;
                let exchanged = self.exchange(connection, request, trust).await;
                exchanged.map_err(carried)?.map_err(ClientError::of)
            }
            exchanged => exchanged.map_err(ClientError::of),
        }
    }

    /// Sends and reads until the connection's deadline.
    async fn exchange(
        &self,
        mut connection: Box<PooledConnection>,
        request: &[u8],
        trust: Trust,
    ) -> Result<Result<RawResponse, ExchangeError>, ClientError> {
        let PooledConnection {
            stream, deadline, ..
        } = &mut *connection;
        let mut exchange = Exchange::new(stream);
        let answered = deadline.limit(pin!(exchange.run(request))).await;
        let received = exchange.received();
        let Some(answered) = answered else {
            // The name may have another address by now.
            self.route.resolver.doubt();
            return Err(self.timed_out(&connection, received));
        };
        let answered = match answered {
            Ok(answered) => answered,
            Err(error) => return Ok(Err(error)),
        };
        self.refused_by_proxy(answered.response.status())?;
        let mut has_more = answered.has_more;
        if connection.is_reused() && trust == Trust::Unverified && !has_more {
            // A second response right behind the first one has the time to come.
            yield_now().await;
            has_more = connection.stream.has_bytes();
        }
        if has_more {
            self.pool.stray();
        }
        // More than one response on a connection that carried others: the first may be an earlier request's.
        if connection.is_reused() && has_more {
            return Ok(Err(ExchangeError::Stray));
        }
        if !answered.reusable {
            return Ok(Ok(answered.response));
        }
        let lease = Lease::new(self.pool.clone(), connection);
        Ok(Ok(answered.response.on(lease)))
    }

    /// A proxy that wants credentials has passed nothing on.
    fn refused_by_proxy(&self, status: StatusCode) -> Result<(), ClientError> {
        if status != StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Ok(());
        }
        match self.route.forwarder() {
            Some(hop) => {
                let reason = hop.explain(status.as_u16());
                Err(self.route.unreachable(ExchangeStep::Proxy, reason))
            }
            None => Ok(()),
        }
    }

    fn timed_out(&self, connection: &PooledConnection, received: usize) -> ClientError {
        let (address, time) = (connection.address, self.time);
        let detail = match received {
            0 => format!("no response from {address} within {time:?}: nothing came"),
            _ => format!(
                "no complete response from {address} within {time:?}: {received} bytes of it came"
            ),
        };
        ClientError::TimedOut {
            detail,
            sent: Sent::Unknown,
        }
    }

    /// Opens a connection. In a box: a handshake's state is large, and most requests need none.
    fn connect(
        &self,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Box<PooledConnection>, ClientError>> {
        Box::pin(async move {
            let now = Instant::now();
            let until = deadline.min(now + self.connect_time);
            // Counted before the handshake: where the roots change during it, the connection belongs to the old ones.
            let roots = self.connector.roots.changes();
            let opened = self.connector.open(&self.route, self.connect_time, until);
            let (stream, address) = opened.await?;
            self.connector.count.connection(false);
            Ok(Box::new(PooledConnection::new(
                stream,
                (address, roots),
                deadline,
            )))
        })
    }
}
