//! Variants of the platform's messages, given to the library's reader: whatever keeps a message's meaning gives the same
//! result, and nothing that changes it does.
//!
//! `COUNTERSIGN_VARIANTS=100000` tries so many, `COUNTERSIGN_VARIANTS_SEED=N` others.

#![allow(clippy::unwrap_used, reason = "here a panic is a failed test")]

#[path = "variants/mod.rs"]
mod generator;

use countersign::protocol::body::EncodedBody;
use countersign::protocol::envelope;
use countersign::protocol::envelope::{Received, Verified};
use countersign::protocol::json::Object;
use countersign::protocol::key::Key;
use countersign::protocol::response::{Completeness, read_response};
use countersign::protocol::result::{PaymentResult, failed_respcode, read_result, read_result_of};
use countersign::protocol::subject::Subject;
use generator::{ALTERED, Counts, Expected, Meaning, Route, SAME, Variant, Wire, Written, number};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Debug;
use std::thread;

const KEY: &str = "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31";
/// Variants of a run by default.
const USUAL: u64 = 20_000;
const MERIDS: [&str; 3] = ["100000000000001", "M0001", "007"];
const THREADS: u64 = 2;

/// Reads a message as the product does.
type Reading = Result<Meaning, String>;

fn failed(error: impl Debug) -> String {
    format!("{error:?}")
}

fn headers(wire: &Wire) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &wire.headers {
        let name = HeaderName::try_from(*name).unwrap();
        headers.append(name, HeaderValue::try_from(value).unwrap());
    }
    headers
}

fn meaning(result: &Verified<PaymentResult>) -> Meaning {
    Meaning {
        merid: result.merid.clone(),
        orderid: result.orderid.clone(),
        queryid: result.queryid.clone(),
        resultcode: result.resultcode.clone(),
        amount: result.amount,
        failure: None,
    }
}

/// Reads a callback: the payload is parsed first, to find the key, and verified then. The other order must read alike.
fn read_callback(received: Received<'_>, key: &Key) -> Reading {
    let at_once = received.verify([key]).map_err(failed);
    let at_once = at_once.and_then(|payload| read_result(&payload).map_err(failed));
    let payload = received.decode().map_err(failed)?;
    let claimed = payload.claim().map_err(failed)?;
    let object = claimed.verify([key]).map_err(failed)?;
    let result = read_result_of(&object).map_err(failed);
    let reading = result.as_ref().map(meaning).map_err(Clone::clone);
    assert_eq!(
        at_once.as_ref().map(meaning).ok(),
        reading.as_ref().ok().cloned()
    );
    if let Ok(result) = &result {
        assert_eq!(result.json.as_bytes(), payload.bytes(), "byte for byte");
    }
    reading
}

/// Reads a query's response: for the app, and for ourselves, which must read alike.
fn read_query(wire: &Wire, asked: &Meaning, key: &Key) -> Reading {
    let body = EncodedBody::of_response(&wire.body, &headers(wire)).map_err(failed)?;
    let received = body.envelope("resp").map_err(failed)?;
    let payload = received.verify([key]).map_err(failed)?;
    let query = format!(
        r#"{{"merid":"{}","orderid":"{}"}}"#,
        asked.merid, asked.orderid
    );
    let subject = Subject::of(&Object::parse(query.as_bytes()).unwrap());
    let for_app = read_response(
        payload.clone(),
        query.as_bytes(),
        &subject,
        Completeness::Query,
    );
    if let Some(code) = failed_respcode(&payload) {
        for_app.map_err(failed)?;
        return Ok(Meaning {
            failure: Some(code),
            ..asked.clone()
        });
    }
    let result = read_result(&payload).map_err(failed);
    let reading = result.as_ref().map(meaning).map_err(Clone::clone)?;
    let json = for_app.map_err(failed)?.into_inner().json;
    assert_eq!(json, wire.payload, "byte for byte");
    Ok(reading)
}

