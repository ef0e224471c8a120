//! An order at the platform: the submit, the customer's choice, and all messages.

use ::time::UtcOffset;

use super::dialect::Dialect;
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
    /// The address for notifications.
    pub backurl: String,
    /// The customer's page afterwards.
    pub fronturl: Option<String>,
    /// The result.
    pub result: ResultCode,
    /// The time of payment, `YYYY-MM-DD hh:mm:ss`; empty before.
    pub paytime: String,
    /// All messages, oldest first.
    pub messages: Vec<Message>,
    /// The time of the next notification.
    pub next_call: Option<Millis>,
}

/// One message of an order.
#[derive(Debug, Clone)]
pub struct Message {
    /// The time.
    pub at: Millis,
    /// The kind, in a word or two.
    pub kind: String,
    /// The JSON.
    pub plain: String,
    /// The message as it was transferred.
    pub wire: String,
    /// The other side's response.
    pub answer: String,
}

impl SandboxOrder {
    /// Writes a result in the document's words and order (§3.3.3; §3.4.4 with `respcode` before it), over `amount`.
    pub fn result_json(
        &self,
        result: ResultCode,
        amount: u64,
        is_answer: bool,
        dialects: &[Dialect],
    ) -> String {
        let has = |dialect| dialects.contains(&dialect);
        let text = |text: &str| match has(Dialect::Integers) && is_integer(text) {
            true => text.to_owned(),
            false => quoted(text),
        };
        let mut members = Vec::new();
        if is_answer && !has(Dialect::NoRespcode) {
            members.push(("respcode", quoted("00")));
            members.push(("respmsg", quoted("成功")));
        }
        members.push(("resultcode", text(result.code())));
        let resultmsg = match has(Dialect::OtherScalars) {
            true => "1".to_owned(),
            false => quoted(result.chinese()),
        };
        members.push(("resultmsg", resultmsg));
        members.push(("queryid", text(&self.queryid)));
        let zeros = if has(Dialect::AmountWithZeros) {
            ".00"
        } else {
            ""
        };
        let cents = format!("{amount}{zeros}");
        let txnamt = match has(Dialect::QuotedAmount) {
            true => quoted(&cents),
            false => cents,
        };
        members.push(("txnamt", txnamt));
        members.push(("merid", text(&self.merid)));
        members.push(("orderid", text(&self.orderid)));
        // Nullable (§3.3.3): an order that is not paid has no time.
        let paytime = match self.paytime.as_str() {
            "" if has(Dialect::LeftOut) => None,
            "" if has(Dialect::Nulls) => Some("null".to_owned()),
            paytime if has(Dialect::OtherScalars) => {
                let digits: String = paytime.chars().filter(char::is_ascii_digit).collect();
                Some(if digits.is_empty() {
                    "0".to_owned()
                } else {
                    digits
                })
            }
            paytime => Some(quoted(paytime)),
        };
        members.extend(paytime.map(|paytime| ("paytime", paytime)));
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    /// Yuan, with two places.
    pub fn yuan(&self) -> String {
        format!("{}.{:02}", self.amount / 100, self.amount % 100)
    }
}

/// Returns true for digits that are the same number when they are read back: `0000` is not.
fn is_integer(text: &str) -> bool {
    let has_leading_zero = text.len() > 1 && text.starts_with('0');
    !text.is_empty() && !has_leading_zero && text.bytes().all(|byte| byte.is_ascii_digit())
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
