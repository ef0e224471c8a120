//! What a supervisor is told: a datagram socket in systemd's place (sd_notify(3)).

use crate::harness::{KEY, MERID, Setup, Sidecar, eventually, exit_within, merchant, signal};
use crate::shop::SOON;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

/// All that was said, one state a line.
struct Supervisor {
    name: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    fn at(name: &str, socket: UnixDatagram) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&said);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                kept.lock().unwrap().push(text);
            }
        });
        Self {
            name: name.to_owned(),
            said,
        }
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Waits for a message with this line, and hands it back.
    #[track_caller]
    fn hears(&self, line: &str) -> String {
        let find = || {
            let said = self.said();
            said.into_iter().find(|it| it.lines().any(|it| it == line))
        };
        eventually(line, SOON, || find().is_some());
        find().unwrap()
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = setup.command();
        command.env("NOTIFY_SOCKET", &self.name);
        command
    }

    fn forget(&self) {
        self.said.lock().unwrap().clear();
    }
}

fn supervised(change: impl FnOnce(&mut Command)) -> (Supervisor, Sidecar, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let supervisor = Supervisor::at(path.to_str().unwrap(), socket);
    let setup = Setup::new(|_| {});
    let mut command = supervisor.command(&setup);
    change(&mut command);
    let child = command.spawn().unwrap();
    (supervisor, Sidecar { setup, child }, folder)
}

#[test]
fn ready_is_said_once_everything_can_be_used_and_stopping_at_the_end() {
    let (supervisor, mut sidecar, _folder) = supervised(|_| {});
    let ready = supervisor.hears("READY=1");
    assert!(ready.contains("STATUS=serving 1 merchant"), "{ready}");
    assert_eq!(sidecar.admin("/readyz").status, 200);
    assert_eq!(supervisor.said().len(), 1, "{:?}", supervisor.said());
    signal(&sidecar.child, "TERM");
    supervisor.hears("STOPPING=1");
    assert!(exit_within(&mut sidecar.child, SOON).is_some());
    let said = supervisor.said();
    assert!(said.iter().all(|it| !it.contains(KEY)), "{said:?}");
    assert!(said.iter().all(|it| !it.contains("WATCHDOG")), "{said:?}");
}

#[test]
fn what_cannot_start_is_never_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = Supervisor::at(path.to_str().unwrap(), UnixDatagram::bind(&path).unwrap());
    let setup = Setup::new(|_| {});
    fs::create_dir(setup.store()).unwrap();
    let (code, _) = setup.refused_to(&mut supervisor.command(&setup), SOON);
    assert_eq!(code, Some(75));
    assert_eq!(supervisor.said(), [""; 0]);
}

#[test]
fn a_name_of_the_kernel_s_is_a_socket_too() {
    let name = format!("countersign-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let supervisor = Supervisor::at(
        &format!("@{name}"),
        UnixDatagram::bind_addr(&address).unwrap(),
    );
    let setup = Setup::new(|_| {});
    let child = supervisor.command(&setup).spawn().unwrap();
    let _sidecar = Sidecar { setup, child };
    supervisor.hears("READY=1");
}

/// Microseconds since the machine was started.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    (seconds * 1e6) as u64
}

#[test]
fn a_reload_begins_and_ends_aloud() {
    let (supervisor, sidecar, _folder) = supervised(|_| {});
    supervisor.hears("READY=1");
    for (text, status) in [
        (
            merchant(MERID, KEY) + &merchant("100000000000009", "another"),
            "STATUS=serving 2 merchants",
        ),
        (
            "[[merchant]".to_owned(),
            "STATUS=serving 2 merchants; their file as it is now is refused",
        ),
    ] {
        supervisor.forget();
        let before = uptime();
        fs::write(sidecar.merchants_file(), text).unwrap();
        signal(&sidecar.child, "HUP");
        let ready = supervisor.hears("READY=1");
        assert!(ready.lines().any(|it| it == status), "{ready}");
        let reloading = supervisor.hears("RELOADING=1");
        let said = supervisor.said();
        assert_eq!((&said[0], &said[1]), (&reloading, &ready), "{said:?}");
        let at = reloading
            .lines()
            .find_map(|it| it.strip_prefix("MONOTONIC_USEC="));
        let at: u64 = at.unwrap().parse().unwrap();
        // Both clocks count from the start; one of them counts a suspended machine's time too.
        assert!(at.abs_diff(before) < 60_000_000, "{at} {before}");
    }
}

#[test]
fn the_watchdog_is_fed_by_the_process_that_it_is_for() {
    let (supervisor, _sidecar, _folder) = supervised(|command| {
        command.env("WATCHDOG_USEC", "200000");
    });
    supervisor.hears("READY=1");
    eventually("it is fed", SOON, || {
        let said = supervisor.said();
        said.iter().filter(|it| *it == "WATCHDOG=1").count() > 5
    });
    let (supervisor, sidecar, _folder) = supervised(|command| {
        command
            .env("WATCHDOG_USEC", "20000")
            .env("WATCHDOG_PID", "1");
    });
    supervisor.hears("READY=1");
    signal(&sidecar.child, "TERM");
    supervisor.hears("STOPPING=1");
    let said = supervisor.said();
    assert!(said.iter().all(|it| it != "WATCHDOG=1"), "{said:?}");
}

#[test]
fn an_upgrade_names_the_new_main_process_and_the_old_one_says_no_more() {
    let (supervisor, mut sidecar, _folder) = supervised(|command| {
        command.env("WATCHDOG_USEC", "1000000");
    });
    supervisor.hears("READY=1");
    supervisor.forget();
    // By hand, so without the supervisor's variables: the old process knows them.
    let mut old = sidecar.upgrade();
    let main = format!("MAINPID={}", sidecar.child.id());
    supervisor.hears(&main);
    supervisor.hears("READY=1");
    assert!(exit_within(&mut old, SOON).is_some());
    let told = supervisor.said().len();
    eventually("the new one feeds the watchdog", SOON, || {
        supervisor.said()[told..]
            .iter()
            .any(|it| it == "WATCHDOG=1")
    });
    let said = supervisor.said();
    let place = |line: &str| said.iter().position(|it| it.lines().any(|it| it == line));
    assert!(place(&main) < place("READY=1"), "{said:?}");
    assert_eq!(place("STOPPING=1"), None, "{said:?}");
    signal(&sidecar.child, "TERM");
    supervisor.hears("STOPPING=1");
}
