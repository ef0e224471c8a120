//! Dialects: ways to write the same message that other implementations of the document have.
//!
//! None of them changes what a message means, so every reader must come to the same result.

use std::hash::{BuildHasher, Hasher, RandomState};

/// One way to write a message otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Strings of digits are integers.
    Integers,
    /// `paytime` is a number of milliseconds, `resultmsg` a number.
    OtherScalars,
    /// `txnamt` is in quotes.
    QuotedAmount,
    /// `txnamt` has a fraction of zeros.
    AmountWithZeros,
    /// Nullable members without a value are `null` instead of empty.
    Nulls,
    /// Nullable members without a value are left out.
    LeftOut,
    /// A successful response has no `respcode`.
    NoRespcode,
    /// `+` is not percent-encoded.
    RawPlus,
    /// The base64 text is broken into lines.
    LineBreaks,
    /// The base64 text has no padding.
    Unpadded,
    /// `sign` is in upper case.
    UpperCaseSign,
    /// The envelope is a JSON object instead of a form.
    JsonEnvelope,
    /// The empty `sign` of §2.2 is `null` in JSON, and left out of a form.
    NullSign,
    /// A byte order mark before the envelope.
    ByteOrderMark,
    /// White space around the envelope.
    Whitespace,
    /// NULs around the envelope.
    Nul,
    /// `Content-Encoding` names a character set.
    ContentEncoding,
    /// A response is compressed with gzip.
    Gzip,
    /// A response is compressed with deflate.
    Deflate,
    /// A posted notification is multipart/form-data.
    Multipart,
    /// A posted notification has its envelope in the URL and no body.
    InUrl,
    /// A posted notification has its envelope in the URL and in the body.
    InUrlAndBody,
}

impl Dialect {
    /// All dialects, in the order of their declaration.
    pub const ALL: [Self; 22] = [
        Self::Integers,
        Self::OtherScalars,
        Self::QuotedAmount,
        Self::AmountWithZeros,
        Self::Nulls,
        Self::LeftOut,
        Self::NoRespcode,
        Self::RawPlus,
        Self::LineBreaks,
        Self::Unpadded,
        Self::UpperCaseSign,
        Self::JsonEnvelope,
        Self::NullSign,
        Self::ByteOrderMark,
        Self::Whitespace,
        Self::Nul,
        Self::ContentEncoding,
        Self::Gzip,
        Self::Deflate,
        Self::Multipart,
        Self::InUrl,
        Self::InUrlAndBody,
    ];

    /// Returns the name in flags, forms and the JSON API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integers => "integers",
            Self::OtherScalars => "other-scalars",
            Self::QuotedAmount => "quoted-amount",
            Self::AmountWithZeros => "amount-with-zeros",
            Self::Nulls => "nulls",
            Self::LeftOut => "left-out",
            Self::NoRespcode => "no-respcode",
            Self::RawPlus => "raw-plus",
            Self::LineBreaks => "line-breaks",
            Self::Unpadded => "unpadded",
            Self::UpperCaseSign => "upper-case-sign",
            Self::JsonEnvelope => "json-envelope",
            Self::NullSign => "null-sign",
            Self::ByteOrderMark => "byte-order-mark",
            Self::Whitespace => "whitespace",
            Self::Nul => "nul",
            Self::ContentEncoding => "content-encoding",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Multipart => "multipart",
            Self::InUrl => "in-url",
            Self::InUrlAndBody => "in-url-and-body",
        }
    }

    /// Returns true for a notification that must be posted to be written like this.
    pub fn is_posted(self) -> bool {
        matches!(
            self,
            Self::JsonEnvelope
                | Self::ByteOrderMark
                | Self::Whitespace
                | Self::Nul
                | Self::ContentEncoding
                | Self::Multipart
                | Self::InUrl
                | Self::InUrlAndBody
        )
    }

    /// Picks each dialect with one chance in four.
    pub fn random() -> Vec<Self> {
        // Each of the library's hashers begins with other keys: the only randomness it has.
        let bits = RandomState::new().build_hasher().finish();
        let picked = Self::ALL.into_iter().enumerate();
        picked
            .filter(|(place, _)| bits >> (2 * place) & 3 == 0)
            .map(|(_, dialect)| dialect)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_every_dialect_is_picked_at_times() {
        let names: std::collections::BTreeSet<_> =
            Dialect::ALL.iter().map(|dialect| dialect.name()).collect();
        assert_eq!(names.len(), Dialect::ALL.len());
        let mut picked = Vec::new();
        for _ in 0..1_000 {
            picked.extend(Dialect::random());
        }
        assert!(Dialect::ALL.iter().all(|dialect| picked.contains(dialect)));
    }
}
