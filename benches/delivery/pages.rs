//! The console and the metrics over many rows, while the rows are delivered.

use std::time::Duration;

use super::app::App;
use super::arguments::{Arguments, BenchStore};
use super::rows::Filling;
use super::sidecar::Place;

const MERCHANTS: usize = 100;
/// Looks at each page.
const LOOKS: usize = 20;
/// The time of a page that is promised.
const PROMISED: Duration = Duration::from_millis(300);
const PAGES: [&str; 9] = [
    "/metrics",
    "/readyz",
    "/",
    "/events?state=pending",
    "/events?state=delivered",
    "/events?state=disputed",
    "/orders?q=ORD000000000007",
    "/refusals",
    "/merchants",
];

/// Prints a row for each page; false where one took longer than is promised.
pub(super) async fn run(arguments: &Arguments, store: &BenchStore) -> bool {
    let place = Place::new(store);
    let app = App::start().await;
    place.configure(MERCHANTS, |_| Some(app.url()));
    place.make().await;
    place
        .fill(&Filling::pending(arguments.rows(), MERCHANTS))
        .await;
    let sidecar = place.start();
    println!(
        "| {}, {} rows | longest | median |\n|---|---:|---:|",
        store.name(),
        arguments.rows()
    );
    let mut is_good = true;
    for page in PAGES {
        let mut times: Vec<_> = (0..LOOKS)
            .map(|_| tokio::task::block_in_place(|| sidecar.page(page).1))
            .collect();
        times.sort();
        println!(
            "| {page} | {:.1?} | {:.1?} |",
            times[LOOKS - 1],
            times[LOOKS / 2]
        );
        is_good &= times[LOOKS - 1] <= PROMISED;
    }
    println!("\n{} were delivered meanwhile\n", app.taken());
    is_good
}
