//! Deliveries end to end: the real binary, its store, and apps that take, refuse or hang; with callbacks beside them, and
//! beside the store alone with the same rows. `cargo bench --bench delivery -- --help` names the runs and the options.
//!
//! Load, apps, sidecar and store share the cores, so a figure is a lower bound; shares of one run say more than figures.

mod arguments;

mod postgres;

mod sidecar;

mod rows;

mod floor;

mod app;

mod callbacks;

mod throughput;

mod crowds;

mod pages;

mod retention;

mod soak;

use arguments::{Arguments, Run};
use postgres::Cluster;

fn main() {
    let arguments = Arguments::parse();
    // Two threads: neither the load nor the app must be what limits the figures.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let cluster = arguments.needs_cluster().then(Cluster::start).flatten();
    if arguments.needs_cluster() && cluster.is_none() {
        println!("PostgreSQL is left out: no initdb below /usr/lib/postgresql\n");
    }
    let mut is_good = true;
    runtime.block_on(async {
        for store in arguments.stores(cluster.as_ref()) {
            is_good &= match arguments.run {
                Run::Throughput => throughput::run(&arguments, &store).await,
                Run::Crowds => crowds::run(&arguments, &store).await,
                Run::Pages => pages::run(&arguments, &store).await,
                Run::Retention => retention::run(&arguments, &store).await,
                Run::Soak => soak::run(&arguments, &store).await,
            };
        }
    });
    println!("\n{}", sidecar::machine());
    drop(cluster);
    if !is_good {
        std::process::exit(1);
    }
}
