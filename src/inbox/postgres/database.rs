//! Connections to the server: the requirements that each must meet, and the behaviour while the server is silent.
//!
//! While the server is known to be down, no request waits for it; a periodic write finds out when it is back.

use std::error::Error as _;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use deadpool_postgres::{
    BuildError, Client, ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, PoolError,
    RecyclingMethod,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::RacingConnector;
use crate::config::store_address::{Encryption, PostgresAddress as Address};
use crate::inbox::store::StoreError;

/// Limit of each wait for the server, connecting included.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Connections for calls and callbacks. With the others eight, so that ten sidecars fit under PostgreSQL's default of 100.
const CONNECTIONS: usize = 4;
/// Connections for deliveries and upkeep: however much of it there is, calls and callbacks have their own.
const ASIDE: usize = 4;
/// The pause between two checks of a server that works.
const BEAT: Duration = Duration::from_secs(3);
/// The pause between two checks of one that does not, and the shortest of all.
const BEAT_DOWN: Duration = Duration::from_millis(500);

/// Server settings that decide whether a commit may be lost, and whether there can be any.
const DEMANDED: &str = "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
                        current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
                        current_setting('transaction_read_only'), current_setting('server_encoding')";
// lock_timeout is far below PATIENCE: a locked row fails its own statement, before the time limit condemns all
// connections.
/// Session settings. Plans are made before there are statistics, and every statement of ours has its index. The server gives
/// up what we have given up, above all the locks of a sidecar that was cut off. It must not compile (JIT): a plan that avoids a
/// sequential scan in vain counts as so expensive that each run of it would be compiled first, for half a second and more.
/// Servers before version 11 have no such setting.
pub(super) const SESSION: &str = "SET search_path = countersign; \
                       SET default_transaction_isolation = 'read committed'; SET statement_timeout = '2500ms'; \
                       SET idle_in_transaction_session_timeout = '5s'; SET enable_seqscan = off; \
                       SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; \
                       SET lock_timeout = '300ms'; \
                       SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'jit'";

type Params<'a> = [&'a (dyn ToSql + Sync)];

/// The server, as far as this sidecar knows it.
pub(super) struct Database {
    pool: Pool,
    /// Settings are not demanded here each time: a delivery that is forgotten is made again.
    aside: Pool,
    /// The reason for which it cannot be used, while there is one.
    down: ArcSwapOption<StoreError>,
    doubted: Notify,
}

impl Database {
    /// Connects to nothing yet. Connections live on `runtime`, whichever task uses them.
    pub(super) fn new(at: &Address, runtime: Handle) -> Result<Self, StoreError> {
        let tls = match &at.encryption {
            Encryption::Off => None,
            Encryption::Verified { roots } => Some(verified(roots.as_deref())?),
        };
        let mut config = at.config.clone();
        if config.get_application_name().is_none() {
            config.application_name("countersign");
        }
        // A server that vanished acknowledges nothing; without this the kernel retransmits for some 15 minutes (tcp(7),
        // TCP_USER_TIMEOUT).
        config.connect_timeout(PATIENCE).tcp_user_timeout(PATIENCE);
        let connector =
            || RacingConnector::new(at, &config, tls.clone(), runtime.clone(), PATIENCE);
        let builder = |size| {
            let each = ManagerConfig {
                // It asks nothing of the server (deadpool-postgres). For `pool`, `pre_recycle` does.
                recycling_method: RecyclingMethod::Fast,
            };
            let manager = Manager::from_connect(config.clone(), connector(), each);
            Pool::builder(manager)
                .max_size(size)
                .post_create(Hook::async_fn(|client, _| {
                    Box::pin(async move { begin(client).await.map_err(hook_error) })
                }))
        };
        let failed = |error: BuildError| StoreError::Failed(error.to_string());
        let pool = builder(CONNECTIONS)
            // Before each use: fsync and full_page_writes change with a reload of the server's configuration, beneath
            // open sessions.
            .pre_recycle(Hook::async_fn(|client, _| {
                Box::pin(async move { demand(client).await.map_err(hook_error).map(|_| ()) })
            }))
            .build()
            .map_err(failed)?;
        Ok(Self {
            pool,
            aside: builder(ASIDE).build().map_err(failed)?,
            down: ArcSwapOption::empty(),
            doubted: Notify::new(),
        })
    }

    /// Returns a connection on which commits are safe.
    pub(super) async fn client(&self) -> Result<Client, StoreError> {
        self.pool.get().await.map_err(pool_error)
    }

    /// Runs one statement, which is a transaction of its own, and returns its rows.
    pub(super) async fn rows(
        &self,
        sql: &str,
        params: &Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.within(self.run(sql, params)).await
    }

    /// Runs background work on connections of its own.
    pub(super) async fn rows_aside(
        &self,
        sql: &str,
        params: &Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.within(async {
            let client = self.aside.get().await.map_err(pool_error)?;
            let statement = client.prepare_cached(sql).await?;
            Ok(client.query(&statement, params).await?)
        })
        .await
    }

