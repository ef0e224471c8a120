//! Secrets stay in: with everything logged, keys, names and id numbers are looked for wherever the sidecar writes or answers.

use crate::client::{fetch, post_with};
use crate::harness::{ORDERID, Setup, Sidecar, fresh_orderid, merchant, query_json};
use crate::platform::{Action, Platform, honestly, unsigned};
use crate::shop::{BACK, Book, FORM, FRONT, Payment, SOON, Shop, taken};
use crate::wire;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

const MERID: &str = "100000000000007";
const KEY: &str = "CANARYKEY7f3a91c4be20d86aa1";
const OLD_KEY: &str = "CANARYOLD5d0c2e8b7a64f9113b";
const NEXT_KEY: &str = "CANARYNEXT0b9d7c5e3f1a8264";
const ACCNAME: &str = "金丝雀张三丰";
const ACCNO: &str = "CANARYNO11010119900307863X";

/// The console's pages that need no number.
const CONSOLE: [&str; 9] = [
    "/?lang=zh",
    "/merchants",
    "/refusals",
    "/login",
    "/events?state=pending",
    "/events?state=delivered",
    "/events?state=parked",
    "/events?state=disputed",
    "/orders?q=NOTHERE001",
];

fn submit(orderid: &str, txnamt: i64) -> String {
    json!({
        "action": "Bank", "txnamt": txnamt, "merid": MERID, "orderid": orderid,
        "backurl": "https://shop.example.com/back", "accname": ACCNAME, "accno": ACCNO,
    })
    .to_string()
}

