//! `countersign sandbox conformance`: what it finds of a good app and of bad ones behind a real sidecar, and whom it leaves alone.

use crate::client;
use crate::demo::Demo;
use crate::harness::{
    KEY, MERID, OTHER_KEY, command, eventually, exit_within, is_installed, merchant, skip,
};
use crate::platform::{Action, PAGE, Seen, http};
use crate::shop::{BACK, FRONT, SOON, Shop, refused_by_app, taken};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The cases in which the app is told of a result, in the order of the table.
const TOLD: [&str; 8] = [
    "each result once",
    "repeats",
    "out of order",
    "dialects",
    "slow",
    "large",
    "unknown order",
    "restart in between",
];
/// The others: what the sidecar is to refuse, and the customers.
const REST: [&str; 4] = [
    "wrong amount",
    "forged",
    "front page shown",
    "front page refused",
];

/// What a run left behind.
struct Run {
    code: Option<i32>,
    said: String,
    table: String,
    junit: PathBuf,
    _folder: TempDir,
}

impl Run {
    /// The verdict on a case, and what was seen of it.
    #[track_caller]
    fn found(&self, case: &str) -> (&str, &str) {
        let line = self
            .table
            .lines()
            .find(|line| line.get(10..).is_some_and(|rest| rest.starts_with(case)));
        let line = line.unwrap_or_else(|| panic!("{case} is not in the table: {}", self.said));
        let (verdict, seen) = line.split_at(10);
        (verdict.trim(), seen[case.len()..].trim())
    }

    #[track_caller]
    fn all(&self, cases: &[&str], verdict: &str) {
        for case in cases {
            assert_eq!(self.found(case).0, verdict, "{case}: {}", self.said);
        }
    }
}

/// Tries the app behind this sidecar; `beside` runs meanwhile, and may look into the run's folder.
#[track_caller]
fn conformance(shop: &mut Shop, more: &[&str], beside: impl FnOnce(&mut Shop, &Path)) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let [junit, table, errors] = ["junit.xml", "table", "errors"].map(|it| folder.path().join(it));
    let mut child = command();
    let callbacks = shop.address();
    child
        .args(["sandbox", "conformance"])
        .args(["--back", &format!("http://{callbacks}{BACK}")])
        .args(["--front", &format!("http://{callbacks}{FRONT}")])
        .args(["--app", &format!("http://{}", shop.sidecar.app())])
        .args(["--admin", &format!("http://{}", shop.sidecar.setup.admin)])
        .args(["--merid", MERID, "--merchants"])
        .arg(shop.sidecar.merchants_file())
        .arg("--junit")
        .arg(&junit)
        .args(more)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(fs::File::create(&table).unwrap())
        .stderr(fs::File::create(&errors).unwrap());
    let mut child = child.spawn().unwrap();
    beside(shop, folder.path());
    let status = exit_within(&mut child, Duration::from_secs(60));
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    let table = fs::read_to_string(table).unwrap();
    let said = format!("{table}{}", fs::read_to_string(errors).unwrap());
    assert!(!said.contains(KEY), "a key: {said}");
    Run {
        code: status.and_then(|status| status.code()),
        said,
        table,
        junit,
        _folder: folder,
    }
}

/// The suite in a JUnit file as Python reads it; `None` without Python.
fn junit(file: &Path) -> Option<Value> {
    const READ: &str = "
import json, sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
assert root.tag == 'testsuites', root.tag
[suite] = root
print(json.dumps({**suite.attrib, 'cases': [
    {**case.attrib, 'inside': [[part.tag, part.get('message') or part.text] for part in case]} for case in suite]}))
";
    is_installed("python3").then(|| {
        let read = Command::new("python3")
            .args(["-c", READ])
            .arg(file)
            .output();
        let read = read.unwrap();
        let said = String::from_utf8_lossy(&read.stderr);
        assert!(read.status.success(), "{said}");
        serde_json::from_slice(&read.stdout).unwrap()
    })
}

fn app_with_a_page(back: impl Fn(&Seen) -> Action) -> impl Fn(&Seen) -> Action {
    move |seen| match seen.target.starts_with("/pay/front") {
        true => Action::Reply(http(200, &["Content-Type: text/html"], PAGE)),
        false => back(seen),
    }
}

