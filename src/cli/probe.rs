//! `countersign probe`: does the platform know our key?

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::config::Config;
use super::failure::Failure;
use super::keys::unknown_merchant;
use crate::cli::print::{document, note, say};
use crate::config::Merchant;
use crate::config::settings::Settings;
use crate::platform::query::{PaymentName, unknown_orderid};
use crate::platform::response::{OpenError, UnsignedWords};
use crate::platform::{KeyRotation, PlatformQuery, QueryError};
use crate::protocol::envelope::{Verified, VerifyError};
use crate::server;
use crate::telemetry::metrics::Metrics;

#[derive(Args)]
pub(super) struct ProbeCommand {
    /// The merchant; may be left out where only one is configured
    #[arg(long)]
    merid: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn probe(config: &Config, args: &ProbeCommand) -> Result<(), Failure> {
    let (settings, snapshot) = config.load()?;
    let merchant = match &args.merid {
        Some(merid) => snapshot.merchant(merid),
        None => snapshot.sole(),
    };
    let merchant = merchant.ok_or_else(unknown_merchant)?;
    let answer = ask(&settings, merchant, args.json)?;
    if args.json {
        document(&json(&settings, merchant, &answer));
    }
    let words = |words: &UnsignedWords| {
        if args.json {
            String::new()
        } else {
            shown(words)
        }
    };
    let no = |why: String| Failure::No(format!("merchant {}: {why}", merchant.merid));
    match answer {
        Ok(_) if args.json => Ok(()),
        Ok(payload) => {
            let which = match signer(merchant, &payload) {
                "key" => "our key",
                "next_key" => "our next_key",
                _ => "one of our old keys",
            };
            say!(
                "merchant {}: the platform signs with {which}{}",
                merchant.merid,
                words(&UnsignedWords::read(&payload))
            );
            Ok(())
        }
        Err(QueryError::Open(OpenError::Unsigned(unsigned))) => Err(no(format!(
            "the platform does not know this merchant or has no key for it (empty sign){}",
            words(&unsigned)
        ))),
        Err(QueryError::Open(OpenError::Invalid(VerifyError::BadSignature))) => Err(no(
            "the platform signs with another key than ours; try `countersign explain`".to_owned(),
        )),
        Err(error) => Err(no(error.to_string())),
    }
}

/// Names the key of ours with which the platform signed.
fn signer(merchant: &Merchant, payload: &Verified<Vec<u8>>) -> &'static str {
    match payload.key_index() {
        0 => "key",
        index if merchant.is_next_key(index) => "next_key",
        _ => "old_keys",
    }
}

fn json(
    settings: &Settings,
    merchant: &Merchant,
    answer: &Result<Verified<Vec<u8>>, QueryError>,
) -> Value {
    let (signer, words, why) = match answer {
        Ok(payload) => {
            let words = UnsignedWords::read(payload);
            (Some(signer(merchant, payload)), words, None)
        }
        Err(QueryError::Open(OpenError::Unsigned(words))) => {
            (None, (**words).clone(), Some("empty sign".to_owned()))
        }
        Err(error) => (None, UnsignedWords::default(), Some(error.to_string())),
    };
    json!({
        "merid": merchant.merid, "platform": settings.platform.url.as_str(), "known": signer.is_some(),
        "signs_with": signer, "respcode": words.respcode, "respmsg": words.respmsg, "why": why,
    })
}

/// Queries an order that the platform cannot know.
fn ask(
    settings: &Settings,
    merchant: &Merchant,
    is_quiet: bool,
) -> Result<Result<Verified<Vec<u8>>, QueryError>, Failure> {
    let metrics = Arc::new(Metrics::default());
    let client = server::to_platform(settings, metrics.clone());
    let client = client?;
    for warning in client.warnings() {
        note!("warning: {warning}");
    }
    if !is_quiet {
        say!("platform {}, {}", settings.platform.url, client.way());
    }
    let rotation = Arc::new(KeyRotation::new(None, metrics.clone()));
    let platform = PlatformQuery::new(Arc::new(client), rotation, metrics, None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    let orderid = unknown_orderid();
    Ok(runtime.block_on(platform.payload(merchant, PaymentName::Orderid(&orderid))))
}

/// The platform's own words in a response, where it has any.
fn shown(words: &UnsignedWords) -> String {
    match &words.respcode {
        Some(code) => {
            let message = words.respmsg.as_deref().unwrap_or_default();
            format!("; it says {code:?} {message:?}")
        }
        None => String::new(),
    }
}
