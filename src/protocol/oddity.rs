//! Oddities: deviations from the document that change no meaning. Each is tolerated, named and counted.

/// One kind of deviation that is tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// A UTF-8 byte order mark before the envelope.
    ByteOrderMark,
    /// White space around the envelope.
    Whitespace,
    /// NUL bytes around the envelope.
    Nul,
    /// A `Content-Encoding` that encodes nothing: `identity`, or the name of a character set.
    ContentEncoding,
    /// A response compressed with gzip.
    Gzip,
    /// A response compressed with deflate, with or without its zlib header.
    Deflate,
    /// An envelope sent as multipart/form-data.
    Multipart,
    /// A POST with the envelope in its URL and an empty body (document §2.3).
    InUrl,
    /// A POST with the same envelope in its URL and in its body.
    InUrlAndBody,
    /// Repeated or trailing slashes in a callback's path.
    Path,
    /// A raw `+` in the base64 text, or the space that form decoding made of it.
    RawPlus,
    /// Line breaks in the base64 text.
    LineBreaks,
    /// Base64 text without its padding.
    Unpadded,
    /// A `sign` in upper-case hex.
    UpperCaseSign,
    /// An integer where the document has a string.
    IntegerForString,
    /// Another scalar than a string as `resultmsg` or `paytime`.
    OtherScalar,
    /// An amount in quotes.
    QuotedAmount,
    /// An amount with a fraction of zeros.
    AmountWithZeros,
    /// A successful response without `respcode`.
    NoRespcode,
}

impl Oddity {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 19] = [
        Self::ByteOrderMark,
        Self::Whitespace,
        Self::Nul,
        Self::ContentEncoding,
        Self::Gzip,
        Self::Deflate,
        Self::Multipart,
        Self::InUrl,
        Self::InUrlAndBody,
        Self::Path,
        Self::RawPlus,
        Self::LineBreaks,
        Self::Unpadded,
        Self::UpperCaseSign,
        Self::IntegerForString,
        Self::OtherScalar,
        Self::QuotedAmount,
        Self::AmountWithZeros,
        Self::NoRespcode,
    ];

    /// Returns the name that metrics and notes use.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByteOrderMark => "byte-order-mark",
            Self::Whitespace => "whitespace",
            Self::Nul => "nul",
            Self::ContentEncoding => "content-encoding",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Multipart => "multipart",
            Self::InUrl => "in-url",
            Self::InUrlAndBody => "in-url-and-body",
            Self::Path => "path",
            Self::RawPlus => "raw-plus",
            Self::LineBreaks => "line-breaks",
            Self::Unpadded => "unpadded",
            Self::UpperCaseSign => "upper-case-sign",
            Self::IntegerForString => "integer-for-string",
            Self::OtherScalar => "other-scalar",
            Self::QuotedAmount => "quoted-amount",
            Self::AmountWithZeros => "amount-with-zeros",
            Self::NoRespcode => "no-respcode",
        }
    }
}

// One bit a kind: a 33rd kind needs a wider integer.
/// A set of [`Oddity`], without an allocation because nearly every message has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oddities(u32);

impl Oddities {
    /// Adds one kind.
    pub fn add(&mut self, oddity: Oddity) {
        self.0 |= 1 << oddity as u32;
    }

    /// Adds one kind where `met` is true.
    pub fn add_if(&mut self, met: bool, oddity: Oddity) {
        self.0 |= u32::from(met) << oddity as u32;
    }

    /// Adds every kind of another set.
    pub fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Returns true if the set has this kind.
    pub fn contains(self, oddity: Oddity) -> bool {
        self.0 & (1 << oddity as u32) != 0
    }

    /// Returns true if the set has no kind at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Lists the names of the kinds in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let met = Oddity::ALL.into_iter();
        met.filter(move |oddity| self.contains(*oddity))
            .map(Oddity::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_a_bit_of_its_own() {
        let mut all = Oddities::default();
        for (place, oddity) in Oddity::ALL.into_iter().enumerate() {
            assert_eq!(oddity as usize, place);
            assert!(!all.contains(oddity));
            all.add(oddity);
        }
        let names: std::collections::BTreeSet<_> = all.names().collect();
        assert_eq!(names.len(), Oddity::ALL.len());
    }
}
