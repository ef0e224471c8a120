//! Variants of the platform's messages through the binary: each form that means the same is acknowledged, relayed or
//! delivered as it came, and no neighbour of it brings the app the same result.
//!
//! `COUNTERSIGN_VARIANTS=2000` tries so many, `COUNTERSIGN_VARIANTS_SEED=N` others.

use crate::client::{Connection, Response};
use crate::harness::{KEY, MERID, eventually, query_json, submit_json};
use crate::platform::{Action, Platform, Seen, http};
use crate::shop::{Book, Payment, SOON, Shop, acknowledged, is_acknowledged, taken};
use crate::variants::{ALTERED, Counts, Expected, Meaning, Route, SAME, Variant, Wire, number};
use crate::wire;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Variants of a run by default.
const USUAL: u64 = 350;

/// The paths that a message of the platform takes through the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Back,
    Front,
    Query,
    /// The response to a submit, in an envelope; what it must have is not documented.
    Submit,
    /// Our own query about an order whose submit was cut off.
    Reconcile,
    /// Our own query about a notification that says paid.
    Confirm,
}

impl Path {
    /// Most messages are notifications.
    const ALL: [Self; 11] = [
        Self::Back,
        Self::Query,
        Self::Back,
        Self::Reconcile,
        Self::Front,
        Self::Back,
        Self::Query,
        Self::Confirm,
        Self::Back,
        Self::Front,
        Self::Submit,
    ];

    fn route(self) -> Route {
        match self {
            Self::Back => Route::Back,
            Self::Front => Route::Front,
            _ => Route::Query,
        }
    }
}

/// Responses by the order or payment that is queried.
type Replies = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A platform that cuts submits off and says this to queries.
fn platform(replies: &Replies) -> Platform {
    let replies = Arc::clone(replies);
    Platform::start(move |seen| match seen.target.as_str() {
        // Answered where the order's try is to be; cut off where it is to be queried.
        "/api/icashier" if !seen.member("orderid").is_empty() => {
            let submits = format!("submit {}", seen.member("orderid"));
            match replies.lock().unwrap().get(&submits) {
                Some(reply) => Action::Reply(reply.clone()),
                None => Action::Cut(Vec::new()),
            }
        }
        _ => {
            let replies = replies.lock().unwrap();
            let about = [seen.member("queryid"), seen.member("orderid")];
            let known = about.iter().find_map(|number| replies.get(number));
            Action::Reply(known.cloned().unwrap_or_else(|| http(404, &[], "")))
        }
    })
}

fn shop(replies: &Replies, inbox: &'static str) -> Shop {
    let app = Platform::start(|_| taken());
    Shop::between(Book::default(), platform(replies), app, |conf| {
        conf.inbox = format!("watch_per_second = 200\n{inbox}");
    })
}

/// A result as an app reads it from JSON or from a page's parameters; numbers by their digits.
fn told(member: impl Fn(&str) -> Option<String>) -> [String; 5] {
    let mut fields = ["merid", "orderid", "queryid", "resultcode", "txnamt"]
        .map(|name| member(name).unwrap_or_default());
    if let Some((cents, zeros)) = fields[4].split_once('.')
        && zeros.bytes().all(|digit| digit == b'0')
    {
        fields[4] = cents.to_owned();
    }
    fields
}

fn told_in_json(json: &str) -> [String; 5] {
    // Raw text, because beyond 2^53 many readers make another number of it.
    let members: HashMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(json).unwrap_or_default();
    told(|name| {
        let written = members.get(name)?.get();
        match serde_json::from_str(written) {
            Ok(Value::String(text)) => Some(text),
            Ok(Value::Null) => None,
            _ => Some(written.to_owned()),
        }
    })
}

fn meant(meaning: &Meaning) -> [String; 5] {
    let Meaning {
        merid,
        orderid,
        queryid,
        resultcode,
        amount,
        ..
    } = meaning;
    [
        merid.clone(),
        orderid.clone(),
        queryid.clone(),
        resultcode.clone(),
        amount.to_string(),
    ]
}

/// Expected end of a run, and what must not have happened by then.
#[derive(Default)]
struct Outstanding {
    /// Bodies that the app must get, each once.
    delivered: Vec<Vec<u8>>,
    /// Results that it must never get.
    never: Vec<[String; 5]>,
    /// Orders and payments that must have been queried.
    queried: Vec<String>,
}

struct Run {
    shop: Shop,
    cautious: Shop,
    replies: Replies,
    outstanding: Outstanding,
    counts: Counts,
}

fn send(shop: &Shop, wire: &Wire) -> Response {
    let query = if wire.query.is_empty() {
        String::new()
    } else {
        format!("?{}", wire.query)
    };
    let mut head = format!(
        "{} {}{query} HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n",
        wire.method, wire.path
    );
    if wire.method == "POST" {
        head += &format!("Content-Length: {}\r\n", wire.body.len());
        for (name, value) in &wire.headers {
            head += &format!("{name}: {value}\r\n");
        }
    }
    let bytes = [head.as_bytes(), b"\r\n", &wire.body].concat();
    Connection::open(shop.address())
        .unwrap()
        .exchange(bytes)
        .unwrap()
}

