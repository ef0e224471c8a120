//! Requests of the app: a submit (document §3.1.3) and a query (§3.4.3).
//!
//! A member that is `null` counts as missing, and so does a nullable one that is empty. Members that the document does
//! not know stay as they are.

use std::borrow::Cow;

use super::field::{FieldError, ORDERID, amount, callback_url, optional_string, orderid};
use super::json::Object;

/// An order, as far as the ledger keeps a submit (document §3.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The merchant's order number: 8–32 letters and digits.
    pub orderid: String,
    /// In cents.
    pub amount: u64,
    /// `Bank`, `WeiXin`, `AliPay` or `Arbi`.
    pub action: &'static str,
}

/// Checks a submit against §3.1.3 and reads its order. `merid` is not looked at, and neither are the fields of `replaced`,
/// which the caller sets itself.
pub fn read_submit(message: &Object<'_>, replaced: &[(&str, &str)]) -> Result<Order, FieldError> {
    let order = read_order(message)?;
    let is_kept = |field| !replaced.iter().any(|(name, _)| *name == field);
    if is_kept("backurl") {
        callback_url(message, "backurl")?.ok_or(FieldError {
            field: "backurl",
            expected: "an absolute http or https URL; the sidecar fills in its own where callbacks.public_url and the \
                       merchant's back are set",
        })?;
    }
    // Nullable (§3.1.3): an empty one is none.
    if is_kept("fronturl") && message.raw("fronturl") != Some("\"\"") {
        callback_url(message, "fronturl")?;
    }
    // Only their types are checked, and `Order` has no room for them: names and identity numbers are kept nowhere.
    optional_string(message, "accname")?;
    optional_string(message, "accno")?;
    Ok(order)
}

/// Reads the members of a submit that the ledger keeps: the most that can be required of a payload that the app signed.
pub fn read_order(message: &Object<'_>) -> Result<Order, FieldError> {
    let action = optional_string(message, "action")?;
    let action = ["Bank", "WeiXin", "AliPay", "Arbi"]
        .into_iter()
        .find(|known| action.as_deref() == Some(known))
        .ok_or(FieldError {
            field: "action",
            expected: "one of Bank, WeiXin, AliPay, Arbi",
        })?;
    let amount = amount(message)
        .filter(|&amount| amount > 0)
        .ok_or(FieldError {
            field: "txnamt",
            expected: "a whole number of cents greater than 0, not in quotes",
        })?;
    let orderid = orderid(message)?.ok_or(FieldError {
        field: "orderid",
        expected: ORDERID,
    })?;
    Ok(Order {
        orderid: orderid.into_owned(),
        amount,
        action,
    })
}

/// Checks a query against §3.4.3: it names an order, by `queryid` or `orderid`.
pub fn read_query(message: &Object<'_>) -> Result<(), FieldError> {
    let named_by = |value: Option<Cow<'_, str>>| value.is_some_and(|value| !value.is_empty());
    let by_queryid = named_by(optional_string(message, "queryid")?);
    let by_orderid = orderid(message);
    if by_queryid || named_by(by_orderid?) {
        return Ok(());
    }
    Err(FieldError {
        field: "orderid",
        expected: "a queryid or an orderid",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBMIT: &str =
        r#"{"action":"Bank","txnamt":1,"merid":"1","orderid":"ABCDEFGH","backurl":"https://a/b"}"#;

    fn submit(text: &str) -> Result<Order, FieldError> {
        read_submit(&Object::parse(text.as_bytes()).unwrap(), &[])
    }

    #[test]
    fn a_submit_that_keeps_the_rules_is_read() {
        let order = submit(SUBMIT).unwrap();
        assert_eq!(
            (order.orderid.as_str(), order.amount, order.action),
            ("ABCDEFGH", 1, "Bank")
        );
    }

    #[test]
    fn an_empty_fronturl_counts_as_missing() {
        for nothing in ["\"\"", "null"] {
            let member = format!("\"fronturl\":{nothing},\"backurl\"");
            submit(&SUBMIT.replacen("\"backurl\"", &member, 1)).unwrap();
        }
        submit(&SUBMIT.replacen("\"backurl\"", "\"fronturl\":\" \",\"backurl\"", 1)).unwrap_err();
        submit(&SUBMIT.replacen("https://a/b", "", 1)).unwrap_err();
    }

    #[test]
    fn each_broken_rule_names_its_field() {
        for (from, to, field) in [
            ("\"Bank\"", "\"bank\"", "action"),
            ("\"Bank\"", "7", "action"),
            (":1,", ":0,", "txnamt"),
            (":1,", ":1.0,", "txnamt"),
            (":1,", ":\"1\",", "txnamt"),
            (":1,", ":9223372036854775808,", "txnamt"),
            ("ABCDEFGH", "ABCDEFG", "orderid"),
            ("ABCDEFGH", "ABCDEFGHABCDEFGHABCDEFGHABCDEFGH1", "orderid"),
            ("ABCDEFGH", "ABCD-FGH", "orderid"),
            ("ABCDEFGH", "订单号码", "orderid"),
            ("https://a/b", "/b", "backurl"),
            ("https://a/b", "ftp://a/b", "backurl"),
            ("https://a/b", "https:a/b", "backurl"),
            ("\"backurl\"", "\"fronturl\":1,\"backurl\"", "fronturl"),
            ("\"backurl\"", "\"accno\":1,\"backurl\"", "accno"),
            ("backurl", "other", "backurl"),
        ] {
            let error = submit(&SUBMIT.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.field, field, "{to}: {error}");
        }
    }

    #[test]
    fn a_query_names_an_order() {
        let query = |text: &str| read_query(&Object::parse(text.as_bytes()).unwrap());
        for text in [
            r#"{"queryid":"1"}"#,
            r#"{"queryid":"","orderid":"ABCDEFGH"}"#,
        ] {
            assert_eq!(query(text), Ok(()), "{text}");
        }
        for text in [
            "{}",
            r#"{"queryid":""}"#,
            r#"{"orderid":null}"#,
            r#"{"orderid":"1"}"#,
            r#"{"queryid":1}"#,
        ] {
            assert!(query(text).is_err(), "{text}");
        }
    }
}
