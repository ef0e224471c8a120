//! Opens connections to a PostgreSQL server: the addresses of all its hosts race each other, so that a silent one costs a
//! quarter of a second.

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use deadpool_postgres::Connect;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout_at;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::store_address::PostgresAddress;
use crate::http::client::race::Race;
use crate::http::client::resolve::Resolver;

/// PostgreSQL's own port.
const DEFAULT_PORT: u16 = 5432;

type Connected = Result<(Client, JoinHandle<()>), Error>;

/// Connects on the store's own runtime: the others end one by one, and each would take its connections along.
pub(super) struct RacingConnector {
    runtime: Handle,
    tls: Option<MakeRustlsConnect>,
    hosts: Arc<PostgresHosts>,
    address: PostgresAddress,
}

impl RacingConnector {
    /// Connects to the hosts of `config`, each within `time`.
    pub(super) fn new(
        address: &PostgresAddress,
        config: &Config,
        tls: Option<MakeRustlsConnect>,
        runtime: Handle,
        time: Duration,
    ) -> Self {
        Self {
            runtime,
            tls,
            hosts: Arc::new(PostgresHosts::of(config, time)),
            address: address.clone(),
        }
    }
}

impl Connect for RacingConnector {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let (mut config, tls, hosts) = (config.clone(), self.tls.clone(), self.hosts.clone());
        // Read for each connection, since passwords are rotated.
        if let Some(password) = self.address.current_password() {
            config.password(password);
        }
        Box::pin(async move {
            // Dropped with the future that waits for it, and then ended.
            let mut connecting = JoinSet::new();
            connecting.spawn_on(
                async move { hosts.connect(&config, tls).await },
                &self.runtime,
            );
            match connecting.join_next().await {
                Some(Ok(connected)) => connected,
                // Its runtime is gone; each caller has a deadline of its own.
                _ => pending().await,
            }
        })
    }
}

/// The hosts of one database, in the order of the setting.
struct PostgresHosts {
    hosts: Vec<PostgresHost>,
    /// The address that worked last is tried first.
    worked: Mutex<Option<SocketAddr>>,
    time: Duration,
}

enum PostgresHost {
    Tcp {
        /// The name in the server's certificate.
        name: String,
        resolver: Arc<Resolver>,
    },
    Unix(PathBuf),
}

impl PostgresHosts {
    fn of(config: &Config, time: Duration) -> Self {
        let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
        let ports = config.get_ports();
        let of = |index: usize| {
            let port = ports.get(index).or(ports.first());
            let port = *port.unwrap_or(&DEFAULT_PORT);
            let tcp = |name: &str, at: &str| {
                let host = url::Host::parse(at).or_else(|_| url::Host::parse(&format!("[{at}]")));
                let host = host.unwrap_or_else(|_| url::Host::Domain(at.to_owned()));
                PostgresHost::Tcp {
                    name: name.to_owned(),
                    resolver: Arc::new(Resolver::new(&host, port, time)),
                }
            };
            match (hosts.get(index), addresses.get(index)) {
                (Some(Host::Unix(folder)), _) => {
                    PostgresHost::Unix(folder.join(format!(".s.PGSQL.{port}")))
                }
                (Some(Host::Tcp(name)), Some(address)) => tcp(name, &address.to_string()),
                (Some(Host::Tcp(name)), None) => tcp(name, name),
                (None, address) => {
                    let address = address.map(ToString::to_string).unwrap_or_default();
                    tcp(&address, &address)
                }
            }
        };
        Self {
            hosts: (0..hosts.len().max(addresses.len())).map(of).collect(),
            worked: Mutex::default(),
            time,
        }
    }

