//! Signals and exit codes: what ends the process and how, what only an edit mends, and that `check` agrees with `run`.

use crate::client::fetch;
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, command, eventually, exit_within, free_port, is_installed,
    merchant, query_json, signal, skip,
};
use crate::platform::Platform;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn check(setup: &Setup, more: &[&str]) -> Output {
    let mut check = command();
    check
        .args(["check", "-c"])
        .arg(setup.conf_file())
        .args(more);
    check.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What the folder holds, by name.
fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn check_and_run_end_alike_and_check_creates_nothing() {
    type Break = fn(&Setup);
    let cases: [(&str, i32, Break); 5] = [
        ("a folder that is not there yet", 75, |setup| {
            let conf = fs::read_to_string(setup.conf_file()).unwrap();
            let conf = conf.replace("countersign.db", "late/countersign.db");
            fs::write(setup.conf_file(), conf).unwrap();
        }),
        ("a folder in place of the store", 75, |setup| {
            fs::create_dir(setup.store()).unwrap()
        }),
        ("junk in place of the store", 78, |setup| {
            fs::write(
                setup.store(),
                "this is no store at all, but some hundred bytes of text\n".repeat(40),
            )
            .unwrap();
        }),
        ("a key that is a template", 78, |setup| {
            let conf = fs::read_to_string(setup.conf_file()).unwrap();
            fs::write(
                setup.conf_file(),
                conf.replace("http://127.0.0.1:9", "https://pay.example.com"),
            )
            .unwrap();
            fs::write(&setup.merchants_file, merchant(MERID, "${PAY_KEY}")).unwrap();
        }),
        ("an address of another machine", 75, |setup| {
            let conf = fs::read_to_string(setup.conf_file()).unwrap();
            let other = format!("203.0.113.1:{}", setup.app.port());
            fs::write(
                setup.conf_file(),
                conf.replacen(&setup.app.to_string(), &other, 1),
            )
            .unwrap();
        }),
    ];
    for (name, code, break_it) in cases {
        let setup = Setup::new(|_| {});
        break_it(&setup);
        let before = listing(setup.folder.path());
        let checked = check(&setup, &[]);
        assert_eq!(
            checked.status.code(),
            Some(code),
            "{name}: {}",
            text(&checked)
        );
        assert_eq!(listing(setup.folder.path()), before, "{name}");
        let (ran, said) = setup.refused(SOON);
        assert_eq!(ran, Some(code), "{name}: {said}");
    }
}

#[test]
fn check_is_content_with_what_the_running_sidecar_holds_and_with_nothing_else() {
    let setup = Setup::new(|_| {});
    let before = listing(setup.folder.path());
    let checked = check(&setup, &[]);
    assert!(checked.status.success(), "{}", text(&checked));
    assert_eq!(listing(setup.folder.path()), before);
    let mut sidecar = setup.start();
    let checked = check(&sidecar.setup, &[]);
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(
        !sidecar.output().contains("the upgrade failed"),
        "{}",
        sidecar.output()
    );
    // The same store under other settings, which name other addresses.
    let other = sidecar.setup.folder.path().join("other.toml");
    let mut conf = fs::read_to_string(sidecar.setup.conf_file()).unwrap();
    for address in [sidecar.setup.app, sidecar.setup.admin] {
        conf = conf.replace(&address.to_string(), &format!("127.0.0.1:{}", free_port()));
    }
    fs::write(&other, conf).unwrap();
    let mut foreign = command();
    let output = foreign.args(["check", "-c"]).arg(&other).output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    assert!(
        text(&output).contains(&sidecar.child.id().to_string()),
        "{}",
        text(&output)
    );
    assert!(foreign.arg("--files").output().unwrap().status.success());
    // An upgrade still finds the process that was looked at.
    let mut old = sidecar.upgrade();
    assert!(exit_within(&mut old, SOON).is_some());
}

#[test]
fn an_unknown_variable_is_called_out_and_a_key_s_own_is_not() {
    let setup = Setup::new(|conf| {
        conf.merchants =
            format!("[[merchant]]\nmerid = \"{MERID}\"\nkey_env = \"COUNTERSIGN_KEY_OF_A\"\n");
    });
    let mut check = command();
    check
        .args(["check", "--files", "-c"])
        .arg(setup.conf_file())
        .env("COUNTERSIGN_KEY_OF_A", KEY)
        .env("COUNTERSIGN_PLATFROM_URL", "https://pay.example.com");
    let output = check.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(
        said.contains("COUNTERSIGN_PLATFROM_URL")
            && said.contains("did you mean COUNTERSIGN_PLATFORM_URL?"),
        "{said}"
    );
    assert!(!said.contains("COUNTERSIGN_KEY_OF_A: "), "{said}");
}

#[test]
fn both_families_listen_on_one_port() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return skip("IPv4 and IPv6 on one port", "this machine has no IPv6");
    }
    let port = free_port();
    let setup = Setup::new(|conf| {
        conf.callbacks = Some(String::new());
    });
    let conf = fs::read_to_string(setup.conf_file()).unwrap();
    let both = format!("listen = [\"0.0.0.0:{port}\", \"[::]:{port}\"]");
    let conf = conf.replace(
        &format!("listen = [\"{}\"]\npublic_url", setup.callbacks),
        &format!("{both}\npublic_url"),
    );
    assert!(conf.contains(&both), "{conf}");
    fs::write(setup.conf_file(), conf).unwrap();
    let checked = check(&setup, &[]);
    assert!(checked.status.success(), "{}", text(&checked));
    let sidecar = setup.start();
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert!(
            fetch(address.parse().unwrap(), "/notify/back").is_ok(),
            "{address}"
        );
    }
    assert!(check(&sidecar.setup, &[]).status.success());
}

