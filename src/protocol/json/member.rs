//! One member of an object: its decoded name, and its value as written.

use std::borrow::Cow;

use memchr::memchr;

/// An existing member of another type than expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongTypeError;

/// A name with a digest that makes comparison cheap.
#[derive(Debug)]
pub(super) struct Name<'a> {
    text: Cow<'a, str>,
    /// The first bytes and the length: names that differ nearly always differ here.
    mark: u64,
}

impl<'a> Name<'a> {
    pub(super) fn borrowed(text: &'a str) -> Self {
        Self {
            mark: mark(text.as_bytes()),
            text: Cow::Borrowed(text),
        }
    }

    pub(super) fn owned(text: String) -> Self {
        Self {
            mark: mark(text.as_bytes()),
            text: Cow::Owned(text),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.mark == other.mark && self.text == other.text
    }
}

/// Computes the digest; it depends on the text alone.
fn mark(text: &[u8]) -> u64 {
    let first = match text.first_chunk() {
        Some(first) => u64::from_le_bytes(*first),
        None => text
            .iter()
            .fold(0, |first, byte| first << 8 | u64::from(*byte)),
    };
    // The length goes into the highest byte, which names of less than eight bytes leave empty.
    first ^ (text.len() as u64).rotate_right(8)
}

/// A name and a value.
#[derive(Debug, PartialEq)]
pub(super) struct Member<'a> {
    pub(super) name: Name<'a>,
    /// The value as written.
    pub(super) value: &'a str,
    /// A string without escapes.
    pub(super) is_unescaped: bool,
}

impl<'a> Member<'a> {
    pub(super) fn new(name: Name<'a>, value: &'a str) -> Self {
        Self {
            is_unescaped: value.starts_with('"') && memchr(b'\\', value.as_bytes()).is_none(),
            name,
            value,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value == "null"
    }

    /// Returns the decoded value of a string.
    pub(super) fn string(&self) -> Result<Cow<'a, str>, WrongTypeError> {
        if self.is_unescaped {
            return Ok(Cow::Borrowed(&self.value[1..self.value.len() - 1]));
        }
        if !self.value.starts_with('"') {
            return Err(WrongTypeError);
        }
        let decoded = serde_json::from_str(self.value);
        decoded.map(Cow::Owned).map_err(|_| WrongTypeError)
    }
}
