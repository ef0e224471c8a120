//! Names the commit in the version. Packagers without a repository set `COUNTERSIGN_COMMIT`.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    println!("cargo:rerun-if-env-changed=COUNTERSIGN_COMMIT");
    println!("cargo:rerun-if-changed=conf/commit.rs");
    // Written at each commit and checkout. In a source archive there is none, or it is another project's.
    let is_ours = git(&["ls-files", "--error-unmatch", "conf/commit.rs"]).is_some();
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    // Cargo builds anew each time where a named file is missing.
    if let Some(log) = log.filter(|log| is_ours && std::path::Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    let given = std::env::var("COUNTERSIGN_COMMIT").ok();
    let head = || git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| is_ours);
    let commit = given.or_else(head);
    let shown = commit.map_or_else(String::new, |commit| format!(" ({commit})"));
    println!("cargo:rustc-env=COUNTERSIGN_COMMIT={shown}");
}
