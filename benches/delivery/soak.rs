//! A steady pace of callbacks to an app that fails again and again: the backlog has to go, and nothing may grow.

use std::time::{Duration, Instant};

use super::app::App;
use super::arguments::{Arguments, BenchStore};
use super::callbacks::Paced;
use super::sidecar::{Place, Sidecar};

/// The pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between two lines.
const LINE: Duration = Duration::from_secs(15);
/// Time before the first outage.
const LEAD: Duration = Duration::from_secs(30);
/// Results that are on their way at any time, and no backlog.
const ON_THE_WAY: usize = 50;
/// Time after an outage in which its backlog is promised to be gone.
const PROMISED: Duration = Duration::from_secs(120);
/// MiB of the log of commits that are promised.
const PROMISED_WAL: u64 = 64;

/// The figures of a look.
struct Look {
    at: Duration,
    pending: usize,
    wal: u64,
    memory: usize,
    longest: Duration,
}

impl Look {
    fn take(sidecar: &Sidecar, paced: &Paced, began: Instant) -> Self {
        Self {
            at: began.elapsed(),
            pending: tokio::task::block_in_place(|| sidecar.events("pending")),
            wal: sidecar.wal(),
            memory: sidecar.memory("VmRSS:"),
            longest: paced.take_longest(),
        }
    }
}

/// Prints a line now and then, and the verdict.
pub(super) async fn run(arguments: &Arguments, store: &BenchStore) -> bool {
    let place = Place::new(store);
    let app = App::start().await;
    place.configure(1, |_| Some(app.url()));
    place.make().await;
    let sidecar = place.start();
    let paced = Paced::start(sidecar.callbacks, arguments.rate);
    println!(
        "| {}: s | app | acknowledged | pending | WAL MiB | memory MiB | longest callback |\n\
         |---:|---|---:|---:|---:|---:|---:|",
        store.name()
    );
    let (began, mut looks, mut outages) = (Instant::now(), Vec::new(), Vec::new());
    let (mut is_out, mut next_line, mut longest) = (false, LINE, Duration::ZERO);
    while began.elapsed() < arguments.length {
        tokio::time::sleep(LOOK).await;
        let look = Look::take(&sidecar, &paced, began);
        let phase = look
            .at
            .checked_sub(LEAD)
            .map(|since| Duration::from_secs(since.as_secs() % arguments.every.as_secs().max(1)));
        let was_out = std::mem::replace(&mut is_out, phase.is_some_and(|it| it < arguments.outage));
        app.reject(is_out);
        if was_out && !is_out {
            outages.push(look.at);
        }
        longest = longest.max(look.longest);
        if look.at >= next_line {
            let state = if is_out { "rejects" } else { "takes" };
            println!(
                "| {} | {state} | {} | {} | {} | {} | {longest:.0?} |",
                look.at.as_secs(),
                paced.acknowledged(),
                look.pending,
                look.wal,
                look.memory
            );
            (next_line, longest) = (next_line + LINE, Duration::ZERO);
        }
        looks.push(look);
    }
    let acknowledged = paced.stop().await;
    verdict(&looks, &outages, acknowledged)
}

fn verdict(looks: &[Look], outages: &[Duration], acknowledged: usize) -> bool {
    let mut is_good = true;
    println!();
    for end in outages {
        let gone = looks
            .iter()
            .find(|it| it.at > *end && it.pending <= ON_THE_WAY);
        let end_s = end.as_secs();
        match gone {
            Some(look) => println!(
                "outage until {end_s} s: backlog gone after {:.0?}",
                look.at - *end
            ),
            None => println!("outage until {end_s} s: backlog never gone"),
        }
        is_good &= gone.is_some_and(|look| look.at - *end <= PROMISED);
    }
    let wal = looks.iter().map(|look| look.wal).max().unwrap_or_default();
    let longest = looks
        .iter()
        .map(|look| look.longest)
        .max()
        .unwrap_or_default();
    // The first third fills caches.
    let settled = &looks[looks.len() / 3..];
    let memory = |looks: &[Look]| {
        looks
            .iter()
            .map(|look| look.memory)
            .max()
            .unwrap_or_default()
    };
    println!(
        "{acknowledged} acknowledged, the longest in {longest:.0?}; WAL at most {wal} MiB; memory at most {} MiB in the first \
         third, {} MiB after it\n",
        memory(&looks[..looks.len() / 3]),
        memory(settled)
    );
    is_good && wal <= PROMISED_WAL
}
