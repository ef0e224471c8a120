//! The options of commands that read the configuration.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::failure::Failure;
use crate::config::settings::Settings;
use crate::config::{MerchantRules, Snapshot};
use crate::inbox;
use crate::inbox::store::Store;

/// The place of the settings. Every command takes these options, before or after its name.
#[derive(Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct Config {
    /// The settings file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        default_value = "conf/countersign.toml",
        env = "COUNTERSIGN_CONFIG"
    )]
    pub(super) config: PathBuf,
    /// A setting that overrides the environment and the file, such as `platform.url=https://pay.example.com`
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    pub(super) set: Vec<(String, String)>,
}

impl Config {
    /// Reads the settings.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings::load(&self.config, &self.set, &environment)?)
    }

    /// Opens the store of a sidecar that may be running.
    pub(super) fn open_store(&self) -> Result<Arc<dyn Store>, Failure> {
        let address = self.settings()?.inbox.store;
        inbox::open_beside(&address).map_err(|error| {
            let text = format!("{address}: inbox.store: {error}");
            match error.may_pass() {
                true => Failure::Later(text),
                false => Failure::Config(text),
            }
        })
    }

    /// Reads both files. Only valid settings name the merchants file.
    pub(super) fn load(&self) -> Result<(Settings, Snapshot), Failure> {
        let asked = RefCell::new(BTreeSet::from(["COUNTERSIGN_CONFIG".to_owned()]));
        let environment = |name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            environment(name)
        };
        let mut settings = Settings::load(&self.config, &self.set, &environment)?;
        let rules = MerchantRules::of(&settings);
        let snapshot = Snapshot::load_for(rules, &settings.merchants, &environment)?;
        settings.warnings.extend(unknown_variables(&asked.borrow()));
        Ok((settings, snapshot))
    }
}

/// Warnings of variables with our prefix that no setting and no `key_env` names.
fn unknown_variables(asked: &BTreeSet<String>) -> Vec<String> {
    let names = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    let names = names.filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> = names
        .filter(|name| name.starts_with("COUNTERSIGN_") && !asked.contains(name))
        .collect();
    unknown.sort();
    let known: Vec<_> = asked.iter().map(String::as_str).collect();
    let warning = |name: &String| {
        let near = known
            .iter()
            .map(|known| (strsim::levenshtein(name, known), known))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        match near {
            Some((_, known)) => {
                format!("{name}: no setting has this variable, did you mean {known}?")
            }
            None => format!("{name}: no setting has this variable"),
        }
    };
    unknown.iter().map(warning).collect()
}

/// Reads an environment variable.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
