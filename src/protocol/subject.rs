//! The subject of a payload: the members that name a merchant, an order and a payment.

use std::borrow::Cow;

use super::json::{Object, WrongTypeError};
use super::result::PaymentResult;

/// The merchant, order and payment that a payload is about.
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
    /// Names a merchant's order.
    pub fn about(merid: &str, orderid: &str) -> Self {
        Self {
            merid: Some(merid.to_owned()),
            orderid: Some(orderid.to_owned()),
            queryid: None,
        }
    }

    /// Reads the members that are there. An empty one counts as missing, and one of another type is taken as it is
    /// written.
    pub fn of(message: &Object<'_>) -> Self {
        let member = |name| Some(subject_member(message, name)?.into_owned());
        Self {
            merid: member("merid"),
            orderid: member("orderid"),
            queryid: member("queryid"),
        }
    }

    /// Returns the merchant for a log line; a dash where it is missing or too odd to print.
    pub fn shown_merid(&self) -> &str {
        printable(self.merid.as_deref())
    }

    /// Returns the order for a log line; a dash where it is missing or too odd to print.
    pub fn shown_orderid(&self) -> &str {
        printable(self.orderid.as_deref())
    }

    /// Finds the first member that both name with different values, apart from those to `skip`.
    pub(super) fn differs(
        &self,
        message: &Object<'_>,
        skip: impl Fn(&str) -> bool,
    ) -> Option<&'static str> {
        self.differs_where(skip, |name| subject_member(message, name))
    }

    /// Compares with a result in the same way. Where a queryid was sent, the platform ignores the orderid (§3.4.3).
    pub fn differs_from(&self, result: &PaymentResult) -> Option<&'static str> {
        let skip = |name: &str| name == "orderid" && self.queryid.is_some();
        self.differs_where(skip, |name| {
            Some(Cow::Borrowed(match name {
                "merid" => result.merid.as_str(),
                "orderid" => result.orderid.as_str(),
                _ => result.queryid.as_str(),
            }))
        })
    }

    fn differs_where<'a>(
        &self,
        skip: impl Fn(&str) -> bool,
        theirs: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Option<&'static str> {
        let named = [
            ("merid", &self.merid),
            ("orderid", &self.orderid),
            ("queryid", &self.queryid),
        ];
        named.into_iter().find_map(|(name, ours)| {
            let ours = ours.as_deref()?;
            let differs = theirs(name).is_some_and(|theirs| theirs != ours) && !skip(name);
            differs.then_some(name)
        })
    }
}

/// Reads a member as text. An empty one counts as missing, and one of another type is taken as it is written.
fn subject_member<'a>(message: &Object<'a>, name: &str) -> Option<Cow<'a, str>> {
    let text = match message.string(name)? {
        Ok(text) => text,
        Err(WrongTypeError) => Cow::Borrowed(message.raw(name)?),
    };
    (!text.is_empty()).then_some(text)
}

/// Finds the merchant that a payload names although it cannot be parsed, for the choice of the keys to verify with.
///
/// The first digits behind the first `"merid"` are taken. They are no more than a hint: what they say is never
/// believed, stored or shown before a signature of that merchant fits.
pub fn merid_hint(payload: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"\"merid\"";
    let at = memchr::memmem::find(payload, NAME)? + NAME.len();
    let value = payload[at..].trim_ascii_start().strip_prefix(b":")?;
    let value = value.trim_ascii_start();
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let length = value
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric())
        .count();
    std::str::from_utf8(&value[..length])
        .ok()
        .filter(|merid| !merid.is_empty())
}

fn printable(text: Option<&str>) -> &str {
    // Before verification this is a stranger's text: no control characters, no forged fields, no long lines in the log.
    let fits = |text: &&str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
    text.filter(fits).unwrap_or("-")
}
