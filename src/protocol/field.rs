//! Members of a message: their types, their bounds, and the error that names one.

use std::borrow::Cow;

use url::Url;

use super::json::Object;

/// Amounts are whole cents, at most what a signed 64-bit integer holds.
pub const MAX_AMOUNT: u64 = i64::MAX as u64;

/// A member that breaks a rule: which, and what was expected. Never what stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}")]
pub struct FieldError {
    /// The member's name.
    pub field: &'static str,
    /// What the document asks for.
    pub expected: &'static str,
}

pub(super) const ORDERID: &str = "8 to 32 letters and digits";

pub(super) const URL: &str = "an absolute http or https URL";

pub(super) fn amount(message: &Object<'_>) -> Option<u64> {
    message
        .integer("txnamt")?
        .ok()
        .filter(|&amount| amount <= MAX_AMOUNT)
}

pub(super) fn orderid<'a>(message: &Object<'a>) -> Result<Option<Cow<'a, str>>, FieldError> {
    let wrong = FieldError {
        field: "orderid",
        expected: ORDERID,
    };
    let Some(orderid) = optional_string(message, "orderid").map_err(|_| wrong)? else {
        return Ok(None);
    };
    let right =
        (8..=32).contains(&orderid.len()) && orderid.bytes().all(|b| b.is_ascii_alphanumeric());
    if right { Ok(Some(orderid)) } else { Err(wrong) }
}

pub(super) fn callback_url(
    message: &Object<'_>,
    field: &'static str,
) -> Result<Option<Url>, FieldError> {
    let wrong = FieldError {
        field,
        expected: URL,
    };
    let Some(text) = optional_string(message, field)? else {
        return Ok(None);
    };
    let absolute = text
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("http://"))
        || text
            .get(..8)
            .is_some_and(|start| start.eq_ignore_ascii_case("https://"));
    match Url::parse(&text) {
        Ok(url) if absolute && url.has_host() => Ok(Some(url)),
        _ => Err(wrong),
    }
}

pub(super) fn optional_string<'a>(
    message: &Object<'a>,
    field: &'static str,
) -> Result<Option<Cow<'a, str>>, FieldError> {
    match message.string(field) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(FieldError {
            field,
            expected: "a string",
        }),
    }
}
