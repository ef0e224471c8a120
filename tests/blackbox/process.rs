//! The process as its host sees it: nothing of its memory reaches a disk, and a crowd that says nothing blinds nobody.

use crate::client;
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, binary, command, eventually, query_json, skip,
};
use crate::platform::Platform;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nobody, where the tests run as root: root may read every process.
const STRANGER: u32 = 65_534;

/// A limit of the process, soft and hard.
fn limits(sidecar: &Sidecar, name: &str) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", sidecar.child.id())).unwrap();
    let found = limits.lines().find_map(|line| line.strip_prefix(name));
    let values = found.unwrap_or_else(|| panic!("{limits}"));
    let values = values.split_whitespace().take(2);
    values.map(str::to_owned).collect()
}

/// A sidecar whose shell did something to itself first.
fn start_after(preparation: &str) -> Sidecar {
    let setup = Setup::new(|_| {});
    let child = Command::new("sh")
        .arg("-c")
        .arg(format!("{preparation} && exec \"$0\" run -c \"$1\""))
        .arg(binary())
        .arg(setup.conf_file())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sidecar = Sidecar { setup, child };
    ready(&sidecar);
    sidecar
}

#[test]
fn no_core_is_dumped() {
    let sidecar = Sidecar::start(|_| {});
    assert_eq!(limits(&sidecar, "Max core file size"), ["0", "0"]);
}

#[test]
fn the_limit_on_descriptors_is_raised_as_far_as_it_may_be() {
    let sidecar = start_after("ulimit -S -n 256");
    let limits = limits(&sidecar, "Max open files");
    assert_ne!(limits[0], "256");
    assert_eq!(limits[0], limits[1]);
}

/// Who owns the memory of a process: its own user, or root where it may not be dumped.
fn owner_of_memory(child: &Child) -> u32 {
    let path = format!("/proc/{}/mem", child.id());
    fs::metadata(path).unwrap().uid()
}

#[test]
fn nobody_without_privileges_may_read_its_memory() {
    let setup = Setup::new(|_| {});
    let folder = setup.folder.path();
    let mut run = command();
    let mut other = Command::new("sleep");
    let own = fs::metadata("/proc/self").unwrap().uid();
    let user = if own == 0 {
        chown(folder, Some(STRANGER), None).unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            chown(entry.unwrap().path(), Some(STRANGER), None).unwrap();
        }
        run.uid(STRANGER);
        other.uid(STRANGER);
        STRANGER
    } else {
        own
    };
    let run = run
        .args(["run", "-c"])
        .arg(setup.conf_file())
        .stderr(Stdio::null())
        .spawn();
    let child = match run {
        Ok(child) => child,
        Err(error) => {
            return skip(
                "not dumpable",
                &format!("another user cannot run it: {error}"),
            );
        }
    };
    let sidecar = Sidecar { setup, child };
    ready(&sidecar);
    let mut other = other.arg("60").spawn().unwrap();
    eventually("it has begun", Duration::from_secs(5), || {
        fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap() == "sleep\n"
    });
    let owners = (owner_of_memory(&other), owner_of_memory(&sidecar.child));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(owners, (user, 0));
}

fn ready(sidecar: &Sidecar) {
    let admin = sidecar.setup.admin;
    eventually("ready", Duration::from_secs(10), || {
        client::fetch(admin, "/readyz").is_ok_and(|answer| answer.status == 200)
    });
}

const SILENT: usize = 1_200;

/// Opens so many connections to the app's listener that say nothing, fewer where no more are taken, and waits until the
/// sidecar has them.
fn crowd(sidecar: &Sidecar) -> Vec<TcpStream> {
    let address = sidecar.app();
    let open = |_| TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
    let crowd = (0..SILENT).map_while(open).collect();
    let folder = format!("/proc/{}/fd", sidecar.child.id());
    let descriptors = || fs::read_dir(&folder).unwrap().count();
    let mut last = (descriptors(), Instant::now());
    eventually("no more come", Duration::from_secs(5), || {
        let now = descriptors();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(200)
    });
    crowd
}

/// Descriptors for a crowd on our side; says so where there are too few.
fn may_open_a_crowd(test: &str) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let needed = SILENT as u64 + 1_000;
    let enough = limit.maximum.is_none_or(|maximum| maximum >= needed)
        && setrlimit(Resource::Nofile, raised).is_ok();
    if !enough {
        skip(test, "too few descriptors for 1,200 connections");
    }
    enough
}

#[track_caller]
fn ops_are_answered(sidecar: &Sidecar) {
    for path in ["/livez", "/readyz", "/metrics", "/livez"] {
        let began = Instant::now();
        assert_eq!(sidecar.admin(path).status, 200, "{path}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{path}: {took:?}");
    }
}

#[test]
fn twelve_hundred_silent_connections_blind_neither_ops_nor_the_app() {
    if !may_open_a_crowd("1,200 silent connections") {
        return;
    }
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let crowd = crowd(&sidecar);
    assert_eq!(crowd.len(), SILENT);
    ops_are_answered(&sidecar);
    let began = Instant::now();
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn where_descriptors_are_scarce_a_crowd_still_leaves_some_for_ops() {
    if !may_open_a_crowd("1,200 silent connections and 1,024 descriptors") {
        return;
    }
    let sidecar = start_after("ulimit -n 1024");
    let crowd = crowd(&sidecar);
    assert!(crowd.len() > 500, "{}", crowd.len());
    ops_are_answered(&sidecar);
}
