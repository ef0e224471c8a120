//! Edits of the merchants' file, however they are saved: in force soon or refused whole. Seen from the platform's side:
//! under which key the next query is signed.

use crate::harness::{
    KEY, MERID, ORDERID, OTHER_KEY, OTHER_MERID, Setup, Sidecar, eventually, merchant, query_json,
    signal,
};
use crate::platform::{Action, Platform, honest_answer, unsigned};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// From a save to its effect, at most.
const SOON: Duration = Duration::from_secs(2);

fn new_key(n: usize) -> String {
    format!("a0b1c2d3e4f5a6b7c8d9e0f1a2b3{n:04}")
}

/// Takes the first key and all new ones.
fn platform() -> Platform {
    Platform::start(|seen| {
        let keys = (0..20).map(new_key).chain([KEY.to_owned()]);
        let key = keys.into_iter().find(|key| seen.is_signed_with(key));
        Action::Reply(match key {
            Some(key) => honest_answer(seen, &key),
            None => unsigned("97", "no such key"),
        })
    })
}

fn entry(key: &str) -> String {
    merchant(MERID, key)
}

/// Asks once; whether that was signed with this key. The call must succeed either way.
#[track_caller]
fn is_in_force(platform: &Platform, sidecar: &Sidecar, key: &str) -> bool {
    let answer = sidecar.query(query_json(MERID, ORDERID));
    assert_eq!(answer.status, 200, "{}", answer.text());
    platform.last().is_signed_with(key)
}

#[track_caller]
fn comes_into_force(how: &str, platform: &Platform, sidecar: &Sidecar, key: &str) {
    eventually(how, SOON, || is_in_force(platform, sidecar, key));
}

#[test]
fn every_way_to_save_a_file_comes_into_force() {
    let platform = platform();
    let sidecar = Sidecar::before(&platform);
    let path = sidecar.merchants_file().to_owned();
    let beside = |name: &str| path.with_file_name(name);
    assert!(is_in_force(&platform, &sidecar, KEY));

    let by_rename = |text: String| {
        fs::write(beside("new.toml"), text).unwrap();
        fs::rename(beside("new.toml"), &path).unwrap();
    };
    let in_place = |text: String| fs::write(&path, text).unwrap();
    let as_vim_does = |text: String| {
        fs::rename(&path, beside("merchants.toml~")).unwrap();
        fs::write(beside("4913"), "").unwrap();
        fs::remove_file(beside("4913")).unwrap();
        fs::write(&path, text).unwrap();
        fs::remove_file(beside("merchants.toml~")).unwrap();
    };
    let removed_and_written = |text: String| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
    };
    let with_a_link = |text: String| {
        fs::write(beside("elsewhere.toml"), text).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere.toml", &path).unwrap();
    };
    let through_the_link = |text: String| fs::write(beside("elsewhere.toml"), text).unwrap();
    let ways: [(&str, &dyn Fn(String)); 6] = [
        ("by rename", &by_rename),
        ("in place", &in_place),
        ("as vim does", &as_vim_does),
        ("removed and written", &removed_and_written),
        ("with a link", &with_a_link),
        ("through the link", &through_the_link),
    ];
    for (n, (how, save)) in ways.into_iter().enumerate() {
        save(entry(&new_key(n)));
        comes_into_force(how, &platform, &sidecar, &new_key(n));
    }
}

#[test]
fn an_edit_that_keeps_size_and_time_is_noticed() {
    let platform = platform();
    let sidecar = Sidecar::before(&platform);
    let path = sidecar.merchants_file();
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let file = File::options().write(true).open(path).unwrap();
    (&file).write_all(entry(&new_key(1)).as_bytes()).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    eventually("hashed", Duration::from_secs(7), || {
        is_in_force(&platform, &sidecar, &new_key(1))
    });
}

