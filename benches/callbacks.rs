//! Callbacks end to end: the real binary, its store on a real disk, `GET /notify/back` to `0000` over kept-alive
//! loopback connections, beside SQLite alone on the same disk with the same rows. Run with
//! `cargo bench --bench callbacks [-- [--quick] [--store DIR]]`; the store is below `target` where no folder is named.
//!
//! A callback waits for one commit, and those that wait together share one: as many connections as there are is how many
//! can be committed together. So each crowd stands beside SQLite alone with as many rows a commit.
//!
//! Load and sidecar share the cores. Every callback is another payment, every answer is looked at, and at the end
//! the sidecar is killed and its store must have exactly as many events as it gave answers.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use countersign::protocol::envelope::Envelope;
use countersign::protocol::key::Key;
use rusqlite::Connection as Database;
use rusqlite::types::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;

/// Where the sidecar's files and its store are.
const HOME: &str = "home";
/// The store in it: beside the merchants file, as when nothing is set.
const STORE: &str = "countersign.db";
const MERID: &str = "100000000000001";
const KEY: &str = "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31";
/// Callbacks a second of the paced run.
const PACE: u32 = 500;
/// Connections of the paced run: many more than are waiting for an answer at any time.
const PACED_CONNECTIONS: usize = 64;
/// Connections of the runs that send the next callback as soon as the last one is answered.
const CROWDS: [usize; 6] = [1, 8, 32, 64, 256, 512];
/// Callbacks are signed beforehand for this many a second; where they run out, the run is shorter.
const SIGNED_A_SECOND: f64 = 40_000.0;
/// Rows of one commit of SQLite alone. The sidecar's groups have at most the last of them.
const GROUPS: [usize; 5] = [1, 8, 32, 64, 256];
/// Rows that SQLite alone is given at most.
const FLOOR_ROWS: usize = 150_000;
/// How long the sidecar may take to become ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kernel counts processor time in (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// How long the paced run, each crowd, and each floor takes.
struct Times {
    paced: Duration,
    crowd: Duration,
    floor: Duration,
}

const WHOLE: Times = Times {
    paced: Duration::from_secs(10),
    crowd: Duration::from_secs(5),
    floor: Duration::from_secs(3),
};
const QUICK: Times = Times {
    paced: Duration::from_secs(2),
    crowd: Duration::from_millis(900),
    floor: Duration::from_millis(600),
};

fn main() {
    let (times, below) = arguments();
    fs::create_dir_all(&below).expect("a folder for the store");
    let (machine, filesystem) = (machine(), filesystem(&below));
    assert!(
        !filesystem.starts_with("tmpfs"),
        "{}: {filesystem} has no disk below it; name another folder with --store",
        below.display()
    );
    let folder = tempfile::Builder::new()
        .prefix("callbacks-")
        .tempdir_in(&below)
        .expect("a folder below it");
    // One thread: the load is to leave the other cores alone.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");

    let runs = runtime.block_on(load(folder.path(), &times));
    let answers = runs.iter().map(|run| run.count).sum();
    let (schema, rows) = kept(&folder.path().join(HOME).join(STORE), answers);
    let floors = GROUPS
        .map(|group| floor(folder.path(), &schema, &rows, group, times.floor).expect("sqlite"));

    println!(
        "| what | together | a second | of SQLite alone | p50 | p99 | longest | sidecar's processor time each |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|"
    );
    let [paced, crowds @ ..] = runs.as_slice() else {
        panic!("no run was made");
    };
    paced.print(&format!("paced at {PACE}/s"), "", None);
    for (run, connections) in crowds.iter().zip(CROWDS) {
        let group = GROUPS.iter().position(|group| *group >= connections);
        let floor = &floors[group.unwrap_or(GROUPS.len() - 1)];
        let what = "as fast as they are answered";
        run.print(what, &connections.to_string(), Some(floor));
    }
    for (floor, group) in floors.iter().zip(GROUPS) {
        floor.print("SQLite alone", &group.to_string(), None);
    }
    println!(
        "\nTimes of SQLite alone are a commit's. All {answers} answers were `0000`, and as many events are kept."
    );
    println!("{machine}; store on {filesystem}");
}

/// Every run, one after the other, against one sidecar: the paced one, then each crowd.
async fn load(folder: &Path, times: &Times) -> Vec<Run> {
    let sidecar = Sidecar::start(folder);
    let mut payments = Payments::default();

    let count = times.paced.as_secs() as usize * PACE as usize;
    let requests = payments.requests(count);
    let before = sidecar.processor_time();
    let mut run = paced(sidecar.callbacks, requests).await;
    run.sidecar = Some(sidecar.processor_time() - before);
    let mut runs = vec![run];

    for connections in CROWDS {
        let count = (times.crowd.as_secs_f64() * SIGNED_A_SECOND) as usize;
        let requests = payments.requests(count);
        let before = sidecar.processor_time();
        let mut run = crowd(sidecar.callbacks, requests, connections, times.crowd).await;
        run.sidecar = Some(sidecar.processor_time() - before);
        runs.push(run);
    }
    runs
}

