//! The processor time of a call through a proxy, beside that of a direct one: once connected, both are the same work.

use crate::client::{Connection, post_bytes};
use crate::harness::{KEY, MERID, ORDERID, Sidecar, query_json};
use crate::platform::{Platform, honestly};
use crate::tls::{Authority, server_of};
use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Calls of one batch; the two sidecars have theirs in turn, so that a busy machine slows down both.
const BATCH: usize = 60;
const BATCHES: usize = 5;
/// Rounds of batches in which the cheapest one of each is looked for: other work on the machine only adds to a batch.
const ROUNDS: usize = 24;
/// A call through the proxy may cost so many times as much as a direct one; connecting for each call costs twice as much.
/// That is promised of a release build; in a development build the TLS of the tunnel is slower than all else.
const MOST: f64 = if cfg!(debug_assertions) { 1.5 } else { 1.1 };

/// A proxy that opens tunnels, each on two threads of its own.
fn tunnels() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || tunnel(client?));
        }
    });
    address
}

fn tunnel(client: TcpStream) -> io::Result<()> {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut head = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while head.read_line(&mut line)? > 2 {}
    let server = TcpStream::connect(target)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut upstream, mut downstream) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let copied = io::copy(&mut upstream, &mut downstream);
        drop(downstream.shutdown(Shutdown::Both));
        copied
    });
    io::copy(&mut head, &mut &server)?;
    server.shutdown(Shutdown::Both)
}

/// Nanoseconds that all threads of a process were on a processor.
fn processor_time(sidecar: &Sidecar) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", sidecar.child.id())).unwrap();
    let time = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(time).sum()
}

struct Caller {
    sidecar: Sidecar,
    connection: Connection,
    costs: Vec<u64>,
}

impl Caller {
    fn new(platform: &Platform, authority: &Authority, way: String) -> Self {
        let sidecar = Sidecar::start(|conf| {
            conf.platform = platform.url();
            conf.ca_file = Some(authority.file());
            conf.way = way;
            conf.log_level = "warn";
        });
        let connection = Connection::open(sidecar.app()).unwrap();
        let mut caller = Self {
            sidecar,
            connection,
            costs: Vec::new(),
        };
        // Connected, and whatever is made once is made.
        caller.batch();
        caller.costs.clear();
        caller
    }

    fn batch(&mut self) {
        let before = processor_time(&self.sidecar);
        for _ in 0..BATCH {
            let json = "Content-Type: application/json";
            let request = post_bytes("/api/query", &[json], query_json(MERID, ORDERID));
            let answer = self.connection.exchange(request).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let cost = processor_time(&self.sidecar) - before;
        self.costs.push(cost / BATCH as u64);
    }

    /// The batch that was disturbed least.
    fn cost(&self) -> u64 {
        *self.costs.iter().min().unwrap()
    }
}

#[test]
fn a_call_through_the_proxy_costs_no_more_than_a_direct_one() {
    let authority = Authority::new("platform's");
    let [certificate, key] = authority.files(&["127.0.0.1"]);
    let honest = || honestly(&[(MERID, KEY)]);
    let plain = Platform::start(honest());
    let secure = Platform::start_tls(server_of(&certificate, &key), honest());
    // A plain platform takes the absolute form that a proxy gets, and so is its own proxy.
    for (platform, proxy) in [(&plain, plain.address), (&secure, tunnels())] {
        let mut direct = Caller::new(platform, &authority, "proxy = \"none\"".to_owned());
        let way = format!("proxy = \"http://{proxy}\"");
        let mut proxied = Caller::new(platform, &authority, way);
        let ratio = (0..ROUNDS)
            .map(|_| {
                for _ in 0..BATCHES {
                    direct.batch();
                    proxied.batch();
                }
                proxied.cost() as f64 / direct.cost() as f64
            })
            .find(|ratio| *ratio <= MOST)
            .unwrap_or(f64::INFINITY);
        for caller in [&direct, &proxied] {
            let metrics = caller.sidecar.metrics();
            assert_eq!(metrics.sum(&["connections_total", "opened"]), 1.0);
        }
        println!(
            "{}: {} ns through the proxy, {} ns directly: {ratio:.3}",
            platform.url(),
            proxied.cost(),
            direct.cost()
        );
        assert!(ratio <= MOST, "{}: {ratio:.3}", platform.url());
    }
}
