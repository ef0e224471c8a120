//! Opens connections to servers: the lookup of the name, the race to its addresses, TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use url::Url;

use super::error::{ClientError, ExchangeStep, Sent};
use super::race::Race;
use super::resolve::Resolver;
use super::stream::ClientStream;
use super::tls::TrustedRoots;

/// Counts connections, for the metrics.
pub trait Count: Send + Sync {
    /// Counts a connection that was opened (`false`) or taken from the pool (`true`).
    fn connection(&self, reused: bool);
}

/// What all clients share that open connections in the same way; clones are the same one.
#[derive(Clone)]
pub struct Connector {
    pub(super) roots: Arc<TrustedRoots>,
    pub(super) count: Arc<dyn Count>,
}

impl Connector {
    /// Trusts the system's root certificates, and those in the PEM file `ca_file`.
    pub fn new(ca_file: Option<&Path>, count: Arc<dyn Count>) -> Result<Self, String> {
        Ok(Self {
            roots: Arc::new(TrustedRoots::new(ca_file)?),
            count,
        })
    }

    /// Opens a connection to one of the route's addresses.
    pub(super) async fn open(
        &self,
        route: &Route,
        connect_time: Duration,
        until: Instant,
    ) -> Result<(ClientStream, SocketAddr), ClientError> {
        if let Err(reason) = route.resolver.find().await {
            return Err(unreachable(ExchangeStep::Dns, reason));
        }
        let addresses = route.resolver.known().clone();
        let mut race = Race::new(&addresses);
        let mut last = None;
        while let Some((address, stream)) = race.next(until).await {
            let patience = race.patience(until).into();
            match timeout_at(patience, self.prepare(route, stream, address)).await {
                Ok(Ok(stream)) => {
                    route.resolver.worked(address);
                    return Ok((stream, address));
                }
                Ok(Err(failure)) => {
                    race.failed(address, failure.to_string());
                    last = Some(failure);
                }
                Err(_) => race.failed(address, "TLS timed out".to_owned()),
            }
        }
        route.resolver.doubt();
        Err(match last {
            Some(failure) if Instant::now() < until => failure,
            _ if Instant::now() < until => unreachable(ExchangeStep::Connect, race.report()),
            _ => ClientError::TimedOut {
                detail: format!("{} after {connect_time:?}", race.report()),
                sent: Sent::No,
            },
        })
    }

    /// Makes a stream ready for requests.
    async fn prepare(
        &self,
        route: &Route,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<ClientStream, ClientError> {
        let Some(name) = &route.tls else {
            return Ok(ClientStream::Tcp(stream));
        };
        match self.roots.handshake(stream, name).await {
            Ok(stream) => Ok(ClientStream::Tls(Box::new(stream))),
            Err(reason) => {
                let reason = format!("{} at {address}: {reason}", name.to_str());
                Err(unreachable(ExchangeStep::Tls, reason))
            }
        }
    }
}

fn unreachable(step: ExchangeStep, reason: String) -> ClientError {
    ClientError::Unreachable {
        step,
        reason,
        sent: Sent::No,
    }
}

/// The way to one server.
pub(super) struct Route {
    pub(super) resolver: Arc<Resolver>,
    /// The name that the server's certificate must be for; none without TLS.
    tls: Option<ServerName<'static>>,
}

impl Route {
    /// The way to the server that `url` names; a lookup may take `time`.
    pub(super) fn to(url: &Url, time: Duration) -> Result<Self, String> {
        Ok(Self {
            resolver: Arc::new(Resolver::of(url, time)?),
            tls: server_name(url)?,
        })
    }
}

fn server_name(url: &Url) -> Result<Option<ServerName<'static>>, String> {
    if url.scheme() != "https" {
        return Ok(None);
    }
    let host = url.host_str().ok_or("the URL has no host")?;
    // Public CAs issue no such certificate, and RFC 1123 §2.1 allows no such name.
    if host.contains('_') {
        return Err(
            "the host of an https URL has an underscore: no certificate can be verified for it"
                .to_owned(),
        );
    }
    // Brackets around an IPv6 address belong to the URL alone.
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host);
    name.map(Some)
        .map_err(|_| "no certificate can be verified for the host of the URL".to_owned())
}
