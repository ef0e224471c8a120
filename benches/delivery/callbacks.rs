//! The platform's side: callbacks, signed beforehand, as fast as they are acknowledged or at a steady pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign::protocol::envelope::Envelope;
use countersign::protocol::key::Key;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::sidecar::{KEY, merid};

/// Connections that send as fast as they are acknowledged.
const CROWD: usize = 64;
/// Callbacks are signed beforehand for this many a second; where they run out, the run is shorter.
const SIGNED_A_SECOND: usize = 20_000;
/// Connections of a steady pace.
const PACED: usize = 32;

/// Signs callbacks of distinct payments.
pub(super) struct Signer {
    key: Key,
    next: AtomicUsize,
}

impl Signer {
    pub(super) fn new() -> Self {
        Self {
            key: Key::new(KEY).expect("a key of 32 bytes"),
            next: AtomicUsize::new(0),
        }
    }

    /// A callback for the merchant of this number, as it goes onto the wire.
    pub(super) fn callback(&self, merchant: usize) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let json = format!(
            r#"{{"merid":"{}","orderid":"NEW20170301{number:08}","queryid":"N{number:017}","resultcode":"0000","resultmsg":"交易成功","txnamt":{},"paytime":"2017-03-01 12:00:05"}}"#,
            merid(merchant),
            100 + number % 10_000
        );
        let query = Envelope::seal(json.as_bytes(), &self.key).form("resp");
        format!("GET /notify/back?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
    }
}

/// One kept-alive connection.
pub(super) struct Connection {
    stream: TcpStream,
    response: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an open socket");
        Self {
            stream,
            response: Vec::with_capacity(1024),
        }
    }

    /// Sends a callback, and waits until it is acknowledged.
    pub(super) async fn send(&mut self, request: &[u8]) {
        self.stream
            .write_all(request)
            .await
            .expect("a request is taken");
        self.response.clear();
        while !self.response.ends_with(b"\r\n\r\n0000") {
            let read = self.stream.read_buf(&mut self.response).await;
            let read = read.expect("a response is read");
            assert!(read > 0, "{:?}", String::from_utf8_lossy(&self.response));
        }
    }
}

/// Sends callbacks to merchants in turn, each as soon as the last one of its connection is acknowledged. Returns how many
/// were, and in what time.
pub(super) async fn crowd(
    address: SocketAddr,
    merchants: usize,
    time: Duration,
) -> (usize, Duration) {
    let signer = Signer::new();
    let count = time.as_secs() as usize * SIGNED_A_SECOND;
    let requests: Vec<_> = (0..count).map(|n| signer.callback(n % merchants)).collect();
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..CROWD {
        let (requests, next) = (requests.clone(), next.clone());
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut acknowledged = 0;
            while began.elapsed() < time
                && let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed))
            {
                connection.send(request).await;
                acknowledged += 1;
            }
            acknowledged
        });
    }
    (tasks.join_all().await.iter().sum(), began.elapsed())
}

/// Callbacks at a steady pace, until it is dropped. A pause shows in each callback that was due in it, because each is
/// measured from the time at which it was to be sent.
pub(super) struct Paced {
    tasks: JoinSet<()>,
    acknowledged: Arc<AtomicUsize>,
    longest: Arc<AtomicUsize>,
}

impl Paced {
    pub(super) fn start(address: SocketAddr, a_second: u32) -> Self {
        let (schedule, due) = unbounded_channel();
        let due = Arc::new(Mutex::new(due));
        let (acknowledged, longest) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let signer = Arc::new(Signer::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_pace(schedule, Duration::from_secs(1) / a_second));
        for _ in 0..PACED {
            let (due, signer) = (due.clone(), signer.clone());
            let (acknowledged, longest) = (acknowledged.clone(), longest.clone());
            tasks.spawn(async move {
                let mut connection = Connection::open(address).await;
                loop {
                    let next = due.lock().await.recv().await;
                    let Some(at) = next else { return };
                    connection.send(&signer.callback(0)).await;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    let waited = Instant::now().duration_since(at).as_micros() as usize;
                    longest.fetch_max(waited, Ordering::Relaxed);
                }
            });
        }
        Self {
            tasks,
            acknowledged,
            longest,
        }
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The longest time from when a callback was to be sent to its acknowledgement, since the last call.
    pub(super) fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed) as u64)
    }

    /// Sends no more, and returns how many were acknowledged.
    pub(super) async fn stop(mut self) -> usize {
        self.tasks.shutdown().await;
        self.acknowledged()
    }
}

async fn keep_pace(schedule: UnboundedSender<Instant>, period: Duration) {
    let mut at = Instant::now();
    loop {
        at += period;
        tokio::time::sleep_until(at.into()).await;
        if schedule.send(at).is_err() {
            return;
        }
    }
}
