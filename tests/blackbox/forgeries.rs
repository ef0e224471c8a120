//! What a stranger, a customer or another merchant may send to `back`: refused, all alike, and the app hears nothing.

use crate::client::{Connection, Response, post_bytes};
use crate::harness::{KEY, MERID, OTHER_KEY, OTHER_MERID, submit_of};
use crate::shop::{BACK, FORM, Payment, Shop, acknowledged, refused};
use crate::wire::{self, answer_around, base64, md5_hex, percent, sign};
use serde_json::json;
use std::collections::BTreeSet;

/// A forgery: what it is, and its bytes.
struct Forgery {
    name: &'static str,
    bytes: Vec<u8>,
}

struct Forger {
    shop: Shop,
    forgeries: Vec<Forgery>,
    orderid: String,
    queries: usize,
}

impl Forger {
    fn new(shop: Shop) -> Self {
        let orderid = shop.order();
        Self {
            shop,
            forgeries: Vec::new(),
            orderid,
            queries: 0,
        }
    }

    /// A payment of our order, under a queryid that no other forgery has.
    fn payment(&mut self) -> Payment {
        self.queries += 1;
        Payment::of(&self.orderid).with_queryid(&format!("QFORGED{:05}", self.queries))
    }

    fn bytes(&mut self, name: &'static str, bytes: Vec<u8>) {
        self.forgeries.push(Forgery { name, bytes });
    }

    fn form(&mut self, name: &'static str, form: impl AsRef<[u8]>) {
        self.bytes(name, post_bytes(BACK, &[FORM], form));
    }

    fn link(&mut self, name: &'static str, query: &str) {
        let target = format!("{BACK}?{query}");
        self.bytes(
            name,
            format!("GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n").into_bytes(),
        );
    }

    fn json(&mut self, name: &'static str, body: &str) {
        let content_type = ["Content-Type: application/json"];
        self.bytes(name, post_bytes(BACK, &content_type, body));
    }

    /// Well signed with our key, but not what a notification is.
    fn signed(&mut self, name: &'static str, json: impl AsRef<[u8]>) {
        self.form(name, wire::answer(json, KEY));
    }

    /// Well signed, with a part of the notification replaced.
    fn changed(&mut self, name: &'static str, from: &str, to: &str) {
        let json = self.payment().json();
        let changed = json.replacen(from, to, 1);
        assert_ne!(json, changed, "{name}");
        self.signed(name, changed);
    }

    fn wrong_signs(&mut self) {
        let payment = self.payment();
        let text = base64(payment.json());
        let resp = percent(&text);
        let good = sign(&text, KEY);
        self.form("no sign", format!("resp={resp}"));
        self.link("no sign in a link", &format!("resp={resp}"));
        let raw: String = good.chars().rev().collect();
        for (name, sign) in [
            ("an empty sign", String::new()),
            ("a short sign", good[..31].to_owned()),
            ("a long sign", format!("{good}0")),
            ("the sign 0", "0".to_owned()),
            (
                "a sign that some languages take for nought",
                "0e462097431906509019562988736854".to_owned(),
            ),
            ("noughts", "0".repeat(32)),
            ("a star", "*".to_owned()),
            ("the sign with a space", format!(" {good}")),
            ("the sign with a line end", format!("{good}\n")),
            ("the sign with a NUL", format!("{good}\0")),
            ("the sign backwards", raw),
            ("no key", md5_hex(&[text.as_bytes()])),
            ("the key first", md5_hex(&[KEY.as_bytes(), text.as_bytes()])),
            (
                "over the JSON",
                md5_hex(&[payment.json().as_bytes(), KEY.as_bytes()]),
            ),
            (
                "over the encoded text",
                md5_hex(&[resp.as_bytes(), b"=", KEY.as_bytes()]),
            ),
            ("another merchant's key", sign(&text, OTHER_KEY)),
            ("the merid as the key", sign(&text, MERID)),
            ("an empty key and a line end", sign(&text, "\n")),
        ] {
            self.form(name, answer_around(&text, &sign));
        }
        self.link("an empty sign in a link", &answer_around(&text, ""));
        self.form(
            "the sign twice",
            format!("resp={resp}&sign={good}&sign={good}"),
        );
        self.form(
            "a second, empty sign",
            format!("resp={resp}&sign={good}&sign="),
        );
        self.form(
            "a second sign before",
            format!("sign=&resp={resp}&sign={good}"),
        );
        self.form("a list of signs", format!("resp={resp}&sign[]={good}"));
        self.form("a sign in capitals", format!("resp={resp}&SIGN={good}"));
        for (name, sign) in [
            ("true for a sign", json!(true)),
            ("null for a sign", json!(null)),
            ("0 for a sign", json!(0)),
            ("a list for a sign", json!([good])),
            ("an empty sign in JSON", json!("")),
        ] {
            self.json(name, &json!({"resp": text, "sign": sign}).to_string());
        }
        let doubled = format!("{{\"resp\":\"{text}\",\"sign\":\"{good}\",\"sign\":\"{good}\"}}");
        self.json("the sign twice in JSON", &doubled);
        let escaped = format!("{{\"resp\":\"{text}\",\"sign\":\"{good}\",\"s\\u0069gn\":\"\"}}");
        self.json("the sign twice in JSON, once escaped", &escaped);
    }