fn reply(wire: &Wire) -> Vec<u8> {
    let headers: Vec<_> = wire
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let headers: Vec<_> = headers.iter().map(String::as_str).collect();
    http(200, &headers, &wire.body)
}

impl Run {
    fn new() -> Self {
        let replies = Replies::default();
        Self {
            shop: shop(&replies, ""),
            cautious: shop(&replies, "confirm = \"paid\""),
            replies,
            outstanding: Outstanding::default(),
            counts: Counts::default(),
        }
    }

    fn will_reply(&self, number: &str, wire: &Wire) {
        self.replies
            .lock()
            .unwrap()
            .insert(number.to_owned(), reply(wire));
    }

    /// Sends a variant that means the same as its message.
    fn same(&mut self, path: Path, variant: &Variant) {
        let written = variant.write(KEY);
        let (wire, meaning) = (written.wire, &variant.message.meaning);
        let what = format!("{path:?} {:?}: {meaning:?}", written.changes);
        self.counts.add(&written.changes);
        match path {
            Path::Back => {
                let answer = send(&self.shop, &wire);
                assert!(is_acknowledged(&answer), "{what}: {answer:?}");
                self.outstanding.delivered.push(wire.payload);
                // The same event in another form: no second delivery.
                let again = variant.again().write(KEY);
                self.counts.add(&again.changes);
                let answer = send(&self.shop, &again.wire);
                assert!(
                    is_acknowledged(&answer),
                    "{what}, then {:?}: {answer:?}",
                    again.changes
                );
            }
            Path::Front => {
                let answer = send(&self.shop, &wire);
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (200, "0000"),
                    "{what}"
                );
                assert_eq!(self.page().unwrap(), meant(meaning), "{what}");
            }
            Path::Query => {
                self.will_reply(&meaning.orderid, &wire);
                let answer = self.shop.sidecar.query(query_json(MERID, &meaning.orderid));
                assert_eq!(
                    (answer.status, &answer.body),
                    (200, &wire.payload),
                    "{what}: {}",
                    answer.text()
                );
            }
            Path::Submit => {
                self.will_reply(&format!("submit {}", meaning.orderid), &wire);
                let answer = self.shop.sidecar.submit(submit_json(&meaning.orderid));
                let verified = answer.header("countersign-verified");
                assert_eq!(
                    (answer.status, &answer.body, verified),
                    (200, &wire.payload, Some("true")),
                    "{what}: {}",
                    answer.text()
                );
            }
            Path::Reconcile => {
                self.cut_off(meaning, &wire);
                if ["0000", "1002", "1003", "1004"].contains(&meaning.resultcode.as_str())
                    && meaning.failure.is_none()
                {
                    self.outstanding.delivered.push(wire.payload);
                }
            }
            Path::Confirm => {
                let notified = self.notify_paid(meaning, &wire);
                if meaning.resultcode == "0000" && meaning.failure.is_none() {
                    self.outstanding.delivered.push(notified.into_bytes());
                }
            }
        }
    }

    /// Sends a variant that does not mean the same.
    fn altered(&mut self, path: Path, variant: &Variant, expected: Expected) {
        let written = variant.write(KEY);
        let (wire, meaning) = (written.wire, &variant.message.meaning);
        let what = format!(
            "{path:?} {:?}: {meaning:?} {:?}",
            written.changes,
            String::from_utf8_lossy(&wire.payload)
        );
        self.counts
            .add(&written.changes[written.changes.len() - 1..]);
        let is_rejection = expected == Expected::Rejection;
        match path {
            Path::Back => {
                let answer = send(&self.shop, &wire);
                assert!(!is_rejection || answer.status == 400, "{what}: {answer:?}");
                assert!(
                    answer.status == 200 || !answer.text().contains("0000"),
                    "{what}: {answer:?}"
                );
            }
            Path::Front => {
                let answer = send(&self.shop, &wire);
                assert!(!is_rejection || answer.status == 400, "{what}: {answer:?}");
                assert_ne!(self.page(), Some(meant(meaning)), "{what}");
            }
            Path::Query => {
                self.will_reply(&meaning.orderid, &wire);
                let answer = self.shop.sidecar.query(query_json(MERID, &meaning.orderid));
                assert!(!is_rejection || answer.status == 502, "{what}: {answer:?}");
                let is_told =
                    answer.status == 200 && told_in_json(&answer.text()) == meant(meaning);
                assert!(!is_told, "{what}: {answer:?}");
            }
            Path::Submit => return,
            Path::Reconcile => self.cut_off(meaning, &wire),
            Path::Confirm => drop(self.notify_paid(meaning, &wire)),
        }
        self.outstanding.never.push(meant(meaning));
    }

    /// The fields that the app's page was asked for with last; none where it was not asked for since.
    fn page(&self) -> Option<[String; 5]> {
        let mut seen = self.shop.app.seen();
        seen.retain(|seen| seen.target.starts_with("/pay/front"));
        let query = seen.last()?.target.split_once('?')?.1.to_owned();
        Some(told(|name| wire::value(&query, name)))
    }

    /// Submits an order whose response is cut off, so that it is queried.
    fn cut_off(&mut self, meaning: &Meaning, wire: &Wire) {
        self.will_reply(&meaning.orderid, wire);
        let mut submit: Value = serde_json::from_str(&submit_json(&meaning.orderid)).unwrap();
        submit["txnamt"] = meaning.amount.into();
        let answer = self.shop.sidecar.submit(submit.to_string());
        answer.problem(502, "platform-cut-off", "unknown");
        self.outstanding.queried.push(meaning.orderid.clone());
    }

    /// Notifies that an order is paid, so that the platform is queried. The payload.
    fn notify_paid(&mut self, meaning: &Meaning, wire: &Wire) -> String {
        self.will_reply(&meaning.queryid, wire);
        let mut payment = Payment::of(&meaning.orderid).with_queryid(&meaning.queryid);
        payment.txnamt = i64::try_from(meaning.amount).unwrap();
        acknowledged(&self.cautious.notify(&payment));
        self.outstanding.queried.push(meaning.queryid.clone());
        payment.json()
    }

    /// Waits for everything that is due, and judges what the apps got.
    fn judge(self) -> Counts {
        let Self {
            shop,
            cautious,
            outstanding,
            counts,
            ..
        } = self;
        let Outstanding {
            mut delivered,
            never,
            queried,
        } = outstanding;
        let is_delivery = |seen: &Seen| seen.target.contains("/back");
        let came = || -> Vec<Vec<u8>> {
            let seen = shop.app.seen().into_iter().chain(cautious.app.seen());
            seen.filter(is_delivery).map(|seen| seen.body).collect()
        };
        let patience = SOON + Duration::from_millis(50) * delivered.len() as u32;
        eventually("each order and payment is queried", patience, || {
            let seen = shop
                .platform
                .seen()
                .into_iter()
                .chain(cautious.platform.seen());
            let asked: Vec<_> = seen.filter(|seen| seen.target == "/api/query").collect();
            queried.iter().all(|number| {
                asked
                    .iter()
                    .any(|seen| [seen.member("orderid"), seen.member("queryid")].contains(number))
            })
        });
        eventually("each result is delivered", patience, || {
            came().len() >= delivered.len()
        });
        shop.goes_well();
        let own = |body: &[u8]| never.contains(&told_in_json(&String::from_utf8_lossy(body)));
        let mut came = came();
        let is_altered: Vec<_> = came.iter().filter(|body| own(body)).collect();
        assert!(is_altered.is_empty(), "{is_altered:?}");
        // An event in two forms is delivered once.
        let mut told: Vec<_> = came
            .iter()
            .map(|body| told_in_json(&String::from_utf8_lossy(body)))
            .collect();
        let count = told.len();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), count);
        // What was altered into another result comes too.
        delivered.sort();
        came.sort();
        came.retain(|body| delivered.binary_search(body).is_ok());
        assert_eq!(came, delivered);
        counts
    }
}

