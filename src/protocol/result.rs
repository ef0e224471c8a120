//! Results of payments, as a notification (document §3.2.3, §3.3.3) or a query's response (§3.4.4) states them.

use std::borrow::Cow;

use super::envelope::Verified;
use super::field::{FieldError, amount_of_result, check_scalar, optional_text};
use super::json::{JsonError, Object};
use super::oddity::Oddities;

/// A verified payload that is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A request of ours, or the response to a failed query, sent back as a result. It carries our signature or the
    /// platform's, names no payment, and anyone who saw it can send it: nothing to review.
    #[error("the payload is a request, or a response that names no payment")]
    Reflected,
    /// A result with a mandatory member that is missing, or with one of another type. Needs manual review.
    #[error("{field}: expected {expected}")]
    Unreadable {
        /// The member's name.
        field: &'static str,
        /// The document's rule, with the tolerances of this module.
        expected: &'static str,
    },
    /// Not one strict JSON object. Needs manual review.
    #[error("the payload is malformed: {0}")]
    Malformed(#[from] JsonError),
}

impl ReadError {
    /// Returns the field that a review names, empty for a payload that is no strict JSON object; `None` where there is
    /// nothing to review.
    pub fn field_in_review(&self) -> Option<&'static str> {
        match self {
            Self::Reflected => None,
            Self::Unreadable { field, .. } => Some(field),
            Self::Malformed(_) => Some(""),
        }
    }
}

impl From<FieldError> for ReadError {
    fn from(FieldError { field, expected }: FieldError) -> Self {
        Self::Unreadable { field, expected }
    }
}

/// A result: what the platform says of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentResult {
    /// The platform's plain JSON, byte for byte.
    pub json: String,
    /// The merchant.
    pub merid: String,
    /// The merchant's order number.
    pub orderid: String,
    /// The platform's own number for the payment.
    pub queryid: String,
    /// Four digits; empty where the platform left it out (§3.3.3 allows that).
    pub resultcode: String,
    /// In cents.
    pub amount: u64,
}

/// Reads a verified payload as a result.
///
/// The same result in other types reads alike: `"1280"`, `1280` and `1280.0` are one amount, `1001` and `"1001"` one
/// code, and an integer `0` is never `0000`. Each such difference is an oddity of the value that comes back.
pub fn read_result(payload: &Verified<Vec<u8>>) -> Result<Verified<PaymentResult>, ReadError> {
    payload
        .borrowed()
        .try_map(|bytes, oddities| read(&parse(bytes)?, oddities))
}

/// Parses a verified payload. One that is broken, and has a member that only requests have, is [`ReadError::Reflected`].
pub(super) fn parse(payload: &[u8]) -> Result<Object<'_>, ReadError> {
    Object::parse(payload).map_err(|error| broken(payload, error))
}

/// Returns the reading of a verified payload that cannot be parsed.
pub fn broken(payload: &[u8], error: JsonError) -> ReadError {
    const MEMBERS: [&[u8]; 3] = [b"\"action\"", b"\"accname\"", b"\"accno\""];
    let is_there = |member: &&[u8]| memchr::memmem::find(payload, member).is_some();
    match MEMBERS.iter().any(is_there) {
        true => ReadError::Reflected,
        false => ReadError::Malformed(error),
    }
}

/// Reads a verified payload that was parsed already as a result, as [`read_result`] does.
pub fn read_result_of(
    payload: &Verified<Object<'_>>,
) -> Result<Verified<PaymentResult>, ReadError> {
    payload
        .borrowed()
        .try_map(|object, oddities| read(object, oddities))
}

/// Returns the `respcode` of a failed query's response (§3.4.4); `None` where the payload is anything else.
pub fn failed_respcode(payload: &[u8]) -> Option<String> {
    let object = Object::parse(payload).ok()?;
    let respcode = optional_text(&object, "respcode", &mut Oddities::default()).ok()??;
    (respcode != "00").then(|| respcode.into_owned())
}

fn read(object: &Object<'_>, oddities: &mut Oddities) -> Result<PaymentResult, ReadError> {
    read_members(object, oddities).map_err(|error| unless_customer(object, error))
}

