//! `countersign check`: the loader that `run` and a reload use, and a trial of all else that a start needs.

use std::sync::Arc;

use ::time::UtcOffset;
use clap::Args;
use serde_json::{Value, json};
use url::Url;

use super::config::Config;
use super::failure::Failure;
use crate::cli::print::{document, note, say};
use crate::config::{Merchant, Problems, Settings, Snapshot};
use crate::inbox::store::KeySwitch;
use crate::platform::switches::signing_key;
use crate::protocol::key::Key;
use crate::server;
use crate::telemetry::metrics::Uncounted;
use crate::time;

#[derive(Args)]
pub(super) struct CheckCommand {
    /// Judge the files alone: neither the store nor the addresses are tried
    #[arg(long)]
    files: bool,
    /// Print one JSON document, also where something is wrong
    #[arg(long)]
    json: bool,
}

pub(super) fn check(config: &Config, args: &CheckCommand) -> Result<(), Failure> {
    let checked = examine(config, args.files);
    if args.json {
        document(&json(&checked));
        return checked.map(drop);
    }
    print(&checked?);
    Ok(())
}

/// A configuration in which nothing is wrong.
struct Checked {
    settings: Settings,
    snapshot: Snapshot,
    switches: Vec<KeySwitch>,
    way: String,
    warnings: Vec<String>,
}

fn examine(config: &Config, files: bool) -> Result<Checked, Failure> {
    let (settings, snapshot) = config.load()?;
    server::check_files(&settings)?;
    if !files {
        try_resources(&settings)?;
    }
    let client = server::to_platform(&settings, Arc::new(Uncounted))?;
    let is_rotating = snapshot.iter().any(|it| it.next_key.is_some());
    let switches = match is_rotating && !files {
        true => server::key_switches(&settings),
        false => Vec::new(),
    };
    let mut warnings = server::warnings(&settings, &snapshot);
    warnings.extend(client.warnings().iter().cloned());
    Ok(Checked {
        way: client.way(),
        settings,
        snapshot,
        switches,
        warnings,
    })
}

/// Writes the result for programs.
fn json(checked: &Result<Checked, Failure>) -> Value {
    let Checked {
        settings,
        snapshot,
        switches,
        way,
        warnings,
    } = match checked {
        Ok(checked) => checked,
        Err(Failure::Rejected(Problems(problems))) => {
            let problems: Vec<_> = problems
                .iter()
                .map(|it| json!({ "file": it.file, "line": it.line, "path": it.path, "expected": it.expected }))
                .collect();
            return json!({ "ok": false, "problems": problems });
        }
        Err(failure) => {
            let text = failure.to_string();
            let problems: Vec<_> = text.lines().map(|it| json!({ "expected": it })).collect();
            return json!({ "ok": false, "problems": problems });
        }
    };
    let merchants: Vec<_> = snapshot
        .iter()
        .map(|merchant| merchant_json(merchant, switches))
        .collect();
    let listen: Vec<_> = settings
        .app
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    let callbacks = settings.callbacks.as_ref().map(|callbacks| {
        let listen: Vec<_> = callbacks.listen.iter().map(ToString::to_string).collect();
        json!({ "listen": listen, "public_url": callbacks.public_url.as_ref().map(|url| url.as_str()) })
    });
    json!({
        "ok": true, "problems": [], "warnings": warnings,
        "settings": { "file": settings.path, "sha256": settings.digest },
        "app": { "listen": listen }, "callbacks": callbacks,
        "admin": { "listen": settings.admin.listen },
        "platform": { "url": settings.platform.url.as_str(), "way": way },
        "store": settings.inbox.store.to_string(),
        "merchants_file": { "file": settings.merchants, "sha256": snapshot.digest() },
        "merchants": merchants,
    })
}

fn merchant_json(merchant: &Merchant, switches: &[KeySwitch]) -> Value {
    let switch = switches.iter().find(|it| it.merid == merchant.merid);
    let signing = switch.and_then(|switch| signing_key(switch, merchant));
    let url = |url: &Option<Url>| url.as_ref().map(ToString::to_string);
    let old: Vec<_> = merchant.old_keys.iter().map(Key::fingerprint).collect();
    json!({
        "merid": merchant.merid, "key": merchant.key.fingerprint(),
        "next_key": merchant.next_key.as_ref().map(Key::fingerprint), "old_keys": old,
        "signs_with": signing.map_or("key", |key| key.name()),
        "back": url(&merchant.back), "front": url(&merchant.front),
        "front_redirect": url(&merchant.front_redirect),
    })
}

fn print(checked: &Checked) {
    let Checked {
        settings,
        snapshot,
        switches,
        way,
        warnings,
    } = checked;
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
    say!("  platform   {}, {way}", settings.platform.url);
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
    for merchant in snapshot.iter() {
        say!("  {}", line(merchant, switches));
    }
    for warning in warnings {
        note!("warning: {warning}");
    }
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
