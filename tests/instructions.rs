//! What signing and verifying cost, in instructions: unlike time, the same on a busy machine as on a quiet one.
//!
//! The test runs itself under callgrind. The figures are `tests/instructions.toml`'s, and hold for the compiler and the
//! kind of processor that they were taken with; `COUNTERSIGN_BLESS=1` takes new ones.

#![allow(
    clippy::unwrap_used,
    reason = "here a panic is a failed test, in what the tests stand on too"
)]

#[path = "blackbox/skip.rs"]
mod skip;

use std::fs;
use std::hint::black_box;
use std::process::{Child, Command, Stdio};

use countersign::protocol::envelope::{self, Envelope};
use countersign::protocol::key::Key;

const TEST: &str = "signing_and_verifying_cost_no_more_than_they_did";
const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions.toml");
/// Names the function that a run under callgrind is for.
const COUNTED: &str = "COUNTERSIGN_COUNTED";
/// Calls in one run: what only the first one does vanishes among them.
const CALLS: u64 = 200;
/// Percent of the figure that may be added to it.
const MARGIN: u64 = 5;

const KEY: &str = "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31";

/// 300 bytes of JSON.
fn message() -> String {
    let head = r#"{"action":"AliPay","txnamt":1280,"merid":"100000000000001","orderid":"ORD20170301","m":""#;
    format!("{head}{}\"}}", "x".repeat(300 - head.len() - 2))
}

/// What the app's call costs: JSON in, a form out.
#[inline(never)]
fn counted_sign(message: &[u8], key: &Key) -> usize {
    Envelope::seal(black_box(message), key).form("req").len()
}

/// What the platform's answer costs: a form in, JSON out.
#[inline(never)]
fn counted_verify(form: &[u8], key: &Key) -> usize {
    let received = envelope::read(black_box(form), "resp").unwrap();
    received.verify([key]).unwrap().len()
}

/// The part of the run under callgrind.
fn call(counted: &str) {
    let (key, message) = (Key::new(KEY).unwrap(), message());
    let form = Envelope::seal(message.as_bytes(), &key).form("resp");
    for _ in 0..CALLS {
        black_box(match counted {
            "counted_sign" => counted_sign(message.as_bytes(), &key),
            "counted_verify" => counted_verify(form.as_bytes(), &key),
            other => panic!("{other} is not counted"),
        });
    }
}

/// This test again, under callgrind, which counts inside one function.
fn start(counted: &str) -> Child {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*{counted}*"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(COUNTED, counted)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    valgrind.spawn().unwrap()
}

/// Instructions of one call.
fn finish(run: Child) -> u64 {
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let collected = collected.map_or(0, |(_, number)| number.trim().parse().unwrap());
    assert!(collected > 0, "nothing was counted: {said}");
    collected / CALLS
}

/// What the figures depend on besides the code.
fn made_with() -> String {
    let rustc = Command::new("rustc").arg("--version").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    #[cfg(target_arch = "x86_64")]
    let wide = std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let wide = false;
    let vectors = if wide { " with avx2" } else { "" };
    format!("{} on {}{vectors}", rustc.trim(), std::env::consts::ARCH)
}

#[test]
fn signing_and_verifying_cost_no_more_than_they_did() {
    if let Ok(counted) = std::env::var(COUNTED) {
        return call(&counted);
    }
    if cfg!(debug_assertions) {
        return skip::skip(TEST, "the figures are those of an optimised build");
    }
    for program in ["valgrind", "rustc"] {
        if !skip::is_installed(program) {
            return skip::skip(TEST, &format!("{program} is not installed"));
        }
    }
    let bless = std::env::var_os("COUNTERSIGN_BLESS").is_some();
    let figures: toml::Table = fs::read_to_string(FIGURES).unwrap().parse().unwrap();
    let (theirs, ours) = (figures["made_with"].as_str().unwrap(), made_with());
    if theirs != ours && !bless {
        let reason = format!("the figures were taken with {theirs}, here is {ours}");
        return skip::skip(TEST, &reason);
    }
    let runs = [
        ("sign", start("counted_sign")),
        ("verify", start("counted_verify")),
    ];
    let counted = runs.map(|(name, run)| (name, finish(run)));
    if bless {
        let [sign, verify] = counted.map(|(name, count)| format!("{name} = {count}\n"));
        let made_with = format!("made_with = \"{ours}\"\n");
        let told = "# Instructions of one call with 300 B of JSON; taken anew by\n\
                    # COUNTERSIGN_BLESS=1 cargo test --profile suite --test instructions\n";
        return fs::write(FIGURES, [told, &made_with, &sign, &verify].concat()).unwrap();
    }
    for (name, count) in counted {
        let figure = u64::try_from(figures[name].as_integer().unwrap()).unwrap();
        println!("{name}: {count} instructions, the figure is {figure}");
        assert!(
            count * 100 <= figure * (100 + MARGIN),
            "{name}: {count} instructions, more than {MARGIN} % above {figure}; COUNTERSIGN_BLESS=1 stores new figures"
        );
    }
}
