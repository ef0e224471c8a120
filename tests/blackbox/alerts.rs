//! The alert rules and the dashboard in `conf/`: they ask for what is exported, and each alert has its steps.

use crate::harness::{KEY, eventually, is_installed, skip};
use crate::metrics::page;
use crate::shop::{Payment, SOON, Shop, callback, refused};
use crate::wire;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

const RULES: &str = include_str!("../../conf/alerts.yml");
const GUIDE: &str = include_str!("../../conf/alerts.md");

fn dashboard() -> Value {
    serde_json::from_str(include_str!("../../conf/grafana-dashboard.json")).unwrap()
}

/// Each expression of the dashboard, with Grafana's variables filled in.
fn panels() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    targets
        .map(|target| {
            let expression = target["expr"].as_str().unwrap();
            let expression = expression.replace("$__rate_interval", "5m");
            expression.replace("$instance", ".*")
        })
        .collect()
}

/// The values of `key:` in the rules, which stand on one line or, after `|`, on the deeper ones below.
fn rules(key: &str) -> Vec<String> {
    let mut lines = RULES.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let entry = line.trim_start().trim_start_matches("- ");
        let Some(value) = entry.strip_prefix(key).and_then(|it| it.strip_prefix(": ")) else {
            continue;
        };
        let mut value = value.to_owned();
        if value == "|" {
            value.clear();
            while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
                value += more;
            }
        }
        found.push(value);
    }
    found
}

/// The words of an expression that could be a metric of ours.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("countersign_") || word.starts_with("process_"))
}

/// What an expression compares labels with, where it is no pattern.
fn values(expression: &str) -> Vec<String> {
    let quoted = expression.split('"').skip(1).step_by(2);
    let values = quoted.flat_map(|quoted| quoted.split('|'));
    let plain = values.filter(|value| !value.contains(['*', '.', '+']));
    plain.map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_ask_only_for_what_is_exported() {
    let page = page();
    let samples: BTreeSet<_> = page.lines().flat_map(|line| names(line).next()).collect();
    let (rules, panels) = (rules("expr"), panels());
    assert!(rules.len() > 15 && panels.len() > 25, "{rules:#?}");
    for expression in rules.iter().chain(&panels) {
        let missing: Vec<_> = names(expression)
            .filter(|name| !samples.contains(name))
            .collect();
        assert!(missing.is_empty(), "{missing:?} in {expression}");
    }
    // A rate does not see a series that begins at 1, so what an alert looks for must be there before it happens.
    for expression in rules.iter().filter(|rule| !rule.starts_with("up{")) {
        for value in values(expression) {
            assert!(
                page.contains(&format!("=\"{value}\"")),
                "{value} in {expression}"
            );
        }
    }
}

#[test]
fn every_alert_has_its_steps_in_the_guide_and_every_step_its_alert() {
    let alerts: BTreeSet<_> = rules("alert").into_iter().collect();
    let headings = GUIDE
        .lines()
        .filter_map(|line| line.strip_prefix("### Countersign"));
    let steps: BTreeSet<_> = headings.map(|name| format!("Countersign{name}")).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    assert_eq!(alerts, steps);
}

#[test]
fn promtool_accepts_the_rules_and_every_panel_of_the_dashboard() {
    let name = "promtool_accepts_the_rules_and_every_panel_of_the_dashboard";
    if !is_installed("promtool") {
        return skip(name, "promtool is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yml");
    let panels: Vec<_> = panels()
        .iter()
        .enumerate()
        .map(|(n, expression)| json!({ "record": format!("panel:{n}"), "expr": expression }))
        .collect();
    let groups = json!({ "groups": [{ "name": "panels", "rules": panels }] });
    fs::write(&file, groups.to_string()).unwrap();
    let (rules, tests) = (
        Path::new("conf/alerts.yml"),
        Path::new("tests/conf/alerts.yml"),
    );
    for (what, file) in [("check", rules), ("check", &file), ("test", tests)] {
        let output = Command::new("promtool")
            .args([what, "rules"])
            .arg(file)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{what} {file:?}: {output:?}");
    }
}

/// The series of a metric as `promtool test` wants them: scraped every 15 s, twice as on the one page, then as on the other.
fn series(name: &str, before: &str, after: &str) -> Vec<Value> {
    let samples = |page: &str| -> BTreeMap<String, String> {
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, value)| (series.to_owned(), value.to_owned()))
            .collect()
    };
    let (before, after) = (samples(before), samples(after));
    let scraped = after.into_iter().map(|(series, value)| {
        // One that begins later has no earlier samples.
        let first = before.get(&series).map_or("_", String::as_str);
        let labelled = series.replacen('{', "{instance=\"a\",", 1);
        json!({"series": labelled, "values": format!("{first} {first} {value}x20")})
    });
    scraped.collect()
}

