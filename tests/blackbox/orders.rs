//! `countersign orders`, and the JSON that commands print for programs.

use crate::cli::text;
use crate::harness::{KEY, MERID, Setup, Sidecar, command, query_json};
use crate::platform::Platform;
use crate::shop::{Book, Payment, Shop, acknowledged, taken};
use serde_json::Value;
use std::process::Output;

/// Runs a command on the configuration of a sidecar.
fn on(setup: &Setup, arguments: &[&str]) -> Output {
    let mut command = command();
    command.args(arguments).arg("-c").arg(setup.conf_file());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    output
}

fn json(setup: &Setup, arguments: &[&str]) -> Value {
    serde_json::from_slice(&on(setup, arguments).stdout).unwrap()
}

/// A shop with one paid order and one that nobody paid.
fn shop() -> (Shop, [String; 2]) {
    let shop = Shop::start(Book::default(), |_| taken(), |_| {});
    let (paid, open) = (shop.order(), shop.order());
    acknowledged(&shop.notify(&Payment::of(&paid)));
    shop.hears(&paid, 1);
    (shop, [paid, open])
}

#[test]
fn orders_are_listed_with_what_came_of_them() {
    let (shop, [paid, open]) = shop();
    let setup = &shop.sidecar.setup;
    let lines = text(&on(setup, &["orders", "list"]).stdout);
    let line = |orderid: &str| lines.lines().find(|line| line.contains(orderid)).unwrap();
    assert!(line(&paid).contains(" paid "), "{lines}");
    assert!(line(&paid).contains(" UTC"), "{lines}");
    assert!(line(&open).contains(" open "), "{lines}");
    for (filter, wanted) in [("paid", &paid), ("open", &open)] {
        let document = json(setup, &["orders", "list", "--state", filter, "--json"]);
        let orders = document["orders"].as_array().unwrap();
        assert_eq!(orders.len(), 1, "{document}");
        assert_eq!(orders[0]["orderid"], **wanted);
        assert_eq!(orders[0]["txnamt"], 1280);
    }
    let none = json(setup, &["orders", "list", "--day", "2001-02-03", "--json"]);
    assert_eq!(none["orders"], Value::Array(Vec::new()));
    // A place where a short listing ends is where the next one begins.
    let first = text(&on(setup, &["orders", "list", "--limit", "1"]).stdout);
    let place = first
        .lines()
        .last()
        .unwrap()
        .strip_prefix("more: --after ")
        .unwrap();
    let second = text(&on(setup, &["orders", "list", "--after", place]).stdout);
    assert_eq!(second.lines().count(), 1, "{second}");
    assert_ne!(first.lines().next(), second.lines().next());
}

#[test]
fn an_order_is_shown_with_its_tries_and_results() {
    let (shop, [paid, _]) = shop();
    let setup = &shop.sidecar.setup;
    let shown = text(&on(setup, &["orders", "show", &paid]).stdout);
    for word in [
        "signed     1280 cents",
        "try 1",
        "sent linked",
        "0000 1280 cents, delivered",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let document = json(
        setup,
        &["orders", "show", &paid, "--merid", MERID, "--json"],
    );
    let order = &document["orders"][0];
    assert_eq!(order["results"][0]["resultcode"], "0000");
    assert_eq!(order["tries"][0]["number"], 1);
    let mut unknown = command();
    unknown
        .args(["orders", "show", "NOSUCHORDER", "-c"])
        .arg(setup.conf_file());
    let output = unknown.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("NOSUCHORDER"));
}