    fn wrong_texts(&mut self) {
        let payment = self.payment();
        let text = base64(payment.json());
        let (resp, good) = (percent(&text), sign(&text, KEY));
        let other = self.payment().with_amount(1);
        let other = percent(&base64(other.json()));
        self.form("nothing", "");
        self.form("no resp", format!("sign={good}"));
        self.form(
            "an empty resp with its sign",
            answer_around("", &sign("", KEY)),
        );
        self.form(
            "the resp twice",
            format!("resp={resp}&resp={resp}&sign={good}"),
        );
        self.form(
            "another resp before",
            format!("resp={other}&resp={resp}&sign={good}"),
        );
        self.form(
            "another resp after",
            format!("resp={resp}&resp={other}&sign={good}"),
        );
        self.link(
            "the resp twice in a link",
            &format!("resp={resp}&resp={other}&sign={good}"),
        );
        self.form("broken percents", format!("resp={resp}%zz&sign={good}"));
        self.form(
            "bytes that are not text",
            b"resp=%ff%fe&sign=\xff\xfe".as_slice(),
        );
        let foreign = text
            .replace('+', "-")
            .replace('/', "_")
            .replacen('e', "-", 1);
        self.form(
            "another alphabet",
            answer_around(&foreign, &sign(&foreign, KEY)),
        );
        self.form("no base64", answer_around("!!!!", &sign("!!!!", KEY)));
        let tail = format!("{text}.{text}");
        self.form("more than base64", answer_around(&tail, &sign(&tail, KEY)));
        self.signed("no JSON", "0000");
        self.signed("no text", b"{\"queryid\":\"\xff\xfe\"}");
        self.signed("a list", format!("[{}]", payment.json()));
        self.signed("two objects", payment.json().repeat(2));
        self.signed("a tail", format!("{} x", payment.json()));
        self.signed("a byte order mark", format!("\u{feff}{}", payment.json()));
        self.signed("a string", format!("{:?}", payment.json()));
        let deep = format!("{{\"more\":{}{},", "[".repeat(5_000), "]".repeat(5_000));
        self.changed("deep nesting", "{", &deep);
        self.changed("half a character", "{", "{\"more\":\"\\ud83d\",");
        let boundary = format!(
            "--x\r\nContent-Disposition: form-data; name=\"resp\"\r\n\r\n{text}\r\n--x\r\n\
             Content-Disposition: form-data; name=\"resp\"\r\n\r\n{text}\r\n--x\r\n\
             Content-Disposition: form-data; name=\"sign\"\r\n\r\n{good}\r\n--x--\r\n"
        );
        let multipart = ["Content-Type: multipart/form-data; boundary=x"];
        self.bytes(
            "a multipart form with two texts",
            post_bytes(BACK, &multipart, boundary),
        );
        self.bytes(
            "half in the link, half in the form",
            post_bytes(
                &format!("{BACK}?resp={resp}"),
                &[FORM],
                format!("sign={good}"),
            ),
        );
        self.bytes(
            "another resp in the link",
            post_bytes(
                &format!("{BACK}?resp={other}&sign={good}"),
                &[FORM],
                format!("resp={other}&sign={good}"),
            ),
        );
    }

