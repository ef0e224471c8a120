//! The OpenAPI document: both listeners serve it, a validator accepts it, and it has what the binary does.

use crate::client;
use crate::documented::markdown;
use crate::harness::{MERID, Sidecar, fresh_orderid, query_json, submit_json};
use crate::platform::{Action, Platform, http};
use crate::shop::{Book, Shop, taken};
use crate::skip;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::process::Command;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/openapi.json");

fn document() -> Value {
    serde_json::from_slice(&std::fs::read(FILE).unwrap()).unwrap()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

fn texts(array: &Value) -> BTreeSet<String> {
    let texts = array.as_array().unwrap().iter();
    texts.map(|it| it.as_str().unwrap().to_owned()).collect()
}

#[test]
fn both_listeners_serve_the_document_and_nothing_else_answers_a_get() {
    let sidecar = Sidecar::start(|_| {});
    for address in [sidecar.setup.app, sidecar.setup.admin] {
        let reply = client::fetch(address, "/openapi.json").unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.json(), document());
    }
    let reply = client::fetch(sidecar.setup.app, "/api/query").unwrap();
    assert_eq!(reply.status, 405);
    // No call was made.
    assert_eq!(sidecar.metrics().sum(&["calls_total", "ok"]), 0.0);
}

#[test]
fn a_validator_finds_nothing_wrong() {
    const NAME: &str = "a_validator_finds_nothing_wrong";
    if !skip::is_installed("openapi-spec-validator") {
        return skip::skip(NAME, "openapi-spec-validator is not installed");
    }
    let output = Command::new("openapi-spec-validator")
        .arg(FILE)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_document_has_every_path_code_and_status() {
    let document = document();
    let text = markdown::read("conf/calls.md");
    let paths = markdown::rows(&text)
        .flat_map(|row| markdown::spans(row[0]).into_iter().collect::<Vec<_>>())
        .filter_map(|span| span.strip_prefix("POST ").map(str::to_owned));
    let mut paths: BTreeSet<_> = paths.filter(|path| path.starts_with('/')).collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
    paths.insert("/openapi.json".to_owned());
    assert_eq!(keys(&document["paths"]), paths);
    let problem = &document["components"]["schemas"]["Problem"]["properties"];
    let text = markdown::read("conf/errors.md");
    let rows: Vec<_> = markdown::rows(&text)
        .filter(|row| row.len() == 4 && row[0].starts_with('`'))
        .map(|row| (row[0].to_owned(), row[1].to_owned()))
        .collect();
    let codes: BTreeSet<String> = rows
        .iter()
        .flat_map(|(codes, _)| markdown::spans(codes))
        .collect();
    assert_eq!(texts(&problem["code"]["enum"]), codes);
    let statuses: BTreeSet<_> = rows
        .iter()
        .flat_map(|(_, statuses)| statuses.split(", ").map(str::to_owned))
        .collect();
    let responses = keys(&document["components"]["responses"]);
    let described = responses.iter().map(|name| name.replace("Problem", ""));
    assert_eq!(described.collect::<BTreeSet<_>>(), statuses);
}

/// A reply has the members that the schema requires, and none that it does not have.
#[track_caller]
fn fits(reply: &Value, schema: &Value) {
    let known = keys(&schema["properties"]);
    let members = keys(reply);
    assert!(members.is_subset(&known), "{reply}");
    assert!(texts(&schema["required"]).is_subset(&members), "{reply}");
    for (name, part) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        if part["properties"].is_object() && reply[name].is_object() {
            let mut part = part.clone();
            if part["required"].is_null() {
                part["required"] = Value::Array(Vec::new());
            }
            fits(&reply[name], &part);
        }
        if part["enum"].is_array() && !reply[name].is_null() {
            assert!(
                texts(&part["enum"]).contains(reply[name].as_str().unwrap()),
                "{reply}"
            );
        }
    }
}

#[test]
fn replies_and_deliveries_are_as_the_document_has_them() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let platform = Platform::start(|_| Action::Reply(http(500, &[], "no")));
    let sidecar = Sidecar::before(&platform);
    let order = fresh_orderid();
    for reply in [
        sidecar.query(query_json(MERID, &order)),
        sidecar.query("{"),
        sidecar.submit(r#"{"action":"AliPay","txnamt":0}"#),
    ] {
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
        fits(&reply.json(), &schemas["Problem"]);
    }
    let link = client::post(sidecar.setup.app, "/apis/icashier", submit_json(&order));
    fits(&link.json(), &schemas["Link"]);
    let shop = Shop::start(Book::default(), |_| taken(), |_| {});
    shop.goes_well();
    let seen = shop.app.seen();
    let sent = seen[0]
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase());
    let sent: BTreeSet<_> = sent
        .filter(|name| name.starts_with("countersign-"))
        .collect();
    let parameters = document["webhooks"]["result"]["post"]["parameters"]
        .as_array()
        .unwrap();
    let names = |required: bool| -> BTreeSet<_> {
        let wanted = parameters
            .iter()
            .filter(|it| !required || it["required"] == true);
        wanted
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(sent.is_subset(&names(false)), "{sent:?}");
    assert!(names(true).is_subset(&sent), "{sent:?}");
}
