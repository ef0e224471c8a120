//! Callbacks at a steady pace while old events and closed orders are deleted.

use std::time::{Duration, Instant};

use super::app::App;
use super::arguments::{Arguments, BenchStore};
use super::callbacks::Paced;
use super::rows::Filling;
use super::sidecar::Place;

const MERCHANTS: usize = 100;
/// Longer than anything is kept.
const OLD: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// The pause of callbacks that is promised.
const PROMISED: Duration = Duration::from_millis(50);
/// MiB of the log of commits that are promised.
const PROMISED_WAL: u64 = 64;

/// Prints the figures; false where callbacks paused for longer, or the log grew larger, than is promised.
pub(super) async fn run(arguments: &Arguments, store: &BenchStore) -> bool {
    let place = Place::new(store);
    let app = App::start().await;
    place.configure(MERCHANTS, |_| Some(app.url()));
    place.make().await;
    let filling = Filling {
        state: "delivered",
        age: OLD,
        ..Filling::pending(arguments.rows(), MERCHANTS)
    };
    place.fill(&filling).await;
    let sidecar = place.start();
    let began = Instant::now();
    let paced = Paced::start(sidecar.callbacks, arguments.rate);
    let (mut pauses, mut wal, mut left) = (Vec::new(), 0, arguments.rows());
    // The events come first; their orders take about as long.
    let mut until = None;
    while until.is_none_or(|until| Instant::now() < until) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        pauses.push(paced.take_longest());
        wal = wal.max(sidecar.wal());
        let delivered = tokio::task::block_in_place(|| sidecar.events("delivered"));
        left = left.min(delivered.saturating_sub(app.taken()));
        if left == 0 && until.is_none() {
            until = Some(Instant::now() + began.elapsed() / 2);
        }
    }
    let took = began.elapsed();
    let acknowledged = paced.stop().await;
    pauses.sort();
    let (longest, median) = (pauses[pauses.len() - 1], pauses[pauses.len() / 2]);
    println!(
        "| {} | callbacks | longest pause | median of the longest of 0.5 s | WAL at most | memory at most |\n\
         |---|---:|---:|---:|---:|---:|\n\
         | {} events and orders deleted in {took:.0?} | {acknowledged} | {longest:.1?} | {median:.1?} | {wal} MiB | {} MiB |\n",
        store.name(),
        arguments.rows(),
        sidecar.memory("VmHWM:")
    );
    longest <= PROMISED && wal <= PROMISED_WAL
}
