//! One healthy app beside crowds of failing ones: how long its results wait, and what the crowd costs.

use std::time::{Duration, Instant};

use super::app::App;
use super::arguments::{Arguments, BenchStore};
use super::callbacks::{Connection, Signer};
use super::rows::Filling;
use super::sidecar::{Place, Sidecar};

/// The pause between two results of the healthy app.
const PAUSE: Duration = Duration::from_millis(100);
/// The wait that is promised.
const PROMISED: Duration = Duration::from_secs(1);

struct Crowd {
    what: &'static str,
    merchants: usize,
    each: usize,
    padding: usize,
    app: String,
}

/// Prints a row for each crowd; false where the healthy app waited for longer than is promised.
pub(super) async fn run(arguments: &Arguments, store: &BenchStore) -> bool {
    println!(
        "| {}: the crowd | results each | the healthy app waits at most | after a restart | /metrics at most | memory at most |\n\
         |---|---:|---:|---:|---:|---:|",
        store.name()
    );
    let hanging = App::hanging().await;
    let absent = App::absent().await;
    let crowd = |what, merchants, each, padding, app: &str| Crowd {
        what,
        merchants,
        each,
        padding,
        app: app.to_owned(),
    };
    let mut is_good = true;
    for crowd in [
        crowd("nobody", 1, 1, 0, &absent),
        crowd("600 hang", 600, 8, 0, &hanging),
        crowd("600 hang, 40 KB each", 600, 8, 40_000, &hanging),
        crowd("10,000 refuse", 10_000, 5, 0, &absent),
    ] {
        is_good &= row(arguments, store, &crowd).await;
    }
    println!();
    is_good
}

async fn row(arguments: &Arguments, store: &BenchStore, crowd: &Crowd) -> bool {
    let place = Place::new(store);
    let healthy = App::start().await;
    // The healthy merchant comes after the crowd.
    let app = |number| match number < crowd.merchants {
        true => Some(crowd.app.clone()),
        false => Some(healthy.url()),
    };
    place.configure(crowd.merchants + 1, app);
    place.make().await;
    let filling = Filling {
        padding: crowd.padding,
        ..Filling::pending(crowd.merchants * crowd.each, crowd.merchants)
    };
    place.fill(&filling).await;
    let signer = Signer::new();
    let mut waits = Vec::new();
    let (mut metrics, mut memory) = (Duration::ZERO, 0);
    // The first start knows nothing of the apps; the second knows which failed.
    for _ in 0..2 {
        let sidecar = place.start();
        waits
            .push(longest_wait(arguments.time, &sidecar, &healthy, &signer, crowd.merchants).await);
        for _ in 0..5 {
            metrics = metrics.max(sidecar.page("/metrics").1);
        }
        memory = memory.max(sidecar.memory("VmHWM:"));
        sidecar.stop();
    }
    println!(
        "| {} | {} | {:.0?} | {:.0?} | {metrics:.0?} | {memory} MiB |",
        crowd.what, crowd.each, waits[0], waits[1]
    );
    waits.iter().all(|wait| *wait <= PROMISED)
}

/// The longest time from a callback for the healthy merchant to the delivery.
async fn longest_wait(
    time: Duration,
    sidecar: &Sidecar,
    healthy: &App,
    signer: &Signer,
    merchant: usize,
) -> Duration {
    let mut connection = Connection::open(sidecar.callbacks).await;
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < time {
        let (sent, before) = (Instant::now(), healthy.taken());
        connection.send(&signer.callback(merchant)).await;
        while healthy.taken() == before && sent.elapsed() < time {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        longest = longest.max(sent.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    longest
}
