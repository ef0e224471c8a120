//! The sidecar under measurement: its files, its process, and the figures that it and the kernel have of it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::arguments::BenchStore;

pub(super) const KEY: &str = "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31";
/// Time for the sidecar to become ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// The unit in which the kernel counts processor time (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

pub(super) fn merid(number: usize) -> String {
    format!("1{number:014}")
}

/// The files of the sidecar, and its store.
pub(super) struct Place {
    folder: tempfile::TempDir,
    /// The database; `None` for a file in the folder.
    pub(super) url: Option<String>,
    addresses: [SocketAddr; 3],
}

impl Place {
    pub(super) fn new(store: &BenchStore) -> Self {
        let (below, url) = match store {
            BenchStore::Folder(folder) => (folder.clone(), None),
            BenchStore::Url(url) => (std::env::temp_dir(), Some(url.clone())),
        };
        fs::create_dir_all(&below).expect("a folder for the store");
        let folder = tempfile::Builder::new()
            .prefix("delivery-")
            .tempdir_in(&below);
        let address = || TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        Self {
            url,
            folder: folder.expect("a folder below it"),
            addresses: [(); 3].map(|()| address().expect("a port")),
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes both files. `app` gives the address of each merchant's app; a merchant without one gets no deliveries.
    pub(super) fn configure(&self, merchants: usize, app: impl Fn(usize) -> Option<String>) {
        let [calls, admin, callbacks] = self.addresses;
        let store = self.url.as_deref().unwrap_or("sqlite:countersign.db");
        let conf = format!(
            "[app]\nlisten = [\"{calls}\"]\n[platform]\nurl = \"http://127.0.0.1:1\"\n\
             [callbacks]\nlisten = [\"{callbacks}\"]\ntrust_forwarded_from = [\"127.0.0.0/8\"]\n\
             [inbox]\nstore = \"{store}\"\nwatch_orders = false\n[admin]\nlisten = \"{admin}\"\n[log]\nlevel = \"warn\"\n"
        );
        let mut entries = String::new();
        for number in 0..merchants {
            let merid = merid(number);
            write!(
                entries,
                "[[merchant]]\nmerid = \"{merid}\"\nkey = \"{KEY}\"\n"
            )
            .expect("memory");
            if let Some(app) = app(number) {
                writeln!(entries, "back = \"{app}/back\"").expect("memory");
            }
        }
        fs::write(self.file("countersign.toml"), conf).expect("a file in the folder");
        fs::write(self.file("merchants.toml"), entries).expect("a file in the folder");
    }

    pub(super) fn start(&self) -> Sidecar {
        let log = File::create(self.file("log.txt")).expect("a file in the folder");
        let binary = std::env::var_os("COUNTERSIGN").map_or_else(
            || PathBuf::from(env!("CARGO_BIN_EXE_countersign")),
            PathBuf::from,
        );
        let process = Command::new(binary)
            .args(["run", "-c"])
            .arg(self.file("countersign.toml"))
            .stderr(log)
            .spawn()
            .expect("the binary");
        let [_, admin, callbacks] = self.addresses;
        let mut sidecar = Sidecar {
            process,
            admin,
            callbacks,
            store: self.file("countersign.db"),
        };
        let began = Instant::now();
        while !sidecar.is_ready() {
            let ended = sidecar.process.try_wait().expect("our own child");
            if ended.is_some() || began.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.file("log.txt")).unwrap_or_default();
                panic!("did not start:\n{log}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        sidecar
    }
}

/// The real binary, killed on drop.
pub(super) struct Sidecar {
    process: Child,
    admin: SocketAddr,
    pub(super) callbacks: SocketAddr,
    store: PathBuf,
}

impl Sidecar {
    /// User and system time of all its threads so far.
    pub(super) fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = fs::read_to_string(path).expect("the process is there");
        // Fields 14 and 15; the name, in parentheses, is the second and may contain anything.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: f64 = ticks.map(|n| n.parse::<f64>().expect("a number")).sum();
        Duration::from_secs_f64(ticks / TICKS_A_SECOND)
    }

    /// MiB in memory now (`VmRSS`), or at most so far (`VmHWM`).
    pub(super) fn memory(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<usize>().ok()).expect("KiB") >> 10
    }

    /// MiB of the log of commits; 0 for a database.
    pub(super) fn wal(&self) -> u64 {
        let mut name = self.store.clone().into_os_string();
        name.push("-wal");
        fs::metadata(name).map_or(0, |file| file.len() >> 20)
    }

    /// The body of an admin page, and the time that it took.
    pub(super) fn page(&self, path: &str) -> (String, Duration) {
        let began = Instant::now();
        let body = self.try_page(path).expect("a page of the admin listener");
        (body, began.elapsed())
    }

    fn try_page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        // A number that one order has leads there.
        let is_good = head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 303");
        is_good.then(|| body.to_owned())
    }

    fn is_ready(&self) -> bool {
        self.try_page("/readyz").is_some()
    }

    /// Events in a state, by its own metrics.
    pub(super) fn events(&self, state: &str) -> usize {
        let (metrics, _) = self.page("/metrics");
        let name = format!("countersign_events{{state=\"{state}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value
            .and_then(|it| it.parse::<f64>().ok())
            .expect("a sample") as usize
    }

    /// Ends it as a service manager does, so that nothing is left to check or to copy.
    pub(super) fn stop(mut self) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), Signal::TERM).expect("our own child");
        let _ = self.process.wait();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let cores = thread::available_parallelism().map_or(1, |it| it.get());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores, {}, load average {load}",
        model.unwrap_or("unknown processor")
    )
}