#[test]
fn ten_notifications_that_cannot_be_read_ring_within_a_minute_and_are_in_the_console() {
    let name = "ten_notifications_that_cannot_be_read_ring_within_a_minute_and_are_in_the_console";
    let shop = Shop::open();
    let before = shop.sidecar.admin("/metrics").text();
    let changes = [
        (":1280", ":12.80", "txnamt"),
        ("\"0000\"", "0", "resultcode"),
        ("\"queryid\"", "\"queryId\"", "queryid"),
        ("\"orderid\"", "\"orderid\":true,\"order\"", "orderid"),
        ("\"2017-03-01 12:00:05\"", "{}", "paytime"),
        ("{", "{\"respcode\":\"01\",", "respcode"),
        ("}", "", ""),
    ];
    for (from, to, field) in changes {
        let payment = Payment::of(&shop.order());
        let json = payment.json().replacen(from, to, 1);
        assert_ne!(json, payment.json());
        // As often as the platform calls (§3.3.1).
        for _ in 0..10 {
            refused(&json, &callback(shop.address(), wire::answer(&json, KEY)));
        }
        let shown = shop.sidecar.admin("/events?state=disputed&lang=en").text();
        let is_read = !["", "orderid"].contains(&field);
        assert!(shown.contains(field) && (!is_read || shown.contains(&payment.orderid)));
        let line = |line: &str| line.contains("needs manual review") && line.contains(field);
        eventually(field, SOON, || shop.sidecar.output().lines().any(line));
    }
    assert_eq!(shop.list().len(), changes.len());
    assert_eq!(shop.app.count(), 0);
    if !is_installed("promtool") {
        return skip(name, "promtool is not installed");
    }
    let after = shop.sidecar.admin("/metrics").text();
    let alerts: Vec<_> = changes
        .iter()
        .map(|(_, _, field)| match *field {
            "" => json!({
                "exp_labels": {"instance": "a", "severity": "critical"},
                "exp_annotations": {"summary": "a cannot read a verified result"},
            }),
            field => json!({
                "exp_labels": {"instance": "a", "severity": "critical", "field": field},
                "exp_annotations": {"summary": format!("a cannot read a verified result: {field}")},
            }),
        })
        .collect();
    let alert = "CountersignResultsUnreadable";
    let test = json!({
        "rule_files": [Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/alerts.yml")],
        "evaluation_interval": "15s",
        "tests": [{
            "interval": "15s",
            "input_series": series("countersign_disputes_total", &before, &after),
            "alert_rule_test": [
                {"eval_time": "15s", "alertname": alert},
                // They came right after the second scrape.
                {"eval_time": "75s", "alertname": alert, "exp_alerts": alerts},
            ],
        }],
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.yml");
    fs::write(&file, test.to_string()).unwrap();
    let output = Command::new("promtool")
        .args(["test", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{test:#}: {output:?}");
}

#[test]
fn no_panel_of_the_dashboard_covers_another() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} at {x}, {y}", panel["title"]);
            }
        }
    }
    assert!(taken.len() > 500);
}
