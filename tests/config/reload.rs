//! Promise I6, against the real thread and the real file system: polled until it is so, with a deadline.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use countersign::config::{LiveConfig, ReloadOutcome, Snapshot, watch};

/// Where file events work an edit takes 0.3 s; the rest is a busy machine.
const SOON: Duration = Duration::from_secs(2);
/// Polling, quiet time and a busy machine.
const AT_LAST: Duration = Duration::from_secs(12);

fn entry(n: usize, key: &str) -> String {
    format!("[[merchant]]\nmerid = \"{n}\"\nkey = \"7d0f1c0a9be84e6e8e1f-{key}-{n}\"\n")
}

fn entries(count: usize) -> String {
    (1..=count).map(|n| entry(n, "a")).collect()
}

struct Bench {
    dir: tempfile::TempDir,
    file: PathBuf,
    watch: LiveConfig,
    heard: Arc<Mutex<Vec<ReloadOutcome>>>,
}

impl Bench {
    fn new(text: &str) -> Self {
        Self::with(|dir| {
            let file = dir.join("merchants.toml");
            fs::write(&file, text).unwrap();
            file
        })
    }

    fn with(prepare: impl Fn(&Path) -> PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = prepare(dir.path());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let first = Snapshot::load(&file, &|_| None).unwrap();
        let sink = Arc::clone(&heard);
        let on_reload = move |outcome: &ReloadOutcome| sink.lock().unwrap().push(outcome.clone());
        let watch = watch(file.clone(), first, on_reload).unwrap();
        Self {
            dir,
            file,
            watch,
            heard,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn refusals(&self) -> Vec<String> {
        let refusal = |outcome: &ReloadOutcome| match outcome {
            ReloadOutcome::Refused(problems) => Some(problems.0[0].expected.clone()),
            _ => None,
        };
        self.heard
            .lock()
            .unwrap()
            .iter()
            .filter_map(refusal)
            .collect()
    }

    fn eventually(&self, within: Duration, what: &str, holds: impl Fn(&Snapshot) -> bool) {
        let deadline = Instant::now() + within;
        while !holds(&self.watch.snapshot()) {
            assert!(
                Instant::now() < deadline,
                "{what}: heard {:?}",
                self.heard.lock().unwrap()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The refusal is heard, and what was in force still is.
    fn keeps_the_old(&self, count: usize, why: &str) {
        self.eventually(AT_LAST, why, |_| !self.refusals().is_empty());
        assert!(self.refusals()[0].contains(why), "{:?}", self.refusals());
        assert_eq!(self.watch.snapshot().len(), count);
        assert!(matches!(self.watch.last().1, ReloadOutcome::Refused(_)));
    }
}

#[test]
fn edit_in_place_is_in_force_soon() {
    let bench = Bench::new(&entries(1));
    fs::write(&bench.file, entries(2)).unwrap();
    bench.eventually(SOON, "in place", |now| now.len() == 2);
    assert!(matches!(
        bench.watch.last().1,
        ReloadOutcome::Applied { added: 1, .. }
    ));
}

#[test]
fn edit_by_rename_is_in_force_soon() {
    let bench = Bench::new(&entries(1));
    for count in 2..4 {
        fs::write(bench.path("new"), entries(count)).unwrap();
        fs::rename(bench.path("new"), &bench.file).unwrap();
        bench.eventually(SOON, "rename", |now| now.len() == count);
    }
}

#[test]
fn edit_the_way_of_vim_is_in_force_soon() {
    let bench = Bench::new(&entries(1));
    fs::rename(&bench.file, bench.path("merchants.toml~")).unwrap();
    fs::write(&bench.file, entries(2)).unwrap();
    fs::remove_file(bench.path("merchants.toml~")).unwrap();
    bench.eventually(SOON, "vim", |now| now.len() == 2);
    assert_eq!(bench.refusals(), [""; 0]);
}

#[test]
fn config_map_swap_is_in_force_soon() {
    let version = |dir: &Path, name: &str, count| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("merchants.toml"), entries(count)).unwrap();
        symlink(name, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    let bench = Bench::with(|dir| {
        version(dir, "..2025_01", 1);
        symlink("..data/merchants.toml", dir.join("merchants.toml")).unwrap();
        dir.join("merchants.toml")
    });
    for (old, new, count) in [("..2025_01", "..2025_02", 2), ("..2025_02", "..2025_03", 3)] {
        version(bench.dir.path(), new, count);
        fs::remove_dir_all(bench.path(old)).unwrap();
        bench.eventually(SOON, "swap", |now| now.len() == count);
    }
}

/// The folder of the link in the middle is watched by nobody.
#[test]
fn change_without_a_file_event_is_found_by_polling() {
    let bench = Bench::with(|dir| {
        for (version, count) in [("v1", 1), ("v2", 3)] {
            fs::create_dir_all(dir.join("far").join(version)).unwrap();
            let file = dir.join("far").join(version).join("merchants.toml");
            fs::write(file, entries(count)).unwrap();
        }
        symlink("v1", dir.join("far/current")).unwrap();
        symlink(
            dir.join("far/current/merchants.toml"),
            dir.join("merchants.toml"),
        )
        .unwrap();
        dir.join("merchants.toml")
    });
    fs::write(bench.path("far/v1/merchants.toml"), entries(2)).unwrap();
    bench.eventually(AT_LAST, "the thread is there", |now| now.len() == 2);
    symlink("v2", bench.path("far/next")).unwrap();
    fs::rename(bench.path("far/next"), bench.path("far/current")).unwrap();
    bench.eventually(AT_LAST, "polling", |now| now.len() == 3);
}

#[test]
fn slow_writer_is_in_force_whole_or_not_at_all() {
    let bench = Bench::new(&entries(3));
    let mut file = File::create(&bench.file).unwrap();
    for n in 1..=12 {
        for part in entry(n, "b").as_bytes().chunks(40) {
            file.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(50));
            assert!([3, 12].contains(&bench.watch.load().len()));
        }
    }
    bench.eventually(SOON, "slow writer", |now| now.len() == 12);
    assert_eq!(bench.heard.lock().unwrap().len(), 1, "{:?}", bench.heard);
}

#[test]
fn changed_key_file_is_in_force_soon() {
    let bench = Bench::with(|dir| {
        fs::create_dir(dir.join("keys")).unwrap();
        fs::write(dir.join("keys/1.key"), "7d0f1c0a9be84e6e8e1f\r\n").unwrap();
        let file = dir.join("merchants.toml");
        fs::write(
            &file,
            "[[merchant]]\nmerid = \"1\"\nkey_file = \"keys/1.key\"\n",
        )
        .unwrap();
        file
    });
    let key = |snapshot: &Snapshot| snapshot.sole().unwrap().key.fingerprint();
    let (before, digest) = (
        key(&bench.watch.snapshot()),
        bench.watch.load().digest().to_owned(),
    );
    fs::write(bench.path("new"), "9be84e6e8e1f7d0f1c0a\n").unwrap();
    fs::rename(bench.path("new"), bench.path("keys/1.key")).unwrap();
    bench.eventually(SOON, "key file", |now| key(now) != before);
    assert_ne!(bench.watch.load().digest(), digest);
    fs::remove_file(bench.path("keys/1.key")).unwrap();
    bench.keeps_the_old(1, "no such file");
}

#[test]
fn deleted_file_keeps_the_old_merchants() {
    let bench = Bench::new(&entries(2));
    fs::remove_file(&bench.file).unwrap();
    bench.keeps_the_old(2, "no such file");
    fs::write(&bench.file, entries(3)).unwrap();
    bench.eventually(SOON, "back again", |now| now.len() == 3);
}

#[test]
fn unreadable_file_keeps_the_old_merchants() {
    let bench = Bench::new(&entries(2));
    fs::remove_file(&bench.file).unwrap();
    fs::create_dir(&bench.file).unwrap();
    bench.keeps_the_old(2, "not a regular file");
}

#[test]
fn fifo_keeps_the_old_merchants() {
    let bench = Bench::new(&entries(2));
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path("fifo"))
        .status();
    assert!(made.unwrap().success());
    fs::rename(bench.path("fifo"), &bench.file).unwrap();
    bench.keeps_the_old(2, "not a regular file");
}

#[test]
fn truncated_file_keeps_the_old_merchants() {
    let bench = Bench::new(&entries(2));
    let text = entries(2);
    fs::write(&bench.file, &text[..text.len() - 8]).unwrap();
    bench.keeps_the_old(2, "invalid basic string");
    fs::write(&bench.file, "").unwrap();
    bench.eventually(AT_LAST, "empty", |_| bench.refusals().len() == 2);
    assert_eq!(bench.watch.load().len(), 2);
}

#[test]
fn huge_file_keeps_the_old_merchants() {
    let bench = Bench::new(&entries(2));
    File::create(&bench.file)
        .unwrap()
        .set_len(65 << 20)
        .unwrap();
    bench.keeps_the_old(2, "larger than 64 MiB");
}

#[test]
fn noise_of_the_largest_size_keeps_the_old_merchants() {
    let bench = Bench::new(&entries(2));
    fs::write(&bench.file, "]\n".repeat(32 << 20)).unwrap();
    let outcome = bench.watch.reload();
    assert!(matches!(outcome, ReloadOutcome::Refused(problems) if problems.0.len() == 1));
    assert_eq!(bench.watch.load().len(), 2);
}

#[test]
fn vanished_merchant_is_gone_after_five_quiet_seconds() {
    let bench = Bench::new(&entries(3));
    let start = Instant::now();
    fs::write(&bench.file, entries(2)).unwrap();
    bench.eventually(AT_LAST, "vanish", |now| now.len() == 2);
    assert!(
        start.elapsed() >= Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn reload_looks_at_once_and_says_what_it_did() {
    let bench = Bench::new(&entries(9));
    assert!(matches!(
        bench.watch.reload(),
        ReloadOutcome::Unchanged { merchants: 9 }
    ));
    fs::write(&bench.file, entries(4)).unwrap();
    let guarded = bench.watch.reload();
    assert!(
        matches!(guarded, ReloadOutcome::Refused(ref problems)
        if problems.to_string().contains("add [end] with merchants = 4")),
        "{guarded:?}"
    );
    fs::write(&bench.file, entries(4) + "[end]\nmerchants = 4\n").unwrap();
    let meant = bench.watch.reload();
    assert!(
        matches!(
            meant,
            ReloadOutcome::Applied {
                removed: 5,
                merchants: 4,
                ..
            }
        ),
        "{meant:?}"
    );
    assert_eq!(bench.watch.load().len(), 4);
    assert_eq!(bench.heard.lock().unwrap().len(), 3);
}

#[test]
fn merchants_without_a_file_give_way_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("merchants.toml");
    fs::write(&file, entries(1)).unwrap();
    let watch = watch(file, Snapshot::from_merchants(Vec::new()), |_| {}).unwrap();
    let outcome = watch.reload();
    assert!(
        matches!(outcome, ReloadOutcome::Applied { added: 1, .. }),
        "{outcome:?}"
    );
}

#[test]
fn ten_thousand_merchants_take_no_quadratic_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("merchants.toml");
    let text: String = (0..10_000)
        .map(|n| {
            format!(
                "{}old_keys = []\nback = \"http://127.0.0.1:9000/pay/back\"\n",
                entry(n, "x")
            )
        })
        .collect();
    fs::write(&file, text).unwrap();
    let start = Instant::now();
    let snapshot = Snapshot::load(&file, &|_| None).unwrap();
    assert_eq!(snapshot.len(), 10_000);
    // Some 40 ms on a quiet machine; comparing every key with every other takes many seconds. How fast it is, the
    // bench says.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}