#[test]
fn signals_do_what_their_names_promise() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let mut sidecar = Sidecar::before(&platform);
    signal(&sidecar.child, "USR1");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    signal(&sidecar.child, "QUIT");
    let status = exit_within(&mut sidecar.child, SOON);
    assert_eq!(
        status.and_then(|it| it.code()),
        Some(0),
        "{}",
        sidecar.output()
    );
}

#[test]
fn a_hangup_at_any_moment_of_the_start_ends_nothing() {
    for pause in [1, 3, 8, 20] {
        let setup = Setup::new(|_| {});
        let child = setup.spawn();
        thread::sleep(Duration::from_millis(pause));
        // Only what has come to its own code can catch a signal: execve(2) itself takes a moment.
        let caught = || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:\t"));
            mask.is_some_and(|mask| u64::from_str_radix(mask, 16).unwrap() & 1 != 0)
        };
        eventually("SIGHUP is caught", SOON, caught);
        signal(&child, "HUP");
        let sidecar = Sidecar { setup, child };
        eventually("ready", SOON, || sidecar.output().contains(" ready"));
    }
}

fn serves(sidecar: &Sidecar, pid: u32) -> bool {
    fetch(sidecar.setup.admin, "/readyz").is_ok_and(|it| it.status == 200)
        && sidecar.child.id() != pid
}

#[test]
fn sigusr2_puts_the_next_process_in_place_with_the_same_arguments() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let mut sidecar = Sidecar::before(&platform);
    let first = sidecar.child.id();
    signal(&sidecar.child, "USR2");
    let status = exit_within(&mut sidecar.child, SOON);
    assert_eq!(
        status.and_then(|it| it.code()),
        Some(0),
        "{}",
        sidecar.output()
    );
    assert!(!serves(&sidecar, first), "the child's id is the old one's");
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    // Nobody is the next one's parent: it is found by what it says.
    let output = sidecar.output();
    let pid = output.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("another process takes over pid=")?;
        rest.split_whitespace().next()?.parse::<i32>().ok()
    });
    let pid = pid.unwrap_or_else(|| panic!("{output}"));
    let ended = Command::new("kill").arg(pid.to_string()).status().unwrap();
    assert!(ended.success());
    eventually("the next process ends too", SOON, || {
        fetch(sidecar.setup.admin, "/livez").is_err()
    });
}

