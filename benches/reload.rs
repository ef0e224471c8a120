//! An edit of a file with 10,000 merchants: read, parse, check, and swap. Run with `cargo bench --bench reload`.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::fmt::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign::config::Snapshot;
use criterion::{Criterion, criterion_group, criterion_main};

const MERCHANTS: usize = 10_000;

fn merchants_file() -> String {
    let mut text = String::new();
    for number in 0..MERCHANTS {
        let key = format!(
            "{:032x}",
            (number as u128 + 1) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835
        );
        writeln!(
            text,
            "[[merchant]]\nmerid = \"{number:015}\"\nkey = \"{key}\""
        )
        .expect("memory");
        writeln!(text, "back = \"http://127.0.0.1:9000/pay/back\"").expect("memory");
    }
    text
}

fn reload(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("merchants.toml");
    let text = merchants_file();
    std::fs::write(&path, &text).expect("a file in it");
    let load = || Snapshot::load(&path, &|_| None).expect("a right file");
    let in_force = ArcSwap::from_pointee(load());

    let mut group = c.benchmark_group("10,000 merchants");
    group.sample_size(20);
    group.bench_function("toml parse alone", |b| {
        b.iter(|| text.parse::<toml::Table>().expect("right toml"));
    });
    group.bench_function("read, parse, check, swap", |b| {
        b.iter(|| in_force.store(Arc::new(load())));
    });
    group.bench_function("look a merchant up", |b| {
        b.iter(|| {
            in_force
                .load()
                .merchant("000000000004711")
                .expect("is there")
                .key
                .clone()
        });
    });
    group.finish();
}

criterion_group!(benches, reload);
criterion_main!(benches);