/// Returns the error of a payload that cannot be read; [`ReadError::Reflected`] where the payload names a customer. Only a
/// submit does that (§3.1.3), and a review would put the name and the number into the store.
pub(super) fn unless_customer(object: &Object<'_>, error: ReadError) -> ReadError {
    let is_there = |name: &&str| object.raw(name).is_some();
    match ["accname", "accno"].iter().any(is_there) {
        true => ReadError::Reflected,
        false => error,
    }
}

/// Returns true for a payload that reports nothing of a payment, as requests (§3.1.3, §3.4.3) and failures do.
pub(super) fn reports_nothing(object: &Object<'_>) -> bool {
    let has = |name| object.raw(name).is_some();
    !(has("resultcode") || has("txnamt"))
}

fn read_members(object: &Object<'_>, oddities: &mut Oddities) -> Result<PaymentResult, ReadError> {
    // One key signs both directions, so our own request verifies when it is sent back. A submit has `action` (§3.1.3),
    // a query neither of the other two (§3.4.3), and a result has at least one of them.
    if object.raw("action").is_some() || reports_nothing(object) {
        return Err(ReadError::Reflected);
    }
    let respcode = optional_text(object, "respcode", oddities)?;
    if respcode.is_some_and(|respcode| respcode != "00") {
        if ["orderid", "queryid"]
            .iter()
            .all(|name| is_blank(object, name))
        {
            return Err(ReadError::Reflected);
        }
        return Err(ReadError::Unreadable {
            field: "respcode",
            expected: "00, because this payload names a payment",
        });
    }
    let members = ResultMembers::read(object, oddities)?;
    Ok(PaymentResult {
        json: object.text().to_owned(),
        merid: members.merid.into_owned(),
        orderid: members.orderid.into_owned(),
        queryid: members.queryid.into_owned(),
        resultcode: members.resultcode.into_owned(),
        amount: members.amount,
    })
}

/// The members that every result has (§3.2.3, §3.3.3, §3.4.4), borrowed: a response needs no copy of them.
pub(super) struct ResultMembers<'a> {
    merid: Cow<'a, str>,
    orderid: Cow<'a, str>,
    queryid: Cow<'a, str>,
    resultcode: Cow<'a, str>,
    amount: u64,
}

impl<'a> ResultMembers<'a> {
    pub(super) fn read(object: &Object<'a>, oddities: &mut Oddities) -> Result<Self, FieldError> {
        let mut mandatory = |field| {
            let value = optional_text(object, field, oddities)?;
            value.filter(|value| !value.is_empty()).ok_or(FieldError {
                field,
                expected: "a string or an integer, not empty",
            })
        };
        let queryid = mandatory("queryid")?;
        let merid = mandatory("merid")?;
        let orderid = mandatory("orderid")?;
        let resultcode = optional_text(object, "resultcode", oddities)?.unwrap_or_default();
        if is_ambiguous(&resultcode) {
            return Err(FieldError {
                field: "resultcode",
                expected: "the four digits of a code, not a number that is equal to one",
            });
        }
        let amount = amount_of_result(object, oddities)?;
        for field in ["resultmsg", "paytime"] {
            check_scalar(object, field, oddities)?;
        }
        Ok(Self {
            merid,
            orderid,
            queryid,
            resultcode,
            amount,
        })
    }
}

/// Returns true for a code that is not the document's four digits (§3.2.3). An app may compare codes as numbers: in PHP
/// `"0.00" == "0000"`, `"0e10" == "0000"` and `" 1002" == "1002"` hold.
fn is_ambiguous(resultcode: &str) -> bool {
    let is_code = resultcode.len() == 4 && resultcode.bytes().all(|byte| byte.is_ascii_digit());
    !is_code && !resultcode.is_empty()
}

/// Returns true for a member that says nothing: missing, `null`, `""`, or the `0` of an unset number.
pub(super) fn is_blank(object: &Object<'_>, name: &str) -> bool {
    matches!(object.raw(name), None | Some("\"\"" | "0"))
}

/// The state of a payment (`resultcode`, §3.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultCode {
    /// `0000`: paid, and settled to the usable account.
    Paid,
    /// `1001`: not paid.
    NotPaid,
    /// `1002`: paid, not yet settled to the usable account.
    Processing,
    /// `1003`: failed.
    Failed,
    /// `1004`: under investigation.
    Investigation,
}

