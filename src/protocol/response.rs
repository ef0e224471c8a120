//! Responses of the platform (document §3.4.4), held against what was asked.

use super::envelope::Verified;
use super::field::{FieldError, optional_string};
use super::json::Object;
use super::result::{ResponseError, check_result};
use super::subject::Subject;

/// How much an answer must say before it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// §3.4.4: success or failure; a success names queryid, txnamt, merid and orderid.
    Query,
    /// What answers a submit is not documented: it must say how it went, `respcode` or `resultcode`.
    Submit,
    /// An interface whose document we do not have: any object.
    Any,
}

/// A verified answer that is complete and speaks of what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformResponse {
    /// The platform's plain JSON, byte for byte.
    pub json: Vec<u8>,
    /// The answer is a success without the `respcode` that §3.4.4 calls mandatory.
    pub without_respcode: bool,
}

/// Reads a verified message as the answer to `asked`, whose bytes were `sent`.
pub fn read_response(
    message: Verified<Vec<u8>>,
    sent: &[u8],
    asked: &Subject,
    completeness: Completeness,
) -> Result<Verified<PlatformResponse>, ResponseError> {
    message.try_map(|bytes| {
        if bytes == sent {
            return Err(ResponseError::PlayedBack);
        }
        let object = Object::parse(&bytes)?;
        let without_respcode = check_completeness(&object, completeness)?;
        if let Some(member) = asked.differs(&object) {
            return Err(ResponseError::Foreign(member));
        }
        Ok(PlatformResponse {
            json: bytes,
            without_respcode,
        })
    })
}

/// Whether a success came without its `respcode`, where the message is complete.
fn check_completeness(
    message: &Object<'_>,
    completeness: Completeness,
) -> Result<bool, FieldError> {
    if let Some(field) = ["action", "backurl"]
        .into_iter()
        .find(|field| message.raw(field).is_some())
    {
        return Err(FieldError {
            field,
            expected: "an answer: this member belongs to a request",
        });
    }
    if completeness == Completeness::Any {
        return Ok(false);
    }
    let respcode = optional_string(message, "respcode")?;
    let resultcode = optional_string(message, "resultcode")?;
    let expected = |expected| FieldError {
        field: "respcode",
        expected,
    };
    match respcode.as_deref() {
        Some("") => return Err(expected("00, or the code of a failure")),
        // A failure names no order (§3.4.4), but one that tells a result is held to it.
        Some(code) if code != "00" && resultcode.is_none() => return Ok(false),
        None if resultcode.is_none() && completeness == Completeness::Submit => {
            return Err(expected("a respcode or a resultcode"));
        }
        _ => {}
    }
    if completeness == Completeness::Query {
        check_result(message)?;
    }
    Ok(completeness == Completeness::Query && respcode.is_none())
}
