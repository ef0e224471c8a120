//! An order at the platform: what came, what the customer chose, what was told to whom.

use ::time::UtcOffset;

use crate::protocol::json::quoted;
use crate::protocol::result::ResultCode;
use crate::time;
use crate::time::Millis;

/// An order, from its submit on.
#[derive(Debug, Clone)]
pub struct SandboxOrder {
    /// The merchant.
    pub merid: String,
    /// The merchant's number.
    pub orderid: String,
    /// The platform's number.
    pub queryid: String,
    /// In cents.
    pub amount: u64,
    /// `Bank`, `WeiXin`, `AliPay` or `Arbi`.
    pub action: String,
    /// Where results are told.
    pub backurl: String,
    /// Where the customer goes afterwards.
    pub fronturl: Option<String>,
    /// How it went.
    pub result: ResultCode,
    /// When it was paid, `YYYY-MM-DD hh:mm:ss`; empty before.
    pub paytime: String,
    /// Everything that was said, oldest first.
    pub messages: Vec<Message>,
    /// When the next notification is due.
    pub next_call: Option<Millis>,
}

/// One message of an order.
#[derive(Debug, Clone)]
pub struct Message {
    /// When.
    pub at: Millis,
    /// What it is, in a word or two.
    pub kind: String,
    /// The JSON.
    pub plain: String,
    /// The same as it went over the wire.
    pub wire: String,
    /// What the other side said.
    pub answer: String,
}

impl SandboxOrder {
    /// A result in the document's words and order (§3.3.3; §3.4.4 with `respcode` before it), over `amount`.
    pub fn result_json(&self, result: ResultCode, amount: u64, is_answer: bool) -> String {
        let success = if is_answer {
            r#""respcode":"00","respmsg":"成功","#
        } else {
            ""
        };
        format!(
            r#"{{{success}"resultcode":"{}","resultmsg":"{}","queryid":{},"txnamt":{amount},"merid":{},"orderid":{},"paytime":{}}}"#,
            result.code(),
            result.chinese(),
            quoted(&self.queryid),
            quoted(&self.merid),
            quoted(&self.orderid),
            quoted(&self.paytime),
        )
    }

    /// Yuan, with two places.
    pub fn yuan(&self) -> String {
        format!("{}.{:02}", self.amount / 100, self.amount % 100)
    }
}

/// A time as the document writes it, in Chinese standard time.
pub fn paytime(at: Millis) -> String {
    let beijing = UtcOffset::from_hms(8, 0, 0).unwrap_or(UtcOffset::UTC);
    time::shown(at, beijing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_chinese_standard_time() {
        // `TZ=Asia/Shanghai date -d @1488340805 '+%F %T'`, and the same for the other two.
        assert_eq!(paytime(1_488_340_805_000), "2017-03-01 12:00:05");
        assert_eq!(paytime(0), "1970-01-01 08:00:00");
        assert_eq!(paytime(1_709_222_399_000), "2024-02-29 23:59:59");
    }
}
