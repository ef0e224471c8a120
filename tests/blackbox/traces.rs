//! Traces: what is passed on of a caller's, and what a collector gets (OTLP over HTTP, in protobuf).

use crate::client::{Connection, post_bytes, post_with};
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, eventually, exit_within, fresh_orderid, query_json,
    signal, submit_json,
};
use crate::platform::{Action, Platform, Seen, http};
use crate::shop::{BACK, FORM, FRONT, Payment, SOON, Shop, acknowledged};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn traceparent() -> String {
    format!("traceparent: 00-{TRACE}-{CALLER}-01")
}

/// A request's trace and span, where it names any.
fn trace_of(seen: &Seen) -> Option<(String, String, String)> {
    let value = seen.header("traceparent")?;
    let parts: Vec<_> = value.split('-').map(str::to_owned).collect();
    assert_eq!((parts.len(), parts[0].as_str()), (4, "00"), "{value}");
    Some((parts[1].clone(), parts[2].clone(), parts[3].clone()))
}

#[test]
fn a_valid_traceparent_is_passed_on_as_it_came_and_none_is_made_up() {
    let shop = Shop::open();
    let valid = traceparent();
    let upper = valid.to_uppercase().replace("TRACEPARENT", "traceparent");
    for (headers, passed) in [
        (vec![valid.as_str(), "tracestate: vendor=1"], true),
        (vec![], false),
        (vec!["tracestate: vendor=1"], false),
        (vec![&upper, "tracestate: vendor=1"], false),
        (vec![&valid, &valid], false),
        (vec!["traceparent: 00-1-2-3"], false),
    ] {
        for (path, body) in [
            ("/api/query", query_json(MERID, ORDERID)),
            ("/api/icashier", submit_json(&fresh_orderid())),
        ] {
            assert_eq!(
                post_with(shop.sidecar.app(), path, &headers, body).status,
                200
            );
            let seen = shop.platform.last();
            let expected = passed.then_some(valid.split_once(": ").unwrap().1);
            assert_eq!(seen.header("traceparent"), expected, "{path} {headers:?}");
            let state = passed.then_some("vendor=1");
            assert_eq!(seen.header("tracestate"), state, "{path} {headers:?}");
        }
    }
}

#[test]
fn a_callback_s_trace_goes_on_to_the_app() {
    let shop = Shop::open();
    let (traced, plain) = (shop.order(), shop.order());
    let header = traceparent();
    for (orderid, headers) in [(&traced, vec![FORM, &header]), (&plain, vec![FORM])] {
        let form = Payment::of(orderid).form();
        acknowledged(&post_with(shop.address(), BACK, &headers, &form));
        shop.hears(orderid, 1);
        let seen = shop.app.last();
        let expected = (headers.len() > 1).then_some((TRACE, CALLER));
        let trace = trace_of(&seen);
        let found = trace.as_ref().map(|it| (it.0.as_str(), it.1.as_str()));
        assert_eq!(found, expected);
        let bytes = [
            format!("GET {FRONT}?{form} HTTP/1.1\r\nHost: shop\r\n"),
            headers[1..].iter().map(|it| format!("{it}\r\n")).collect(),
            "\r\n".to_owned(),
        ];
        let mut browser = Connection::open(shop.address()).unwrap();
        assert_eq!(browser.exchange(bytes.concat()).unwrap().status, 200);
        let trace = trace_of(&shop.app.last());
        let found = trace.as_ref().map(|it| (it.0.as_str(), it.1.as_str()));
        assert_eq!(found, expected);
    }
}

/// A protobuf message: its fields' numbers and bytes; numbers are dropped.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let length = match tag & 7 {
            0 => {
                varint(&mut bytes);
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        found.push((tag >> 3, value));
        bytes = rest;
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn within(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let fields = fields(message).into_iter();
    fields.filter_map(move |(found, value)| (found == number).then_some(value))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Attributes whose values are texts.
fn attributes<'a>(all: impl Iterator<Item = &'a [u8]>) -> BTreeMap<String, String> {
    let read = |attribute: &[u8]| {
        let name = within(attribute, 1).next().map(text)?;
        let value = within(attribute, 2).next()?;
        let value = within(value, 1).next().map(text)?;
        Some((name, value))
    };
    all.filter_map(read).collect()
}

/// A span as the collector got it (opentelemetry/proto/trace/v1/trace.proto).
#[derive(Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    attributes: BTreeMap<String, String>,
    resource: BTreeMap<String, String>,
}

