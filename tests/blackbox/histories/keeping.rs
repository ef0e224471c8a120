//! The store of a history: a file or a database, which a fault can change behind the sidecar's back.

use std::path::Path;

use crate::cluster::Cluster;

/// The kind of store.
#[derive(Clone, Copy)]
pub(super) enum Keeping {
    File,
    Database(&'static Cluster),
}

/// One history's own store.
pub(super) enum Kept {
    File,
    Database(&'static Cluster, String),
}

impl Kept {
    pub(super) fn new(keeping: Keeping) -> Self {
        match keeping {
            Keeping::File => Self::File,
            Keeping::Database(cluster) => Self::Database(cluster, cluster.database()),
        }
    }

    /// The address in the settings; the file has the one that the harness gives it.
    pub(super) fn address(&self) -> Option<String> {
        match self {
            Self::File => None,
            Self::Database(cluster, name) => Some(cluster.url(name)),
        }
    }

    /// Changes an undelivered payload as a flipped bit does, so that it still is good JSON. Only while no sidecar runs.
    pub(super) fn alter(&self, file: &Path, id: &str, (from, to): (i64, i64)) {
        let sql = format!(
            "UPDATE events SET json = replace(json, '{from}', '{to}') WHERE id = '{id}' AND state = 'pending'"
        );
        match self {
            Self::Database(cluster, name) => drop(cluster.sql(name, &sql)),
            Self::File => {
                let store = rusqlite::Connection::open(file).unwrap();
                store.execute(&sql, []).unwrap();
            }
        }
    }
}