/// Each callback has its time, whatever became of the ones before; its latency is counted from that time.
async fn paced(address: SocketAddr, requests: Vec<Vec<u8>>) -> Run {
    let mut lines = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..PACED_CONNECTIONS {
        let mut connection = Connection::open(address).await;
        let (line, mut due) = unbounded_channel::<(Instant, Vec<u8>)>();
        lines.push(line);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while let Some((at, request)) = due.recv().await {
                connection.callback(&request).await;
                latencies.push(at.elapsed());
            }
            latencies
        });
    }
    let began = Instant::now();
    // The runtime's own timer is a millisecond coarse.
    thread::spawn(move || {
        for (number, request) in requests.into_iter().enumerate() {
            let at = began + Duration::from_secs(1) * number as u32 / PACE;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            let line = &lines[number % PACED_CONNECTIONS];
            line.send((at, request)).expect("the connection is there");
        }
    });
    let latencies = tasks.join_all().await.concat();
    Run::new(latencies.len(), began.elapsed(), latencies)
}

/// Each connection sends its next callback as soon as its last one is answered.
async fn crowd(
    address: SocketAddr,
    requests: Vec<Vec<u8>>,
    connections: usize,
    time: Duration,
) -> Run {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address).await);
    }
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for mut connection in open {
        let (requests, next) = (requests.clone(), next.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < time
                && let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let sent = Instant::now();
                connection.callback(request).await;
                latencies.push(sent.elapsed());
            }
            latencies
        });
    }
    let latencies = tasks.join_all().await.concat();
    Run::new(latencies.len(), began.elapsed(), latencies)
}

/// What a run came to.
struct Run {
    count: usize,
    took: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
    /// Processor time of the sidecar.
    sidecar: Option<Duration>,
}

impl Run {
    fn new(count: usize, took: Duration, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self {
            count,
            took,
            latencies,
            sidecar: None,
        }
    }

    fn a_second(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }

    /// `together` is how many can be committed at once.
    fn print(&self, what: &str, together: &str, floor: Option<&Run>) {
        let a_second = self.a_second();
        let share = floor.map_or_else(String::new, |floor| {
            format!("{:.2}", a_second / floor.a_second())
        });
        let [median, p99, longest] = [0.5, 0.99, 1.0].map(|part| {
            let index = (self.latencies.len() as f64 * part) as usize;
            self.latencies[index.min(self.latencies.len() - 1)].as_secs_f64() * 1e3
        });
        let sidecar = self.sidecar.map_or_else(String::new, |time| {
            format!("{:.0} µs", time.as_secs_f64() * 1e6 / self.count as f64)
        });
        println!(
            "| {what} | {together} | {a_second:.0} | {share} | {median:.2} ms | {p99:.2} ms | {longest:.1} ms | {sidecar} |"
        );
    }
}

/// A kept-alive connection to the listener for callbacks.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an open socket");
        Self {
            stream,
            answer: Vec::with_capacity(1024),
        }
    }

    /// Sends one callback and waits for its `0000`; anything else ends the bench.
    async fn callback(&mut self, request: &[u8]) {
        self.stream
            .write_all(request)
            .await
            .expect("a request is taken");
        self.answer.clear();
        while !is_whole(&self.answer) {
            let read = self.stream.read_buf(&mut self.answer).await;
            let read = read.expect("an answer is read");
            assert!(read > 0, "the connection ended: {:?}", self.shown());
        }
        assert!(
            self.answer.starts_with(b"HTTP/1.1 200 OK\r\n")
                && self.answer.ends_with(b"\r\n\r\n0000"),
            "{:?}",
            self.shown()
        );
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.answer).into_owned()
    }
}

/// The header and as much of a body as it announces.
fn is_whole(answer: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(answer) else {
        return false;
    };
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().expect("a length"))
    });
    body.len() >= length.expect("every answer has its length")
}

/// Payments that nobody has heard of yet.
#[derive(Default)]
struct Payments {
    told: u64,
}

