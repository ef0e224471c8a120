//! `countersign.toml`: what is read once, at start, and checked whole.

mod sections;

mod warnings;

mod read;

use std::path::Path;

use sha2::{Digest, Sha256};

use super::file;
use super::layers::Layers;
use super::listen::Listen;
use super::problem::{Problem, Problems};
pub use sections::{
    Acknowledge, AdminSettings, AppSettings, CallbackSettings, Confirm, InboxSettings, LogFormat,
    LogSettings, PlatformSettings, Settings, TlsSettings,
};

/// The settings fit one page; a file past 1 MiB is some other file.
const MAX_FILE: u64 = 1 << 20;

impl Settings {
    /// Reads the file, then `overrides` (`("platform.url", "http://…")`) and `env` over it.
    ///
    /// Every problem is reported at once. A variable is named `COUNTERSIGN_` and the setting's path in capitals;
    /// variables that name no setting are ignored, and so are empty ones.
    pub fn load(
        path: &Path,
        overrides: &[(String, String)],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        let bytes = file::read(path, MAX_FILE).map_err(|why| Problem::new(path, "", why))?;
        let text = file::utf8(&bytes).map_err(|(line, expected)| Problem {
            line: Some(line),
            ..Problem::new(path, "", expected)
        })?;
        let mut layers = Layers::new(path, text, overrides, env);
        let settings = read::settings(
            &mut layers,
            path,
            file::short_hex(&Sha256::digest(text)),
            env,
        );
        layers.finish()?;
        settings.ok_or_else(|| Problem::new(path, "", "cannot be read").into())
    }

    /// Every address of every listener, with the setting that names it.
    pub fn listeners(&self) -> Vec<(&'static str, Listen)> {
        let callbacks = self
            .callbacks
            .iter()
            .flat_map(|callbacks| &callbacks.listen);
        let app = self.app.listen.iter().cloned();
        app.map(|listen| ("app.listen", listen))
            .chain(callbacks.map(|address| ("callbacks.listen", Listen::Tcp(*address))))
            .chain([("admin.listen", Listen::Tcp(self.admin.listen))])
            .collect()
    }
}
