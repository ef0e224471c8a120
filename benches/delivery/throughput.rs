//! Intake, drain, and both at once, by merchants and backlog.

use std::time::{Duration, Instant};

use super::app::App;
use super::arguments::{Arguments, BenchStore};
use super::callbacks::crowd;
use super::rows::Filling;
use super::sidecar::Place;

/// Prints a table of the store.
pub(super) async fn run(arguments: &Arguments, store: &BenchStore) -> bool {
    println!(
        "| {} | pending | intake alone | drain | of the store alone | both: acknowledged | both: delivered | processor time each | memory at most |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        store.name()
    );
    for &merchants in &arguments.merchants {
        for &pending in &arguments.pending {
            if pending == 0 || pending >= merchants {
                row(arguments, store, merchants, pending).await;
            }
        }
    }
    println!();
    true
}

/// Prints one row. Rates are a second's.
async fn row(arguments: &Arguments, store: &BenchStore, merchants: usize, pending: usize) {
    let place = Place::new(store);
    let app = App::start().await;
    let mut intake = String::new();
    let mut floor = None;
    if pending == 0 {
        // No app has an address: results are kept, and none is delivered.
        place.configure(merchants, |_| None);
        place.make().await;
        let sidecar = place.start();
        let (acknowledged, took) = crowd(sidecar.callbacks, merchants, arguments.time).await;
        intake = rate(acknowledged, took);
        sidecar.stop();
    }
    place.configure(merchants, |_| Some(app.url()));
    place.make().await;
    if pending > 0 {
        place.fill(&Filling::pending(pending, merchants)).await;
        floor = Some(place.floor().await);
    }
    let sidecar = place.start();
    let (began, cpu) = (Instant::now(), sidecar.processor_time());
    while began.elapsed() < arguments.time && app.taken() < pending {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (drained, took) = (app.taken(), began.elapsed());
    let cost = sidecar.processor_time() - cpu;
    let (acknowledged, both) = crowd(sidecar.callbacks, merchants, arguments.time).await;
    let taken = app.taken() - drained;
    let drain = drained as f64 / took.as_secs_f64();
    println!(
        "| {merchants} | {pending} | {intake} | {} | {} | {} | {} | {} | {} MiB |",
        floor.map_or_else(String::new, |_| format!("{drain:.0}")),
        floor.map_or_else(String::new, |floor| format!("{:.2}", drain / floor)),
        rate(acknowledged, both),
        rate(taken, both),
        floor.map_or_else(String::new, |_| {
            format!("{:.0} µs", cost.as_secs_f64() * 1e6 / drained.max(1) as f64)
        }),
        sidecar.memory("VmHWM:")
    );
}

fn rate(count: usize, took: Duration) -> String {
    format!("{:.0}", count as f64 / took.as_secs_f64())
}