impl Payments {
    /// The next callbacks, signed, as they go onto the wire.
    fn requests(&mut self, count: usize) -> Vec<Vec<u8>> {
        let key = Key::new(KEY).expect("a key of 32 bytes");
        let first = self.told;
        self.told += count as u64;
        (first..self.told)
            .map(|number| {
                let json = format!(
                    r#"{{"merid":"{MERID}","orderid":"ORD20170301{number:08}","queryid":"Q{number:017}","resultcode":"0000","resultmsg":"交易成功","txnamt":{},"paytime":"2017-03-01 12:00:05"}}"#,
                    100 + number % 10_000
                );
                let query = Envelope::seal(json.as_bytes(), &key).form("resp");
                format!("GET /notify/back?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
            })
            .collect()
    }
}

/// The real binary, killed on drop.
struct Sidecar {
    process: Child,
    callbacks: SocketAddr,
}

impl Sidecar {
    /// The merchant has no app: events are kept, parked and acknowledged.
    fn start(folder: &Path) -> Self {
        let [app, admin, callbacks] = free_addresses();
        let conf = format!(
            "[app]\nlisten = [\"{app}\"]\n\
             [platform]\nurl = \"http://127.0.0.1:1\"\n\
             [callbacks]\nlisten = [\"{callbacks}\"]\ntrust_forwarded_from = [\"127.0.0.0/8\"]\n\
             [inbox]\nstore = \"sqlite:{STORE}\"\n\
             [admin]\nlisten = \"{admin}\"\n"
        );
        let merchant = format!("[[merchant]]\nmerid = \"{MERID}\"\nkey = \"{KEY}\"\n");
        let home = folder.join(HOME);
        fs::create_dir(&home).expect("a folder in the folder");
        let path = home.join("countersign.toml");
        fs::write(&path, conf).expect("a file in the folder");
        fs::write(home.join("merchants.toml"), merchant).expect("a file in the folder");
        // Not at home: the sidecar watches that folder, and would be told of each line it writes.
        let log = File::create(folder.join("log")).expect("a file in the folder");
        let process = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["run", "-c"])
            .arg(path)
            .stderr(log)
            .spawn()
            .expect("the binary");
        let mut sidecar = Self { process, callbacks };
        let began = Instant::now();
        while !is_ready(admin) {
            let ended = sidecar.process.try_wait().expect("our own child");
            if ended.is_some() || began.elapsed() > PATIENCE {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("did not start:\n{log}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        sidecar
    }

    /// User and system time of all its threads so far.
    fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = fs::read_to_string(path).expect("the process is there");
        // Fields 14 and 15; the name, in parentheses, is the second and may contain anything.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: f64 = ticks.map(|n| n.parse::<f64>().expect("a number")).sum();
        Duration::from_secs_f64(ticks / TICKS_A_SECOND)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_addresses() -> [SocketAddr; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("a bound socket"))
}

fn is_ready(admin: SocketAddr) -> bool {
    let Ok(mut stream) = std::net::TcpStream::connect(admin) else {
        return false;
    };
    let request = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// What the killed sidecar's store is made of, and rows of it, once it is clear that it has every event.
fn kept(store: &Path, answers: usize) -> (Vec<String>, Vec<Vec<Value>>) {
    let database = Database::open(store).expect("the sidecar's store");
    let count = |sql| database.query_row(sql, [], |row| row.get::<_, isize>(0));
    let events = count("SELECT count(*) FROM events").expect("a count");
    let parked = count("SELECT count(*) FROM events WHERE state = 'parked'").expect("a count");
    let answers = isize::try_from(answers).expect("not so many");
    assert_eq!((events, parked), (answers, answers), "events, parked");
    let read = |sql: &str, columns: usize| -> rusqlite::Result<Vec<Vec<Value>>> {
        database
            .prepare(sql)?
            .query_map([], |row| (0..columns).map(|n| row.get(n)).collect())?
            .collect()
    };
    let schema = read("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL", 1).expect("a schema");
    let schema = schema.into_iter().flatten().map(|sql| match sql {
        Value::Text(sql) => sql,
        other => panic!("expected text: {other:?}"),
    });
    let sql = format!("SELECT * FROM events LIMIT {FLOOR_ROWS}");
    let columns = database.prepare(&sql).expect("events").column_count();
    (schema.collect(), read(&sql, columns).expect("events"))
}

/// The same rows into a store of the same make, without a sidecar: `group` of them a commit.
fn floor(
    folder: &Path,
    schema: &[String],
    rows: &[Vec<Value>],
    group: usize,
    time: Duration,
) -> rusqlite::Result<Run> {
    let mut database = Database::open(folder.join(format!("floor-{group}.db")))?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.execute_batch(&schema.join(";"))?;
    let values = vec!["?"; rows[0].len()].join(", ");
    let insert = format!("INSERT INTO events VALUES ({values})");
    let (mut count, mut latencies) = (0, Vec::new());
    let began = Instant::now();
    for rows in rows.chunks_exact(group) {
        if began.elapsed() >= time {
            break;
        }
        let at = Instant::now();
        let transaction = database.transaction()?;
        for row in rows {
            let mut insert = transaction.prepare_cached(&insert)?;
            insert.execute(rusqlite::params_from_iter(row))?;
        }
        transaction.commit()?;
        latencies.push(at.elapsed());
        count += group;
    }
    Ok(Run::new(count, began.elapsed(), latencies))
}

/// Whether to be quick, and below which folder the store is to be.
fn arguments() -> (Times, PathBuf) {
    let mut times = WHOLE;
    let mut below = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => times = QUICK,
            "--store" => below = arguments.next().expect("--store DIR").into(),
            // Cargo's own.
            "--bench" => {}
            other => panic!("{other}: expected --quick or --store DIR"),
        }
    }
    (times, below)
}

/// Its type and device: those of the longest mount point above it.
fn filesystem(folder: &Path) -> String {
    let folder = folder.canonicalize().expect("it exists");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("linux");
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        folder
            .starts_with(point)
            .then(|| (point.len(), format!("{kind} on {device}")))
    });
    // Of two at one point the later one covers the other.
    mounts.max_by_key(|(length, _)| *length).expect("a root").1
}

/// Its cores, and how busy others keep them: figures of a busy machine are worth little.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} cores, {model}, load {load} before")
}