#[test]
fn a_good_app_conforms_over_a_restart_too() {
    let mut shop = Shop::with(app_with_a_page(|_| taken()), |_| {});
    let restart = "touch wanted; while [ ! -e done ]; do sleep 0.05; done";
    let run = conformance(
        &mut shop,
        &["--restart-command", restart],
        |shop, folder| {
            eventually("a restart is asked for", 4 * SOON, || {
                folder.join("wanted").exists()
            });
            shop.sidecar.restart();
            fs::write(folder.join("done"), "").unwrap();
        },
    );
    assert_eq!(run.code, Some(0), "{}", run.said);
    run.all(&TOLD, "held");
    run.all(&REST, "held");
    assert!(
        run.said
            .contains("\n12 held, 0 did not hold, 0 were not seen\n")
    );

    // What the table says of the app is what the app saw: 5 + 1 + 2 + 1 + 1 + 1 + 2 results, each once.
    let heard = shop.deliveries();
    let events: BTreeSet<_> = heard.iter().map(|it| it.event.clone()).collect();
    assert_eq!((heard.len(), events.len()), (35, 35));
    let unknown: Vec<_> = heard.iter().filter(|it| it.order == "unknown").collect();
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert!(
        heard.iter().any(|it| it.body.len() > 30_000),
        "none is large"
    );
    let disputed = shop.inbox(&["list", "--state", "disputed"]).stdout;
    let disputed = String::from_utf8(disputed).unwrap();
    assert_eq!(disputed.lines().count(), 1, "{disputed}");
    let fronts = shop.app.seen();
    let fronts = fronts.iter().filter(|it| it.target.contains("/front"));
    assert_eq!(fronts.count(), 1);

    let Some(suite) = junit(&run.junit) else {
        return skip(
            "a_good_app_conforms_over_a_restart_too",
            "no python3 reads the JUnit file",
        );
    };
    assert_eq!(
        (&suite["tests"], &suite["failures"], &suite["skipped"]),
        (&"12".into(), &"0".into(), &"0".into())
    );
    let cases = suite["cases"].as_array().unwrap().iter();
    let names: Vec<_> = cases.map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(names, [&TOLD[..], &REST[..]].concat());
}

#[test]
fn a_good_app_conforms_where_0000_waits_for_it() {
    let mut shop = Shop::with(app_with_a_page(|_| taken()), |conf| {
        conf.inbox = "acknowledge = \"delivered\"".to_owned();
    });
    let run = conformance(&mut shop, &["--restart-command", "true"], |_, _| {});
    assert_eq!(run.code, Some(0), "{}", run.said);
    run.all(&TOLD, "held");
    run.all(&REST, "held");
}

