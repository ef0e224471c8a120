//! A note: one thing that happened to an order beside what ledger and events say, kept for whoever reads its story.
//!
//! Notes are for eyes only: nothing is ever decided by one, and any of them may be missing.

use std::borrow::Cow;

use crate::time::Millis;

/// Notes of steps that are kept, the newest: some 100 MB.
pub const KEPT_STEPS: u32 = 300_000;
/// Common notes that are kept. They have their own share, so that a flood of them hides no order's story.
pub const KEPT_COMMON: u32 = 30_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivityKind {
    /// The app called.
    Call,
    /// The platform, or somebody in its name, called back.
    Callback,
    /// The watch asked the platform.
    Question,
}

impl ActivityKind {
    /// The name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Callback => "callback",
            Self::Question => "question",
        }
    }

    /// Finds it by its name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Call, Self::Callback, Self::Question]
            .into_iter()
            .find(|what| what.name() == name)
    }
}

/// How much a note matters where there is not room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A step in an order's story.
    Step,
    /// What can be repeated at will or for hours: queries, calls that were refused before anything was sent, callbacks
    /// that bring nothing new, and what strangers send.
    Common,
}

/// One thing that happened. No text in it is longer than 128 bytes, and none is a stranger's but a plain number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityEntry {
    /// When it was over.
    pub at: Millis,
    /// How long it took, in milliseconds.
    pub took: Millis,
    /// What happened.
    pub what: ActivityKind,
    /// A call's endpoint (`query`, `submit`, `link`, `extra`, `none`), a callback's kind (`back`, `front`, `none`), or
    /// `watch`.
    pub way: Cow<'static, str>,
    /// The merchant; empty where it is not known.
    pub merid: String,
    /// The merchant's order number; empty where it is not known.
    pub orderid: String,
    /// The request's id; empty for a question.
    pub request_id: String,
    /// `ok`, `accepted`, `repeated`, or why not, by the names that the metrics use.
    pub outcome: Cow<'static, str>,
    /// A call's `no`, `yes` or `unknown`; empty for others.
    pub sent: Cow<'static, str>,
    /// The fingerprint of the old key that the platform signed with; empty where it was the current one.
    pub old_key: String,
    /// Which share it is kept in.
    pub weight: Weight,
    /// It was a refusal.
    pub refused: bool,
    /// Who it is about was only claimed: the sign was missing or wrong.
    pub stranger: bool,
}

impl ActivityEntry {
    /// A step that went well and says nothing more.
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

/// A merid or an orderid as a note may hold it: 1 to 64 letters, digits, `-` and `_`. Anything else becomes empty.
fn number(text: Option<&str>) -> String {
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
