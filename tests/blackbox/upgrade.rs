//! `run --upgrade`: a new process takes the place of the running one, and nobody outside notices.

use crate::client::{self, Connection, post_bytes};
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, eventually, exit_within, query_json, signal, skip,
};
use crate::platform::{Action, Platform, honest_answer, honestly};
use crate::public_port::{certify, notify_tls};
use crate::shop::{Payment, SOON, Shop, acknowledged, taken};
use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[track_caller]
fn ends(sidecar: &Sidecar, mut old: Child, patience: Duration) {
    let status = exit_within(&mut old, patience);
    let code = status.and_then(|it| it.code());
    assert_eq!(code, Some(0), "{}", sidecar.output());
}

/// Where a process waits for the one that replaces it, where no runtime directory is named.
fn handover_folder(setup: &Setup) -> PathBuf {
    setup.folder.path().join(".countersign")
}

/// The socket that it waits at, once it is there.
fn handover_socket(setup: &Setup) -> PathBuf {
    let folder = handover_folder(setup);
    let socket = || Some(fs::read_dir(&folder).ok()?.next()?.ok()?.path());
    eventually("the socket is there", SOON, || socket().is_some());
    socket().unwrap()
}

#[test]
fn every_listener_is_handed_over_and_the_old_process_ends() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let app = Platform::start(|_| taken());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let setup = Shop::setup(&platform, &app.url(), |conf| {
        conf.listen = vec![format!("unix:{}", path.display())];
        conf.callbacks = Some("tls = { cert = \"cert.pem\", key = \"key.pem\" }".to_owned());
    });
    let certificate = certify(setup.folder.path());
    let mut sidecar = setup.start();
    // A process that took over is taken over from in its turn.
    for round in 0..3 {
        let old = sidecar.upgrade();
        let query = post_bytes("/api/query", &[], query_json(MERID, ORDERID));
        let mut connection = Connection::open_unix(&path).unwrap();
        assert_eq!(connection.exchange(&query).unwrap().status, 200);
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        let form = Payment::of(&format!("UPGRADE{round:04}")).form();
        let answer = notify_tls(&sidecar.setup, &certificate, &form).unwrap();
        assert!(answer.ends_with("\r\n\r\n0000"), "{answer}");
        assert_eq!(sidecar.admin("/readyz").status, 200);
        ends(&sidecar, old, SOON);
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        // Only the new process is there to deliver it by now.
        app.wait_for(round + 1);
    }
    signal(&sidecar.child, "TERM");
    let status = exit_within(&mut sidecar.child, SOON);
    assert_eq!(status.and_then(|it| it.code()), Some(0));
    assert!(!path.exists(), "the socket's file is left behind");
}

#[test]
fn a_call_in_flight_is_finished_by_the_old_process_while_the_new_one_answers_others() {
    const SLOW: &str = "SLOWORDER001";
    let honest = honestly(&[(MERID, KEY)]);
    let platform = Platform::start(move |seen| match seen.member("orderid").as_str() {
        SLOW => Action::Late(honest_answer(seen, KEY), Duration::from_secs(4)),
        _ => honest(seen),
    });
    let mut sidecar = Sidecar::before(&platform);
    let address = sidecar.app();
    let slow = thread::spawn(move || client::post(address, "/api/query", query_json(MERID, SLOW)));
    platform.wait_for(1);
    let mut old = sidecar.upgrade();
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    let ended = old.try_wait().unwrap();
    assert!(ended.is_none(), "a call is in flight");
    assert_eq!(slow.join().unwrap().status, 200);
    ends(&sidecar, old, SOON);
}

#[test]
fn an_upgrade_takes_other_settings_up() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let mut sidecar = Sidecar::before(&platform);
    let more = SocketAddr::from(([127, 0, 0, 1], crate::harness::free_port()));
    let file = sidecar.setup.conf_file();
    let text = fs::read_to_string(&file).unwrap();
    let app = sidecar.app();
    let both = text.replace(&format!("\"{app}\""), &format!("\"{app}\", \"{more}\""));
    fs::write(&file, both).unwrap();
    let old = sidecar.upgrade();
    for address in [app, more] {
        let answer = client::post(address, "/api/query", query_json(MERID, ORDERID));
        assert_eq!(answer.status, 200, "{address}");
    }
    ends(&sidecar, old, SOON);
    fs::write(&file, text).unwrap();
    let old = sidecar.upgrade();
    ends(&sidecar, old, SOON);
    assert!(Connection::open(more).is_err(), "still open");
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
}

