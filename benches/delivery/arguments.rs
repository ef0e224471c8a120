//! The command line of the bench.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::postgres::Cluster;

const HELP: &str = "\
usage: cargo bench --bench delivery [-- [RUN] [OPTION VALUE …]]

runs:
  throughput   intake, drain, both at once, by backlog and merchants, beside the store alone (the default)
  crowds       one healthy app beside 600 that hang and 10,000 that refuse
  pages        the console and the metrics over a million rows, while they are delivered
  retention    callbacks while a million events and orders are deleted
  soak         callbacks at a steady pace to an app that fails again and again

options:
  --store sqlite|postgres|both|DIR|URL   both by default; sqlite alone for the runs retention and soak
  --merchants 1,100,10000                merchants of each row (throughput)
  --pending 0,10000,100000,1000000       results that wait at the start of each row (throughput); rows of pages and retention
  --seconds 10                           measured time of each figure
  --minutes 5, --rate 230                length and callbacks a second (soak)
  --every 300, --outage 30               seconds from outage to outage, and of each (soak)
  --quick                                a look: fewer rows, 2 s each";

/// The measurement that is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    Throughput,
    Crowds,
    Pages,
    Retention,
    Soak,
}

/// The arguments, with their defaults.
pub(super) struct Arguments {
    pub(super) run: Run,
    store: Option<String>,
    pub(super) merchants: Vec<usize>,
    pub(super) pending: Vec<usize>,
    pub(super) time: Duration,
    pub(super) length: Duration,
    pub(super) rate: u32,
    pub(super) every: Duration,
    pub(super) outage: Duration,
}

/// A store of the bench.
pub(super) enum BenchStore {
    /// Files below this folder.
    Folder(PathBuf),
    /// A database.
    Url(String),
}

impl BenchStore {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Folder(_) => "SQLite",
            Self::Url(_) => "PostgreSQL",
        }
    }
}

impl Arguments {
    pub(super) fn parse() -> Self {
        let mut arguments = Self {
            run: Run::Throughput,
            store: None,
            merchants: vec![1, 100, 10_000],
            pending: vec![0, 10_000, 100_000, 1_000_000],
            time: Duration::from_secs(10),
            length: Duration::from_secs(300),
            rate: 230,
            every: Duration::from_secs(300),
            outage: Duration::from_secs(30),
        };
        let mut given = std::env::args().skip(1);
        while let Some(argument) = given.next() {
            arguments.take(&argument, &mut given);
        }
        arguments
    }

    fn take(&mut self, argument: &str, rest: &mut impl Iterator<Item = String>) {
        let mut value = || {
            rest.next()
                .unwrap_or_else(|| panic!("{argument} wants a value"))
        };
        let seconds = |text: String| Duration::from_secs(text.parse().expect("a number"));
        match argument {
            "throughput" => self.run = Run::Throughput,
            "crowds" => self.run = Run::Crowds,
            "pages" => self.run = Run::Pages,
            "retention" => self.run = Run::Retention,
            "soak" => self.run = Run::Soak,
            "--quick" => {
                self.pending = vec![0, 10_000];
                self.time = Duration::from_secs(2);
            }
            "--store" => self.store = Some(value()),
            "--merchants" => self.merchants = numbers(&value()),
            "--pending" => self.pending = numbers(&value()),
            "--seconds" => self.time = seconds(value()),
            "--minutes" => self.length = seconds(value()) * 60,
            "--rate" => self.rate = value().parse().expect("a number"),
            "--every" => self.every = seconds(value()),
            "--outage" => self.outage = seconds(value()),
            // cargo's own
            "--bench" => {}
            "--help" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            other => panic!("unknown argument {other}\n{HELP}"),
        }
    }

    /// The most rows that were asked for.
    pub(super) fn rows(&self) -> usize {
        self.pending.iter().copied().max().unwrap_or(0)
    }

    pub(super) fn needs_cluster(&self) -> bool {
        match self.store.as_deref() {
            Some(store) => store == "postgres" || store == "both",
            None => !matches!(self.run, Run::Retention | Run::Soak),
        }
    }

    /// The stores that are measured, one after the other.
    pub(super) fn stores(&self, cluster: Option<&Cluster>) -> Vec<BenchStore> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let database = cluster.map(|it| BenchStore::Url(it.url()));
        match self.store.as_deref() {
            None | Some("both") => {
                let file = BenchStore::Folder(target);
                std::iter::once(file).chain(database).collect()
            }
            Some("sqlite") => vec![BenchStore::Folder(target)],
            Some("postgres") => database.into_iter().collect(),
            Some(url) if url.contains("://") => vec![BenchStore::Url(url.to_owned())],
            Some(folder) => vec![BenchStore::Folder(PathBuf::from(folder))],
        }
    }
}

fn numbers(text: &str) -> Vec<usize> {
    let numbers = text.split(',').map(|it| it.parse().expect("a number"));
    numbers.collect()
}
