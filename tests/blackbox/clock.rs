//! A clock that is ahead, by libfaketime: for waits of minutes and days. The monotonic clock stays as it is.

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

/// Whether libfaketime is there: enough where the test has a fleet of its own.
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
