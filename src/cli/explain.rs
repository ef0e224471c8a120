//! `countersign explain`: the reason why a signature does not match its text.

use clap::Args;

use super::config::Config;
use super::envelope::input;
use super::failure::Failure;
use super::keys::KeysCommand;
use super::pasted::{envelope_in, read};
use crate::cli::print::say;
use crate::protocol::explain;
use crate::protocol::explain::{Candidate, Explanation};

#[derive(Args)]
pub(super) struct ExplainCommand {
    #[command(flatten)]
    keys: KeysCommand,
    /// The base64 text that was to be signed
    #[arg(long, requires = "sign")]
    text: Option<String>,
    /// The signature that came with it
    #[arg(long, requires = "text")]
    sign: Option<String>,
    /// The whole envelope instead: a body, a query string, a URL or an access-log line; standard input where left out
    #[arg(conflicts_with = "text")]
    envelope: Option<String>,
}

pub(super) fn explain(config: &Config, args: &ExplainCommand) -> Result<(), Failure> {
    let snapshot = args.keys.snapshot(config)?;
    let merchants: Vec<_> = match args.keys.named(&snapshot)? {
        Some(merchant) => vec![merchant],
        None => snapshot.iter().collect(),
    };
    let candidates: Vec<_> = merchants
        .into_iter()
        .flat_map(|merchant| {
            merchant
                .verifying_keys()
                .enumerate()
                .map(|(index, key)| Candidate {
                    merid: &merchant.merid,
                    key,
                    old: merchant.old_key(index).is_some(),
                })
        })
        .collect();
    let explanation = match (&args.text, &args.sign) {
        (Some(text), Some(sign)) => explain::explain(text, sign, &candidates),
        _ => {
            let pasted = input(args.envelope.as_deref())?;
            let body = envelope_in(&pasted);
            let received = read(&body).map_err(|error| Failure::No(error.to_string()))?;
            explain::explain(received.text(), received.sign(), &candidates)
        }
    };
    say(&explanation)
}

fn say(explanation: &Explanation) -> Result<(), Failure> {
    match explanation {
        Explanation::Empty => {
            say!("the signature is empty: the platform sends that where it cannot find the merchant or its key");
            Ok(())
        }
        Explanation::NotASign => Err(Failure::No("the signature is not 32 hex digits: it is no MD5".to_owned())),
        Explanation::Fits { merid, old, causes } => {
            let whose = match (merid.as_str(), old) {
                ("", _) => "the key".to_owned(),
                (merid, true) => format!("an old key of merchant {merid}"),
                (merid, false) => format!("the key of merchant {merid}"),
            };
            if causes.is_empty() {
                say!("the signature matches the text with {whose}");
            } else {
                say!("the signature matches with {whose} once this is assumed:");
            }
            for cause in causes {
                say!("- {cause}");
            }
            Ok(())
        }
        Explanation::Unknown => Err(Failure::No(
            "none of the usual causes fits: the text changed on the way, or the signer uses a key that is not here"
                .to_owned(),
        )),
    }
}