/// A sidecar that is process 1 of its own namespace, as in a container.
fn in_a_container(setup: &Setup) -> Option<Child> {
    if !is_installed("unshare") {
        return None;
    }
    let run = setup.command();
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-pf", "--kill-child", "--mount-proc"])
        .arg(run.get_program())
        .args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    unshare
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

#[test]
fn an_upgrade_that_would_end_with_the_old_process_is_rejected() {
    let setup = Setup::new(|_| {});
    let Some(mut container) = in_a_container(&setup) else {
        return skip("an upgrade in a container", "unshare is not installed");
    };
    let is_ready = || fetch(setup.admin, "/readyz").is_ok_and(|answer| answer.status == 200);
    while !is_ready() {
        if container.try_wait().unwrap().is_some() {
            return skip(
                "an upgrade in a container",
                "this machine makes no namespace of processes",
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    let (code, said) = setup.refused_to(setup.command().arg("--upgrade"), SOON);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("process 1"), "{said}");
    assert!(is_ready());
    // What it holds is no problem for a check, though it would not hand it over.
    let checked = check(&setup, &[]);
    assert!(checked.status.success(), "{}", text(&checked));
    container.kill().unwrap();
    container.wait().unwrap();
}

#[test]
fn settings_behind_a_link_that_was_turned_are_still_the_same_settings() {
    let setup = Setup::new(|_| {});
    let folder = setup.folder.path().to_owned();
    for version in ["v1", "v2"] {
        let own = folder.join(version);
        fs::create_dir(&own).unwrap();
        let conf = fs::read_to_string(setup.conf_file()).unwrap();
        fs::write(own.join("countersign.toml"), conf).unwrap();
        fs::copy(&setup.merchants_file, own.join("merchants.toml")).unwrap();
    }
    symlink("v1", folder.join("current")).unwrap();
    let run = |more: &[&str]| {
        let mut through = command();
        through
            .args(["run", "-c"])
            .arg(folder.join("current/countersign.toml"))
            .args(more);
        through.stdin(Stdio::null()).stderr(Stdio::null());
        through.spawn().unwrap()
    };
    let is_ready = || fetch(setup.admin, "/readyz").is_ok_and(|answer| answer.status == 200);
    let mut first = run(&[]);
    eventually("ready", SOON, is_ready);
    symlink("v2", folder.join("next")).unwrap();
    fs::rename(folder.join("next"), folder.join("current")).unwrap();
    let mut second = run(&["--upgrade"]);
    let ended = exit_within(&mut first, SOON);
    drop(first.kill());
    assert_eq!(ended.and_then(|it| it.code()), Some(0));
    assert!(is_ready() && second.try_wait().unwrap().is_none());
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn an_old_process_that_is_killed_and_not_reaped_leaves_the_new_one_serving() {
    for _ in 0..5 {
        let platform = Platform::honest(&[(MERID, KEY)]);
        let mut sidecar = Sidecar::before(&platform);
        let mut new = sidecar.setup.command().arg("--upgrade").spawn().unwrap();
        eventually("the new one has taken over what it needs", SOON, || {
            sidecar.output().contains("taking over") || new.try_wait().unwrap().is_some()
        });
        // Killed and left as a zombie: nobody waits for it before the new one is looked at.
        signal(&sidecar.child, "KILL");
        let is_served =
            || fetch(sidecar.setup.admin, "/readyz").is_ok_and(|answer| answer.status == 200);
        eventually("the new one serves", SOON, is_served);
        thread::sleep(Duration::from_millis(300));
        assert!(new.try_wait().unwrap().is_none(), "{}", sidecar.output());
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        std::mem::swap(&mut sidecar.child, &mut new);
        new.wait().unwrap();
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let setup = Setup::new(|conf| {
        let many = |n| merchant(&format!("3{n:014}"), &format!("{n:032x}a0b1c2"));
        conf.merchants = (0..2_000).map(many).collect();
    });
    let mut child = command()
        .args(["check", "--files", "-c"])
        .arg(setup.conf_file())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(!line.is_empty());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains("panicked"), "{}", text(&output));
}

#[test]
fn healthcheck_is_the_readiness_of_the_running_sidecar() {
    let setup = Setup::new(|_| {});
    let ask = |setup: &Setup| {
        let mut ask = command();
        ask.args(["healthcheck", "-c"]).arg(setup.conf_file());
        ask.output().unwrap()
    };
    let down = ask(&setup);
    assert_eq!(down.status.code(), Some(1), "{}", text(&down));
    assert!(
        text(&down).contains(&setup.admin.to_string()),
        "{}",
        text(&down)
    );
    let sidecar = setup.start();
    let up = ask(&sidecar.setup);
    assert_eq!((up.status.code(), text(&up).as_str()), (Some(0), "ready\n"));
}
