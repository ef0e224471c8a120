//! The sidecar under test: the real binary with its own folder, files and ports, polled ready, killed on drop.

use crate::client::{self, Response};
use crate::clock;
use crate::cluster::Cluster;
pub(crate) use crate::skip::{is_installed, skip};
use crate::wire;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The merchant of the vectors.
pub(crate) const MERID: &str = "100000000000001";
pub(crate) const KEY: &str = "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31";
pub(crate) const ORDERID: &str = "ORD2017030100000001";
/// A second one, where a test needs two.
pub(crate) const OTHER_MERID: &str = "100000000000002";
pub(crate) const OTHER_KEY: &str = "c1e0a54b7f3d4f0f9a6b0d2e8c7a5b13";

/// The binary under test; `COUNTERSIGN_TEST_BIN` names one that was built elsewhere.
pub(crate) fn binary() -> PathBuf {
    match std::env::var_os("COUNTERSIGN_TEST_BIN") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_countersign").into(),
    }
}

/// A port nobody listens on. Below the range from which the kernel serves outgoing connections, and each given once, so that
/// tests in parallel do not take each other's.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let offset = (std::process::id() % 97) as u16 * 200;
    loop {
        let port = FIRST + (offset + NEXT.fetch_add(1, Ordering::SeqCst)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Asks again and again until the answer is yes; fails with what was waited for.
#[track_caller]
pub(crate) fn eventually(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A merchant's entry in the file.
pub(crate) fn merchant(merid: &str, key: &str) -> String {
    format!("[[merchant]]\nmerid = \"{merid}\"\nkey = \"{key}\"\n\n")
}

/// What goes into the two files. The defaults: the vectors' merchant, deadlines short enough for a test.
pub(crate) struct Conf {
    pub(crate) merchants: String,
    pub(crate) platform: String,
    pub(crate) timeout: &'static str,
    pub(crate) connect_timeout: &'static str,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) extra_paths: Vec<&'static str>,
    /// Further lines of `[platform]`.
    pub(crate) way: String,
    /// Further lines of `[app]`.
    pub(crate) app: String,
    /// Further listeners of the app, such as `unix:…`.
    pub(crate) listen: Vec<String>,
    pub(crate) log_level: &'static str,
    /// `log.format`, where not the default.
    pub(crate) log_format: Option<String>,
    /// Where the merchants' file lies, relative to the folder.
    pub(crate) merchants_file: &'static str,
    /// The listener for callbacks, with these further lines; none without.
    pub(crate) callbacks: Option<String>,
    /// Where events are kept; without it in a store of its own, a file's or a database's as [`own_store`] says.
    pub(crate) store: Option<String>,
    /// Further lines of `[inbox]`.
    pub(crate) inbox: String,
    /// Further lines of `[admin]`.
    pub(crate) admin: String,
    /// Further sections.
    pub(crate) further: String,
}

impl Conf {
    fn new() -> Self {
        Self {
            merchants: merchant(MERID, KEY),
            platform: "http://127.0.0.1:9".to_owned(),
            timeout: "5s",
            connect_timeout: "1s",
            ca_file: None,
            extra_paths: Vec::new(),
            way: String::new(),
            app: String::new(),
            listen: Vec::new(),
            log_level: "info",
            log_format: None,
            merchants_file: "merchants.toml",
            callbacks: None,
            store: None,
            inbox: String::new(),
            admin: String::new(),
            further: String::new(),
        }
    }
}

/// The two files and the ports in them, before or between runs.
pub(crate) struct Setup {
    pub(crate) folder: TempDir,
    pub(crate) app: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) callbacks: SocketAddr,
    pub(crate) merchants_file: PathBuf,
    /// `admin.token`, where the settings have one.
    pub(crate) admin_token: Option<String>,
    /// How far the clock of the next run is ahead; needs libfaketime.
    pub(crate) clock_ahead: Duration,
    /// A restart finds the clock confirmed, as by `countersign clock confirm`: a test that moves it means it.
    pub(crate) clock_is_confirmed: bool,
}

impl Setup {
    pub(crate) fn new(change: impl FnOnce(&mut Conf)) -> Self {
        let mut conf = Conf::new();
        change(&mut conf);
        let folder = tempfile::Builder::new()
            .prefix("countersign-test-")
            .tempdir()
            .unwrap();
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (app, admin, callbacks) = (address(), address(), address());
        let merchants_file = folder.path().join(conf.merchants_file);
        fs::write(&merchants_file, &conf.merchants).unwrap();
        let setup = Self {
            folder,
            app,
            admin,
            callbacks,
            merchants_file,
            admin_token: conf
                .admin
                .split_once("token = \"")
                .and_then(|(_, rest)| Some(rest.split_once('"')?.0.to_owned())),
            clock_ahead: Duration::ZERO,
            clock_is_confirmed: true,
        };
        fs::write(setup.conf_file(), setup.main_file(&conf)).unwrap();
        setup
    }

    fn main_file(&self, conf: &Conf) -> String {
        let mut listen = vec![self.app.to_string()];
        listen.extend(conf.listen.iter().cloned());
        let mut text = format!(
            "merchants = {:?}\n\n[app]\nlisten = {listen:?}\n{}\n\n",
            conf.merchants_file, conf.app
        );
        write!(
            text,
            "[platform]\nurl = {:?}\nconnect_timeout = {:?}\ntimeout = {:?}\n",
            conf.platform, conf.connect_timeout, conf.timeout
        )
        .unwrap();
        if let Some(ca_file) = &conf.ca_file {
            writeln!(text, "ca_file = {ca_file:?}").unwrap();
        }
        if !conf.extra_paths.is_empty() {
            writeln!(text, "extra_paths = {:?}", conf.extra_paths).unwrap();
        }
        writeln!(text, "{}", conf.way).unwrap();
        if let Some(further) = &conf.callbacks {
            let address = self.callbacks;
            writeln!(
                text,
                "\n[callbacks]\nlisten = [\"{address}\"]\npublic_url = \"http://{address}/cashier\"\n{further}"
            )
            .unwrap();
        }
        let format = conf.log_format.iter();
        let format: String = format.map(|it| format!("format = {it:?}\n")).collect();
        write!(
            text,
            "\n[inbox]\nstore = {:?}\n{}\n\n[admin]\nlisten = \"{}\"\n{}\n\n[log]\nlevel = {:?}\n{format}\n{}",
            conf.store.clone().unwrap_or_else(|| self.own_store()),
            conf.inbox,
            self.admin,
            conf.admin,
            conf.log_level,
            conf.further
        )
        .unwrap();
        text
    }

    /// `COUNTERSIGN_TEST_STORE=postgres` asks for a database for each test; what is claimed of a store holds there too.
    fn own_store(&self) -> String {
        match std::env::var("COUNTERSIGN_TEST_STORE").as_deref() {
            Ok("postgres") => {
                let cluster =
                    Cluster::shared("COUNTERSIGN_TEST_STORE").expect("a PostgreSQL to test with");
                cluster.url(&cluster.database())
            }
            _ => format!("sqlite:{}", self.store().display()),
        }
    }

    pub(crate) fn conf_file(&self) -> PathBuf {
        self.folder.path().join("countersign.toml")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("countersign.db")
    }

    fn output_file(&self) -> PathBuf {
        self.folder.path().join("output.txt")
    }

    /// All that the process has written to stdout and stderr, once it writes no more: lines gather for a moment before they
    /// are written, and on a busy machine for a longer one.
    pub(crate) fn output(&self) -> String {
        const QUIET: Duration = Duration::from_millis(40);
        let read = || fs::read(self.output_file()).unwrap_or_default();
        let mut output = read();
        for _ in 0..25 {
            thread::sleep(QUIET);
            let before = std::mem::replace(&mut output, read());
            if before.len() == output.len() {
                break;
            }
        }
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Starts the process, ready or not.
    pub(crate) fn spawn(&self) -> Child {
        let mut command = self.command();
        command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary().display()))
    }

    /// `run` with these files; arguments and variables may be added.
    pub(crate) fn command(&self) -> Command {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.output_file())
            .unwrap();
        let mut command = command();
        if !self.clock_ahead.is_zero() {
            clock::shift(&mut command, self.clock_ahead);
        }
        command
            .args(["run", "-c"])
            .arg(self.conf_file())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        command
    }

    /// Starts the process where it is expected to refuse; its exit code and what it said.
    #[track_caller]
    pub(crate) fn refused(&self, patience: Duration) -> (Option<i32>, String) {
        self.refused_to(&mut self.command(), patience)
    }

    /// The same for a command of its own.
    #[track_caller]
    pub(crate) fn refused_to(
        &self,
        command: &mut Command,
        patience: Duration,
    ) -> (Option<i32>, String) {
        let mut child = command.spawn().unwrap();
        let status = exit_within(&mut child, patience);
        let status = status.unwrap_or_else(|| {
            stop(&mut child);
            panic!("still running after {patience:?}: {}", self.output())
        });
        (status.code(), self.output())
    }

    #[track_caller]
    pub(crate) fn start(self) -> Sidecar {
        let child = self.spawn();
        self.started(child)
    }

    /// The same under this mask for new files.
    #[track_caller]
    pub(crate) fn start_under_mask(self, mask: &str) -> Sidecar {
        let child = under_mask(mask, &self.command()).spawn().unwrap();
        self.started(child)
    }

    /// The same below another program, which replaces itself with it.
    #[track_caller]
    pub(crate) fn start_in(self, wrapper: &[&str]) -> Sidecar {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.output_file())
            .unwrap();
        let mut command = wrapped(wrapper, &self.command());
        let child = command.stdout(output.try_clone().unwrap()).stderr(output);
        let child = child.spawn().unwrap();
        self.started(child)
    }

    #[track_caller]
    fn started(self, child: Child) -> Sidecar {
        let mut sidecar = Sidecar { setup: self, child };
        sidecar.wait_ready();
        sidecar
    }
}

