//! `countersign sign`, `verify` and `decode`: commands over one envelope.

use std::io::Read;

use clap::Args;

use super::config::Config;
use super::failure::Failure;
use super::keys::KeysCommand;
use super::pasted::{envelope_in, read, unquoted};
use crate::cli::print::{note, say};
use crate::protocol::envelope::{Envelope, EnvelopeError};
use crate::protocol::json::Object;
use crate::protocol::result::ResultCode;

#[derive(Args)]
pub(super) struct SignCommand {
    #[command(flatten)]
    keys: KeysCommand,
    /// The JSON; standard input where left out. Its bytes are signed as they are
    json: Option<String>,
}

#[derive(Args)]
pub(super) struct VerifyCommand {
    #[command(flatten)]
    keys: KeysCommand,
    /// The envelope: a body, a query string, a URL or an access-log line; standard input where left out
    envelope: Option<String>,
}

#[derive(Args)]
pub(super) struct DecodeCommand {
    /// The envelope as `verify` takes it, or base64 text; standard input where left out
    text: Option<String>,
}

pub(super) fn sign(config: &Config, args: &SignCommand) -> Result<(), Failure> {
    let message = input(args.json.as_deref())?;
    // Field rules are the platform's; what no platform could read is rejected here.
    Object::parse(&message)
        .map_err(|error| Failure::Usage(format!("the JSON is malformed: {error}")))?;
    let snapshot = args.keys.snapshot(config)?;
    let merchant = args.keys.merchant(&snapshot, Some(&message))?;
    say!("{}", Envelope::seal(&message, &merchant.key).form("req"));
    Ok(())
}

pub(super) fn verify(config: &Config, args: &VerifyCommand) -> Result<(), Failure> {
    let pasted = input(args.envelope.as_deref())?;
    let body = envelope_in(&pasted);
    let received = read(&body).map_err(|error| Failure::No(error.to_string()))?;
    let snapshot = args.keys.snapshot(config)?;
    let merchant = args
        .keys
        .merchant(&snapshot, received.unverified().as_deref())?;
    let verified = received
        .verify(merchant.verifying_keys())
        .map_err(|error| Failure::No(error.to_string()))?;
    let object = Object::parse(&verified)
        .map_err(|error| Failure::No(format!("the payload is malformed: {error}")))?;
    say!("{}", object.text());
    for oddity in verified.oddities().names() {
        note!("note: tolerated oddity: {oddity}");
    }
    let index = verified.key_index();
    if merchant.is_next_key(index) {
        note!("note: signed with next_key");
    } else if merchant.old_key(index).is_some() {
        note!("note: signed with an old key");
    }
    Ok(())
}

pub(super) fn decode(args: &DecodeCommand) -> Result<(), Failure> {
    let pasted = input(args.text.as_deref())?;
    let message = match read(&envelope_in(&pasted)) {
        Ok(received) => received.unverified(),
        // A bare text, as a log has it.
        Err(EnvelopeError::Missing(_)) => read(&[b"resp=", unquoted(&pasted), b"&sign="].concat())
            .ok()
            .and_then(|r| r.unverified()),
        Err(error) => return Err(Failure::No(error.to_string())),
    };
    let message = message.ok_or_else(|| Failure::No("the text is not base64".to_owned()))?;
    let object = Object::parse(&message)
        .map_err(|error| Failure::No(format!("the payload is malformed: {error}")))?;
    say!("{}", object.text());
    let code = object.string("resultcode").and_then(Result::ok);
    if let Some(code) = code.as_deref().and_then(ResultCode::parse) {
        note!(
            "note: resultcode {} is {} ({})",
            code.code(),
            code.chinese(),
            code.english()
        );
    }
    note!("note: decoded, not verified");
    Ok(())
}

/// Returns an argument's bytes, or all of standard input.
pub(super) fn input(argument: Option<&str>) -> Result<Vec<u8>, Failure> {
    if let Some(text) = argument {
        return Ok(text.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    read.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    Ok(bytes)
}