#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_alone() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let mut sidecar = Sidecar::before(&platform);
    let file = sidecar.setup.conf_file();
    let good = fs::read_to_string(&file).unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = busy.local_addr().unwrap().to_string();
    let app = sidecar.app();
    let missing = sidecar.setup.folder.path().join("nowhere/ca.pem");
    for (settings, said) in [
        (good.replace("timeout =", "timeuot ="), "timeuot"),
        (
            good.replace(&format!("\"{app}\""), &format!("\"{app}\", \"{taken}\"")),
            taken.as_str(),
        ),
        (
            good.replace("[platform]", &format!("[platform]\nca_file = {missing:?}")),
            "ca.pem",
        ),
    ] {
        assert_ne!(settings, good);
        fs::write(&file, settings).unwrap();
        let mut command = sidecar.setup.command();
        let (code, output) = sidecar
            .setup
            .refused_to(command.arg("--upgrade"), Duration::from_secs(10));
        let expected = if said == taken { 75 } else { 78 };
        assert_eq!(code, Some(expected), "{output}");
        assert!(output.contains(said), "{said}: {output}");
        for _ in 0..5 {
            assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        }
    }
    fs::write(&file, good).unwrap();
    let old = sidecar.upgrade();
    ends(&sidecar, old, SOON);
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
}

#[track_caller]
fn upgrade_is_refused(setup: &Setup, words: &[&str]) {
    let mut command = setup.command();
    let (code, output) = setup.refused_to(command.arg("--upgrade"), Duration::from_secs(10));
    assert_eq!(code, Some(78), "{output}");
    for word in words {
        assert!(output.contains(word), "{word}: {output}");
    }
}

#[test]
fn without_a_running_process_an_upgrade_says_so_and_starts_nothing() {
    let mut sidecar = Sidecar::start(|_| {});
    let store = sidecar.setup.store().display().to_string();
    sidecar.kill();
    upgrade_is_refused(&sidecar.setup, &["nothing to take over", &store]);
    let fresh = Setup::new(|_| {});
    upgrade_is_refused(&fresh, &["nothing to take over"]);
    // What the one that was killed left behind is in nobody's way.
    sidecar.restart();
    let old = sidecar.upgrade();
    ends(&sidecar, old, SOON);
}

#[test]
fn a_process_with_another_settings_file_is_not_replaced() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let other = sidecar.setup.folder.path().join("other.toml");
    fs::copy(sidecar.setup.conf_file(), &other).unwrap();
    let mut command = crate::harness::command();
    command.args(["run", "--upgrade", "-c"]).arg(&other);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    for word in [
        "other.toml",
        "countersign.toml",
        &sidecar.child.id().to_string(),
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
}

#[test]
fn the_place_of_the_handover_is_its_owner_s_alone() {
    let sidecar = Sidecar::start(|_| {});
    let (setup, folder) = (&sidecar.setup, handover_folder(&sidecar.setup));
    eventually("the folder is there", SOON, || folder.exists());
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{mode:o}");
    let shown = folder.display().to_string();
    fs::set_permissions(&folder, Permissions::from_mode(0o770)).unwrap();
    upgrade_is_refused(setup, &[&shown, "0700"]);
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    match chown(&folder, Some(65_534), None) {
        Ok(()) => upgrade_is_refused(setup, &[&shown, "user 65534"]),
        Err(error) => skip(
            "somebody else's folder",
            &format!("it cannot be given away: {error}"),
        ),
    }
    assert_eq!(sidecar.admin("/readyz").status, 200);
}

#[test]
fn a_runtime_directory_is_where_the_processes_meet() {
    for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"] {
        let runtime = tempfile::tempdir().unwrap();
        let setup = Setup::new(|_| {});
        let command = || {
            let mut command = setup.command();
            command.env(name, runtime.path());
            command
        };
        let (first, mut second) = (command().spawn().unwrap(), command());
        let folder = handover_folder(&setup);
        let mut sidecar = Sidecar {
            setup,
            child: first,
        };
        eventually("ready", SOON, || sidecar.output().contains(" ready"));
        let old = sidecar.upgrade_by(&mut second);
        ends(&sidecar, old, SOON);
        assert!(!folder.exists(), "{name}");
        let below = fs::read_dir(runtime.path()).unwrap().count();
        assert_eq!(below, 1, "{name}");
    }
}