    /// Runs some work within the time limit, unless the server is known to be down.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(why) = self.down.load_full() {
            return Err((*why).clone());
        }
        let result = self.in_time(work).await;
        if result.is_err() {
            self.doubted.notify_one();
        }
        result
    }

    /// Returns an error where the last check failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.down
            .load_full()
            .map_or(Ok(()), |why| Err((*why).clone()))
    }

    /// Checks the server by running `sql`, which writes, at intervals and whenever it is in doubt. Never returns. `params` are
    /// the holder and whether it wants to lead; `seen` gets the row of each good beat.
    pub(super) async fn beat(
        &self,
        sql: &str,
        params: impl Fn() -> (i64, bool),
        mut seen: impl FnMut(&Row),
    ) {
        loop {
            let (holder, wants_to_lead) = params();
            let result = self
                .in_time(self.run(sql, &[&holder, &wants_to_lead]))
                .await;
            match (&result, self.down.load().is_some()) {
                (Err(error), false) => tracing::error!(%error, "the database cannot be used"),
                (Ok(_), true) => tracing::info!("the database can be used again"),
                _ => {}
            }
            if let Some(row) = result.as_ref().ok().and_then(|rows| rows.first()) {
                seen(row);
            }
            let is_down = result.is_err();
            self.down.store(result.err().map(Arc::new));
            tokio::time::sleep(BEAT_DOWN).await;
            if !is_down {
                let _ = tokio::time::timeout(BEAT, self.doubted.notified()).await;
            }
        }
    }

    /// Rejects a pooler that gives each transaction another session: settings, prepared statements and locks would be
    /// another's. Two connections swap their sessions there, in whichever order it hands them out.
    pub(super) async fn check_sessions(&self) -> Result<(), StoreError> {
        let (one, two) = (self.client().await?, self.client().await?);
        for (first, second) in [(&one, &two), (&two, &one), (&one, &two), (&two, &one)] {
            let before = session(first).await?;
            session(second).await?;
            first.batch_execute("COMMIT").await?;
            second.batch_execute("COMMIT").await?;
            let after = session(first).await?;
            first.batch_execute("COMMIT").await?;
            if after != before {
                return Err(StoreError::Pooled);
            }
        }
        Ok(())
    }

    async fn run(&self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query(&statement, params).await?)
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(result) => result,
            Err(_) => {
                // If one connection hangs, so do the others; the next ones are new.
                // Only idle ones are dropped here; one that is in use ends by its own time limit.
                self.pool.retain(|_, _| false);
                self.aside.retain(|_, _| false);
                Err(StoreError::Slow)
            }
        }
    }
}

/// Prepares a new connection for our use.
async fn begin(client: &ClientWrapper) -> Result<(), StoreError> {
    let synchronous_commit = demand(client).await?;
    client.batch_execute(SESSION).await?;
    // The server may ask for more than we do, but not for less.
    if synchronous_commit != "remote_apply" {
        client.batch_execute("SET synchronous_commit = on").await?;
    }
    Ok(())
}

/// Rejects a server that may lose confirmed commits, or that is read-only. Returns its `synchronous_commit`.
async fn demand(client: &ClientWrapper) -> Result<String, StoreError> {
    let answer = client.simple_query(DEMANDED).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let setting = |column| {
        row.and_then(|row| row.get(column))
            .unwrap_or_default()
            .to_owned()
    };
    let failed = |words: String| Err(StoreError::Failed(words));
    for (column, name) in [(0, "fsync"), (1, "full_page_writes")] {
        if setting(column) != "on" {
            return failed(format!("the server may lose commits: expected {name} = on"));
        }
    }
    let synchronous_commit = setting(2);
    let has_standbys = !setting(3).is_empty();
    // `local` waits for the primary's disk alone: after a failover to a standby the commit may be gone.
    if synchronous_commit == "off" || (synchronous_commit == "local" && has_standbys) {
        return failed(format!(
            "the server may lose commits: synchronous_commit = {synchronous_commit}, expected on"
        ));
    }
    if setting(4) != "off" {
        return failed("the server is read-only".to_owned());
    }
    if setting(5) != "UTF8" {
        return failed(format!("the database is in {}, expected UTF8", setting(5)));
    }
    Ok(synchronous_commit)
}

/// Begins a transaction, and returns the server's process that has it.
async fn session(client: &Client) -> Result<Option<String>, StoreError> {
    let messages = client
        .simple_query("BEGIN; SELECT pg_backend_pid()")
        .await?;
    let pid = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(pid)
}

fn pool_error(error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) => error.into(),
        PoolError::PostCreateHook(HookError::Message(words)) => {
            StoreError::Failed(words.into_owned())
        }
        other => StoreError::Failed(other.to_string()),
    }
}

fn hook_error(error: StoreError) -> HookError {
    HookError::Message(error.to_string().into())
}

impl From<tokio_postgres::Error> for StoreError {
    /// A server's details may quote a row; its message alone does not.
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(error) = error.as_db_error() {
            let code = error.code();
            // lock_timeout and statement_timeout: the callers retry a result alone for `Slow`, so that one locked row
            // spoils no group.
            if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::QUERY_CANCELED {
                return Self::Slow;
            }
            if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED {
                return Self::Damaged(error.message().to_owned());
            }
            return Self::Failed(format!("{} ({})", error.message(), error.code().code()));
        }
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            words += &format!(": {error}");
            source = error.source();
        }
        Self::Absent(words)
    }
}

/// Builds the TLS configuration from the system's roots and those of a file.
fn verified(roots: Option<&Path>) -> Result<MakeRustlsConnect, StoreError> {
    let mut believed = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs().certs;
    believed.add_parsable_certificates(system);
    if let Some(path) = roots {
        let failed = |why: String| StoreError::Failed(format!("{}: {why}", path.display()));
        let own: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| failed(format!("sslrootcert: expected PEM certificates: {error}")))?;
        let (added, _) = believed.add_parsable_certificates(own);
        if added == 0 {
            return Err(failed(
                "sslrootcert: expected PEM certificates that can anchor a chain".to_owned(),
            ));
        }
    }
    let config = ClientConfig::builder()
        .with_root_certificates(believed)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
