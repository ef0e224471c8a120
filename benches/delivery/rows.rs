//! Rows that are in the store before the sidecar is started, as an older version would have left them: without digests and
//! tries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection as Database;

use super::sidecar::Place;

/// The events that a store is filled with.
pub(super) struct Filling {
    pub(super) events: usize,
    /// The events go round by this many merchants.
    pub(super) merchants: usize,
    /// `pending` or `delivered`; for each of the latter an order that is closed.
    pub(super) state: &'static str,
    pub(super) age: Duration,
    /// Bytes of each payload beside what a payment has.
    pub(super) padding: usize,
}

impl Filling {
    /// Results that wait since a moment ago.
    pub(super) fn pending(events: usize, merchants: usize) -> Self {
        Self {
            events,
            merchants,
            state: "pending",
            age: Duration::ZERO,
            padding: 0,
        }
    }

    /// The payload, by SQL expressions of the merchant and of the padding.
    fn json(merid: &str, padding: &str) -> String {
        format!(
            "'{{\"merid\":\"' || {merid} || '\",\"orderid\":\"ORD2017030100000001\",\"queryid\":\"Q00000000000000001\",\
             \"resultcode\":\"0000\",\"resultmsg\":\"ok' || {padding} || '\",\"txnamt\":1280,\"paytime\":\"2017-03-01 12:00:05\"}}'"
        )
    }

    fn received_at(&self) -> u128 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        (now - self.age).as_millis() - self.events as u128
    }
}

const COLUMNS: &str = "id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, received_at, \
    next_attempt, attempts, last_attempt";

impl Place {
    /// Makes the tables, and removes what an earlier run left in a database.
    pub(super) async fn make(&self) {
        if self.url.is_some() {
            let sql = "DROP SCHEMA IF EXISTS countersign CASCADE";
            self.connect()
                .await
                .batch_execute(sql)
                .await
                .expect("an empty database");
        }
        self.start().stop();
    }

    pub(super) async fn fill(&self, filling: &Filling) {
        let Filling {
            events,
            merchants,
            state,
            padding,
            ..
        } = filling;
        let at = filling.received_at();
        let is_done = *state == "delivered";
        if self.url.is_none() {
            let merid = format!("printf('1%014d', n % {merchants})");
            let json = Filling::json(&merid, &format!("printf('%.*c', {padding}, 'x')"));
            let numbers = format!(
                "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < {events})"
            );
            let mut sql = format!(
                "BEGIN; {numbers} INSERT INTO events ({COLUMNS})
                SELECT lower(hex(randomblob(16))), {merid}, printf('ORD%012d', n), printf('Q%017d', n), '0000', 1280, {json},
                    'notification', 0, '{state}', {at} + n, {at} + n, 0, '' FROM n;"
            );
            if is_done {
                sql += &format!(
                    "{numbers} INSERT INTO attempts (event, number, at, took, outcome)
                    SELECT id, 1, received_at, 1, 'taken' FROM events;
                    {numbers} INSERT INTO orders (merid, orderid, amount, action, signed_at)
                    SELECT {merid}, printf('ORD%012d', n), 1280, 'AliPay', {at} + n FROM n;"
                );
            }
            let database = Database::open(self.file("countersign.db")).expect("the store");
            database.execute_batch(&(sql + "COMMIT")).expect("rows");
            return;
        }
        let merid = format!("'1' || lpad((n % {merchants})::text, 14, '0')");
        let json = Filling::json(&merid, &format!("repeat('x', {padding})"));
        let numbers = format!("FROM generate_series(0, {events} - 1) AS n");
        let mut sql = format!(
            "INSERT INTO countersign.events ({COLUMNS})
            SELECT md5(n::text), {merid}, 'ORD' || lpad(n::text, 12, '0'), 'Q' || lpad(n::text, 17, '0'), '0000', 1280,
                {json}, 'notification', false, '{state}', {at} + n, {at} + n, 0, '' {numbers};"
        );
        if is_done {
            sql += &format!(
                "INSERT INTO countersign.attempts (event, number, at, took, outcome)
                SELECT id, 1, received_at, 1, 'taken' FROM countersign.events;
                INSERT INTO countersign.orders (merid, orderid, amount, action, signed_at)
                SELECT {merid}, 'ORD' || lpad(n::text, 12, '0'), 1280, 'AliPay', {at} + n {numbers};"
            );
        }
        // What a server's own upkeep would have done by the time that there are so many.
        sql += "ANALYZE countersign.events; CHECKPOINT;";
        self.connect()
            .await
            .batch_execute(&sql)
            .await
            .expect("rows");
    }

    pub(super) async fn connect(&self) -> tokio_postgres::Client {
        let url = self.url.as_deref().expect("a database");
        let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the database");
        tokio::spawn(connection);
        client
    }
}