#[test]
fn an_export_has_every_order_and_its_sums() {
    let (shop, [paid, open]) = shop();
    let setup = &shop.sidecar.setup;
    let csv = text(&on(setup, &["orders", "export"]).stdout);
    let lines: Vec<_> = csv.split("\r\n").collect();
    assert!(lines[0].starts_with("signed_at,merid,orderid,"), "{csv}");
    assert_eq!(lines.len(), 4, "{csv}");
    for orderid in [&paid, &open] {
        assert!(csv.contains(orderid.as_str()), "{csv}");
    }
    let all = json(setup, &["orders", "export", "--format", "json"]);
    assert_eq!(all.as_array().unwrap().len(), 2);
    let sums = json(setup, &["orders", "export", "--by-day", "--format", "json"]);
    let sums = sums.as_array().unwrap();
    // Two rows where the orders were signed on both sides of midnight.
    let total = |name: &str| {
        sums.iter()
            .map(|row| row[name].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(total("orders"), 2);
    assert_eq!(total("signed_txnamt"), 2560);
    assert_eq!(total("paid_txnamt"), 1280);
    assert_eq!(total("not_paid_txnamt"), 1280);
    let csv = text(&on(setup, &["orders", "export", "--by-day"]).stdout);
    assert!(csv.contains("day,merid,orders,signed_txnamt,"), "{csv}");
}

#[test]
fn results_and_their_attempts_are_printed_for_programs_and_without_raw_times() {
    let (shop, [paid, _]) = shop();
    let setup = &shop.sidecar.setup;
    let list = json(setup, &["inbox", "list", "--json"]);
    let event = &list["events"][0];
    assert_eq!(event["orderid"], paid);
    assert_eq!(event["state"], "delivered");
    let id = event["id"].as_str().unwrap();
    let shown = json(setup, &["inbox", "show", id, "--json"]);
    assert_eq!(shown["attempts"][0]["status"], 200);
    assert!(shown["received_at"].as_str().unwrap().ends_with('Z'));
    let words = text(&on(setup, &["inbox", "show", id]).stdout);
    assert!(words.contains(" UTC") && !words.contains("1970"), "{words}");
    let mut beyond = command();
    beyond.env("TZ", "Asia/Shanghai");
    beyond
        .args(["inbox", "show", id, "-c"])
        .arg(setup.conf_file());
    let words = text(&beyond.output().unwrap().stdout);
    assert!(words.contains("+08:00"), "{words}");
    let replayed = json(setup, &["inbox", "replay", id, "--json"]);
    assert_eq!(replayed["state"], "pending");
}

#[test]
fn checks_and_probes_are_printed_for_programs_with_the_same_exit_codes() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let setup = &sidecar.setup;
    let checked = json(setup, &["check", "--json"]);
    assert_eq!(checked["ok"], true);
    assert_eq!(checked["merchants"][0]["merid"], MERID);
    assert!(!checked.to_string().contains(KEY));
    let probed = json(setup, &["probe", "--json"]);
    assert_eq!(
        (&probed["known"], &probed["signs_with"]),
        (&true.into(), &"key".into())
    );
    sidecar.query(query_json(MERID, "ORDER1"));
    std::fs::write(setup.conf_file(), "[platform]\nurl = 7\n").unwrap();
    let mut broken = command();
    broken
        .args(["check", "--json", "-c"])
        .arg(setup.conf_file());
    let output = broken.output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["ok"], false);
    let problem = &document["problems"][0];
    assert_eq!(
        (&problem["line"], &problem["path"]),
        (&2.into(), &"platform.url".into())
    );
}

#[test]
fn the_version_names_a_commit_and_options_go_on_either_side() {
    let output = command().arg("--version").output().unwrap();
    let version = text(&output.stdout);
    // No repository, or one that git does not trust with this user.
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--error-unmatch", "conf/commit.rs"]);
    let found = git.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let in_git = found.is_ok_and(|output| output.status.success());
    assert!(version.starts_with("countersign 0."), "{version}");
    assert_eq!(version.contains('('), in_git, "{version}");
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let file = sidecar.setup.conf_file().display().to_string();
    for arguments in [
        ["-c", &file, "inbox", "list"],
        ["inbox", "-c", &file, "list"],
    ] {
        assert!(command().args(arguments).status().unwrap().success());
    }
}

#[test]
fn states_are_coloured_on_a_terminal_alone() {
    let (shop, _) = shop();
    let line = format!(
        "{} orders list -c {}",
        crate::harness::binary().display(),
        shop.sidecar.setup.conf_file().display()
    );
    let typed = |variable: (&str, &str)| {
        let mut script = std::process::Command::new("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm");
        text(&script.env(variable.0, variable.1).output().unwrap().stdout)
    };
    if !crate::skip::is_installed("script") {
        return crate::skip::skip(
            "states_are_coloured_on_a_terminal_alone",
            "script is not installed",
        );
    }
    assert!(typed(("LANG", "C")).contains("\x1b[32mpaid"));
    assert!(!typed(("NO_COLOR", "1")).contains('\x1b'));
    let piped = text(&on(&shop.sidecar.setup, &["orders", "list"]).stdout);
    assert!(piped.contains("paid") && !piped.contains('\x1b'));
}