/// An app that never takes anything is found out, and nothing else is held against the sidecar.
#[track_caller]
fn is_found_out(test: &str, app: fn(&Seen) -> Action) {
    let mut shop = Shop::with(app_with_a_page(app), |_| {});
    let run = conformance(&mut shop, &["--wait", "1"], |_, _| {});
    assert_eq!(run.code, Some(1), "{}", run.said);
    let (restart, told) = TOLD.split_last().unwrap();
    run.all(told, "NOT HELD");
    run.all(&REST, "held");
    let (verdict, why) = run.found(restart);
    assert_eq!(verdict, "not seen");
    assert!(why.contains("--restart-command"), "{why}");
    let (_, why) = run.found("each result once");
    assert!(why.contains("took 0 of 5"), "{why}");

    let Some(suite) = junit(&run.junit) else {
        return skip(test, "no python3 reads the JUnit file");
    };
    assert_eq!(
        (&suite["tests"], &suite["failures"], &suite["skipped"]),
        (&"12".into(), &"7".into(), &"1".into())
    );
    let of_tag = |tag: &str| {
        let cases = suite["cases"].as_array().unwrap().iter();
        let named = cases.filter(|case| case["inside"][0][0] == tag);
        named
            .map(|case| case["name"].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(of_tag("failure"), told);
    assert_eq!(of_tag("skipped"), [*restart]);
    assert_eq!(suite["cases"][0]["inside"][0][1], why);
}

#[test]
fn an_app_that_never_takes_a_result_does_not_conform() {
    let test = "an_app_that_never_takes_a_result_does_not_conform";
    is_found_out(test, |_| refused_by_app());
}

#[test]
fn an_app_that_says_0001_does_not_conform() {
    let test = "an_app_that_says_0001_does_not_conform";
    is_found_out(test, |_| Action::Reply(http(200, &[], "0001")));
}

#[test]
fn an_app_that_has_no_such_page_does_not_conform() {
    let test = "an_app_that_has_no_such_page_does_not_conform";
    is_found_out(test, |_| Action::Reply(http(404, &[], "not found")));
}

#[test]
fn an_app_that_hangs_does_not_conform() {
    let test = "an_app_that_hangs_does_not_conform";
    is_found_out(test, |_| Action::Hang);
}

#[test]
fn the_demo_s_own_shop_keeps_what_is_paid_and_its_404_is_no_page() {
    let demo = Demo::start();
    let [app, callbacks, admin] = demo
        .countersign
        .each_ref()
        .map(|it| it.trim_end_matches('/'));
    let run = command()
        .args(["sandbox", "conformance", "--wait", "5"])
        .args(["--back", &format!("{callbacks}/notify/back")])
        .args(["--front", &format!("{callbacks}/notify/front")])
        .args(["--app", app, "--admin", admin])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&run.stdout).into_owned();
    let line = |case: &str| {
        let mut lines = table.lines();
        let found = lines.find(|line| line.get(10..).is_some_and(|it| it.starts_with(case)));
        found
            .unwrap_or_else(|| panic!("{case}: {run:?}"))
            .to_owned()
    };
    let (_, told) = TOLD.split_last().unwrap();
    for case in told
        .iter()
        .chain(&["wrong amount", "forged", "front page refused"])
    {
        assert!(line(case).starts_with("held "), "{case}: {table}");
    }
    // What is paid stays so, though 1002 came after.
    let reordered = line("out of order");
    let mut words = reordered.split_whitespace();
    let orderid = words.find(|word| word.starts_with("CONF")).unwrap();
    let shop = demo
        .shop
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let page = client::fetch(shop.parse().unwrap(), &format!("/orders/{orderid}")).unwrap();
    let page = page.text();
    assert!(page.contains("已支付") || page.contains("Paid"), "{page}");
    // The shop never sold the order of the last case, and a 404 is no page.
    let shown = line("front page shown");
    assert!(
        shown.starts_with("NOT HELD") && shown.contains("404"),
        "{shown}"
    );
}

#[test]
fn what_cannot_be_seen_is_not_said_to_hold() {
    let shop = Shop::with(app_with_a_page(|_| taken()), |_| {});
    let tried = command()
        .args(["sandbox", "conformance", "--merid", MERID, "--merchants"])
        .arg(shop.sidecar.merchants_file())
        .args(["--back", &format!("http://{}{BACK}", shop.address())])
        .args([
            "--app",
            "http://127.0.0.1:9",
            "--admin",
            "http://127.0.0.1:9",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(tried.stdout).unwrap();
    assert_eq!(tried.status.code(), Some(0), "{said}");
    for line in [
        "\nnot seen  each result once ",
        "\nnot seen  wrong amount ",
        "\nheld      forged ",
        "\n1 held, 0 did not hold, 11 were not seen\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn another_key_than_the_sidecars_is_not_taken_for_the_apps_fault() {
    let shop = Shop::open();
    let folder = tempfile::tempdir().unwrap();
    let merchants = folder.path().join("merchants.toml");
    fs::write(&merchants, merchant(MERID, OTHER_KEY)).unwrap();
    let tried = command()
        .args(["sandbox", "conformance", "--back"])
        .arg(format!("http://{}{BACK}", shop.address()))
        .args(["--app", &format!("http://{}", shop.sidecar.app())])
        .args(["--admin", &format!("http://{}", shop.sidecar.setup.admin)])
        .arg("--merchants")
        .arg(merchants)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(tried.stdout).unwrap();
    assert_eq!(tried.status.code(), Some(1), "{said}");
    assert!(said.contains("status 400 instead of 0000"), "{said}");
    assert_eq!(shop.deliveries().len(), 0);
}

#[test]
fn only_this_machine_or_a_host_that_was_named_is_tried() {
    let own = "http://127.0.0.1:9/notify/back";
    for (flags, at_fault) in [
        (vec!["--back", "http://192.0.2.1/notify/back"], "--back"),
        (
            vec!["--back", "https://shop.example.com/notify/back"],
            "--back",
        ),
        (
            vec!["--back", own, "--front", "http://192.0.2.1/notify/front"],
            "--front",
        ),
        (
            vec!["--back", own, "--app", "http://192.0.2.1:8080"],
            "--app",
        ),
        (
            vec!["--back", own, "--admin", "http://192.0.2.1:9900"],
            "--admin",
        ),
        (
            vec![
                "--back",
                "http://192.0.2.1/notify/back",
                "--allow-host",
                "192.0.2.2",
            ],
            "--back",
        ),
    ] {
        let tried = command()
            .args(["sandbox", "conformance"])
            .args(&flags)
            .output();
        let tried = tried.unwrap();
        let said = String::from_utf8(tried.stderr).unwrap();
        assert_eq!(tried.status.code(), Some(2), "{flags:?}: {said}");
        assert!(
            said.starts_with(at_fault) && said.contains("--allow-host"),
            "{said}"
        );
    }
    // No loopback address, though this machine: nobody listens there, which is found out by trying.
    let named = [
        "--back",
        "http://0.0.0.0:9/notify/back",
        "--allow-host",
        "0.0.0.0",
    ];
    let tried = command()
        .args(["sandbox", "conformance"])
        .args(named)
        .output();
    let tried = tried.unwrap();
    let said = String::from_utf8(tried.stderr).unwrap();
    assert_eq!(tried.status.code(), Some(1), "{said}");
    assert!(
        said.contains("0.0.0.0:9") && said.contains("connect"),
        "{said}"
    );
}

#[test]
fn wrong_usage_is_said_before_anything_is_told() {
    for flags in [
        vec![],
        vec!["--back", "notify/back"],
        vec!["--back", "ftp://127.0.0.1/notify/back"],
        vec!["--back", "http://127.0.0.1:9/notify/back", "--wait", "0"],
        vec!["--back", "http://127.0.0.1:9/notify/back", "--merid", MERID],
        vec![
            "--back",
            "http://127.0.0.1:9/notify/back",
            "--listen",
            "127.0.0.1:1",
        ],
    ] {
        let tried = command()
            .args(["sandbox", "conformance"])
            .args(&flags)
            .output();
        assert_eq!(tried.unwrap().status.code(), Some(2), "{flags:?}");
    }
}
