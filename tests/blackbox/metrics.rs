//! The page of metrics, beside its table in the docs and the checks of promtool.

use crate::client;
use crate::documented::markdown;
use crate::harness::{
    MERID, ORDERID, Sidecar, eventually, is_installed, query_json, run_with_input, skip,
};
use crate::shop::SOON;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

/// Each metric with its labels; `le` belongs to the histogram.
type Families = BTreeMap<String, BTreeSet<String>>;

/// The page of a sidecar that has had a call and a callback, so that each metric has a sample.
pub(crate) fn page() -> String {
    let sidecar = Sidecar::start(|conf| conf.callbacks = Some(String::new()));
    sidecar.query(query_json(MERID, ORDERID));
    client::fetch(sidecar.setup.callbacks, "/cashier/notify/back").unwrap();
    sidecar.admin("/metrics").text()
}

fn exported(page: &str) -> Families {
    let declared = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = declared.filter_map(|line| line.split(' ').next());
    let mut families: Families = names
        .map(|name| (name.to_owned(), BTreeSet::new()))
        .collect();
    for sample in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels)) = sample.split_once('{') else {
            continue;
        };
        let ends = ["_bucket", "_sum", "_count", ""];
        let family = ends.iter().filter_map(|end| name.strip_suffix(end));
        let family = family.into_iter().find(|name| families.contains_key(*name));
        let found = families.get_mut(family.unwrap()).unwrap();
        let names = labels
            .split(',')
            .filter_map(|label| label.split_once("=\""));
        found.extend(
            names
                .map(|(name, _)| name.to_owned())
                .filter(|name| name != "le"),
        );
    }
    families
}

/// The code spans in the first column of the documented table.
fn documented() -> Families {
    let page = include_str!("../../conf/metrics.md");
    let (_, table) = page.split_once("| metric (`countersign_…`) |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    quoted
        .map(|metric| {
            let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
            let labels = labels.trim_end_matches('}').split(',');
            let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
            let prefix = if name.starts_with("process_") {
                ""
            } else {
                "countersign_"
            };
            (format!("{prefix}{name}"), labels.collect())
        })
        .collect()
}

#[test]
fn the_documented_table_has_every_metric_with_its_labels_and_no_other() {
    let (exported, documented) = (exported(&page()), documented());
    assert!(documented.len() > 25, "{documented:?}");
    assert_eq!(exported, documented);
}

/// The code spans of a page that begin like this.
fn named(page: &str, begins: &str) -> BTreeSet<String> {
    let spans = markdown::spans(&markdown::read(page));
    let spans = spans.into_iter().filter(|span| span.starts_with(begins));
    spans
        .map(|span| span.split(['{', ' ']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_metric_that_a_page_names_is_exported() {
    let exported = exported(&page());
    let mut count = 0;
    for page in markdown::pages_in("conf") {
        for name in named(&page, "countersign_") {
            count += 1;
            let is_pattern = ["countersign_", "countersign_…"].contains(&name.as_str());
            let is_exported = exported.contains_key(&name) || is_pattern;
            assert!(is_exported, "{page}: {name}");
        }
    }
    assert!(count > 5, "{count} names");
}

/// The values of a label.
fn values(page: &str, series: &str, label: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| line.starts_with(series));
    let values = samples.filter_map(|line| line.split_once(&format!("{label}=\"")));
    values
        .map(|(_, rest)| rest.split('"').next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_documented_codes_are_the_outcomes_of_calls() {
    let mut outcomes = values(&page(), "countersign_calls_total{", "outcome");
    assert!(outcomes.remove("ok"));
    let text = markdown::read("conf/errors.md");
    let rows = markdown::rows(&text).filter(|row| row.len() == 4 && row[0].starts_with('`'));
    let documented: BTreeSet<_> = rows.flat_map(|row| markdown::spans(row[0])).collect();
    assert!(documented.len() > 15, "{documented:?}");
    assert_eq!(documented, outcomes);
}

#[test]
fn promtool_finds_nothing_to_say_about_the_names() {
    if !is_installed("promtool") {
        return skip(
            "promtool_finds_nothing_to_say_about_the_names",
            "promtool is not installed",
        );
    }
    let mut promtool = Command::new("promtool");
    let output = run_with_input(promtool.args(["check", "metrics"]), page());
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn the_process_is_seen_by_itself() {
    let sidecar = Sidecar::start(|_| {});
    let metrics = sidecar.metrics();
    let value = |name: &str| metrics.samples[name];
    let started = value("process_start_time_seconds");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    assert!((now - started).abs() < 60.0, "{started} at {now}");
    let memory = value("process_resident_memory_bytes");
    let peak = sidecar.peak_memory_kib() as f64 * 1024.0;
    assert!(memory > 1e6 && memory <= peak, "{memory} of {peak}");
    assert!(value("process_open_fds") > 5.0);
    assert!(value("process_max_fds") > value("process_open_fds"));
    assert_eq!(value("countersign_store_ok"), 1.0);
    let version = format!(
        "countersign_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(value(&version), 1.0);
}

#[test]
fn a_request_that_is_on_its_way_is_in_flight() {
    let sidecar = Sidecar::start(|_| {});
    let in_flight = || sidecar.metrics().sum(&["countersign_requests_in_flight"]);
    let mut waiting = TcpStream::connect(sidecar.app()).unwrap();
    waiting
        .write_all(b"POST /api/query HTTP/1.1\r\nHost: app\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    eventually("one is in flight", SOON, || in_flight() == 1.0);
    drop(waiting);
    eventually("none is in flight", SOON, || in_flight() == 0.0);
}
