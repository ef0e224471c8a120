//! The log: one line a request, nobody else's line breaks in it, and nobody waits for whoever reads it.

use crate::client::{Connection, post_with};
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, eventually, fresh_orderid, query_json, submit_json,
};
use crate::platform::{Action, Platform, honestly, http};
use crate::shop::{Payment, SOON, Shop, callback};
use crate::wire;
use serde_json::{Value, json};
use std::io::Read as _;
use std::process::{ChildStderr, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const FORGED: &str = "\n2017-03-01T00:00:00.000000Z  INFO forged\r\u{1b}[2J\u{7f}";

/// Everything that others may say, with line breaks in it wherever they may stand.
fn speak(shop: &Shop) {
    let sidecar = &shop.sidecar;
    for (merid, orderid) in [
        (MERID, FORGED),
        (FORGED, ORDERID),
        (MERID, "ABCDEFGH\u{0085}"),
    ] {
        sidecar.query(json!({"merid": merid, "orderid": orderid}).to_string());
        let submit = json!({
            "action": "Bank", "txnamt": 1, "merid": merid, "orderid": orderid, "backurl": "https://a/b",
        });
        sidecar.submit(submit.to_string());
        let form = wire::request(submit.to_string(), KEY);
        sidecar.post("/api/icashier", form);
        let told = json!({"merid": merid, "orderid": orderid, "queryid": FORGED, "resultcode": "0000", "txnamt": 1});
        for key in [KEY, "guess"] {
            callback(shop.address(), wire::answer(told.to_string(), key));
        }
    }
    let odd = ["X-Request-Id: a\tb", "X-Request-Id: \u{e9}\u{1f}"];
    for header in odd {
        let mut connection = Connection::open(sidecar.app()).unwrap();
        let bytes = crate::client::post_bytes("/api/query", &[header], query_json(MERID, ORDERID));
        drop(connection.exchange(bytes));
    }
    post_with(sidecar.app(), "/no%0awhere%1b", &[], "");
    std::fs::write(sidecar.merchants_file(), format!("[[mer{FORGED}")).unwrap();
    sidecar.reload();
    std::fs::write(
        sidecar.merchants_file(),
        "[[merchant]]\nmerid = \"a\\nb\\u001b\"\n\"k\\ney\" = 1\n",
    )
    .unwrap();
    sidecar.reload();
    eventually("all of it is written", SOON, || {
        sidecar.output().contains("unknown key")
    });
}

/// A platform whose every answer is odd in another way, with an app that is odd too.
fn shop(format: &str) -> Shop {
    let odd = format!("HTTP/1.1 200 OK\r\nX: {FORGED}\r\nContent-Length: 1\r\n\r\nx");
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/query" => Action::Cut(odd.clone().into_bytes()),
        _ => Action::Reply(http(200, &["X: y"], format!("<p>{FORGED}"))),
    });
    let app = Platform::start(|_| Action::Reply(http(500, &[], FORGED)));
    let format = format.to_owned();
    Shop::between(crate::shop::Book::default(), platform, app, move |conf| {
        conf.log_level = "debug";
        conf.log_format = Some(format);
    })
}

#[test]
fn no_text_of_others_begins_a_line_of_the_log() {
    let shop = shop("text");
    speak(&shop);
    let output = shop.sidecar.output();
    let (mut lines, mut calls) = (0, 0);
    for line in output.lines() {
        let time = line.get(..27).unwrap_or_default();
        let is_time = time.ends_with('Z') && time.starts_with("20") && !time.starts_with("2017");
        assert!(is_time, "{line:?}");
        assert!(!line.contains(|c: char| c.is_ascii_control()), "{line:?}");
        lines += 1;
        calls += usize::from(line.contains(" call request_id="));
    }
    assert!(lines > 20 && calls > 10, "{lines} lines, {calls} calls");
}

