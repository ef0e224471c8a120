//! `countersign check`: the loader that `run` uses, stopped before anything is in force.

use std::sync::Arc;

use super::{Config, Failure};
use crate::config::Merchant;
use crate::server;
use crate::telemetry::metrics::Uncounted;

pub(super) fn check(config: &Config) -> Result<(), Failure> {
    let (settings, snapshot) = config.load()?;
    server::check(&settings).map_err(|error| Failure::Config(error.to_string()))?;
    let app: Vec<_> = settings
        .app
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    println!("{} (sha-256 {})", settings.path.display(), settings.digest);
    println!("  app        {}", app.join(", "));
    if let Some(callbacks) = &settings.callbacks {
        let listen: Vec<_> = callbacks.listen.iter().map(ToString::to_string).collect();
        let public_url = callbacks
            .public_url
            .as_ref()
            .map_or("no public_url", |url| url.as_str());
        println!("  callbacks  {}, {public_url}", listen.join(", "));
    }
    println!("  admin      {}", settings.admin.listen);
    let client = server::to_platform(&settings, Arc::new(Uncounted))
        .map_err(|error| Failure::Config(error.to_string()))?;
    println!("  platform   {}, {}", settings.platform.url, client.way());
    println!(
        "  timeouts   connect {:?}, whole {:?}",
        settings.platform.connect_timeout, settings.platform.timeout
    );
    println!(
        "  limits     body {} bytes, {} calls in flight",
        settings.app.max_body, settings.app.max_in_flight
    );
    println!("  store      {}", settings.inbox.store);
    println!(
        "{} (sha-256 {}), merchants: {}",
        settings.merchants.display(),
        snapshot.digest(),
        snapshot.len()
    );
    for merchant in snapshot.iter() {
        println!("  {}", line(merchant));
    }
    let of_client = client.warnings().iter().map(String::as_str);
    for warning in server::warnings(&settings, &snapshot).chain(of_client) {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn line(merchant: &Merchant) -> String {
    let mut line = format!("{}  key {}", merchant.merid, merchant.key.fingerprint());
    if !merchant.old_keys.is_empty() {
        let old: Vec<_> = merchant
            .old_keys
            .iter()
            .map(|key| key.fingerprint())
            .collect();
        line += &format!(", old {}", old.join(" "));
    }
    for (name, url) in [("back", &merchant.back), ("front", &merchant.front)] {
        if let Some(url) = url {
            line += &format!(", {name} {url}");
        }
    }
    line
}
