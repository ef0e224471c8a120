//! Signing and verifying one message, beside their floor (MD5 alone over the same bytes) and beside the way
//! that an app would write it. Run with `cargo bench --bench signing`.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use countersign::protocol::envelope::{self, Envelope};
use countersign::protocol::key::Key;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use md5::{Digest, Md5};

const KEY: &str = "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31";

/// A message of exactly this many bytes.
fn message(bytes: usize) -> String {
    let head = r#"{"action":"AliPay","txnamt":1280,"merid":"100000000000001","orderid":"ORD20170301","m":""#;
    format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2))
}

fn md5_alone(hashed: &[u8]) -> [u8; 16] {
    Md5::digest(hashed).into()
}

fn naive(message: &str, key: &str) -> (String, String) {
    let text = STANDARD.encode(message);
    let digest = Md5::digest(format!("{text}{key}"));
    let sign = digest
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join("");
    (text, sign)
}

fn signing(c: &mut Criterion) {
    let key = Key::new(KEY).expect("a key of 32 bytes");
    for bytes in [100, 300, 1024, 4096] {
        let message = message(bytes);
        let hashed = STANDARD.encode(&message) + KEY;
        let form = Envelope::seal(message.as_bytes(), &key).form("resp");

        let mut group = c.benchmark_group("sign");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("md5 alone", bytes), |b| {
            b.iter(|| md5_alone(black_box(hashed.as_bytes())));
        });
        group.bench_function(BenchmarkId::new("countersign", bytes), |b| {
            b.iter(|| Envelope::seal(black_box(message.as_bytes()), &key));
        });
        group.bench_function(BenchmarkId::new("countersign, form", bytes), |b| {
            b.iter(|| Envelope::seal(black_box(message.as_bytes()), &key).form("req"));
        });
        group.bench_function(BenchmarkId::new("naive format!", bytes), |b| {
            b.iter(|| naive(black_box(&message), KEY));
        });
        group.finish();

        let mut group = c.benchmark_group("verify");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("md5 alone", bytes), |b| {
            b.iter(|| md5_alone(black_box(hashed.as_bytes())));
        });
        group.bench_function(BenchmarkId::new("countersign", bytes), |b| {
            b.iter(|| {
                let received =
                    envelope::read(black_box(form.as_bytes()), "resp").expect("an envelope");
                received.verify([&key]).expect("signed with this key")
            });
        });
        group.finish();
    }
}

criterion_group!(benches, signing);
criterion_main!(benches);
