//! Trusted time in the file, kept by a thread that looks every second.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::connections::{Connections, Lane};
use super::row::text;
use super::writer::WriteJob;
use crate::time;
use crate::time::KeptTrust;

/// The pause between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two writes, where nothing happens.
const LOOKS: u32 = 60;

/// Goes on with the trusted time of the process before.
pub(super) fn resume(connection: &mut Connection) -> rusqlite::Result<()> {
    let kept = connection
        .query_row("SELECT boot, up, trusted, doubted FROM clock", [], |row| {
            Ok(KeptTrust {
                boot: text(row, 0)?,
                up: row.get(1)?,
                trusted: row.get(2)?,
                doubted: row.get(3)?,
            })
        })
        .optional()?;
    if let Some(kept) = kept {
        time::resume(&kept);
    }
    // At once: a process that dies within a minute must not leave its clock unquestioned.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    keep(&transaction, &time::kept())?;
    transaction.commit()
}

/// Looks at the clock until the store is closed.
pub(super) fn run(shared: &Connections, jobs: &SyncSender<WriteJob>, closed: &Receiver<()>) {
    let mut seen = shared.on(Lane::View, confirmed).unwrap_or_default();
    let (mut looks, mut doubt) = (LOOKS, None);
    while closed.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let found = shared.on(Lane::View, confirmed).unwrap_or(seen);
        if found != seen {
            seen = found;
            tracing::info!("the clock was confirmed by an operator");
            time::confirm();
        }
        let jump = time::doubted_jump().is_some();
        looks += 1;
        if looks >= LOOKS || doubt != Some(jump) {
            (looks, doubt) = (0, Some(jump));
            let kept = time::kept();
            // Where too much waits, a later look writes.
            // Our sender keeps the writer's queue open, so the writer ends after this thread and takes its last commits
            // along.
            let _ = jobs.try_send(Box::new(move |transaction| {
                if let Err(error) = keep(transaction, &kept) {
                    tracing::warn!(%error, "trusted time cannot be kept");
                }
                Box::new(|_| {})
            }));
        }
    }
}

/// Writes trusted time, and that an operator has confirmed it.
pub(super) fn confirm(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    keep(transaction, &time::kept())?;
    // One more than before: two confirmations in one millisecond are two.
    transaction.execute(
        "UPDATE clock SET confirmed = confirmed + 1, doubted = 0",
        [],
    )?;
    Ok(())
}

fn keep(transaction: &Transaction<'_>, kept: &KeptTrust) -> rusqlite::Result<()> {
    let sql = "INSERT INTO clock VALUES (1, ?1, ?2, ?3, ?4, 0) ON CONFLICT (one) DO UPDATE SET
        boot = excluded.boot, up = excluded.up, trusted = excluded.trusted, doubted = excluded.doubted";
    transaction.prepare_cached(sql)?.execute(params![
        kept.boot,
        kept.up,
        kept.trusted,
        kept.doubted
    ])?;
    Ok(())
}

fn confirmed(connection: &Connection) -> rusqlite::Result<i64> {
    let found = connection
        .prepare_cached("SELECT confirmed FROM clock")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or_default())
}
