//! `countersign sign`, `verify` and `decode`: one envelope.

use std::io::Read;

use clap::Args;

use super::Failure;
use super::keys::KeysCommand;
use crate::cli::print::{note, say};
use crate::protocol::envelope;
use crate::protocol::envelope::{Envelope, EnvelopeError, Received};
use crate::protocol::json::Object;
use crate::protocol::result::ResultCode;

#[derive(Args)]
pub(super) struct SignCommand {
    #[command(flatten)]
    keys: KeysCommand,
    /// The message; standard input where left out. Its bytes are signed as they are
    json: Option<String>,
}

#[derive(Args)]
pub(super) struct VerifyCommand {
    #[command(flatten)]
    keys: KeysCommand,
    /// The envelope; standard input where left out
    envelope: Option<String>,
}

#[derive(Args)]
pub(super) struct DecodeCommand {
    /// The envelope or base64 text; standard input where left out
    text: Option<String>,
}

pub(super) fn sign(args: &SignCommand) -> Result<(), Failure> {
    let message = input(args.json.as_deref())?;
    // Field rules are the platform's; what no platform could read is refused here.
    Object::parse(&message)
        .map_err(|error| Failure::Usage(format!("the message is malformed: {error}")))?;
    let snapshot = args.keys.snapshot()?;
    let merchant = args.keys.merchant(&snapshot, Some(&message))?;
    say!("{}", Envelope::seal(&message, &merchant.key).form("req"));
    Ok(())
}

pub(super) fn verify(args: &VerifyCommand) -> Result<(), Failure> {
    let body = input(args.envelope.as_deref())?;
    let received = read(&body).map_err(|error| Failure::No(error.to_string()))?;
    let snapshot = args.keys.snapshot()?;
    let merchant = args
        .keys
        .merchant(&snapshot, received.unverified().as_deref())?;
    let verified = received
        .verify(merchant.verifying_keys())
        .map_err(|error| Failure::No(error.to_string()))?;
    let object = Object::parse(&verified)
        .map_err(|error| Failure::No(format!("the signed text is malformed: {error}")))?;
    say!("{}", object.text());
    for oddity in verified.oddities().names() {
        note!("note: tolerated oddity: {oddity}");
    }
    if verified.key_index() > 0 {
        note!("note: signed with an old key");
    }
    Ok(())
}

pub(super) fn decode(args: &DecodeCommand) -> Result<(), Failure> {
    let body = input(args.text.as_deref())?;
    let body = body.trim_ascii();
    let message = match read(body) {
        Ok(received) => received.unverified(),
        // A bare text, as it stands in a log.
        Err(EnvelopeError::Missing(_)) => read(&[b"resp=", body, b"&sign="].concat())
            .ok()
            .and_then(|r| r.unverified()),
        Err(error) => return Err(Failure::No(error.to_string())),
    };
    let message = message.ok_or_else(|| Failure::No("the text is not base64".to_owned()))?;
    let object = Object::parse(&message)
        .map_err(|error| Failure::No(format!("the text is malformed: {error}")))?;
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

/// The platform's envelope, or the app's.
pub(super) fn read(body: &[u8]) -> Result<Received<'_>, EnvelopeError> {
    match envelope::read(body, "resp") {
        Err(EnvelopeError::Missing(_)) => {
            envelope::read(body, "req").map_err(|error| match error {
                EnvelopeError::Missing(_) => EnvelopeError::Missing("resp or req"),
                other => other,
            })
        }
        other => other,
    }
}

/// An argument's bytes, or all of standard input.
pub(super) fn input(argument: Option<&str>) -> Result<Vec<u8>, Failure> {
    if let Some(text) = argument {
        return Ok(text.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    read.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    Ok(bytes)
}
