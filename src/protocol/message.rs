//! What messages say: the field rules of requests and answers, and the platform's result codes.
//!
//! Rules are the document's (§3.1.3 submit, §3.4.3 query, §3.4.4 answer). A member that is `null` counts as
//! missing; members the document does not know are nobody's business and stay.

use std::borrow::Cow;

use url::Url;

use super::envelope::Verified;
use super::json::{JsonError, Object, WrongType};

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

/// What a submit asks for (document §3.1.3), as far as it concerns the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The merchant's order number: 8–32 letters and digits.
    pub orderid: String,
    /// In cents.
    pub amount: u64,
    /// `Bank`, `WeiXin`, `AliPay` or `Arbi`.
    pub action: &'static str,
}

/// Checks a submit against §3.1.3 and reads its order. `merid` is not looked at.
pub fn read_submit(message: &Object<'_>) -> Result<Order, FieldError> {
    let order = read_order(message)?;
    callback_url(message, "backurl")?.ok_or(FieldError {
        field: "backurl",
        expected: URL,
    })?;
    callback_url(message, "fronturl")?;
    optional_string(message, "accname")?;
    optional_string(message, "accno")?;
    Ok(order)
}

/// Reads the members of a submit that the ledger keeps: all that can be asked of a message someone else signed.
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

const ORDERID: &str = "8 to 32 letters and digits";
const URL: &str = "an absolute http or https URL";

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

/// The members that say whom and what a message is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The merchant.
    pub merid: Option<String>,
    /// The merchant's order number.
    pub orderid: Option<String>,
    /// The platform's own number for the payment.
    pub queryid: Option<String>,
}

impl Subject {
    /// A merchant's order.
    pub fn about(merid: &str, orderid: &str) -> Self {
        Self {
            merid: Some(merid.to_owned()),
            orderid: Some(orderid.to_owned()),
            queryid: None,
        }
    }

    /// Reads what is there; empty members count as missing, and one of another type is taken as it stands.
    pub fn of(message: &Object<'_>) -> Self {
        let member = |name| Some(subject_member(message, name)?.into_owned());
        Self {
            merid: member("merid"),
            orderid: member("orderid"),
            queryid: member("queryid"),
        }
    }

    /// The merchant for a log line; a dash where it is missing or too odd to print.
    pub fn shown_merid(&self) -> &str {
        printable(self.merid.as_deref())
    }

    /// The order for a log line; a dash where it is missing or too odd to print.
    pub fn shown_orderid(&self) -> &str {
        printable(self.orderid.as_deref())
    }

    /// The first member that this and the message name and that differs.
    fn differs(&self, message: &Object<'_>) -> Option<&'static str> {
        let named = [
            ("merid", &self.merid),
            ("orderid", &self.orderid),
            ("queryid", &self.queryid),
        ];
        let differs =
            |ours: &str, name| subject_member(message, name).is_some_and(|theirs| theirs != ours);
        named
            .into_iter()
            .find_map(|(name, ours)| differs(ours.as_deref()?, name).then_some(name))
    }
}

/// Empty members count as missing, and one of another type is taken as it stands.
fn subject_member<'a>(message: &Object<'a>, name: &str) -> Option<Cow<'a, str>> {
    let text = match message.string(name)? {
        Ok(text) => text,
        Err(WrongType) => Cow::Borrowed(message.raw(name)?),
    };
    (!text.is_empty()).then_some(text)
}

fn printable(text: Option<&str>) -> &str {
    let fits = |text: &&str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
    text.filter(fits).unwrap_or("-")
}

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
pub struct Answer {
    /// The platform's plain JSON, byte for byte.
    pub json: Vec<u8>,
    /// The answer is a success without the `respcode` that §3.4.4 calls mandatory.
    pub without_respcode: bool,
}

