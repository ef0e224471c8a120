//! Results of payments: what a notification (document §3.2.3, §3.3.3) or a query's response (§3.4.4) states.

use std::borrow::Cow;

use super::envelope::Verified;
use super::field::{FieldError, amount, optional_string};
use super::json::{JsonError, Object};

/// Why a signed text is no answer to what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
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

/// A verified result: what a notification (§3.2.3, §3.3.3) or a query's answer (§3.4.4) says of a payment.
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

/// Reads a verified message as a result: complete, every member of its type. Our own request played back has no
/// `queryid` and is none.
pub fn read_result(message: Verified<Vec<u8>>) -> Result<Verified<PaymentResult>, ResponseError> {
    message.try_map(|bytes| {
        let object = Object::parse(&bytes)?;
        check_result(&object)?;
        let failed = optional_string(&object, "respcode")?.is_some_and(|code| code != "00");
        if failed {
            return Err(ResponseError::Incomplete(FieldError {
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
        Ok(PaymentResult {
            json: object.text().to_owned(),
            merid: member("merid")?,
            orderid: member("orderid")?,
            queryid: member("queryid")?,
            resultcode: member("resultcode")?,
            amount: amount(&object).unwrap_or_default(),
        })
    })
}

/// The members that every result names (§3.2.3, §3.3.3, §3.4.4), with their types.
pub(super) fn check_result(message: &Object<'_>) -> Result<(), FieldError> {
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
    /// use countersign::protocol::result::ResultCode;
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
