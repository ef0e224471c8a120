//! `countersign check`: the loader that `run` uses, stopped before anything is in force.

use super::{Config, Failure};
use crate::config::Merchant;

pub(super) fn check(config: &Config) -> Result<(), Failure> {
    let (settings, snapshot) = config.load()?;
    let app: Vec<_> = settings
        .app
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    println!("{} (sha-256 {})", settings.path.display(), settings.digest);
    println!("  app        {}", app.join(", "));
    println!("  admin      {}", settings.admin.listen);
    println!("  platform   {}", settings.platform.url);
    println!(
        "  timeouts   connect {:?}, whole {:?}",
        settings.platform.connect_timeout, settings.platform.timeout
    );
    println!(
        "  limits     body {} bytes, {} calls in flight",
        settings.app.max_body, settings.app.max_in_flight
    );
    println!("  store      {}", settings.inbox.store.display());
    println!(
        "{} (sha-256 {}), merchants: {}",
        settings.merchants.display(),
        snapshot.digest(),
        snapshot.len()
    );
    for merchant in snapshot.iter() {
        println!("  {}", line(merchant));
    }
    for warning in settings
        .warnings
        .iter()
        .map(String::as_str)
        .chain(snapshot.warnings().iter().map(String::as_str))
    {
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