    /// Everything that we ever signed ourselves is signed well.
    fn our_own_words(&mut self) {
        let submit = submit_of(MERID, &self.orderid, 1280);
        self.signed("our own submit", &submit);
        let complete = submit.replacen('{', "{\"resultcode\":\"0000\",", 1);
        self.signed("our own submit with a result in it", complete);
        self.signed(
            "our own query",
            json!({"merid": MERID, "orderid": self.orderid, "queryid": "Q1"}).to_string(),
        );
        self.form("our own submit as it was sent", wire::request(&submit, KEY));
        let without =
            json!({"respcode": "00", "respmsg": "成功", "merid": MERID, "orderid": self.orderid});
        self.signed("an answer without a payment", without.to_string());
    }

    fn wrong_orders(&mut self) {
        let theirs = self.shop.order_of(OTHER_MERID);
        let ours = self.orderid.clone();
        let payment = self.payment();
        self.signed(
            "another merchant's order under our merid",
            Payment {
                orderid: theirs,
                ..payment.clone()
            }
            .json(),
        );
        self.form(
            "our order under another merchant's merid and key",
            Payment {
                orderid: ours,
                ..payment.clone()
            }
            .to(OTHER_MERID)
            .form(),
        );
        self.signed(
            "another merchant's merid under our key",
            payment.clone().to(OTHER_MERID).json(),
        );
        self.form(
            "a merchant that is not ours",
            wire::answer(payment.to("999999999999999").json(), KEY),
        );
        for (name, amount) in [
            ("a lower amount", 1),
            ("an amount lower by one", 1279),
            ("a higher amount", 1281),
            ("a hundredfold amount", 128_000),
            ("no amount at all", 0),
            ("an amount below nought", -1280),
        ] {
            let payment = self.payment().with_amount(amount);
            self.signed(name, payment.json());
        }
        for (name, amount) in [
            ("an amount as text with a space", "\"1280 \""),
            ("an amount as text with a sign", "\"+1280\""),
            ("an amount as a float of another value", "1280.01"),
            ("an amount with cents", "12.80"),
            ("an amount with an exponent", "128e1"),
            ("an amount with a float exponent", "1.28E+3"),
            ("an amount with a leading nought", "01280"),
            ("an amount with a sign", "+1280"),
            ("an amount in hexadecimal", "0x500"),
            ("an amount past 64 bits", "18446744073709552896"),
            ("an amount past 32 bits", "4294968576"),
            ("true for an amount", "true"),
            ("null for an amount", "null"),
            ("a list for an amount", "[1280]"),
            ("an object for an amount", "{\"a\":1280}"),
        ] {
            self.changed(name, "1280", amount);
        }
    }

