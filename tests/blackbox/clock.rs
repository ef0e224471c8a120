//! A clock that is ahead, by libfaketime: for waits of minutes and days. The monotonic clock stays as it is.

use crate::harness::{command, eventually};
use crate::shop::{Payment, SOON, Shop, acknowledged, taken};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

fn library() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
        "/usr/lib64/faketime",
        "/usr/lib/faketime",
        "/usr/local/lib/faketime",
    ];
    folders
        .iter()
        .map(|folder| PathBuf::from(folder).join("libfaketimeMT.so.1"))
        .find(|path| path.is_file())
}

/// Returns true where libfaketime is installed: enough where the test has a fleet of its own.
pub(crate) fn is_installed() -> bool {
    library().is_some()
}

/// Whether the clock can be moved on this machine; where not, the test says that it was skipped.
pub(crate) fn can_be_moved(test: &str) -> bool {
    if library().is_none() {
        crate::harness::skip(test, "libfaketime is not installed");
        return false;
    }
    // In a fleet the database's clock decides, and that one is not moved.
    if std::env::var_os("COUNTERSIGN_TEST_STORE").is_some_and(|store| store == "postgres") {
        crate::harness::skip(test, "the database's clock decides");
        return false;
    }
    true
}

pub(crate) fn shift(command: &mut Command, ahead: Duration) {
    let library = library().expect("can_be_moved was asked");
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME", format!("+{}s", ahead.as_secs()))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

pub(crate) fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

#[test]
fn confirming_the_clock_ends_what_a_jump_holds_back() {
    let test = "confirming_the_clock_ends_what_a_jump_holds_back";
    if !can_be_moved(test) {
        return;
    }
    const AHEAD: Duration = Duration::from_secs(400 * 24 * 60 * 60);
    let mut shop = Shop::with(|_| taken(), |_| {});
    shop.sidecar.setup.clock_is_confirmed = false;
    let paid = Payment::of(&shop.order());
    acknowledged(&shop.notify(&paid));
    shop.listed(&paid.orderid, "delivered");
    let jump = |shop: &Shop| shop.sidecar.metrics().sum(&["clock_jump_seconds"]);
    assert_eq!(jump(&shop), 0.0);
    shop.sidecar.setup.clock_ahead = AHEAD;
    shop.sidecar.restart();
    let seen = jump(&shop);
    assert!((seen - AHEAD.as_secs_f64()).abs() < 120.0, "{seen}");
    let output = shop.sidecar.output();
    let line = output
        .lines()
        .find(|line| line.contains("the clock has jumped"));
    let line = line.unwrap_or_else(|| panic!("no line: {output}"));
    assert!(
        line.contains("nothing is deleted, parked or given up"),
        "{line}"
    );
    assert!(line.contains("`countersign clock confirm`"), "{line}");
    shop.listed(&paid.orderid, "delivered");

    let mut confirm = command();
    shift(&mut confirm, AHEAD);
    let conf = shop.sidecar.setup.conf_file();
    let output = confirm
        .args(["clock", "confirm", "-c"])
        .arg(conf)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("accepted: 20") && said.contains(" UTC"),
        "{said}"
    );
    eventually("the sidecar follows", SOON, || jump(&shop) == 0.0);
    assert!(
        shop.sidecar
            .output()
            .contains("the clock was confirmed by an operator")
    );
    // What is a year old by the accepted time goes, as the next round of the retention finds it.
    shop.sidecar.restart();
    assert_eq!(jump(&shop), 0.0);
    eventually("the old result is deleted", SOON, || {
        !shop.list().iter().any(|line| line.contains(&paid.orderid))
    });
}

#[test]
fn confirming_the_clock_of_a_store_that_is_not_there_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("none").join("inbox.db");
    let conf = folder.path().join("countersign.toml");
    let text = include_str!("../../conf/countersign.toml");
    std::fs::write(&conf, text).unwrap();
    let set = format!("inbox.store=sqlite:{}", store.display());
    let arguments = ["clock", "confirm", "--set", &set, "-c"];
    let output = command().args(arguments).arg(&conf).output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("inbox.store") && said.contains("inbox.db"),
        "{said}"
    );
    assert!(!store.exists());
}