/// The binary in an environment without settings of its own.
pub(crate) fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUNTERSIGN_") {
            command.env_remove(name);
        }
    }
    for name in [
        "RUST_LOG",
        "RUNTIME_DIRECTORY",
        "XDG_RUNTIME_DIR",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
    ] {
        command.env_remove(name);
    }
    command
}

/// The same under another mask for new files, and silent.
fn under_mask(mask: &str, command: &Command) -> Command {
    let script = format!("umask {mask}; exec \"$@\"");
    let mut masked = wrapped(&["sh", "-c", &script, "sh"], command);
    masked.stdout(Stdio::null()).stderr(Stdio::null());
    masked
}

/// The same command, started by another program, whose last arguments it becomes.
fn wrapped(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped
        .args(&wrapper[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// Waits for the end of a process; `None` if it is still running then.
pub(crate) fn exit_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn stop(child: &mut Child) {
    // It may have ended by itself, which is what some tests are about.
    drop(child.kill());
    drop(child.wait());
}

/// Sends a signal by name, as `kill` does.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill -{name}");
}

/// Runs a command to its end with this standard input.
pub(crate) fn run_with_input(command: &mut Command, input: impl AsRef<[u8]>) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses before it has read all of it is no failure of the test.
    drop(child.stdin.take().unwrap().write_all(input.as_ref()));
    child.wait_with_output().unwrap()
}

/// The running sidecar.
pub(crate) struct Sidecar {
    pub(crate) setup: Setup,
    pub(crate) child: Child,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        stop(&mut self.child);
        if thread::panicking() {
            let output = self.setup.output();
            let from = output.len().saturating_sub(4000);
            let tail = output.get(from..).unwrap_or(&output);
            eprintln!("--- the sidecar's output ---\n{tail}\n---");
        }
    }
}