impl ResultCode {
    /// All codes, in the document's order.
    pub const ALL: [Self; 5] = [
        Self::Paid,
        Self::NotPaid,
        Self::Processing,
        Self::Failed,
        Self::Investigation,
    ];

    /// Finds a code by its four digits.
    ///
    /// ```
    /// use countersign::protocol::result::ResultCode;
    ///
    /// assert_eq!(ResultCode::parse("0000"), Some(ResultCode::Paid));
    /// assert_eq!(ResultCode::Paid.chinese(), "交易成功");
    /// ```
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Returns true if the platform will report no other state of this payment.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Paid | Self::Failed)
    }

    /// Returns the four digits.
    pub fn code(self) -> &'static str {
        self.row().0
    }

    /// Returns the document's own name for the state.
    pub fn chinese(self) -> &'static str {
        self.row().1
    }

    /// Returns the state's name in English.
    pub fn english(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Paid => ("0000", "交易成功", "paid, settled to the usable account"),
            Self::NotPaid => ("1001", "未支付", "not paid"),
            Self::Processing => (
                "1002",
                "交易处理中",
                "paid, not yet settled to the usable account",
            ),
            Self::Failed => ("1003", "交易失败", "failed"),
            Self::Investigation => ("1004", "协查调单", "under investigation"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::{self, Envelope};
    use crate::protocol::key::Key;

    const PAID: &str = r#"{"resultcode":"1003","resultmsg":"x","queryid":"9007199254740993","txnamt":1280,"merid":"1","orderid":"12345678","paytime":"2017-03-01 12:00:05"}"#;

    fn verified(json: &str) -> Verified<Vec<u8>> {
        let key = Key::new("k").unwrap();
        let form = Envelope::seal(json.as_bytes(), &key).form("resp");
        let received = envelope::read(form.as_bytes(), "resp").unwrap();
        received.verify([&key]).unwrap()
    }

    /// Reads [`PAID`] with one part of it written otherwise.
    fn varied(from: &str, to: &str) -> Result<Verified<PaymentResult>, ReadError> {
        assert!(PAID.contains(from), "{from}");
        read_result(&verified(&PAID.replacen(from, to, 1)))
    }

    #[test]
    fn other_types_mean_the_same_and_are_counted() {
        let plain = read_result(&verified(PAID)).unwrap();
        assert!(plain.oddities().is_empty());
        for (from, to, oddity) in [
            (
                r#""9007199254740993""#,
                "9007199254740993",
                "integer-for-string",
            ),
            (r#""1003""#, "1003", "integer-for-string"),
            (r#"merid":"1""#, r#"merid":1"#, "integer-for-string"),
            (r#""12345678""#, "12345678", "integer-for-string"),
            (":1280", r#":"1280""#, "quoted-amount"),
            (":1280", ":1280.00", "amount-with-zeros"),
            (r#""2017-03-01 12:00:05""#, "1488340805000", "other-scalar"),
            (r#""x""#, "false", "other-scalar"),
        ] {
            let odd = varied(from, to).unwrap();
            assert_eq!(odd.oddities().names().collect::<Vec<_>>(), [oddity], "{to}");
            let json = plain.json.clone();
            let alike = PaymentResult {
                json,
                ..odd.into_inner()
            };
            assert_eq!(alike, *plain, "{to}");
        }
        let quoted = varied(":1280", r#":"1280.0""#).unwrap();
        assert_eq!(quoted.amount, 1280);
        assert_eq!(quoted.oddities().names().count(), 2);
    }

    #[test]
    fn a_nullable_member_may_be_absent_null_or_empty() {
        for nothing in ["null", r#""""#] {
            assert_eq!(varied(r#""1003""#, nothing).unwrap().resultcode, "");
        }
        let absent = varied(r#""resultcode":"1003","#, "").unwrap();
        assert_eq!(absent.resultcode, "");
        for nothing in ["null", r#""""#] {
            varied(r#""2017-03-01 12:00:05""#, nothing).unwrap();
            varied(r#""x""#, nothing).unwrap();
        }
    }

    #[test]
    fn a_change_of_meaning_is_unreadable_and_names_its_field() {
        for (from, to, field) in [
            (":1280", ":1280.5", "txnamt"),
            (":1280", ":1.28e3", "txnamt"),
            (":1280", ":-1280", "txnamt"),
            (":1280", ":\"\"", "txnamt"),
            (":1280", ":\"01280\"", "txnamt"),
            (":1280", ":\" 1280\"", "txnamt"),
            (":1280", ":\"+1280\"", "txnamt"),
            (":1280", ":\"1280.\"", "txnamt"),
            (":1280", ":\"１２８０\"", "txnamt"),
            (":1280", ":9223372036854775808", "txnamt"),
            (":1280", ":null", "txnamt"),
            (":1280", ":[1280]", "txnamt"),
            (r#""9007199254740993""#, "9.0", "queryid"),
            (r#""9007199254740993""#, "1e9", "queryid"),
            (r#""9007199254740993""#, "-1", "queryid"),
            (r#""9007199254740993""#, "true", "queryid"),
            (r#""9007199254740993""#, r#""""#, "queryid"),
            (r#""9007199254740993""#, "null", "queryid"),
            (r#""9007199254740993""#, r#""Q\u0000""#, "queryid"),
            (r#""12345678""#, r#""\u000012345678""#, "orderid"),
            (r#""1003""#, r#""1003\u0000""#, "resultcode"),
            (r#""1003""#, "1003.0", "resultcode"),
            (r#""1003""#, "true", "resultcode"),
            (r#""1003""#, "0", "resultcode"),
            (r#""1003""#, r#""0""#, "resultcode"),
            (r#""1003""#, r#""00000""#, "resultcode"),
            (r#""1003""#, r#""1002.0""#, "resultcode"),
            (r#""1003""#, r#"" 1002""#, "resultcode"),
            (r#""1003""#, r#""0.00""#, "resultcode"),
            (r#""1003""#, r#""0e10""#, "resultcode"),
            (r#""1003""#, r#""+000""#, "resultcode"),
            (r#""1003""#, r#"" 000""#, "resultcode"),
            (r#""1003""#, r#""000 ""#, "resultcode"),
            (r#""1003""#, r#""000\u0000""#, "resultcode"),
            (r#""1003""#, r#""９""#, "resultcode"),
            (r#""1003""#, r#""OKAY""#, "resultcode"),
            (r#""1003""#, r#""10020""#, "resultcode"),
            (r#""x""#, "{}", "resultmsg"),
            (r#""2017-03-01 12:00:05""#, "[1]", "paytime"),
            ("{", r#"{"respcode":"25","#, "respcode"),
            ("{", r#"{"respcode":"","#, "respcode"),
        ] {
            match varied(from, to) {
                Err(ReadError::Unreadable { field: named, .. }) => assert_eq!(named, field, "{to}"),
                other => panic!("{to}: {other:?}"),
            }
        }
    }

    #[test]
    fn requests_and_failed_queries_are_reflected() {
        for json in [
            r#"{"merid":"1","orderid":"12345678"}"#,
            r#"{"respcode":"25","respmsg":"no"}"#,
            r#"{"respcode":25,"respmsg":"no","resultcode":"","queryid":"","txnamt":0,"orderid":null}"#,
            r#"{"action":"Bank","txnamt":1280,"merid":"1","orderid":"12345678","queryid":"1","resultcode":"0000"}"#,
            "{}",
        ] {
            assert_eq!(
                read_result(&verified(json)).unwrap_err(),
                ReadError::Reflected,
                "{json}"
            );
        }
        let malformed = read_result(&verified(r#"{"merid":"1","merid":"1"}"#));
        assert!(matches!(malformed, Err(ReadError::Malformed(_))));
    }

    #[test]
    fn a_payload_that_names_a_customer_is_read_or_reflected_and_never_reviewed() {
        let with = |member: &str| PAID.replacen('{', &format!("{{{member},"), 1);
        for member in [r#""accname":"x""#, r#""accno":1"#, r#""accn\u006f":"1""#] {
            let whole = with(member);
            assert!(read_result(&verified(&whole)).is_ok(), "{member}");
            let unreadable = whole.replacen(":1280", ":1280.5", 1);
            let error = read_result(&verified(&unreadable)).unwrap_err();
            assert_eq!(error, ReadError::Reflected, "{member}");
        }
        for member in [r#""accname":"x""#, r#""accno":1"#, r#""action":"Bank""#] {
            let cut = with(member);
            let error = read_result(&verified(&cut[..cut.len() - 1])).unwrap_err();
            assert_eq!(error.field_in_review(), None, "{member}");
        }
    }
}