fn spans(collector: &Platform) -> Vec<Span> {
    let mut found = Vec::new();
    for seen in collector.seen() {
        for group in within(&seen.body, 1) {
            let resource = within(group, 1).next().unwrap_or_default();
            for scope in within(group, 2) {
                for span in within(scope, 2) {
                    let bytes = |number| within(span, number).next().unwrap_or_default();
                    found.push(Span {
                        trace: hex(bytes(1)),
                        id: hex(bytes(2)),
                        parent: hex(bytes(4)),
                        name: text(bytes(5)),
                        attributes: attributes(within(span, 9)),
                        resource: attributes(within(resource, 1)),
                    });
                }
            }
        }
    }
    found
}

fn takes_all() -> Platform {
    Platform::start(|_| Action::Reply(http(200, &["Content-Type: application/x-protobuf"], "")))
}

/// A sidecar with these variables.
#[track_caller]
fn traced(setup: Setup, collector: &str, variables: &[(&str, &str)]) -> Sidecar {
    let mut command = setup.command();
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .envs(variables.iter().copied());
    let child = command.spawn().unwrap();
    let sidecar = Sidecar { setup, child };
    eventually("ready", SOON, || {
        crate::client::fetch(sidecar.setup.admin, "/readyz").is_ok_and(|it| it.status == 200)
    });
    sidecar
}

fn before(platform: &Platform) -> Setup {
    let url = platform.url();
    Setup::new(|conf| conf.platform = url)
}

