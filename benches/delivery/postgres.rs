//! A PostgreSQL server of the bench's own, on a disk, with the settings that it comes with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const USER: &str = "countersign";
/// The unprivileged user that Debian's package makes; the server does not run as root.
const SYSTEM_USER: &str = "postgres";

/// A running server, stopped and removed on drop.
pub(super) struct Cluster {
    binaries: PathBuf,
    folder: PathBuf,
}

impl Cluster {
    /// Starts a server on a socket in a temporary folder; `None` where none is installed.
    pub(super) fn start() -> Option<Self> {
        let binaries = binaries()?;
        let folder =
            output(unprivileged("mktemp").args(["-d", "/var/tmp/countersign-bench-XXXXXX"]))?;
        let cluster = Self {
            binaries,
            folder: PathBuf::from(folder.trim()),
        };
        let data = cluster.data();
        let mut initdb = cluster.program("initdb");
        initdb.args([
            "-A",
            "trust",
            "-U",
            USER,
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ]);
        output(initdb.arg(&data)).expect("initdb makes a cluster");
        let options = format!("-k {} -c listen_addresses=", cluster.folder.display());
        let log = cluster.folder.join("log");
        let mut start = cluster.program("pg_ctl");
        start
            .arg("-D")
            .arg(&data)
            .args(["-w", "-o", &options, "-l"]);
        output(start.arg(log).arg("start")).expect("the server starts");
        Some(cluster)
    }

    pub(super) fn url(&self) -> String {
        let host = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{host}/postgres")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        unprivileged(self.binaries.join(name))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        let _ = output(
            stop.arg("-D")
                .arg(self.data())
                .args(["-m", "immediate", "stop"]),
        );
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The newest that Debian has put there.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let found = versions.map(|it| it.path().join("bin"));
    found.filter(|bin| bin.join("initdb").is_file()).max()
}

fn unprivileged(program: impl AsRef<Path>) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            format!("--reuid={SYSTEM_USER}"),
            format!("--regid={SYSTEM_USER}"),
            "--init-groups".to_owned(),
        ]);
        command.arg(program.as_ref());
        command
    } else {
        Command::new(program.as_ref())
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// The output of a command, where it succeeded.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}