fn read(variant: &Variant, written: &Written) -> Reading {
    let (wire, key) = (&written.wire, Key::new(KEY).unwrap());
    if variant.message.route == Route::Query {
        return read_query(wire, &variant.message.meaning, &key);
    }
    if wire.method == "GET" {
        let received = envelope::read(wire.query.as_bytes(), "resp").map_err(failed)?;
        return read_callback(received, &key);
    }
    let body = EncodedBody::of_request(&wire.body, &headers(wire)).map_err(failed)?;
    let received = body.envelope_beside(wire.query.as_bytes(), "resp");
    read_callback(received.map_err(failed)?, &key)
}

/// Returns what is wrong with the reading of a variant.
fn wrong(variant: &Variant, expected: Option<Expected>) -> Option<String> {
    let written = variant.write(KEY);
    let reading = read(variant, &written);
    let original = &variant.message.meaning;
    let is_right = match expected {
        None => reading.as_ref() == Ok(original),
        Some(Expected::Rejection) => reading.is_err(),
        Some(Expected::OtherResult) => reading.as_ref() != Ok(original),
    };
    let bytes = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let Written { wire, changes } = written;
    (!is_right).then(|| {
        format!(
            "{changes:?} of {original:?} was read as {reading:?}\npayload: {}\n{} ?{}\n{:?}\n{}",
            bytes(&wire.payload),
            wire.method,
            wire.query,
            wire.headers,
            bytes(&wire.body)
        )
    })
}

fn route(number: u64) -> Route {
    [
        Route::Back,
        Route::Query,
        Route::Back,
        Route::Front,
        Route::Query,
    ][(number % 5) as usize]
}

/// Tries two variants of five that mean the same, and three that do not.
fn run(numbers: impl Iterator<Item = u64>, seed: u64) -> Counts {
    let mut counts = Counts::default();
    for number in numbers {
        let merid = MERIDS[(number / 7 % 3) as usize];
        let is_same = number % 5 < 2;
        let (variant, expected) = if is_same {
            (Variant::same(route(number / 5), merid, number, seed), None)
        } else {
            let kind = (number / 5 * 3 + number % 5 - 2) as usize % ALTERED.len();
            // Some apply to one route, and a few not to every message.
            let mut tries =
                (0..200).map(|again| (route(number + again), number, seed + (again << 40)));
            let variant = tries.find_map(|(route, number, seed)| {
                Variant::altered(route, kind, merid, number, seed)
            });
            (
                variant.expect(ALTERED[kind].name),
                Some(ALTERED[kind].expected),
            )
        };
        let changes = variant.write(KEY).changes;
        match is_same {
            true => counts.add(&changes),
            false => counts.add(&changes[changes.len() - 1..]),
        }
        if wrong(&variant, expected).is_some() {
            let least = variant.shrunk(|less| wrong(less, expected).is_some());
            panic!(
                "variant {number}, seed {seed}: {}",
                wrong(&least, expected).unwrap()
            );
        }
    }
    counts
}

#[test]
fn a_message_means_the_same_in_every_form_and_nothing_else_means_it() {
    let count = number("COUNTERSIGN_VARIANTS").unwrap_or(USUAL);
    let seed = number("COUNTERSIGN_VARIANTS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut counts = Counts::default();
    thread::scope(|scope| {
        let numbers = |first: u64| (first..count).step_by(THREADS as usize);
        let runs: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || run(numbers(first), seed)))
            .collect();
        for run in runs {
            counts.merge(run.join().unwrap());
        }
    });
    println!("{count} variants, seed {seed}: {}", counts.line());
    // The path of a callback is the listener's affair.
    let same = SAME
        .iter()
        .map(|kind| kind.name)
        .filter(|name| *name != "odd-path");
    let least = (count / 100) as usize;
    for name in same.chain(ALTERED.iter().map(|kind| kind.name)) {
        let tried = counts.of(name);
        assert!(
            tried >= least,
            "{name} was tried {tried} times, and not {least}"
        );
    }
}