    async fn connect(&self, config: &Config, tls: Option<MakeRustlsConnect>) -> Connected {
        let until = Instant::now() + self.time;
        let mut last = None;
        for path in self.hosts.iter().filter_map(PostgresHost::path) {
            match UnixStream::connect(path).await {
                Ok(stream) => match begin(config, stream, NoTls, "").await {
                    Ok(connected) => return Ok(connected),
                    Err(error) => last = Some(error),
                },
                Err(error) => {
                    let error = format!("connect to {}: {error}", path.display());
                    last = Some(failure(config, error).await);
                }
            }
        }
        let (addresses, lookups) = self.addresses().await;
        let mut race = Race::new(&addresses);
        while let Some((address, stream)) = race.next(until).await {
            let name = self.name(address);
            let begun = async {
                match (prepared(config, stream), &tls) {
                    (Ok(stream), Some(tls)) => begin(config, stream, tls.clone(), name).await,
                    (Ok(stream), None) => begin(config, stream, NoTls, name).await,
                    (Err(error), _) => Err(failure(config, error.to_string()).await),
                }
            };
            match timeout_at(race.patience(until).into(), begun).await {
                Ok(Ok(connected)) => {
                    *self.worked.lock() = Some(address);
                    return Ok(connected);
                }
                Ok(Err(error)) => last = Some(error),
                Err(_) => race.failed(address, "the server did not answer".to_owned()),
            }
        }
        for resolver in self.hosts.iter().filter_map(PostgresHost::resolver) {
            // None of its addresses works: the name may lead elsewhere by now, after a failover for example.
            resolver.doubt();
        }
        let reports = [race.report(), lookups].into_iter();
        let reports: Vec<_> = reports.filter(|report| !report.is_empty()).collect();
        match last {
            Some(error) => Err(error),
            None => Err(failure(config, reports.join("; ")).await),
        }
    }

    /// Returns the known addresses, and the reasons for which others are unknown.
    async fn addresses(&self) -> (Vec<SocketAddr>, String) {
        let resolvers = self.hosts.iter().filter_map(PostgresHost::resolver);
        let resolvers: Vec<_> = resolvers.collect();
        let found = join_all(resolvers.iter().map(|resolver| resolver.find())).await;
        let failures: Vec<_> = found.into_iter().filter_map(Result::err).collect();
        let mut addresses: Vec<_> = resolvers
            .iter()
            .flat_map(|resolver| resolver.known().to_vec())
            .collect();
        let worked = *self.worked.lock();
        // Stable: the others keep the order of the setting.
        addresses.sort_by_key(|address| Some(*address) != worked);
        (addresses, failures.join("; "))
    }

    fn name(&self, address: SocketAddr) -> &str {
        let named = self.hosts.iter().find_map(|host| match host {
            PostgresHost::Tcp { name, resolver } => {
                resolver.known().contains(&address).then_some(name.as_str())
            }
            PostgresHost::Unix(_) => None,
        });
        named.unwrap_or_default()
    }
}

impl PostgresHost {
    fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp { .. } => None,
        }
    }

    fn resolver(&self) -> Option<&Arc<Resolver>> {
        match self {
            Self::Tcp { resolver, .. } => Some(resolver),
            Self::Unix(_) => None,
        }
    }
}

/// Gives a stream the options that the library gives to its own.
fn prepared(config: &Config, stream: TcpStream) -> io::Result<TcpStream> {
    if let Some(time) = config.get_tcp_user_timeout() {
        let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&stream, millis)?;
    }
    if config.get_keepalives() {
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, config.get_keepalives_idle())?;
    }
    Ok(stream)
}

/// Begins a session over an open stream. A server that takes no writes is an error where writes are wanted.
async fn begin<S, T>(config: &Config, stream: S, mut tls: T, name: &str) -> Connected
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: MakeTlsConnect<S>,
    T::Stream: Send + 'static,
{
    let Ok(tls) = tls.make_tls_connect(name) else {
        return Err(failure(config, format!("TLS with {name} cannot be set up")).await);
    };
    let (client, connection) = config.connect_raw(stream, tls).await?;
    // The reason for which a connection ended is passed to its users.
    let task = tokio::spawn(async { drop(connection.await) });
    // `connect_raw` leaves this to its caller: the library's own `connect` does it, after it has chosen a host.
    if config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite {
        let setting = client.simple_query("SHOW transaction_read_only").await;
        let is_read_only = setting?.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
            _ => false,
        });
        if is_read_only {
            task.abort();
            return Err(failure(config, "the database does not allow writes".to_owned()).await);
        }
    }
    Ok((client, task))
}

/// An error of the library with our words: it makes none but its own, and this one over a stream that fails.
async fn failure(config: &Config, words: String) -> Error {
    let stream = FailedStream(words);
    loop {
        if let Err(error) = config
            .connect_raw(FailedStream(stream.0.clone()), NoTls)
            .await
        {
            return error;
        }
    }
}

/// A stream on which nothing can be read or written.
struct FailedStream(String);

impl FailedStream {
    fn error<T>(&self) -> Poll<io::Result<T>> {
        Poll::Ready(Err(io::Error::other(self.0.clone())))
    }
}

impl AsyncRead for FailedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.error()
    }
}

impl AsyncWrite for FailedStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.error()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.error()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.error()
    }
}
