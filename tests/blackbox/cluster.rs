//! A PostgreSQL of the tests' own: its folder, its port, its end with the process that started it.

use super::skip::skip;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Who owns the databases.
const USER: &str = "countersign";
/// The unprivileged user that Debian's package makes; the server does not run as root.
const SYSTEM_USER: &str = "postgres";

/// A running server, and whatever ends it.
pub(crate) struct Cluster {
    binaries: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
    /// Ends the server and removes the folder once this process is gone, however it ended.
    guard: Child,
}

impl Cluster {
    /// The one that tests share; where none can be started here, the test says that it was skipped.
    pub(crate) fn shared(test: &str) -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        or_skip(test, SHARED.get_or_init(Self::start).as_ref())
    }

    /// One of its own, for a test that breaks it.
    pub(crate) fn own(test: &str) -> Option<Self> {
        or_skip(test, Self::start())
    }

    fn start() -> Option<Self> {
        let binaries = binaries()?;
        let name = format!("{}/countersign-pg-XXXXXX", roomy());
        let folder = made(&mut unprivileged("mktemp", &["-d", &name]))?;
        let folder = PathBuf::from(folder.trim());
        let data = folder.join("data");
        // Nothing here outlives a test, so the making of it need not outlive a power cut; the server's own commits do.
        let initdb = [
            "-A",
            "trust",
            "-U",
            USER,
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ];
        let initdb = initdb.map(str::to_owned).into_iter().chain([shown(&data)]);
        let initdb: Vec<_> = initdb.collect();
        let initdb: Vec<_> = initdb.iter().map(String::as_str).collect();
        made(&mut unprivileged(&shown(&binaries.join("initdb")), &initdb))?;
        let script = format!(
            "read -r _; {pg_ctl} -D {data} -m immediate stop; rm -rf {folder}",
            pg_ctl = binaries.join("pg_ctl").display(),
            data = data.display(),
            folder = folder.display()
        );
        let mut guard = unprivileged("sh", &["-c", &script]);
        // A group of its own: what ends the tests from the keyboard does not end it.
        std::os::unix::process::CommandExt::process_group(&mut guard, 0);
        let guard = guard
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let port = free_port()?;
        let cluster = Self {
            binaries,
            folder,
            port,
            guard,
        };
        cluster.run().then_some(cluster)
    }

    /// Starts the server, unless it runs.
    pub(crate) fn run(&self) -> bool {
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c max_connections=200 -c shared_buffers=32MB \
             -c autovacuum=off",
            self.port,
            self.folder.display()
        );
        let log = shown(&self.folder.join("log"));
        self.ctl(&["-w", "-o", &options, "-l", &log, "start"])
    }

    /// Ends the server as a crash does.
    pub(crate) fn crash(&self) {
        assert!(self.ctl(&["-m", "immediate", "stop"]));
    }

    /// A new empty database.
    pub(crate) fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NEXT.fetch_add(1, Ordering::SeqCst));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// How a sidecar names a database of this server.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Does some SQL, as a DBA would.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let port = self.port.to_string();
        let output = Command::new(self.binaries.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(["-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", database])
            .args(["-c", sql])
            .output();
        let output = output.unwrap_or_else(|error| panic!("psql: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Does some SQL in a transaction that stays open until the process is killed.
    #[allow(dead_code, reason = "the tests of the stores themselves use it")]
    pub(crate) fn hold(&self, database: &str, sql: &str) -> Child {
        let port = self.port.to_string();
        Command::new(self.binaries.join("psql"))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1"])
            .args(["-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", database])
            .args(["-c", &format!("BEGIN; {sql}; SELECT pg_sleep(60); COMMIT")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("psql: {error}"))
    }

    /// Sets what every session begins with, until it is so.
    pub(crate) fn set(&self, setting: &str, value: &str) {
        self.sql(
            "postgres",
            &format!("ALTER SYSTEM SET {setting} = '{value}'"),
        );
        let is_set = || {
            self.sql("postgres", "SELECT pg_reload_conf()");
            self.sql("postgres", &format!("SHOW {setting}")) == value
        };
        assert!((0..100).any(|_| is_set()), "{setting} is never {value}");
    }

    /// Returns the server's log so far.
    #[allow(
        dead_code,
        reason = "the tests of the stores themselves do not read it"
    )]
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A file in the server's folder that it alone may read.
    pub(crate) fn file(&self, name: &str, content: &str) {
        let path = shown(&self.folder.join("data").join(name));
        let mut writing = unprivileged("sh", &["-c", "umask 077; cat > \"$0\"", &path])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = writing.stdin.take().unwrap();
        stdin.write_all(content.as_bytes()).unwrap();
        drop(stdin);
        assert!(writing.wait().unwrap().success());
    }

    fn ctl(&self, arguments: &[&str]) -> bool {
        let data = shown(&self.folder.join("data"));
        let arguments = [&["-D", &data], arguments].concat();
        let pg_ctl = shown(&self.binaries.join("pg_ctl"));
        made(&mut unprivileged(&pg_ctl, &arguments)).is_some()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

fn or_skip<T>(test: &str, cluster: Option<T>) -> Option<T> {
    if cluster.is_none() {
        skip(test, "no PostgreSQL can be started here");
    }
    cluster
}

/// The newest that Debian has put there.
fn binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<_> = versions.map(|it| it.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").is_file());
    found.sort();
    found.pop()
}

/// In memory where that holds some hundred databases: how slow others make the disk is not what is tried here, and the
/// servers crash alone, without their machine.
fn roomy() -> &'static str {
    const NEEDED_KIB: u64 = 1 << 20;
    let free = made(Command::new("df").args(["-Pk", "/dev/shm"])).and_then(|said| {
        let row = said.lines().nth(1)?;
        row.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    match free {
        Some(free) if free > NEEDED_KIB => "/dev/shm",
        _ => "/tmp",
    }
}

/// Below the range from which the kernel serves outgoing connections, and below what the tests take for themselves.
fn free_port() -> Option<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    (0..100).find_map(|_| {
        let offset = std::process::id() + 7 * NEXT.fetch_add(1, Ordering::SeqCst);
        let port = 10_000 + (offset % 1_900) as u16;
        TcpListener::bind(("127.0.0.1", port))
            .is_ok()
            .then_some(port)
    })
}

fn unprivileged(program: &str, arguments: &[&str]) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            format!("--reuid={SYSTEM_USER}"),
            format!("--regid={SYSTEM_USER}"),
            "--init-groups".to_owned(),
            program.to_owned(),
        ]);
        command
    } else {
        Command::new(program)
    };
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// What a command said, where it went well.
fn made(command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = command.output().ok()?;
    status
        .success()
        .then(|| String::from_utf8_lossy(&stdout).into_owned())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
