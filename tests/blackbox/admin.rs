//! The admin listener: health, version, metrics, reload.

use crate::client;
use crate::harness::{
    KEY, MERID, ORDERID, Sidecar, fresh_orderid, merchant, query_json, submit_json,
};
use crate::platform::Platform;
use std::collections::BTreeMap;

#[test]
fn health_and_version_answer() {
    let sidecar = Sidecar::start(|_| {});
    for path in ["/livez", "/readyz"] {
        assert_eq!(sidecar.admin(path).status, 200, "{path}");
    }
    let version = sidecar.admin("/version");
    assert_eq!(version.status, 200);
    assert!(
        version.text().contains(env!("CARGO_PKG_VERSION")),
        "{}",
        version.text()
    );
    assert_eq!(sidecar.admin("/nowhere").status, 404);
}

#[test]
fn a_platform_that_is_down_is_not_our_unreadiness() {
    let sidecar = Sidecar::start(|conf| conf.platform = "http://nothing.invalid".to_owned());
    sidecar
        .query(query_json(MERID, ORDERID))
        .problem(502, "platform-unreachable", "no");
    assert_eq!(sidecar.admin("/readyz").status, 200);
}

#[test]
fn a_reload_is_a_post() {
    let sidecar = Sidecar::start(|_| {});
    assert_eq!(sidecar.admin("/-/reload").status, 405);
    assert_eq!(sidecar.reload().status, 200);
}

#[test]
fn the_app_s_listener_has_no_admin_pages() {
    let sidecar = Sidecar::start(|_| {});
    for path in ["/metrics", "/readyz", "/livez", "/version", "/-/reload"] {
        assert_eq!(
            client::fetch(sidecar.app(), path).unwrap().status,
            404,
            "{path}"
        );
        assert_eq!(client::post(sidecar.app(), path, "").status, 404, "{path}");
    }
    let at_admin = client::post(
        sidecar.setup.admin,
        "/api/query",
        query_json(MERID, ORDERID),
    );
    assert!([404, 405].contains(&at_admin.status));
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// The name of a sample, after its labels have been checked.
#[track_caller]
fn sample_name(line: &str) -> String {
    let (left, value) = line
        .rsplit_once(' ')
        .unwrap_or_else(|| panic!("no value: {line}"));
    assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
    let (name, labels) = match left.split_once('{') {
        Some((name, rest)) => (
            name,
            rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}")),
        ),
        None => (left, ""),
    };
    assert!(is_name(name), "{line}");
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (label, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(label), "{line}");
        assert!(!value.contains('\n'), "{line}");
    }
    name.to_owned()
}

#[test]
fn the_metrics_are_well_formed_and_all_ours() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    sidecar.query(query_json(MERID, ORDERID));
    sidecar.query("{");
    sidecar.submit(submit_json(&fresh_orderid()));
    let page = sidecar.admin("/metrics");
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    let text = page.text();
    assert!(text.ends_with('\n'));
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut samples = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            let twice = types.insert(name.to_owned(), kind.to_owned());
            assert!(twice.is_none(), "declared twice: {line}");
        } else if !line.starts_with('#') {
            let name = sample_name(line);
            let prefixes = ["countersign_", "process_"];
            assert!(prefixes.iter().any(|it| name.starts_with(it)), "{line}");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|end| name.strip_suffix(end))
                .find(|family| types.contains_key(*family))
                .unwrap_or(&name);
            let kind = types
                .get(family)
                .unwrap_or_else(|| panic!("no type: {line}"));
            if kind == "counter" {
                assert!(
                    family.ends_with("_total"),
                    "a counter's name ends in _total: {line}"
                );
            }
            samples += 1;
        }
    }
    assert!(samples > 10, "{text}");
}

#[test]
fn the_metrics_count_what_happened() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let url = platform.url();
    let two = merchant(MERID, KEY) + &merchant("100000000000009", "some other key 4711");
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = two.clone();
    });
    let before = sidecar.metrics();
    for _ in 0..3 {
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    }
    sidecar.query("{").problem(400, "invalid-json", "no");
    let unsigned = query_json("100000000000009", ORDERID);
    sidecar
        .query(unsigned)
        .problem(502, "unsigned-answer", "yes");
    assert_eq!(sidecar.submit(submit_json(&fresh_orderid())).status, 200);
    let three = two + &merchant("100000000000010", "yet another key 0815");
    std::fs::write(sidecar.merchants_file(), three).unwrap();
    assert_eq!(sidecar.reload().status, 200);
    let after = sidecar.metrics();
    let more = |words: &[&str]| after.sum(words) - before.sum(words);
    assert!(
        more(&["calls", "_total", "query"]) >= 5.0,
        "calls by endpoint: {:?}",
        after.samples
    );
    assert!(
        more(&["calls", "_total", "submit"]) >= 1.0,
        "{:?}",
        after.samples
    );
    assert!(
        more(&["calls", "_total", "invalid-json"]) >= 1.0,
        "{:?}",
        after.samples
    );
    assert!(
        more(&["calls", "_total", "unsigned-answer"]) >= 1.0,
        "{:?}",
        after.samples
    );
    assert!(
        more(&["connections", "opened"]) >= 1.0,
        "{:?}",
        after.samples
    );
    assert!(
        more(&["connections", "reused"]) >= 1.0,
        "{:?}",
        after.samples
    );
    assert!(more(&["reload", "_total"]) >= 1.0, "{:?}", after.samples);
    let in_force = after
        .samples
        .iter()
        .find(|(name, _)| name.starts_with("countersign_merchants") && !name.contains("_total"));
    assert_eq!(
        in_force.map(|(_, value)| *value),
        Some(3.0),
        "{:?}",
        after.samples
    );
}

#[test]
fn labels_are_bounded_whatever_strangers_send() {
    let sidecar = Sidecar::start(|_| {});
    let strangers = |numbers: std::ops::Range<usize>| {
        for n in numbers {
            sidecar.post(&format!("/nowhere/{n}"), "{}");
            sidecar.query(query_json(&format!("9{n:014}"), ORDERID));
        }
        sidecar.metrics().samples.len()
    };
    assert_eq!(strangers(0..1), strangers(1..50));
}

#[test]
fn a_json_log_is_json_line_by_line() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.log_level = "debug";
        conf.further = "format = \"json\"\n".to_owned();
    });
    sidecar.query(query_json(MERID, ORDERID));
    sidecar.query("{");
    let output = sidecar.output();
    for line in output.lines() {
        let json = serde_json::from_str::<serde_json::Value>(line);
        assert!(json.is_ok_and(|json| json.is_object()), "{line}");
    }
    assert!(!output.is_empty());
}