impl Sidecar {
    #[track_caller]
    pub(crate) fn start(change: impl FnOnce(&mut Conf)) -> Self {
        Setup::new(change).start()
    }

    /// In front of this platform, everything else as by default.
    #[track_caller]
    pub(crate) fn before(platform: &crate::platform::Platform) -> Self {
        let url = platform.url();
        Self::start(|conf| conf.platform = url)
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(answer) = client::fetch(self.setup.admin, "/readyz")
                && answer.status == 200
            {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "not ready ({ended:?}): {}",
                self.setup.output()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it hard, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        stop(&mut self.child);
    }

    /// Ends it hard and starts it again on the same files.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill();
        let is_moved = !self.setup.clock_ahead.is_zero();
        if is_moved && self.setup.clock_is_confirmed && self.setup.store().exists() {
            // A store of an earlier version has no such table yet.
            let store = rusqlite::Connection::open(self.setup.store()).unwrap();
            drop(store.execute("DELETE FROM clock", []));
        }
        self.child = self.setup.spawn();
        self.wait_ready();
    }

    /// Puts a new process in its place; the old one, which ends in its own time.
    #[track_caller]
    pub(crate) fn upgrade(&mut self) -> Child {
        self.upgrade_by(&mut self.setup.command())
    }

    /// The same with a command of its own.
    #[track_caller]
    pub(crate) fn upgrade_by(&mut self, command: &mut Command) -> Child {
        let old = self.begin_upgrade(command);
        let taken = format!("another process takes over pid={}", self.child.id());
        let replaced = "draining; a signal from here on ends at once replaced=true";
        eventually("the old process drains", Duration::from_secs(20), || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.output());
            let output = self.output();
            let after = output.split_once(&taken).map(|(_, after)| after);
            after.is_some_and(|after| after.contains(replaced))
        });
        old
    }

    /// The same without waiting for anything.
    pub(crate) fn begin_upgrade(&mut self, command: &mut Command) -> Child {
        let new = command.arg("--upgrade").spawn().unwrap();
        std::mem::replace(&mut self.child, new)
    }

    /// The most memory that it ever held.
    pub(crate) fn peak_memory_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mut words = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap()
            .split_whitespace();
        words.next().unwrap().parse().unwrap()
    }

    pub(crate) fn app(&self) -> SocketAddr {
        self.setup.app
    }

    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        client::post(self.app(), path, body)
    }

    pub(crate) fn query(&self, body: impl AsRef<[u8]>) -> Response {
        self.post("/api/query", body)
    }

    pub(crate) fn submit(&self, body: impl AsRef<[u8]>) -> Response {
        self.post("/api/icashier", body)
    }

    pub(crate) fn output(&self) -> String {
        self.setup.output()
    }

    pub(crate) fn admin(&self, path: &str) -> Response {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let bearer = self.bearer().map_or_else(String::new, |line| line + "\r\n");
        let connection = client::Connection::open(self.setup.admin);
        connection
            .and_then(|mut it| it.exchange(format!("{head}{bearer}\r\n")))
            .unwrap()
    }

    /// The header line with the admin token, where the settings have one.
    pub(crate) fn bearer(&self) -> Option<String> {
        let token = self.setup.admin_token.as_ref();
        token.map(|token| format!("Authorization: Bearer {token}"))
    }

    pub(crate) fn reload(&self) -> Response {
        let bearer = self.bearer();
        let further: Vec<_> = bearer.iter().map(String::as_str).collect();
        client::post_with(self.setup.admin, "/-/reload", &further, "")
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin("/metrics").text())
    }

    pub(crate) fn merchants_file(&self) -> &Path {
        &self.setup.merchants_file
    }
}

