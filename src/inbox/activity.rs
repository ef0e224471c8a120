//! Activity entries: steps of an order beside what ledger and events hold, for the timeline of the console.
//!
//! Entries are for display only: nothing is decided by one, and any of them may be missing.

use std::borrow::Cow;

use crate::time::Millis;

/// Limit of kept entries of steps, the newest: some 100 MB.
pub const KEPT_STEPS: u32 = 300_000;
/// Limit of kept common entries. They have their own share, so that a flood of them hides no order's timeline.
pub const KEPT_COMMON: u32 = 30_000;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivityKind {
    /// A call of the app.
    Call,
    /// A callback of the platform, or of a stranger in its name.
    Callback,
    /// A query of reconciliation.
    Question,
}

impl ActivityKind {
    /// Returns the name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Callback => "callback",
            Self::Question => "question",
        }
    }

    /// Finds a kind by its name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Call, Self::Callback, Self::Question]
            .into_iter()
            .find(|what| what.name() == name)
    }
}

/// The weight of an entry where there is not room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A step in an order's timeline.
    Step,
    /// An entry that can be repeated at will or for hours: queries, calls that were rejected before anything was sent, repeated
    /// callbacks, and requests of strangers.
    Common,
}

/// One entry. No text in it is longer than 128 bytes, and a stranger's text is kept only where it is a plain number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityEntry {
    /// The end of the step.
    pub at: Millis,
    /// Its duration, in milliseconds.
    pub took: Millis,
    /// Its kind.
    pub what: ActivityKind,
    /// A call's endpoint (`query`, `submit`, `link`, `extra`, `none`), a callback's kind (`back`, `front`, `none`), or
    /// `watch`.
    pub way: Cow<'static, str>,
    /// The merchant; empty where it is not known.
    pub merid: String,
    /// The merchant's order number; empty where it is not known.
    pub orderid: String,
    /// The request's id; empty for a query of reconciliation.
    pub request_id: String,
    /// `ok`, `accepted`, `repeated`, or the reason of a rejection, by the names that the metrics use.
    pub outcome: Cow<'static, str>,
    /// A call's `no`, `yes` or `unknown`; empty for others.
    pub sent: Cow<'static, str>,
    /// The fingerprint of the old key that the platform signed with; empty where it was the current one.
    pub old_key: String,
    /// The share that it is kept in.
    pub weight: Weight,
    /// True for a rejection.
    pub refused: bool,
    /// True where the order was only claimed: the signature was missing or invalid.
    pub stranger: bool,
}

impl ActivityEntry {
    /// Builds a step without details.
    pub fn about(
        what: ActivityKind,
        merid: Option<&str>,
        orderid: Option<&str>,
        at: Millis,
    ) -> Self {
        Self {
            at,
            took: 0,
            what,
            way: Cow::Borrowed(""),
            merid: number(merid),
            orderid: number(orderid),
            request_id: String::new(),
            outcome: Cow::Borrowed(""),
            sent: Cow::Borrowed(""),
            old_key: String::new(),
            weight: Weight::Step,
            refused: false,
            stranger: false,
        }
    }
}

/// Returns a merid or an orderid as an entry may hold it: 1 to 64 letters, digits, `-` and `_`. Anything else becomes empty.
fn number(text: Option<&str>) -> String {
    // A stranger's text reaches the console and the store through here.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let fits = |text: &&str| text.len() <= 64 && text.bytes().all(plain);
    text.filter(fits).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_are_noted() {
        assert_eq!(number(Some("ORD-2017_A")), "ORD-2017_A");
        for odd in ["a b", "<b>", "张三", "a\n", &"9".repeat(65)] {
            assert_eq!(number(Some(odd)), "", "{odd}");
        }
        assert_eq!(number(None), "");
    }
}