#[test]
fn who_asks_for_the_listeners_and_then_does_not_serve_changes_nothing() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let mut sidecar = Sidecar::before(&platform);
    let socket = handover_socket(&sidecar.setup);
    for words in [&b""[..], b"serving", b"something else\n"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(words).unwrap();
        // What is offered says nothing that is a secret.
        let mut offer = [0; 4096];
        let length = stream.read(&mut offer).unwrap();
        let offer = String::from_utf8_lossy(&offer[..length]).into_owned();
        assert!(
            offer.contains("listeners") && !offer.contains(KEY),
            "{offer}"
        );
        drop(stream);
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    }
    let old = sidecar.upgrade();
    ends(&sidecar, old, SOON);
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
}

#[test]
fn a_new_process_that_ended_before_the_old_one_heard_that_it_serves_changes_nothing() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let mut sidecar = Sidecar::before(&platform);
    let mut new = UnixStream::connect(handover_socket(&sidecar.setup)).unwrap();
    let mut offer = [0; 4096];
    assert!(new.read(&mut offer).unwrap() > 0);
    // The old one is out of breath for longer than the new one waits.
    signal(&sidecar.child, "STOP");
    let tasks = format!("/proc/{}/task", sidecar.child.id());
    eventually("every thread has stopped", SOON, || {
        let stats = fs::read_dir(&tasks).unwrap().filter_map(|task| {
            let stat = task.unwrap().path().join("stat");
            fs::read_to_string(stat).ok()
        });
        stats.into_iter().all(|stat| stat.contains(") T "))
    });
    new.write_all(b"serving\n").unwrap();
    drop(new);
    signal(&sidecar.child, "CONT");
    eventually("the old process goes on", SOON, || {
        sidecar.output().contains("the upgrade failed")
    });
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    let old = sidecar.upgrade();
    ends(&sidecar, old, SOON);
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
}

#[test]
fn callbacks_during_upgrades_are_all_acknowledged_and_each_is_told_once() {
    let mut shop = Shop::open();
    let orders: Vec<_> = (0..300).map(|_| shop.order()).collect();
    let (address, stop) = (shop.address(), Arc::new(AtomicBool::new(false)));
    let sent = {
        let (orders, stop) = (orders.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            let mut sent = 0;
            for orderid in &orders {
                let form = Payment::of(orderid).form();
                acknowledged(&crate::shop::callback(address, form));
                sent += 1;
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            sent
        })
    };
    for _ in 0..2 {
        let old = shop.sidecar.upgrade();
        ends(&shop.sidecar, old, SOON);
    }
    stop.store(true, Ordering::SeqCst);
    let sent = sent.join().unwrap();
    assert!(sent > 20, "{sent}");
    shop.app.wait_for(sent);
    let told: Vec<_> = shop.deliveries();
    let different: HashSet<_> = told.iter().map(|it| it.orderid()).collect();
    assert_eq!((told.len(), different.len()), (sent, sent));
    assert!(told.iter().all(|it| it.attempt == "1"), "{told:?}");
}

#[test]
fn an_attempt_under_way_is_not_made_by_both_processes_at_once() {
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, top) = (Arc::clone(&under_way), Arc::clone(&most));
    let mut shop = Shop::with(
        move |_| {
            top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1_500));
            now.fetch_sub(1, Ordering::SeqCst);
            taken()
        },
        |_| {},
    );
    let orderid = shop.order();
    acknowledged(&shop.notify(&Payment::of(&orderid)));
    shop.app.wait_for(1);
    let old = shop.sidecar.upgrade();
    ends(&shop.sidecar, old, SOON);
    shop.listed(&orderid, "delivered");
    assert_eq!((shop.app.count(), most.load(Ordering::SeqCst)), (1, 1));
}

/// Rounds of upgrading and of restarting in a run of the suite, and requests in all at least;
/// `COUNTERSIGN_UPGRADE_ROUNDS` and `COUNTERSIGN_UPGRADE_REQUESTS` ask for more.
const ROUNDS: usize = 2;
const REQUESTS: usize = 2_000;

fn asked_for(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// What callers that honour `Connection: close` met.
#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    /// Kept connections that were told to close, and on which the next call went elsewhere.
    told_to_close: AtomicUsize,
    failed: Mutex<Vec<String>>,
    /// Orders on new connections that ended before they were accepted.
    not_accepted: Mutex<Vec<String>>,
    next: AtomicUsize,
    stop: AtomicBool,
}

