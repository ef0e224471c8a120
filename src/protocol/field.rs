//! Members of a payload: their types, their bounds, and the error that names one.

use std::borrow::Cow;

use url::Url;

use super::json::Object;
use super::oddity::{Oddities, Oddity};

// The widest integer that both stores have (SQLite INTEGER, PostgreSQL bigint).
/// Amounts are whole cents, at most what a signed 64-bit integer holds.
pub const MAX_AMOUNT: u64 = i64::MAX as u64;

/// A member that breaks a rule: which, and what was expected. Never its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}")]
pub struct FieldError {
    /// The member's name.
    pub field: &'static str,
    /// The document's rule.
    pub expected: &'static str,
}

// Document §3.1.3.
pub(super) const ORDERID: &str = "8 to 32 letters and digits";

pub(super) const URL: &str = "an absolute http or https URL";

/// Reads the amount of a request: an integer, because the platform reads it too and may be strict.
pub(super) fn amount(request: &Object<'_>) -> Option<u64> {
    request
        .integer("txnamt")?
        .ok()
        .filter(|&amount| amount <= MAX_AMOUNT)
}

/// Reads an amount in cents as the platform may write it: quoted or not, with a fraction of zeros or none.
pub(super) fn amount_of_result(
    result: &Object<'_>,
    oddities: &mut Oddities,
) -> Result<u64, FieldError> {
    let wrong = FieldError {
        field: "txnamt",
        expected: "a whole number of cents",
    };
    let raw = result.raw("txnamt").ok_or(wrong)?;
    let text = match result.string("txnamt") {
        Some(Ok(text)) => {
            oddities.add(Oddity::QuotedAmount);
            text
        }
        _ => Cow::Borrowed(raw),
    };
    let (cents, zeros) = match text.split_once('.') {
        Some((cents, zeros)) => (cents, Some(zeros)),
        None => (&*text, None),
    };
    if let Some(zeros) = zeros {
        oddities.add(Oddity::AmountWithZeros);
        if zeros.is_empty() || zeros.bytes().any(|digit| digit != b'0') {
            return Err(wrong);
        }
    }
    // No floating point: 2^53 and more are amounts too.
    let is_plain = is_integer(cents) && cents.len() <= 19;
    // `parse` alone takes a leading `+` and leading zeros.
    let amount = cents.parse().ok().filter(|_| is_plain);
    amount
        .filter(|&amount: &u64| amount <= MAX_AMOUNT)
        .ok_or(wrong)
}

pub(super) fn orderid<'a>(request: &Object<'a>) -> Result<Option<Cow<'a, str>>, FieldError> {
    let wrong = FieldError {
        field: "orderid",
        expected: ORDERID,
    };
    let Some(orderid) = optional_string(request, "orderid").map_err(|_| wrong)? else {
        return Ok(None);
    };
    let right =
        (8..=32).contains(&orderid.len()) && orderid.bytes().all(|b| b.is_ascii_alphanumeric());
    if right { Ok(Some(orderid)) } else { Err(wrong) }
}

pub(super) fn callback_url(
    request: &Object<'_>,
    field: &'static str,
) -> Result<Option<Url>, FieldError> {
    let wrong = FieldError {
        field,
        expected: URL,
    };
    let Some(text) = optional_string(request, field)? else {
        return Ok(None);
    };
    // The URL standard reads `https:a/b` as `https://a/b`; readers that follow RFC 3986 find no host in it.
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

/// Reads a member of a request that must be a string where it is given. `null` counts as not given.
pub(super) fn optional_string<'a>(
    request: &Object<'a>,
    field: &'static str,
) -> Result<Option<Cow<'a, str>>, FieldError> {
    match request.string(field) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(FieldError {
            field,
            expected: "a string",
        }),
    }
}

/// Reads a member that the document calls a string and that the platform may write as an integer: its digits are kept,
/// beyond 2^53 too. `null` counts as missing.
pub(super) fn optional_text<'a>(
    message: &Object<'a>,
    field: &'static str,
    oddities: &mut Oddities,
) -> Result<Option<Cow<'a, str>>, FieldError> {
    match message.string(field) {
        None => Ok(None),
        // PostgreSQL keeps no NUL in a text, and a result that cannot be kept would be notified for nothing. Only an escape can
        // write one (RFC 8259 §7), so a text that is borrowed as it came has none.
        Some(Ok(Cow::Owned(text))) if text.contains('\0') => Err(FieldError {
            field,
            expected: "a text without NUL",
        }),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => match message.raw(field) {
            Some(raw) if is_integer(raw) => {
                oddities.add(Oddity::IntegerForString);
                Ok(Some(Cow::Borrowed(raw)))
            }
            _ => Err(FieldError {
                field,
                expected: "a string or an integer",
            }),
        },
    }
}

/// Checks a member whose content is not interpreted: any scalar or `null`.
pub(super) fn check_scalar(
    message: &Object<'_>,
    field: &'static str,
    oddities: &mut Oddities,
) -> Result<(), FieldError> {
    let Some(raw) = message.raw(field) else {
        return Ok(());
    };
    match raw.as_bytes().first() {
        Some(b'"') => {}
        Some(b'{' | b'[') => {
            return Err(FieldError {
                field,
                expected: "a string, a number, true, false or null",
            });
        }
        _ => oddities.add(Oddity::OtherScalar),
    }
    Ok(())
}

/// Returns true for `0|[1-9][0-9]*`: no sign, no leading zero, no fraction, no exponent.
fn is_integer(text: &str) -> bool {
    let digits = text.as_bytes();
    let has_leading_zero = digits.len() > 1 && digits[0] == b'0';
    !digits.is_empty() && !has_leading_zero && digits.iter().all(u8::is_ascii_digit)
}