/// The bytes themselves and what they look like inside of base64, at each of the three alignments.
fn traces(secret: &str) -> Vec<Vec<u8>> {
    let mut traces = vec![secret.as_bytes().to_vec()];
    for shift in 0..3 {
        let bytes = [&b"xx"[..shift], secret.as_bytes()].concat();
        let text = wire::base64(&bytes[..bytes.len() / 3 * 3]);
        // The first group mixes with what stands before.
        traces.push(text.as_bytes()[if shift == 0 { 0 } else { 4 }..].to_vec());
    }
    // As JSON and as a form may write it.
    let escaped: String = secret
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect();
    traces.push(escaped.into_bytes());
    if !secret.is_ascii() {
        traces.push(wire::percent(secret).into_bytes());
    }
    traces
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[track_caller]
fn is_clean(place: &str, bytes: &[u8]) {
    for secret in [KEY, OLD_KEY, NEXT_KEY, ACCNAME, ACCNO] {
        for trace in traces(secret) {
            let shown = String::from_utf8_lossy(&trace).into_owned();
            assert!(!holds(bytes, &trace), "{place} holds {secret}, as {shown}");
        }
    }
}

/// What lies in a sidecar's folder; the folder of the handover has a socket in it alone.
fn files_of(setup: &Setup) -> Vec<PathBuf> {
    let entries = fs::read_dir(setup.folder.path()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).collect()
}

fn entry(key: &str) -> String {
    merchant(MERID, key) + &format!("old_keys = [\"{OLD_KEY}\"]\n")
}

#[test]
fn no_secret_is_written_or_answered_anywhere() {
    let honest = honestly(&[(MERID, KEY)]);
    let platform = Platform::start(move |seen| match seen.member("orderid").as_str() {
        "UNSIGNED01" => Action::Reply(unsigned("96", "no")),
        "CUT0000001" => Action::Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nresp".to_vec()),
        "HANG000001" => Action::Hang,
        // The platform itself repeats what it was told, well and badly signed.
        "REPEAT0001" => Action::Reply(crate::platform::enveloped(wire::answer(
            submit("REPEAT0001", 1),
            OLD_KEY,
        ))),
        "REPEAT0002" => Action::Reply(crate::platform::enveloped(wire::answer(
            submit("REPEAT0002", 1),
            "wrong",
        ))),
        "REPEAT0003" => Action::Reply(crate::platform::http(500, &[], submit("REPEAT0003", 1))),
        _ => honest(seen),
    });
    let url = platform.url();
    let mut sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.timeout = "1s";
        conf.log_level = "trace";
        conf.merchants = entry(KEY);
        conf.extra_paths = vec!["/api/refund"];
    });

    let orderid = fresh_orderid();
    // Answers that repeat nothing of what they were sent: every byte of them is looked through.
    let mut answers = vec![
        sidecar.query(query_json(MERID, ORDERID)),
        sidecar.submit(submit(&orderid, 1)),
        sidecar.submit(submit(&orderid, 2)),
        sidecar.submit(submit("x", 1)),
        sidecar.submit(submit(&fresh_orderid(), -1)),
        sidecar.submit(submit(&fresh_orderid(), 1).replace("Bank", ACCNAME)),
        sidecar.submit(submit(&fresh_orderid(), 1).replace("https:", ACCNO)),
        sidecar.submit(submit(&fresh_orderid(), 1).replace('}', ",}")),
        sidecar
            .submit(submit(&fresh_orderid(), 1).replace('}', &format!(",\"accno\":\"{ACCNO}\"}}"))),
        sidecar.submit(submit("CUT0000001", 1)),
        sidecar.submit(submit("HANG000001", 1)),
        sidecar.post("/nowhere", submit(&fresh_orderid(), 1)),
        sidecar.post(
            "/api/refund",
            submit(&fresh_orderid(), 1).replace(MERID, "1"),
        ),
    ];
    for name in [
        "UNSIGNED01",
        "CUT0000001",
        "HANG000001",
        "REPEAT0001",
        "REPEAT0002",
        "REPEAT0003",
    ] {
        answers.push(sidecar.query(submit(name, 1)));
        answers.push(sidecar.post("/api/refund", submit(name, 1).replace("txnamt", "amount")));
    }
    assert!(answers.iter().filter(|answer| answer.status != 200).count() > 12);
    // A verified answer is the platform's own; the refusals are ours.
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        is_clean("a refusal", &answer.body);
        for (name, value) in &answer.headers {
            is_clean(name, value.as_bytes());
        }
    }
    // These do repeat it, so only what is left behind counts.
    sidecar.post("/apis/icashier", submit(&fresh_orderid(), 1));
    post_with(
        sidecar.app(),
        "/apis/icashier",
        &["Accept: text/html"],
        submit(&fresh_orderid(), 1),
    );
    for key in [KEY, "wrong"] {
        let form = wire::request(submit(&fresh_orderid(), 1), key);
        sidecar.post("/api/icashier", form);
    }

    // Reloads, good and bad, and a start that finds what a killed run left.
    for text in [
        entry(KEY).replace("key =", "key = "),
        format!("{}\nkey = \"{NEXT_KEY}\"", entry(NEXT_KEY)),
        entry(NEXT_KEY).replace(&format!("{NEXT_KEY}\""), NEXT_KEY),
        format!("[[merchant]]\nmerid = \"{MERID}\"\nkey = [\"{NEXT_KEY}\"]\n"),
        format!("[[merchant]]\nmerid = \"{MERID}\"\nkey_file = \"x\"\nkey = \"{NEXT_KEY}\"\n"),
        entry(NEXT_KEY),
    ] {
        fs::write(sidecar.merchants_file(), text).unwrap();
        is_clean("the reload's answer", &sidecar.reload().body);
    }
    let story = format!("/order?merid={MERID}&orderid={orderid}");
    let told = "Rejected";
    crate::harness::eventually("the story is written", SOON, || {
        let page = fetch(sidecar.setup.admin, &story).unwrap();
        page.text().contains(told)
    });
    for path in ["/", "/metrics", "/version", "/livez", "/readyz", "/nowhere"]
        .into_iter()
        .chain(CONSOLE)
        .chain([story.as_str()])
    {
        let page = fetch(sidecar.setup.admin, path).unwrap();
        is_clean(path, &page.body);
    }
    sidecar.restart();
    sidecar.submit(submit(&fresh_orderid(), 1));

    let output = sidecar.output();
    assert!(
        output.len() > 500,
        "nothing was logged, so nothing was tried: {output}"
    );
    is_clean("the log", output.as_bytes());
    let (mut texts, mut files) = (0, 0);
    for seen in platform.seen() {
        let (text, sign) = (seen.text(), seen.sign());
        let together = output
            .lines()
            .find(|line| line.contains(&text) && line.contains(&sign));
        assert!(together.is_none(), "a sign beside its text: {together:?}");
        texts += 1;
    }
    for path in files_of(&sidecar.setup) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name != "merchants.toml" {
            is_clean(&name, &fs::read(&path).unwrap());
            files += usize::from(name.contains("countersign.db"));
        }
    }
    assert!(
        texts > 10 && files > 0,
        "{texts} texts, {files} store files"
    );
}

