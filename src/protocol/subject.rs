//! The members that name a merchant, an order and a payment.

use std::borrow::Cow;

use super::json::{Object, WrongTypeError};

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
    pub(super) fn differs(&self, message: &Object<'_>) -> Option<&'static str> {
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
        Err(WrongTypeError) => Cow::Borrowed(message.raw(name)?),
    };
    (!text.is_empty()).then_some(text)
}

fn printable(text: Option<&str>) -> &str {
    let fits = |text: &&str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
    text.filter(fits).unwrap_or("-")
}