    fn wrong_members(&mut self) {
        let order = format!("\"{}\"", self.orderid);
        let merid = format!("\"{MERID}\"");
        for (name, from, to) in [
            ("no amount", "\"txnamt\":1280,", ""),
            ("no orderid", ",\"orderid\"", ",\"order\""),
            ("no merid", "\"merid\"", "\"mer\""),
            ("no queryid", "\"queryid\"", "\"query\""),
            ("an empty orderid", order.as_str(), "\"\""),
            ("null for the orderid", &order, "null"),
            ("a list for the orderid", &order, "[]"),
            ("an empty merid", &merid, "\"\""),
            ("null for the merid", &merid, "null"),
            ("a fraction for the merid", &merid, "100000000000001.0"),
            (
                "an empty queryid",
                "\"queryid\":\"",
                "\"queryid\":\"\",\"q\":\"",
            ),
            (
                "null for the queryid",
                "\"queryid\":",
                "\"queryid\":null,\"q\":",
            ),
            (
                "an exponent for the queryid",
                "\"queryid\":",
                "\"queryid\":1e3,\"q\":",
            ),
            ("a number for the result", "\"0000\"", "0"),
            ("a list for the result", "\"0000\"", "[\"0000\"]"),
            ("an object for the message", "\"\\u7ed3\\u679c结果\"", "{}"),
            (
                "a list for the time",
                "\"2017-03-01 12:00:05\"",
                "[20170301]",
            ),
            ("the amount twice", "\"merid\"", "\"txnamt\":1280,\"merid\""),
            (
                "the amount twice, once escaped",
                "\"merid\"",
                "\"txn\\u0061mt\":1,\"merid\"",
            ),
            ("another result before", "{", "{\"resultcode\":\"1001\","),
            (
                "another result, escaped",
                "{",
                "{\"r\\u0065sultcode\":\"1001\",",
            ),
            (
                "another orderid",
                "\"merid\"",
                "\"orderid\":\"ABCDEFGH\",\"merid\"",
            ),
            (
                "a doubled member further down",
                "{",
                "{\"more\":{\"a\":1,\"a\":1},",
            ),
        ] {
            self.changed(name, from, to);
        }
    }

    /// A good deal of trust is claimed; the sign is still wrong.
    fn claims(&mut self) {
        let text = base64(self.payment().json());
        let wrong = answer_around(&text, &sign(&text, "guess"));
        for (name, further) in [
            ("forwarded for this machine", "X-Forwarded-For: 127.0.0.1"),
            (
                "forwarded for this machine, in the standard's words",
                "Forwarded: for=127.0.0.1;host=localhost",
            ),
            ("a real address of its own", "X-Real-IP: 127.0.0.1"),
            ("another host forwarded", "X-Forwarded-Host: localhost"),
            ("another method meant", "X-HTTP-Method-Override: GET"),
            ("another path meant", "X-Original-URL: /livez"),
            ("verified already", "Countersign-Verified: true"),
            ("an event already", "Countersign-Event: 1"),
        ] {
            self.bytes(name, post_bytes(BACK, &[FORM, further], &wrong));
        }
        let local = post_bytes(BACK, &[FORM], &wrong);
        let local = String::from_utf8(local).unwrap();
        self.bytes(
            "addressed to this machine",
            local.replace("Host: app", "Host: localhost").into_bytes(),
        );
        self.bytes(
            "addressed to this machine in the first line",
            local
                .replace(BACK, &format!("http://localhost{BACK}"))
                .into_bytes(),
        );
        let more = format!("{wrong}&debug=1&verify=0&key=guess&merid={MERID}");
        self.form("parameters that ask for leniency", more);
    }
}

