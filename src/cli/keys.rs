//! Keys of a command. They never come from arguments, which every user of the machine can read in the process list.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::config::Config;
use super::config::environment;
use super::failure::Failure;
use crate::config::{Merchant, Snapshot, secret_file};
use crate::protocol::json::Object;
use crate::protocol::key::Key;

/// A key file, a variable, or the merchants of a configuration.
#[derive(Args)]
pub(super) struct KeysCommand {
    /// The merchant whose key is used; the message's own merid where left out
    #[arg(long)]
    merid: Option<String>,
    /// Take the key from this file (one trailing line end is dropped) instead of a configuration
    #[arg(long, value_name = "FILE", conflicts_with_all = ["merid", "key_env"])]
    key_file: Option<PathBuf>,
    /// Take the key from this environment variable instead of a configuration
    #[arg(long, value_name = "NAME", conflicts_with = "merid")]
    key_env: Option<String>,
}

impl KeysCommand {
    /// All merchants that the command may use; a single key has an entry without a number.
    pub(super) fn snapshot(&self, config: &Config) -> Result<Snapshot, Failure> {
        let key = match (&self.key_file, &self.key_env) {
            (Some(file), _) => {
                let named = |why: String| Failure::Config(format!("{}: {why}", file.display()));
                let bytes = secret_file::read(file).map_err(named)?;
                Key::new(bytes.as_slice()).map_err(|error| named(error.to_string()))?
            }
            (None, Some(name)) => {
                let text = environment(name).unwrap_or_default();
                Key::new(text).map_err(|e| Failure::Config(format!("{name}: {e}")))?
            }
            (None, None) => return Ok(config.load()?.1),
        };
        Ok(Snapshot::from_merchants(vec![Merchant::new("", key)]))
    }

    /// Returns the merchant that `--merid` names.
    pub(super) fn named<'s>(
        &self,
        snapshot: &'s Snapshot,
    ) -> Result<Option<&'s Arc<Merchant>>, Failure> {
        let merid = self.merid.as_deref();
        merid
            .map(|merid| snapshot.merchant(merid).ok_or_else(unknown_merchant))
            .transpose()
    }

    /// Returns the merchant for a message, verified or not: by `--merid`, by its own `merid`, or the only one.
    pub(super) fn merchant<'s>(
        &self,
        snapshot: &'s Snapshot,
        message: Option<&[u8]>,
    ) -> Result<&'s Arc<Merchant>, Failure> {
        if let Some(merchant) = self.named(snapshot)? {
            return Ok(merchant);
        }
        let stands_alone = self.key_file.is_some() || self.key_env.is_some();
        let own = || {
            let object = Object::parse(message?).ok()?;
            Some(object.string("merid")?.ok()?.into_owned())
        };
        if let Some(merid) = own().filter(|_| !stands_alone) {
            return snapshot.merchant(&merid).ok_or_else(unknown_merchant);
        }
        let several = || {
            Failure::Usage(
                "expected --merid, because more than one merchant is configured".to_owned(),
            )
        };
        snapshot.sole().ok_or_else(several)
    }
}

pub(super) fn unknown_merchant() -> Failure {
    Failure::Usage("merid: expected one of the merchants in the merchants file".to_owned())
}
