//! What could not be tried on this machine is said, and listed at the end of the suite.

use std::fs::File;
use std::io::Write as _;

/// Says that a test could not be made here, and why.
pub(crate) fn skip(test: &str, reason: &str) {
    println!("SKIPPED: {test}: {reason}");
    if let Some(path) = std::env::var_os("COUNTERSIGN_TEST_SKIPS") {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        writeln!(file, "SKIPPED: {test}: {reason}").unwrap();
    }
}

/// Whether a program can be started.
pub(crate) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}