fn send(shop: &Shop, bytes: &[u8], name: &str) -> Response {
    let mut connection = Connection::open(shop.address()).unwrap();
    let answer = connection.exchange(bytes);
    answer.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a stranger can tell two answers apart by.
fn looks(answer: &Response) -> (u16, String, BTreeSet<String>) {
    let headers = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        // Whether the connection goes on is a matter of how the request was framed.
        .filter(|(name, _)| name != "connection")
        .map(|(name, value)| match name.as_str() {
            "date" | "x-request-id" => name,
            _ => format!("{name}: {value}"),
        })
        .collect();
    (answer.status, answer.text(), headers)
}

#[test]
fn no_forgery_is_acknowledged_or_told_and_all_look_alike() {
    let mut forger = Forger::new(Shop::open());
    forger.wrong_signs();
    forger.wrong_texts();
    forger.our_own_words();
    forger.wrong_orders();
    forger.wrong_members();
    forger.claims();
    let Forger {
        shop, forgeries, ..
    } = forger;
    assert!(forgeries.len() >= 40);

    let mut failures = Vec::new();
    let mut first = None;
    for Forgery { name, bytes } in &forgeries {
        let answer = send(&shop, bytes, name);
        if answer.status != 400 || answer.text().contains("0000") {
            failures.push(format!("{name}: {} {}", answer.status, answer.text()));
            continue;
        }
        let seen = looks(&answer);
        let usual = first.get_or_insert_with(|| seen.clone());
        if *usual != seen {
            failures.push(format!("{name}: not like the others: {seen:?}, {usual:?}"));
        }
    }
    shop.goes_well();
    let told: Vec<_> = shop
        .app
        .seen()
        .into_iter()
        .map(|seen| seen.form())
        .collect();
    if told.len() != 1 {
        failures.push(format!("the app was told: {told:#?}"));
    }
    assert!(failures.is_empty(), "{failures:#?}");

    // Outside all alike, inside told apart, in a bounded number of ways.
    let metrics = shop.sidecar.metrics();
    let callbacks = ["countersign_callbacks_total", "kind=\"back\""];
    let accepted = metrics.sum(&[&callbacks[..], &["outcome=\"accepted\""]].concat());
    assert_eq!(accepted, 1.0);
    let all = metrics.sum(&["countersign_callbacks_total"]);
    assert_eq!(all, forgeries.len() as f64 + 1.0);
    let outcomes = metrics
        .samples
        .iter()
        .filter(|(name, count)| callbacks.iter().all(|it| name.contains(it)) && **count > 0.0)
        .count();
    assert!((4..=30).contains(&outcomes), "{outcomes}");
}

#[test]
fn a_forgery_is_refused_by_get_and_as_json_too() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order()).with_amount(1);
    let (form, text) = (payment.form(), base64(payment.json()));
    let answers = [
        crate::client::fetch(shop.address(), &format!("{BACK}?{form}")).unwrap(),
        crate::client::post(
            shop.address(),
            BACK,
            json!({"resp": text, "sign": sign(&text, KEY)}).to_string(),
        ),
    ];
    for answer in answers {
        refused("a lower amount", &answer);
    }
    shop.goes_well();
    assert_eq!(shop.app.count(), 1);
}

#[test]
fn a_forgery_changes_nothing_for_the_right_one_that_follows() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order());
    let text = base64(payment.json());
    for sign in ["", "0", &sign(&text, OTHER_KEY)] {
        let answer = crate::shop::callback(shop.address(), answer_around(&text, sign));
        refused("a wrong sign", &answer);
    }
    acknowledged(&shop.notify(&payment));
    assert_eq!(shop.hears(&payment.orderid, 1).len(), 1);
    assert_eq!(shop.list().len(), 1, "only what is verified is kept");
}

#[test]
fn the_right_envelope_in_the_wrong_place_is_refused() {
    let shop = Shop::open();
    let form = Payment::of(&shop.order()).form();
    let targets = [
        ("POST", "/notify/BACK"),
        ("POST", "/cashier/cashier/notify/back"),
        ("POST", "/cashier/notify"),
        ("POST", "/cashier/notify/backup"),
        ("POST", "/api/query"),
        ("POST", "/"),
        ("PUT", BACK),
        ("DELETE", BACK),
        ("PATCH", BACK),
        ("OPTIONS", BACK),
    ];
    for (method, target) in targets {
        let bytes = String::from_utf8(post_bytes(target, &[FORM], &form)).unwrap();
        let bytes = bytes.replacen("POST", method, 1);
        let answer = send(&shop, bytes.as_bytes(), target);
        let is_refused = (400..500).contains(&answer.status);
        assert!(is_refused, "{method} {target}: {answer:?}");
        assert!(
            !answer.text().contains("0000"),
            "{method} {target}: {answer:?}"
        );
    }
    shop.goes_well();
    assert_eq!(shop.app.count(), 1);
}