#[test]
fn each_call_is_a_span_in_the_caller_s_trace_or_in_a_new_one() {
    let (platform, collector) = (Platform::honest(&[(MERID, KEY)]), takes_all());
    let variables = [
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-collector-key=CANARYHEADER1,b=2",
        ),
        ("OTEL_SERVICE_NAME", "till-7"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
    ];
    let mut sidecar = traced(before(&platform), &collector.url(), &variables);
    let (header, id) = (traceparent(), "X-Request-Id: mine-1");
    let answer = post_with(
        sidecar.app(),
        "/api/query",
        &[&header, id],
        query_json(MERID, ORDERID),
    );
    assert_eq!(answer.status, 200);
    let (trace, first, flags) = trace_of(&platform.last()).unwrap();
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_ne!(first, CALLER);
    sidecar.submit(submit_json("x"));
    sidecar.query(query_json(MERID, ORDERID));
    let (own, last, _) = trace_of(&platform.last()).unwrap();
    assert_ne!(own, TRACE);

    eventually("three spans", SOON, || spans(&collector).len() >= 3);
    let all = spans(&collector);
    assert_eq!(all.len(), 3, "{all:?}");
    let find = |id: &str| all.iter().find(|it| it.id == id).unwrap();
    let span = find(&first);
    assert_eq!(
        (&span.trace[..], &span.parent[..], &span.name[..]),
        (TRACE, CALLER, "call query")
    );
    for (name, value) in [
        ("countersign.request_id", "mine-1"),
        ("countersign.merid", MERID),
        ("countersign.orderid", ORDERID),
        ("countersign.outcome", "ok"),
        ("countersign.sent", "yes"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(span.attributes[name], value, "{span:?}");
    }
    assert_eq!(span.resource["service.name"], "till-7");
    assert_eq!(span.resource["deployment.environment"], "test");
    let span = find(&last);
    assert_eq!((&span.trace, span.parent.as_str()), (&own, ""));
    let refused = all.iter().find(|it| it.name == "call submit").unwrap();
    assert_eq!(refused.attributes["countersign.outcome"], "invalid-field");

    let seen = collector.last();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/v1/traces")
    );
    for (name, value) in [
        ("content-type", "application/x-protobuf"),
        ("x-collector-key", "CANARYHEADER1"),
        ("b", "2"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }
    // What is left goes out with the end.
    sidecar.query(query_json(MERID, ORDERID));
    signal(&sidecar.child, "TERM");
    assert!(exit_within(&mut sidecar.child, SOON).is_some());
    assert_eq!(spans(&collector).len(), 4);
    assert!(!sidecar.output().contains("CANARYHEADER1"));
}

#[test]
fn a_callback_and_the_deliveries_of_its_result_are_one_trace() {
    let (collector, app) = (
        takes_all(),
        Platform::start(|seen| match seen.header("countersign-attempt") {
            Some("1") => crate::shop::refused_by_app(),
            _ => crate::shop::taken(),
        }),
    );
    let platform = Platform::honest(&[(MERID, KEY)]);
    let setup = Shop::setup(&platform, &app.url(), |_| {});
    let sidecar = traced(setup, &collector.url(), &[]);
    let orderid = fresh_orderid();
    sidecar.submit(submit_json(&orderid));
    let form = Payment::of(&orderid).form();
    let header = traceparent();
    acknowledged(&post_with(
        sidecar.setup.callbacks,
        BACK,
        &[FORM, &header],
        form,
    ));
    app.wait_for(2);
    eventually("four spans", SOON, || spans(&collector).len() >= 4);
    let all = spans(&collector);
    let callback = all.iter().find(|it| it.name == "callback back").unwrap();
    assert_eq!(
        (callback.trace.as_str(), callback.parent.as_str()),
        (TRACE, CALLER)
    );
    let deliveries: Vec<_> = all.iter().filter(|it| it.name == "delivery").collect();
    assert_eq!(deliveries.len(), 2, "{all:?}");
    for (delivery, seen) in deliveries.iter().zip(app.seen()) {
        let (trace, span, _) = trace_of(&seen).unwrap();
        assert_eq!((&delivery.trace, &delivery.id), (&trace, &span));
        assert_eq!(
            (trace.as_str(), &delivery.parent),
            (TRACE, &callback.id),
            "{delivery:?}"
        );
        assert_eq!(delivery.attributes["countersign.orderid"], orderid);
    }
    assert_eq!(deliveries[0].resource["service.name"], "countersign");
}

#[test]
fn no_secret_goes_to_the_collector() {
    let (platform, collector) = (Platform::honest(&[(MERID, KEY)]), takes_all());
    let app = Platform::start(|_| crate::shop::taken());
    let setup = Shop::setup(&platform, &app.url(), |_| {});
    let sidecar = traced(setup, &collector.url(), &[]);
    let orderid = fresh_orderid();
    let submit = submit_json(&orderid).replace(
        "\"txnamt\"",
        "\"accname\":\"CANARYNAME\",\"accno\":\"CANARYNO\",\"txnamt\"",
    );
    assert_eq!(sidecar.submit(&submit).status, 200);
    let form = Payment::of(&orderid).form();
    let answer = post_with(sidecar.setup.callbacks, BACK, &[FORM], &form);
    acknowledged(&answer);
    eventually("three spans", SOON, || spans(&collector).len() >= 3);
    let signs = [
        platform.last_of(&orderid).unwrap().sign(),
        crate::wire::value(&form, "sign").unwrap(),
    ];
    for seen in collector.seen() {
        let bytes = String::from_utf8_lossy(&seen.body).into_owned();
        for secret in [KEY, "CANARYNAME", "CANARYNO", &signs[0], &signs[1]] {
            assert!(!bytes.contains(secret), "{secret}");
        }
    }
}

#[test]
fn a_collector_that_hangs_or_is_not_there_holds_nothing_up() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let hanging = Platform::start(|_| Action::Hang);
    for (name, collector) in [
        ("hanging", hanging.url()),
        ("nobody", "http://127.0.0.1:9".to_owned()),
    ] {
        // More spans than fit its queue.
        let variables = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"),
        ];
        let mut sidecar = traced(before(&platform), &collector, &variables);
        let mut connection = Connection::open(sidecar.app()).unwrap();
        for _ in 0..200 {
            let began = Instant::now();
            let bytes = post_bytes("/api/query", &[], query_json(MERID, ORDERID));
            assert_eq!(connection.exchange(bytes).unwrap().status, 200);
            assert!(began.elapsed() < Duration::from_secs(1), "{name}");
        }
        drop(connection);
        let began = Instant::now();
        signal(&sidecar.child, "TERM");
        let status = exit_within(&mut sidecar.child, SOON);
        assert_eq!(status.and_then(|it| it.code()), Some(0), "{name}");
        assert!(began.elapsed() < Duration::from_secs(5), "{name}");
        let complaints = sidecar
            .output()
            .matches("the collector does not take")
            .count();
        assert!(complaints <= 2, "{name}: {}", sidecar.output());
    }
}

#[test]
fn samplers_switches_and_mistakes_are_as_the_variables_say() {
    let (platform, collector) = (Platform::honest(&[(MERID, KEY)]), takes_all());
    for (variables, flags, warns) in [
        (
            vec![("OTEL_TRACES_SAMPLER", "always_off")],
            Some("00"),
            false,
        ),
        (vec![("OTEL_SDK_DISABLED", "true")], None, false),
        (vec![("OTEL_TRACES_EXPORTER", "none")], None, false),
        (vec![("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], None, true),
        (
            vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "no address")],
            None,
            true,
        ),
    ] {
        let sidecar = traced(before(&platform), &collector.url(), &variables);
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        let trace = trace_of(&platform.last());
        let found = trace.as_ref().map(|it| it.2.as_str());
        assert_eq!(found, flags, "{variables:?}");
        let warned = sidecar.output().contains("no traces are exported");
        assert_eq!(warned, warns, "{variables:?}: {}", sidecar.output());
    }
    assert_eq!(collector.count(), 0);
}
