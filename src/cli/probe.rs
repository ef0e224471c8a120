//! `countersign probe`: does the platform know our key?

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::keys::unknown_merchant;
use super::{Config, Failure};
use crate::config::Merchant;
use crate::config::settings::Settings;
use crate::http::client::{RawResponse, Repeat};
use crate::protocol::envelope;
use crate::protocol::envelope::{Envelope, VerifyError};
use crate::protocol::json::{Object, quoted};
use crate::relay;
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
    let response = ask(&settings, merchant)?;
    let no = |why: String| Failure::No(format!("merchant {}: {why}", merchant.merid));
    let received = envelope::read(response.body(), "resp")
        .map_err(|error| no(format!("status {}, {error}", response.status().as_u16())))?;
    let said = said(&received.unverified().unwrap_or_default());
    match received.verify(merchant.verifying_keys()) {
        Ok(verified) => {
            let which = if verified.key_index() == 0 {
                "our key"
            } else {
                "one of our old keys"
            };
            println!(
                "merchant {}: the platform signs with {which}{said}",
                merchant.merid
            );
            Ok(())
        }
        Err(VerifyError::Unsigned) => Err(no(format!(
            "the platform does not know this merchant or has no key for it (empty sign){said}"
        ))),
        Err(VerifyError::BadSignature) => Err(no(
            "the platform signs with another key than ours; try `countersign explain`".to_owned(),
        )),
        Err(VerifyError::NotBase64) => Err(no("the answer's text is not base64".to_owned())),
    }
}

/// The platform's answer to a query about an order that nobody knows.
fn ask(settings: &Settings, merchant: &Merchant) -> Result<RawResponse, Failure> {
    let client = server::to_platform(settings, Arc::new(Metrics::default()));
    let client = client.map_err(|error| Failure::Config(error.to_string()))?;
    let merid = quoted(&merchant.merid);
    let query = format!(r#"{{"merid":{merid},"orderid":"{}"}}"#, unheard_of());
    let form = Envelope::seal(query.as_bytes(), &merchant.key).form("req");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    let headers = relay::own_headers();
    let asked = client.post("/api/query", headers, &form, Repeat::Once);
    runtime
        .block_on(asked)
        .map_err(|fault| Failure::No(fault.to_string()))
}

/// The platform's own words in an answer, where it has any.
fn said(answer: &[u8]) -> String {
    let Ok(object) = Object::parse(answer) else {
        return String::new();
    };
    let member = |name| object.string(name).and_then(Result::ok);
    match (member("respcode"), member("respmsg")) {
        (Some(code), message) => format!("; it says {code:?} {:?}", message.unwrap_or_default()),
        (None, _) => String::new(),
    }
}

/// An order number that no shop has given out.
fn unheard_of() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("PROBE{:X}{:X}", now.as_nanos(), std::process::id())
        .chars()
        .take(32)
        .collect()
}
