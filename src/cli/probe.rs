//! `countersign probe`: does the platform know our key?

use std::sync::Arc;

use clap::Args;

use super::config::Config;
use super::failure::Failure;
use super::keys::unknown_merchant;
use crate::cli::print::{note, say};
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
    #[command(flatten)]
    config: Config,
    /// The merchant; may be left out where only one is configured
    #[arg(long)]
    merid: Option<String>,
}

pub(super) fn probe(args: &ProbeCommand) -> Result<(), Failure> {
    let (settings, snapshot) = args.config.load()?;
    let merchant = match &args.merid {
        Some(merid) => snapshot.merchant(merid),
        None => snapshot.sole(),
    };
    let merchant = merchant.ok_or_else(unknown_merchant)?;
    let no = |why: String| Failure::No(format!("merchant {}: {why}", merchant.merid));
    match ask(&settings, merchant)? {
        Ok(payload) => {
            let which = match payload.key_index() {
                0 => "our key",
                index if merchant.is_next_key(index) => "our next_key",
                _ => "one of our old keys",
            };
            let words = shown(&UnsignedWords::read(&payload));
            say!(
                "merchant {}: the platform signs with {which}{words}",
                merchant.merid
            );
            Ok(())
        }
        Err(QueryError::Open(OpenError::Unsigned(words))) => Err(no(format!(
            "the platform does not know this merchant or has no key for it (empty sign){}",
            shown(&words)
        ))),
        Err(QueryError::Open(OpenError::Invalid(VerifyError::BadSignature))) => Err(no(
            "the platform signs with another key than ours; try `countersign explain`".to_owned(),
        )),
        Err(error) => Err(no(error.to_string())),
    }
}

/// Queries an order that the platform cannot know.
fn ask(
    settings: &Settings,
    merchant: &Merchant,
) -> Result<Result<Verified<Vec<u8>>, QueryError>, Failure> {
    let metrics = Arc::new(Metrics::default());
    let client = server::to_platform(settings, metrics.clone());
    let client = client?;
    for warning in client.warnings() {
        note!("warning: {warning}");
    }
    say!("platform {}, {}", settings.platform.url, client.way());
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