/// Why a signed text is no answer to what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not one strict JSON object.
    #[error("the signed text is malformed: {0}")]
    Json(#[from] JsonError),
    /// A mandatory member is missing or of another type.
    #[error("the signed text is no complete answer: {0}")]
    Incomplete(#[from] FieldError),
    /// The very text that we sent.
    #[error("the signed text is our own request played back")]
    PlayedBack,
    /// About another merchant or order.
    #[error("the answer is signed, but speaks of another {0}")]
    Foreign(&'static str),
}

/// Reads a verified message as the answer to `asked`, whose bytes were `sent`.
pub fn read_answer(
    message: Verified<Vec<u8>>,
    sent: &[u8],
    asked: &Subject,
    completeness: Completeness,
) -> Result<Verified<Answer>, AnswerError> {
    message.try_map(|bytes| {
        if bytes == sent {
            return Err(AnswerError::PlayedBack);
        }
        let object = Object::parse(&bytes)?;
        let without_respcode = check_completeness(&object, completeness)?;
        if let Some(member) = asked.differs(&object) {
            return Err(AnswerError::Foreign(member));
        }
        Ok(Answer {
            json: bytes,
            without_respcode,
        })
    })
}

/// A verified result: what a notification (§3.2.3, §3.3.3) or a query's answer (§3.4.4) says of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
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

/// Reads a verified message as a result: complete, every member of its type. Our own request played back has no
/// `queryid` and is none.
pub fn read_outcome(message: Verified<Vec<u8>>) -> Result<Verified<Outcome>, AnswerError> {
    message.try_map(|bytes| {
        let object = Object::parse(&bytes)?;
        check_result(&object)?;
        let failed = optional_string(&object, "respcode")?.is_some_and(|code| code != "00");
        if failed {
            return Err(AnswerError::Incomplete(FieldError {
                field: "respcode",
                expected: "00, which stands for an answer about a payment",
            }));
        }
        for field in ["resultmsg", "paytime"] {
            optional_string(&object, field)?;
        }
        let member = |name| {
            let value = optional_string(&object, name)?;
            Ok::<_, FieldError>(value.map(Cow::into_owned).unwrap_or_default())
        };
        Ok(Outcome {
            json: object.text().to_owned(),
            merid: member("merid")?,
            orderid: member("orderid")?,
            queryid: member("queryid")?,
            resultcode: member("resultcode")?,
            amount: amount(&object).unwrap_or_default(),
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

/// The members that every result names (§3.2.3, §3.3.3, §3.4.4), with their types.
fn check_result(message: &Object<'_>) -> Result<(), FieldError> {
    for field in ["queryid", "merid", "orderid"] {
        optional_string(message, field)?
            .filter(|value| !value.is_empty())
            .ok_or(FieldError {
                field,
                expected: "a string that is not empty",
            })?;
    }
    amount(message).ok_or(FieldError {
        field: "txnamt",
        expected: "a whole number of cents",
    })?;
    optional_string(message, "resultcode")?;
    Ok(())
}

/// The platform's word on a payment (`resultcode`, §3.2.3).
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
    /// All of them, in the document's order.
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
    /// use countersign::protocol::message::ResultCode;
    ///
    /// assert_eq!(ResultCode::parse("0000"), Some(ResultCode::Paid));
    /// assert_eq!(ResultCode::Paid.chinese(), "交易成功");
    /// ```
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Whether the platform will say nothing else of this payment.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Paid | Self::Failed)
    }

    /// The four digits.
    pub fn code(self) -> &'static str {
        self.row().0
    }

    /// The document's own words.
    pub fn chinese(self) -> &'static str {
        self.row().1
    }

    /// The same in English.
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

fn amount(message: &Object<'_>) -> Option<u64> {
    message
        .integer("txnamt")?
        .ok()
        .filter(|&amount| amount <= MAX_AMOUNT)
}

fn orderid<'a>(message: &Object<'a>) -> Result<Option<Cow<'a, str>>, FieldError> {
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

fn callback_url(message: &Object<'_>, field: &'static str) -> Result<Option<Url>, FieldError> {
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

fn optional_string<'a>(
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

#[cfg(test)]
mod tests {
    use super::*;

    const SUBMIT: &str =
        r#"{"action":"Bank","txnamt":1,"merid":"1","orderid":"ABCDEFGH","backurl":"https://a/b"}"#;

    fn submit(text: &str) -> Result<Order, FieldError> {
        read_submit(&Object::parse(text.as_bytes()).unwrap())
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