/// A folder as Kubernetes mounts a ConfigMap: the file is a link into `..data`, itself a link that is swapped.
fn mount(folder: &Path, version: usize, text: &str) {
    let data = folder.join(format!("..version{version}"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("merchants.toml"), text).unwrap();
    std::os::unix::fs::symlink(data.file_name().unwrap(), folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    if version > 0 {
        fs::remove_dir_all(folder.join(format!("..version{}", version - 1))).unwrap();
    }
}

#[test]
fn a_config_map_s_swap_comes_into_force() {
    let platform = platform();
    let url = platform.url();
    let setup = Setup::new(|conf| {
        conf.platform = url;
        conf.merchants_file = "merchants.toml";
    });
    let folder = setup.folder.path().to_owned();
    fs::remove_file(&setup.merchants_file).unwrap();
    mount(&folder, 0, &entry(KEY));
    std::os::unix::fs::symlink("..data/merchants.toml", &setup.merchants_file).unwrap();
    let sidecar = setup.start();
    assert!(is_in_force(&platform, &sidecar, KEY));
    for version in 1..=3 {
        mount(&folder, version, &entry(&new_key(version)));
        comes_into_force("swap", &platform, &sidecar, &new_key(version));
    }
}

#[test]
fn a_slow_writer_s_half_file_is_never_in_force() {
    let platform = platform();
    let url = platform.url();
    let two = |key: &str| {
        let end = "[end]\nmerchants = 2\n";
        format!("{}{}{end}", merchant(OTHER_MERID, OTHER_KEY), entry(key))
    };
    let first = two(KEY);
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = first;
    });
    let mut file = File::create(sidecar.merchants_file()).unwrap();
    let text = two(&new_key(7));
    // Each pause is longer than the quiet that the watcher waits for, so it does look at the halves.
    for piece in text.as_bytes().chunks(text.len().div_ceil(4)) {
        let until = Instant::now() + Duration::from_millis(450);
        while Instant::now() < until {
            assert!(
                is_in_force(&platform, &sidecar, KEY),
                "a half file was taken"
            );
        }
        file.write_all(piece).unwrap();
    }
    drop(file);
    comes_into_force("whole", &platform, &sidecar, &new_key(7));
}

#[test]
fn a_key_file_s_edit_comes_into_force() {
    let platform = platform();
    let url = platform.url();
    let setup = Setup::new(|conf| {
        conf.platform = url;
        conf.merchants = format!("[[merchant]]\nmerid = \"{MERID}\"\nkey_file = \"one.key\"\n");
    });
    let key_file = setup.folder.path().join("one.key");
    fs::write(&key_file, KEY).unwrap();
    let sidecar = setup.start();
    assert!(is_in_force(&platform, &sidecar, KEY));
    fs::write(&key_file, format!("{}\n", new_key(1))).unwrap();
    comes_into_force("key file", &platform, &sidecar, &new_key(1));
}

#[test]
fn a_bad_edit_keeps_the_old_keys_and_says_why() {
    let platform = platform();
    let sidecar = Sidecar::before(&platform);
    let path = sidecar.merchants_file();
    let secret = new_key(9);
    let good = entry(&secret);
    let bad = [
        ("no TOML", format!("{good}]]]")),
        ("cut off", good[..good.len() - 6].to_owned()),
        ("an unknown key", format!("{good}colour = \"red\"\n")),
        ("an empty key", entry("")),
        ("no key", format!("[[merchant]]\nmerid = \"{MERID}\"\n")),
        (
            "two keys",
            format!("[[merchant]]\nmerid = \"{MERID}\"\nkey = \"{secret}\"\nkey_file = \"x\"\n"),
        ),
        ("a merchant twice", format!("{good}{good}")),
        ("a wrong end", format!("{good}[end]\nmerchants = 2\n")),
        (
            "an unset key_env",
            format!("[[merchant]]\nmerid = \"{MERID}\"\nkey_env = \"NOT_SET_ANYWHERE\"\n"),
        ),
        (
            "a missing key_file",
            format!("[[merchant]]\nmerid = \"{MERID}\"\nkey_file = \"none.key\"\n"),
        ),
        ("nothing", String::new()),
    ];
    for (name, text) in bad {
        fs::write(path, text).unwrap();
        let answer = sidecar.reload();
        assert_eq!(answer.status, 422, "{name}: {}", answer.text());
        let said = answer.text();
        assert!(said.contains("merchants.toml"), "{name}: {said}");
        assert!(!said.contains(&secret), "{name}: {said}");
        assert!(is_in_force(&platform, &sidecar, KEY), "{name}");
    }
    fs::remove_file(path).unwrap();
    assert_eq!(sidecar.reload().status, 422, "deleted");
    assert!(is_in_force(&platform, &sidecar, KEY), "deleted");
    assert_eq!(
        sidecar.admin("/readyz").status,
        200,
        "a bad file is no reason to be unready"
    );

    fs::write(path, good).unwrap();
    let answer = sidecar.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        is_in_force(&platform, &sidecar, &secret),
        "in force once the reload has answered"
    );
    let output = sidecar.output();
    assert!(!output.contains(&secret) && !output.contains(KEY));
}

#[test]
fn the_watcher_refuses_a_bad_edit_by_itself() {
    let platform = platform();
    let sidecar = Sidecar::before(&platform);
    let failures = |sidecar: &Sidecar| {
        let metrics = sidecar.metrics();
        let names = ["fail", "refuse", "reject", "error"];
        names
            .iter()
            .map(|word| metrics.sum(&["reload", word]))
            .sum::<f64>()
    };
    let before = failures(&sidecar);
    fs::write(sidecar.merchants_file(), "this is no TOML").unwrap();
    eventually("counted as a failed reload", SOON, || {
        failures(&sidecar) > before
    });
    assert!(is_in_force(&platform, &sidecar, KEY));
}

