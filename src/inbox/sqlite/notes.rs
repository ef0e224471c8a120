//! The notes of one sidecar, and what the console looks up beside them.

use rusqlite::{Row, Transaction, params};

use super::super::note::{Note, Weight, What};

pub(super) const NOTE: &str = "common, at, took, what, way, merid, orderid, request_id, outcome, sent, old_key, refused, \
     stranger";

pub(super) fn insert_note(transaction: &Transaction<'_>, note: &Note) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT INTO notes (number, {NOTE}) SELECT
            coalesce((SELECT max(number) FROM notes WHERE common = ?1), 0) + 1,
            ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13"
    );
    transaction.prepare_cached(&sql)?.execute(params![
        note.weight == Weight::Common,
        note.at,
        note.took,
        note.what.name(),
        note.way,
        note.merid,
        note.orderid,
        note.request_id,
        note.outcome,
        note.sent,
        note.old_key,
        note.refused,
        note.stranger,
    ])
}

pub(super) fn read_note(row: &Row<'_>) -> rusqlite::Result<Note> {
    let text = |column| row.get::<_, String>(column);
    Ok(Note {
        weight: if row.get(0)? {
            Weight::Common
        } else {
            Weight::Step
        },
        at: row.get(1)?,
        took: row.get(2)?,
        what: What::parse(row.get_ref(3)?.as_str()?).unwrap_or(What::Call),
        way: text(4)?.into(),
        merid: text(5)?,
        orderid: text(6)?,
        request_id: text(7)?,
        outcome: text(8)?.into(),
        sent: text(9)?.into(),
        old_key: text(10)?,
        refused: row.get(11)?,
        stranger: row.get(12)?,
    })
}