impl Tally {
    /// Queries until told to stop; on a new connection each time, or on one as long as it is kept.
    fn call(&self, address: SocketAddr, keeps: bool) {
        let mut kept: Option<Connection> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let orderid = format!("LOAD{:010}", self.next.fetch_add(1, Ordering::SeqCst));
            let is_new = kept.is_none();
            let mut connection = match kept.take().map_or_else(|| Connection::open(address), Ok) {
                Ok(connection) => connection,
                Err(error) => {
                    // While nobody listens, or as the listener is closed; nothing was sent.
                    match error.kind() {
                        io::ErrorKind::ConnectionRefused => {}
                        io::ErrorKind::ConnectionReset => {
                            self.not_accepted.lock().unwrap().push(orderid);
                        }
                        other => panic!("connecting: {other}"),
                    }
                    thread::sleep(Duration::from_millis(2));
                    continue;
                }
            };
            let further: &[&str] = if keeps { &[] } else { &["Connection: close"] };
            let bytes = post_bytes("/api/query", further, query_json(MERID, &orderid));
            match connection.exchange(bytes) {
                Ok(answer) if answer.status == 200 => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                    let closes = answer.header("connection") == Some("close");
                    if keeps && closes {
                        self.told_to_close.fetch_add(1, Ordering::SeqCst);
                    }
                    kept = (keeps && !closes).then_some(connection);
                }
                Err(error) if is_new && is_unread(&error) => {
                    self.not_accepted.lock().unwrap().push(orderid);
                }
                other => {
                    let mut failed = self.failed.lock().unwrap();
                    failed.push(format!("{orderid}, new: {is_new}: {other:?}"));
                }
            }
        }
    }
}

/// What a connection ends with that the listener was closed upon before it was accepted.
fn is_unread(error: &io::Error) -> bool {
    [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::UnexpectedEof,
    ]
    .contains(&error.kind())
}

#[test]
fn upgrades_and_restarts_under_load_fail_no_request() {
    let rounds = asked_for("COUNTERSIGN_UPGRADE_ROUNDS", ROUNDS);
    let requests = asked_for("COUNTERSIGN_UPGRADE_REQUESTS", REQUESTS);
    let platform = Platform::honest(&[(MERID, KEY)]);
    // A line a call is some hundred megabytes.
    let url = platform.url();
    let mut sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.log_level = "warn";
    });
    let tally = Arc::new(Tally::default());
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let (tally, address) = (Arc::clone(&tally), sidecar.app());
            thread::spawn(move || tally.call(address, n % 2 == 0))
        })
        .collect();
    let mut seen = HashSet::new();
    let mut look = || seen.extend(platform.take().iter().map(|it| it.member("orderid")));
    let answered = || tally.answered.load(Ordering::SeqCst);
    let mut load = |until: usize| {
        eventually("calls are answered", Duration::from_secs(600), || {
            look();
            answered() >= until
        });
    };
    let each = requests / (2 * rounds);
    for round in 0..rounds {
        load(round * each);
        let before = answered();
        let mut command = sidecar.setup.command();
        let old = sidecar.begin_upgrade(&mut command);
        load(before + 200);
        ends(&sidecar, old, SOON);
    }
    assert_eq!(
        *tally.not_accepted.lock().unwrap(),
        [""; 0],
        "by an upgrade"
    );
    for round in rounds..2 * rounds {
        load(round * each);
        signal(&sidecar.child, "TERM");
        let status = exit_within(&mut sidecar.child, 2 * SOON);
        assert_eq!(status.and_then(|it| it.code()), Some(0));
        sidecar.restart();
        load(answered() + 200);
    }
    load(requests);
    tally.stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.join().unwrap();
    }
    load(0);
    let failed = tally.failed.lock().unwrap();
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    // Nobody was told anything, and nothing was done.
    let not_accepted = tally.not_accepted.lock().unwrap();
    let done = not_accepted.iter().filter(|it| seen.contains(*it)).count();
    assert_eq!(done, 0, "sent on, and not answered");
    assert!(tally.told_to_close.load(Ordering::SeqCst) >= rounds);
    println!(
        "{rounds} upgrades and {rounds} restarts: {} requests answered, 0 failed; {} kept connections told to close; \
         {} new connections met a closing listener, and nothing of theirs was sent",
        answered(),
        tally.told_to_close.load(Ordering::SeqCst),
        not_accepted.len()
    );
}
