//! `countersign check`: the loader that `run` and a reload use, and a trial of all else that a start needs.

use std::sync::Arc;

use ::time::UtcOffset;
use clap::Args;

use super::config::Config;
use super::failure::Failure;
use crate::cli::print::{note, say};
use crate::config::{Merchant, Settings};
use crate::inbox::store::KeySwitch;
use crate::platform::switches::signing_key;
use crate::server;
use crate::telemetry::metrics::Uncounted;
use crate::time;

#[derive(Args)]
pub(super) struct CheckCommand {
    #[command(flatten)]
    config: Config,
    /// Judge the files alone: neither the store nor the addresses are tried
    #[arg(long)]
    files: bool,
}

pub(super) fn check(args: &CheckCommand) -> Result<(), Failure> {
    let (settings, snapshot) = args.config.load()?;
    server::check_files(&settings)?;
    if !args.files {
        try_resources(&settings)?;
    }
    let app: Vec<_> = settings
        .app
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    say!("{} (sha-256 {})", settings.path.display(), settings.digest);
    say!("  app        {}", app.join(", "));
    if let Some(callbacks) = &settings.callbacks {
        let listen: Vec<_> = callbacks.listen.iter().map(ToString::to_string).collect();
        let public_url = callbacks
            .public_url
            .as_ref()
            .map_or("no public_url", |url| url.as_str());
        say!("  callbacks  {}, {public_url}", listen.join(", "));
    }
    say!("  admin      {}", settings.admin.listen);
    let client = server::to_platform(&settings, Arc::new(Uncounted))?;
    say!("  platform   {}, {}", settings.platform.url, client.way());
    say!(
        "  timeouts   connect {:?}, whole {:?}",
        settings.platform.connect_timeout,
        settings.platform.timeout
    );
    say!(
        "  limits     body {} bytes, {} calls in flight",
        settings.app.max_body,
        settings.app.max_in_flight
    );
    say!("  store      {}", settings.inbox.store);
    say!(
        "{} (sha-256 {}), merchants: {}",
        settings.merchants.display(),
        snapshot.digest(),
        snapshot.len()
    );
    let is_rotating = snapshot.iter().any(|it| it.next_key.is_some());
    let switches = match is_rotating && !args.files {
        true => server::key_switches(&settings),
        false => Vec::new(),
    };
    for merchant in snapshot.iter() {
        say!("  {}", line(merchant, &switches));
    }
    let of_client = client.warnings().iter().cloned();
    for warning in server::warnings(&settings, &snapshot)
        .into_iter()
        .chain(of_client)
    {
        note!("warning: {warning}");
    }
    Ok(())
}

fn try_resources(settings: &Settings) -> Result<(), Failure> {
    let errors = server::check_resources(settings);
    // One error that needs an edit is enough for 78: waiting would not mend it.
    let may_pass = errors.iter().all(|error| error.may_pass);
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    match (texts.join("\n"), may_pass) {
        (text, _) if text.is_empty() => Ok(()),
        (text, true) => Err(Failure::Later(text)),
        (text, false) => Err(Failure::Config(text)),
    }
}

fn line(merchant: &Merchant, switches: &[KeySwitch]) -> String {
    let mut line = format!("{}  key {}", merchant.merid, merchant.key.fingerprint());
    if let Some(key) = &merchant.next_key {
        line += &format!(", next {}", key.fingerprint());
        let switch = switches.iter().find(|it| it.merid == merchant.merid);
        line += &signs(switch, merchant);
    }
    if !merchant.old_keys.is_empty() {
        let old: Vec<_> = merchant
            .old_keys
            .iter()
            .map(|key| key.fingerprint())
            .collect();
        line += &format!(", old {}", old.join(" "));
    }
    let urls = [
        ("back", &merchant.back),
        ("front", &merchant.front),
        ("front_redirect", &merchant.front_redirect),
    ];
    for (name, url) in urls {
        if let Some(url) = url {
            line += &format!(", {name} {url}");
        }
    }
    line
}

/// Names the key that signs, where a switch was kept.
fn signs(switch: Option<&KeySwitch>, merchant: &Merchant) -> String {
    let signing = switch.and_then(|switch| Some((signing_key(switch, merchant)?, switch.at)));
    match signing {
        Some((key, at)) => {
            let at = time::shown(at, UtcOffset::UTC);
            format!(" ({} signs since {at} UTC)", key.name())
        }
        None => String::new(),
    }
}
