//! Opens connections to servers: the lookup of the name, the race to its addresses, TLS.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use url::{Host, Url};

use super::distrust::Count;
use super::error::{ClientError, ExchangeStep, Sent};
use super::proxy::{EgressWay, Hop};
use super::race::Race;
use super::resolve::Resolver;
use super::stream::ClientStream;
use super::tls::roots::TrustedRoots;
use crate::config::proxy::ProxySetting;

/// Opens connections for any number of clients. Clones share everything.
#[derive(Clone)]
pub struct Connector {
    pub(super) roots: Arc<TrustedRoots>,
    pub(super) count: Arc<dyn Count>,
    proxy: ProxySetting,
}

impl Connector {
    /// Trusts the system's root certificates, and those in the PEM file `ca_file`. Connects directly.
    pub fn new(ca_file: Option<&Path>, count: Arc<dyn Count>) -> Result<Self, String> {
        Ok(Self {
            roots: Arc::new(TrustedRoots::new(ca_file)?),
            count,
            proxy: ProxySetting::Direct,
        })
    }

    /// Connects the way that `proxy` says.
    pub fn through(self, proxy: ProxySetting) -> Self {
        Self { proxy, ..self }
    }

    /// Opens a connection to one of the route's addresses.
    pub(super) async fn open(
        &self,
        route: &Route,
        connect_time: Duration,
        until: Instant,
    ) -> Result<(ClientStream, SocketAddr), ClientError> {
        if let Err(reason) = route.resolver.find().await {
            return Err(route.unreachable(ExchangeStep::Dns, reason));
        }
        let addresses = route.resolver.known().clone();
        let mut race = Race::new(&addresses);
        let mut last = None;
        while let Some((address, stream)) = race.next(until).await {
            let patience = race.patience(until).into();
            match timeout_at(patience, self.prepare(route, stream, address)).await {
                Ok(Ok(stream)) => {
                    // Only now: an address that accepts connections and fails in the handshake must not be tried first.
                    route.resolver.worked(address);
                    return Ok((stream, address));
                }
                Ok(Err(error)) => {
                    race.failed(address, error.to_string());
                    last = Some(error);
                }
                Err(_) => race.failed(address, route.silence().to_owned()),
            }
        }
        // Every address failed: the name may have others by now.
        route.resolver.doubt();
        Err(match last {
            Some(error) if Instant::now() < until => error,
            _ if Instant::now() < until => route.unreachable(ExchangeStep::Connect, race.report()),
            _ => ClientError::TimedOut {
                detail: format!("{} after {connect_time:?}", race.report()),
                sent: Sent::No,
            },
        })
    }

    /// Makes a stream ready for requests: a tunnel through the proxy and TLS, where the route has them.
    async fn prepare(
        &self,
        route: &Route,
        mut stream: TcpStream,
        address: SocketAddr,
    ) -> Result<ClientStream, ClientError> {
        if let Some(hop) = route.hop.as_ref().filter(|hop| hop.is_tunnel)
            && let Err(reason) = hop.tunnel(&mut stream).await
        {
            return Err(route.unreachable(ExchangeStep::Proxy, reason));
        }
        let Some(name) = &route.tls else {
            return Ok(ClientStream::Tcp(stream));
        };
        match self.roots.handshake(stream, name).await {
            Ok(stream) => Ok(ClientStream::Tls(Box::new(stream))),
            Err(reason) => {
                let at = match &route.hop {
                    Some(hop) => format!("through {}", hop.shown),
                    None => format!("at {address}"),
                };
                let reason = format!("{} {at}: {reason}", name.to_str());
                Err(route.unreachable(ExchangeStep::Tls, reason))
            }
        }
    }

    /// Says what is wrong with the trusted roots, where there are none and `url` needs them.
    pub(super) fn check_roots(&self, url: &Url) -> Option<String> {
        (url.scheme() == "https").then(|| self.roots.check().err())?
    }
}

/// The way to one server.
pub(super) struct Route {
    /// The addresses of the server, or of the proxy.
    pub(super) resolver: Arc<Resolver>,
    pub(super) way: EgressWay,
    pub(super) hop: Option<Hop>,
    /// The name that the server's certificate must be for; none without TLS.
    tls: Option<ServerName<'static>>,
}

impl Route {
    /// The way to the server that `url` names; a lookup may take `time`.
    pub(super) fn to(url: &Url, time: Duration, connector: &Connector) -> Result<Self, String> {
        let way = EgressWay::choose(&connector.proxy, url, &|name| std::env::var(name).ok());
        let resolver = match &way.proxy {
            Some(proxy) => Resolver::new(&host(&proxy.host), proxy.port, time),
            None => Resolver::of(url, time)?,
        };
        Ok(Self {
            resolver: Arc::new(resolver),
            hop: way.proxy.as_ref().map(|proxy| Hop::new(proxy, url)),
            tls: server_name(url)?,
            way,
        })
    }

    /// The proxy, where it gets the requests themselves.
    pub(super) fn forwarder(&self) -> Option<&Hop> {
        self.hop.as_ref().filter(|hop| !hop.is_tunnel)
    }

    /// An error of a step, which names the proxy where it is the proxy's.
    pub(super) fn unreachable(&self, step: ExchangeStep, reason: String) -> ClientError {
        let (step, reason) = match &self.hop {
            Some(hop) if step != ExchangeStep::Tls => {
                (ExchangeStep::Proxy, format!("{}: {reason}", hop.shown))
            }
            _ => (step, reason),
        };
        ClientError::Unreachable {
            step,
            reason,
            sent: Sent::No,
        }
    }

    /// Says what did not come in time on an open connection.
    fn silence(&self) -> &'static str {
        match &self.hop {
            Some(_) => "no tunnel through the proxy in time",
            None => "no TLS handshake in time",
        }
    }
}

fn host(text: &str) -> Host {
    let address: Option<IpAddr> = text.parse().ok();
    match address {
        Some(IpAddr::V4(ip)) => Host::Ipv4(ip),
        Some(IpAddr::V6(ip)) => Host::Ipv6(ip),
        None => Host::Domain(text.to_owned()),
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