/// A page of metrics: each sample under its name and labels as they stand.
pub(crate) struct Metrics {
    pub(crate) samples: BTreeMap<String, f64>,
}

impl Metrics {
    pub(crate) fn parse(page: &str) -> Self {
        let samples = page
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap_or((line, ""));
                let value = value.parse();
                let value = value.unwrap_or_else(|_| panic!("no value: {line:?}"));
                (name.to_owned(), value)
            })
            .collect();
        Self { samples }
    }

    /// The sum of the samples whose name and labels hold all of these words.
    pub(crate) fn sum(&self, words: &[&str]) -> f64 {
        self.samples
            .iter()
            .filter(|(name, _)| words.iter().all(|word| name.contains(word)))
            .map(|(_, value)| value)
            .sum()
    }
}

/// An orderid that no other test uses.
pub(crate) fn fresh_orderid() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!(
        "T{:07}A{:05}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::SeqCst)
    )
}

/// A submit with nothing wrong in it.
pub(crate) fn submit_json(orderid: &str) -> String {
    submit_of(MERID, orderid, 1280)
}

pub(crate) fn submit_of(merid: &str, orderid: &str, txnamt: i64) -> String {
    json!({
        "action": "AliPay",
        "txnamt": txnamt,
        "merid": merid,
        "orderid": orderid,
        "backurl": "https://shop.example.com/pay/back",
    })
    .to_string()
}

/// A query with nothing wrong in it.
pub(crate) fn query_json(merid: &str, orderid: &str) -> String {
    json!({"merid": merid, "orderid": orderid}).to_string()
}

/// The form that a query of [`query_json`] becomes, with the key given.
pub(crate) fn query_form(merid: &str, orderid: &str, key: &str) -> String {
    wire::request(query_json(merid, orderid), key)
}