#[test]
fn in_json_each_line_is_one_object() {
    let shop = shop("json");
    speak(&shop);
    let output = shop.sidecar.output();
    let lines: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
        .collect();
    assert!(lines.len() > 20, "{}", lines.len());
    for line in &lines {
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
}

/// The lines with this message, as objects.
fn lines(sidecar: &Sidecar, message: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let output = sidecar.output();
    let all = output.lines().map(parse);
    all.filter(|line| line["message"] == message).collect()
}

#[test]
fn each_request_has_one_line_that_says_what_became_of_it() {
    let shop = Shop::with(
        |_| crate::shop::taken(),
        |conf| conf.log_format = Some("json".to_owned()),
    );
    let orderid = fresh_orderid();
    let request_id = "X-Request-Id: mine-1";
    post_with(
        shop.sidecar.app(),
        "/api/icashier",
        &[request_id],
        submit_json(&orderid),
    );
    shop.sidecar.query(query_json(MERID, "NOTTHERE0001"));
    shop.sidecar.submit(submit_json("x"));
    assert_eq!(
        callback(shop.address(), Payment::of(&orderid).form()).status,
        200
    );
    assert_eq!(callback(shop.address(), "resp=a&sign=b").status, 400);
    shop.hears(&orderid, 1);
    eventually("the delivery is written down", SOON, || {
        !lines(&shop.sidecar, "delivery").is_empty()
    });
    let calls = lines(&shop.sidecar, "call");
    assert_eq!(calls.len(), 3, "{calls:?}");
    let first = calls
        .iter()
        .find(|it| it["request_id"] == "mine-1")
        .unwrap();
    for (name, value) in [
        ("endpoint", "submit"),
        ("merid", MERID),
        ("orderid", &orderid),
        ("outcome", "ok"),
        ("sent", "yes"),
    ] {
        assert_eq!(first[name], value, "{first}");
    }
    assert_eq!(first["status"], 200);
    let refused = calls
        .iter()
        .find(|it| it["outcome"] == "invalid-field")
        .unwrap();
    assert_eq!(
        (&refused["sent"], &refused["status"]),
        (&json!("no"), &json!(422))
    );
    let callbacks = lines(&shop.sidecar, "callback");
    let outcomes: Vec<_> = callbacks
        .iter()
        .map(|it| it["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["accepted", "malformed"]);
    let deliveries = lines(&shop.sidecar, "delivery");
    assert_eq!(deliveries.len(), 1);
    for line in calls.iter().chain(&callbacks).chain(&deliveries) {
        let ms = line["ms"].as_f64().unwrap_or(-1.0);
        assert!((0.0..30_000.0).contains(&ms), "{line}");
        assert!(
            line["orderid"].is_string() && line["merid"].is_string(),
            "{line}"
        );
    }
    for line in calls.iter().chain(&callbacks) {
        assert!(
            line["request_id"].as_str().is_some_and(|it| !it.is_empty()),
            "{line}"
        );
    }
}

#[test]
fn a_log_that_nobody_reads_holds_no_request_up() {
    const CALLS: usize = 1_500;
    let platform = Platform::start(honestly(&[(MERID, KEY)]));
    let url = platform.url();
    let setup = Setup::new(|conf| {
        conf.platform = url;
        conf.log_level = "debug";
    });
    // A pipe holds 64 KiB; nobody takes anything out of it.
    let child = setup.command().stderr(Stdio::piped()).spawn().unwrap();
    let sidecar = Sidecar { setup, child };
    eventually("ready", SOON, || {
        crate::client::fetch(sidecar.setup.admin, "/readyz").is_ok_and(|it| it.status == 200)
    });
    let long = format!("X-Request-Id: {}", "x".repeat(120));
    let mut connection = Connection::open(sidecar.app()).unwrap();
    for call in 0..CALLS {
        let began = Instant::now();
        let bytes = crate::client::post_bytes("/api/query", &[&long], query_json(MERID, ORDERID));
        let answer = connection.exchange(bytes).unwrap();
        assert_eq!(answer.status, 200, "{call}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "{call}: {took:?}");
    }
}

/// Everything that comes out of a pipe, read from now on.
fn read_on(mut pipe: ChildStderr) -> Arc<Mutex<Vec<u8>>> {
    let seen = Arc::<Mutex<Vec<u8>>>::default();
    let kept = Arc::clone(&seen);
    thread::spawn(move || {
        let mut bytes = [0; 64 * 1024];
        while let Ok(read @ 1..) = pipe.read(&mut bytes) {
            kept.lock().unwrap().extend_from_slice(&bytes[..read]);
        }
    });
    seen
}

#[test]
fn lines_that_a_stopped_reader_misses_are_counted_and_reported_once_it_reads_again() {
    let platform = Platform::start(honestly(&[(MERID, KEY)]));
    let url = platform.url();
    let setup = Setup::new(|conf| {
        conf.platform = url;
        conf.log_level = "debug";
    });
    let mut child = setup.command().stderr(Stdio::piped()).spawn().unwrap();
    let pipe = child.stderr.take().unwrap();
    let sidecar = Sidecar { setup, child };
    eventually("ready", SOON, || {
        crate::client::fetch(sidecar.setup.admin, "/readyz").is_ok_and(|it| it.status == 200)
    });
    let lost = || sidecar.metrics().sum(&["log_lines_lost_total"]);
    assert_eq!(lost(), 0.0);
    let deadline = Instant::now() + Duration::from_secs(120);
    let calling = &|caller: usize| {
        let long = format!("X-Request-Id: {}{caller}", "x".repeat(120));
        let mut connection = Connection::open(sidecar.app()).unwrap();
        let mut calls = 0;
        while calls % 100 != 0 || lost() == 0.0 {
            let bytes =
                crate::client::post_bytes("/api/query", &[&long], query_json(MERID, ORDERID));
            assert_eq!(connection.exchange(bytes).unwrap().status, 200);
            calls += 1;
            assert!(
                Instant::now() < deadline,
                "nothing is lost after {calls} calls"
            );
        }
    };
    thread::scope(|scope| {
        for caller in 0..4 {
            scope.spawn(move || calling(caller));
        }
    });
    let missed = lost();
    let output = read_on(pipe);
    let text = || String::from_utf8(output.lock().unwrap().clone()).unwrap();
    let reported = || -> f64 {
        let text = text();
        let before = text
            .lines()
            .filter_map(|line| line.split_once(" lines lost: "));
        let counts = before.map(|(before, _)| before.rsplit(' ').next().unwrap());
        counts.map(|count| count.parse::<f64>().unwrap()).sum()
    };
    eventually("the gap is reported", SOON, || reported() == missed);
    assert_eq!(lost(), missed);
    // The log goes on behind the gap.
    post_with(
        sidecar.app(),
        "/api/query",
        &["X-Request-Id: after"],
        query_json(MERID, ORDERID),
    );
    eventually("later lines", SOON, || {
        text().contains("request_id=\"after\"")
    });
}