#[test]
fn sighup_reloads() {
    let platform = platform();
    let sidecar = Sidecar::before(&platform);
    fs::write(sidecar.merchants_file(), entry(&new_key(1))).unwrap();
    signal(&sidecar.child, "HUP");
    comes_into_force("SIGHUP", &platform, &sidecar, &new_key(1));
    fs::write(sidecar.merchants_file(), "broken = ").unwrap();
    signal(&sidecar.child, "HUP");
    signal(&sidecar.child, "HUP");
    eventually("the log says so", SOON, || {
        sidecar.output().contains("merchants.toml")
    });
    assert!(is_in_force(&platform, &sidecar, &new_key(1)));
}

fn many(count: usize, end: &str) -> String {
    let rest: String = (1..count)
        .map(|n| merchant(&format!("3000000{n:08}"), &format!("{n:032x}")))
        .collect();
    entry(KEY) + &rest + end
}

#[test]
fn an_edit_that_drops_most_merchants_must_say_so() {
    let platform = platform();
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = many(12, "");
    });
    fs::write(sidecar.merchants_file(), many(5, "")).unwrap();
    assert_eq!(sidecar.reload().status, 422);
    let dropped = query_json("300000000000011", ORDERID);
    // The platform does not know it, we still do.
    sidecar
        .query(&dropped)
        .problem(502, "unsigned-answer", "yes");
    fs::write(sidecar.merchants_file(), many(5, "[end]\nmerchants = 5\n")).unwrap();
    let answer = sidecar.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    sidecar
        .query(&dropped)
        .problem(422, "unknown-merchant", "no");
    assert!(is_in_force(&platform, &sidecar, KEY));
}

#[test]
fn a_call_under_way_keeps_the_key_it_began_with() {
    let platform = Platform::start(|seen| {
        let bytes = honest_answer(seen, KEY);
        match seen.member("orderid").as_str() {
            "SLOW000001" => Action::Late(bytes, Duration::from_millis(700)),
            _ => Action::Reply(bytes),
        }
    });
    let sidecar = Sidecar::before(&platform);
    let address = sidecar.app();
    let slow = thread::spawn(move || {
        crate::client::post(address, "/api/query", query_json(MERID, "SLOW000001"))
    });
    platform.wait_for(1);
    fs::write(sidecar.merchants_file(), entry(&new_key(1))).unwrap();
    assert_eq!(sidecar.reload().status, 200);
    sidecar
        .query(query_json(MERID, ORDERID))
        .problem(502, "bad-signature", "yes");
    assert_eq!(slow.join().unwrap().status, 200);
}

/// Seconds of processor time that a process has used (proc_pid_stat(5), fields 14 and 15).
fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u32 = [11, 12]
        .map(|at| fields[at].parse::<u32>().unwrap())
        .iter()
        .sum();
    f64::from(ticks) / 100.0
}

#[test]
fn ten_thousand_idle_key_files_cost_next_to_nothing() {
    let platform = platform();
    let url = platform.url();
    let setup = Setup::new(|conf| {
        conf.platform = url;
        let other =
            |n| format!("[[merchant]]\nmerid = \"4{n:014}\"\nkey_file = \"keys/{n}.key\"\n");
        conf.merchants =
            format!("[[merchant]]\nmerid = \"{MERID}\"\nkey_file = \"keys/own.key\"\n")
                + &(0..10_000).map(other).collect::<String>();
    });
    let keys = setup.folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("own.key"), KEY).unwrap();
    for n in 0..10_000 {
        fs::write(keys.join(format!("{n}.key")), format!("{n:032x}")).unwrap();
    }
    let sidecar = setup.start();
    assert!(is_in_force(&platform, &sidecar, KEY));
    // Files that were just written are read again, until their time stamps tell writes apart.
    thread::sleep(Duration::from_secs(8));
    let (before, began) = (processor_time(sidecar.child.id()), Instant::now());
    thread::sleep(Duration::from_secs(20));
    let share = (processor_time(sidecar.child.id()) - before) / began.elapsed().as_secs_f64();
    // The goal is 1 % of a core for a release build; this one is not optimised.
    assert!(share < 0.05, "{share}");
    fs::write(keys.join("own.key"), new_key(3)).unwrap();
    // A build that is not optimised takes seconds to read all of them.
    eventually("one of many key files", Duration::from_secs(30), || {
        is_in_force(&platform, &sidecar, &new_key(3))
    });
}