#[test]
fn variants_of_messages_mean_the_same_to_the_app_and_their_neighbours_do_not() {
    let asked = number("COUNTERSIGN_VARIANTS");
    let count = asked.unwrap_or(USUAL);
    let seed = number("COUNTERSIGN_VARIANTS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}");
    let mut run = Run::new();
    for number in 0..count {
        let at = number / 5;
        if number % 5 < 2 {
            let path = Path::ALL[(at * 2 + number % 5) as usize % Path::ALL.len()];
            run.same(path, &Variant::same(path.route(), MERID, number, seed));
            continue;
        }
        let kind = (at * 3 + number % 5 - 2) as usize % ALTERED.len();
        let mut tries = (0..200).map(|again| {
            (
                Path::ALL[(number + again) as usize % Path::ALL.len()],
                seed + (again << 40),
            )
        });
        let found = tries.find_map(|(path, seed)| {
            let variant = Variant::altered(path.route(), kind, MERID, number, seed)?;
            // Where the notification itself is in order, only the platform's word on it counts.
            let is_fit = match path {
                Path::Confirm => variant.message.meaning.resultcode == "0000",
                path => path != Path::Submit,
            };
            is_fit.then_some((path, variant))
        });
        let (path, variant) = found.expect(ALTERED[kind].name);
        run.altered(path, &variant, ALTERED[kind].expected);
    }
    let counts = run.judge();
    println!("{count} variants, seed {seed}: {}", counts.line());
    let least = if asked.is_some() {
        count as usize / 100
    } else {
        1
    };
    for name in SAME
        .iter()
        .map(|kind| kind.name)
        .chain(ALTERED.iter().map(|kind| kind.name))
    {
        let tried = counts.of(name);
        assert!(
            tried >= least,
            "{name} was tried {tried} times, and not {least}"
        );
    }
}