/// Everything a callback can meet, the good and the bad, with orders that hold names and id numbers.
#[test]
fn callbacks_leave_no_secret_behind() {
    let book = Book::default();
    let app = |seen: &crate::platform::Seen| match seen.header("countersign-attempt") {
        // What the app says is kept with the attempt, without names and numbers of cards and people.
        Some("1") => Action::Reply(crate::platform::http(
            500,
            &[],
            format!("{ACCNO} accname={ACCNAME}"),
        )),
        _ => taken(),
    };
    let honest = honestly(&[(MERID, KEY)]);
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Cut(Vec::new()),
        _ => honest(seen),
    });
    let mut shop = Shop::between(book, platform, Platform::start(app), |conf| {
        conf.merchants = entry(KEY) + &conf.merchants[conf.merchants.find("back =").unwrap()..];
        conf.log_level = "trace";
    });
    let answer = |payment: &Payment, key: &str| wire::answer(payment.json(), key);
    let mut forms = Vec::new();
    for n in 0..4 {
        let orderid = fresh_orderid();
        shop.sidecar.submit(submit(&orderid, 1280));
        let payment = Payment::of(&orderid)
            .to(MERID)
            .with_queryid(&format!("QCANARY{n}"));
        forms.push(answer(&payment, [KEY, OLD_KEY][n % 2]));
        let cheap = payment.clone().with_amount(1);
        forms.push(answer(&cheap.with_queryid(&format!("QCHEAP{n}")), KEY));
        forms.push(answer(&payment, "guess"));
        forms.push(answer(&payment.to("999999999999999"), KEY));
    }
    // Our own words, with names and numbers in them, as nobody should send them back.
    let own = submit(&fresh_orderid(), 1280);
    forms.push(wire::answer(&own, KEY));
    forms.push(wire::answer(&own, "guess"));
    forms.push(wire::request(&own, KEY));
    forms.push(wire::answer(own.replace('}', ",}"), KEY));
    let mut acknowledged = 0;
    for form in &forms {
        for path in [BACK, FRONT] {
            let answers = [
                post_with(shop.address(), path, &[FORM], form),
                fetch(shop.address(), &format!("{path}?{form}")).unwrap(),
            ];
            for answer in answers {
                is_clean("an answer", &answer.body);
                acknowledged += usize::from(answer.body == b"0000");
            }
        }
    }
    assert!(acknowledged >= 8, "{acknowledged}");
    crate::harness::eventually("each was told after a failure", 2 * SOON, || {
        shop.deliveries()
            .iter()
            .filter(|it| it.attempt == "2")
            .count()
            >= 4
    });
    let mut shown = Vec::new();
    for path in ["/", "/metrics", "/version", "/readyz"]
        .into_iter()
        .chain(CONSOLE)
    {
        shown.push((path.to_owned(), shop.sidecar.admin(path).body));
    }
    for line in shop.list() {
        let id = crate::shop::id_of(&line);
        let output = shop.inbox(&["show", id]);
        is_clean("inbox show", &[output.stdout, output.stderr].concat());
        let replay = shop.sidecar.admin(&format!("/events/{id}/replay"));
        let mut columns = line.split_whitespace().skip(2);
        let merid = columns.next().unwrap();
        // A payload in review may name no order: then its column is empty.
        let orderid = columns.next().filter(|it| it.len() >= 8);
        let orderid = orderid.unwrap_or_default();
        let story = format!("/order?merid={merid}&orderid={orderid}");
        let story = shop.sidecar.admin(&story);
        assert!(story.text().contains("What happened"), "{line}");
        shown.push((format!("replay of {id}"), replay.body));
        shown.push((format!("story of {orderid}"), story.body));
    }
    assert!(shown.len() > 16, "{}", shown.len());
    for (path, page) in &shown {
        is_clean(path, page);
        for form in &forms {
            let sign = wire::value(form, "sign").unwrap();
            assert!(!holds(page, sign.as_bytes()), "{path} holds a sign");
        }
    }
    shop.sidecar.restart();
    let output = shop.sidecar.output();
    is_clean("the log", output.as_bytes());
    let mut files = vec![("the log".to_owned(), output.into_bytes())];
    for path in files_of(&shop.sidecar.setup) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains("countersign.db") {
            let bytes = fs::read(&path).unwrap();
            is_clean(&name, &bytes);
            files.push((name, bytes));
        }
    }
    assert!(files.len() > 1);
    // The text stands in the store, and may in the log; then its sign does not.
    for (name, bytes) in files {
        for form in &forms {
            let sign = wire::value(form, "sign").unwrap();
            assert!(!holds(&bytes, sign.as_bytes()), "{name} holds a sign");
            assert!(
                !holds(&bytes, sign.to_uppercase().as_bytes()),
                "{name} holds a sign"
            );
        }
    }
}
