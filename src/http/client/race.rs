//! A race of connections to the addresses of one name (RFC 8305, "Happy Eyeballs"): the next one begins 250 ms after the
//! one before it, or at once where that has failed, and the first that is open wins.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout_at};

/// Head start of an address over the next one (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses that are tried for one connection.
const MAX_ADDRESSES: usize = 8;

type Attempt = BoxFuture<'static, (SocketAddr, io::Result<TcpStream>)>;

/// Connections to several addresses under way.
pub struct Race {
    waiting: VecDeque<SocketAddr>,
    running: FuturesUnordered<Attempt>,
    /// Addresses of those that run.
    started: Vec<SocketAddr>,
    next_start: Instant,
    failures: Vec<(SocketAddr, String)>,
}

impl Race {
    /// A race that has not begun yet.
    pub fn new(addresses: &[SocketAddr]) -> Self {
        Self {
            waiting: addresses.iter().copied().take(MAX_ADDRESSES).collect(),
            running: FuturesUnordered::new(),
            started: Vec::new(),
            next_start: Instant::now(),
            failures: Vec::new(),
        }
    }

    /// Opens the next connection until `until`; none where every address has failed. May be called again where the
    /// connection turns out useless: the others are still in the race.
    pub async fn next(&mut self, until: Instant) -> Option<(SocketAddr, TcpStream)> {
        timeout_at(until.into(), self.first_open())
            .await
            .ok()
            .flatten()
    }

    async fn first_open(&mut self) -> Option<(SocketAddr, TcpStream)> {
        loop {
            if self.running.is_empty() && !self.start() {
                return None;
            }
            let may_start = !self.waiting.is_empty();
            tokio::select! {
                // A connection that is open wins over the start of another one.
                biased;
                Some((address, opened)) = self.running.next() => {
                    self.started.retain(|running| *running != address);
                    match opened {
                        Ok(stream) => return Some((address, stream)),
                        Err(error) => self.failed(address, reason(&error)),
                    }
                    self.start();
                }
                () = sleep_until(self.next_start.into()), if may_start => {
                    self.start();
                }
            }
        }
    }

    fn start(&mut self) -> bool {
        let Some(address) = self.waiting.pop_front() else {
            return false;
        };
        self.next_start = Instant::now() + HEAD_START;
        self.started.push(address);
        self.running
            .push(Box::pin(async move { (address, open(address).await) }));
        true
    }

    /// Notes that the connection to `address` was open and of no use.
    pub fn failed(&mut self, address: SocketAddr, reason: String) {
        self.failures.push((address, reason));
    }

    /// The time that a connection may take to become useful: half of what is left while other addresses could do
    /// better, because a machine may accept connections and be dead otherwise.
    pub fn patience(&self, until: Instant) -> Instant {
        let has_more = !self.waiting.is_empty() || !self.running.is_empty();
        let now = Instant::now();
        if has_more {
            now + until.saturating_duration_since(now) / 2
        } else {
            until
        }
    }

    /// Says which address failed how. Those that still run are out of time.
    pub fn report(&self) -> String {
        let mut report = String::new();
        let silent = self.started.iter().map(|address| (address, "timed out"));
        let failed = self
            .failures
            .iter()
            .map(|(address, reason)| (address, reason.as_str()));
        for (address, reason) in failed.chain(silent) {
            let separator = if report.is_empty() { "" } else { "; " };
            // Writing to a string never fails.
            let _ = write!(report, "{separator}connect to {address}: {reason}");
        }
        report
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A request goes out in one write; Nagle would hold back its last segment (RFC 1122 §4.2.3.4).
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::HostUnreachable => "no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        ErrorKind::TimedOut => "timed out".to_owned(),
        ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use tokio::net::TcpSocket;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    /// An address that answers no SYN: its backlog is full and nobody accepts.
    async fn silent() -> (
        SocketAddr,
        Vec<tokio::task::JoinHandle<()>>,
        tokio::net::TcpListener,
    ) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let connects = (0..6).map(|_| {
            tokio::spawn(async move {
                let _kept = TcpStream::connect(address).await;
                std::future::pending::<()>().await;
            })
        });
        let connects = connects.collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        (address, connects, listener)
    }

    #[tokio::test]
    async fn the_next_address_is_tried_after_a_quarter_of_a_second() {
        let (silent, _connects, _listener) = silent().await;
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let open_address = open.local_addr().unwrap();
        let began = Instant::now();
        let mut race = Race::new(&[silent, open_address]);
        let (won, _stream) = race.next(soon()).await.unwrap();
        assert_eq!(won, open_address);
        let took = began.elapsed();
        assert!(took >= HEAD_START && took < 8 * HEAD_START, "{took:?}");
        assert_eq!(race.report(), format!("connect to {silent}: timed out"));
        let until = soon();
        assert!(race.patience(until) < until);
    }

    #[tokio::test]
    async fn a_refused_address_costs_no_wait_and_all_are_reported() {
        let closed = {
            let gone = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
            gone.map(|listener| listener.local_addr().unwrap())
        };
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let open_address = open.local_addr().unwrap();
        let began = Instant::now();
        let mut race = Race::new(&[closed[0], closed[1], open_address]);
        assert_eq!(race.next(soon()).await.unwrap().0, open_address);
        assert!(began.elapsed() < HEAD_START);
        let mut race = Race::new(&closed);
        assert!(race.next(soon()).await.is_none());
        let [first, second] = closed;
        let report = format!(
            "connect to {first}: connection refused; connect to {second}: connection refused"
        );
        assert_eq!(race.report(), report);
    }
}
