//! The store alone: what a delivery costs it at least, in groups of the sidecar's size. The rows are read by id, marked,
//! and an attempt is added to each; the triggers are there too.

use std::fs;
use std::time::Instant;

use rusqlite::Connection as Database;

use super::sidecar::Place;

/// Rows of one commit: the sidecar's own groups.
const GROUP: usize = 256;
/// Rows that are measured at most.
const MOST: i64 = 40_000;

impl Place {
    /// Rows a second. The store is left as it was.
    pub(super) async fn floor(&self) -> f64 {
        match self.url {
            None => self.floor_of_file(),
            Some(_) => self.floor_of_database().await,
        }
    }

    fn floor_of_file(&self) -> f64 {
        let copy = self.file("floor.db");
        fs::copy(self.file("countersign.db"), &copy).expect("a copy");
        let database = Database::open(&copy).expect("the copy");
        database
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384",
            )
            .expect("a file");
        let ids: Vec<String> = database
            .prepare("SELECT id FROM events ORDER BY rowid LIMIT ?1")
            .and_then(|mut it| it.query_map([MOST], |row| row.get(0))?.collect())
            .expect("rows");
        let began = Instant::now();
        for group in ids.chunks(GROUP) {
            database
                .execute_batch("BEGIN IMMEDIATE")
                .expect("a transaction");
            for id in group {
                deliver(&database, id).expect("a row");
            }
            database.execute_batch("COMMIT").expect("a commit");
        }
        let rate = ids.len() as f64 / began.elapsed().as_secs_f64();
        drop(database);
        fs::remove_file(copy).expect("our own copy");
        rate
    }

    async fn floor_of_database(&self) -> f64 {
        let client = self.connect().await;
        let sql = "SET search_path = countersign; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
        client.batch_execute(sql).await.expect("a session");
        let sql = "SELECT id FROM events ORDER BY received_at LIMIT $1";
        let rows = client.query(sql, &[&MOST]).await.expect("rows");
        let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let sql = "WITH done AS (UPDATE events SET attempts = 1, last_attempt = 'taken', state = 'delivered'
                WHERE id = ANY($1) RETURNING id, json),
            noted AS (INSERT INTO attempts (event, number, at, took, outcome) SELECT id, 1, 0, 1, 'taken' FROM done)
            SELECT id, json FROM done";
        let statement = client.prepare(sql).await.expect("a statement");
        let began = Instant::now();
        for group in ids.chunks(GROUP) {
            client.query(&statement, &[&group]).await.expect("rows");
        }
        let rate = ids.len() as f64 / began.elapsed().as_secs_f64();
        let sql = "UPDATE events SET attempts = 0, last_attempt = '', state = 'pending' WHERE id = ANY($1)";
        client
            .execute(sql, &[&ids])
            .await
            .expect("the rows as they were");
        let sql = "DELETE FROM attempts WHERE event = ANY($1)";
        client
            .execute(sql, &[&ids])
            .await
            .expect("the rows as they were");
        client
            .batch_execute("VACUUM events")
            .await
            .expect("no dead rows");
        rate
    }
}

fn deliver(database: &Database, id: &str) -> rusqlite::Result<()> {
    let mut read = database.prepare_cached("SELECT json FROM events WHERE id = ?1")?;
    let _json: String = read.query_row([id], |row| row.get(0))?;
    let sql =
        "UPDATE events SET attempts = 1, last_attempt = 'taken', state = 'delivered' WHERE id = ?1";
    database.prepare_cached(sql)?.execute([id])?;
    let sql =
        "INSERT INTO attempts (event, number, at, took, outcome) VALUES (?1, 1, 0, 1, 'taken')";
    database.prepare_cached(sql)?.execute([id])?;
    Ok(())
}
