//! Explanations of a signature that does not match a text: tries the usual mistakes of apps, and names those that match.
//!
//! A search, not a guess: a cause is only named when the sign that it would have made is the sign given.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use md5::{Digest, Md5};

use super::json::Object;
use super::key::Key;
use super::signature::Signature;

/// A key that may have made the sign.
pub struct Candidate<'a> {
    /// The owner of the key; empty for a single key.
    pub merid: &'a str,
    /// The key.
    pub key: &'a Key,
    /// Listed under `old_keys`.
    pub old: bool,
}

/// The findings about a text and a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explanation {
    /// The sign is empty.
    Empty,
    /// The sign is not 32 hex digits.
    NotASign,
    /// The sign fits once these things are assumed; none of them means that it simply fits.
    Fits {
        /// The owner of the matching key.
        merid: String,
        /// It is one of the merchant's old keys.
        old: bool,
        /// The signer's mistakes, the most significant first.
        causes: Vec<Cause>,
    },
    /// Nothing that was tried gives this sign.
    Unknown,
}

/// One thing that a signer did differently from the document's §2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's sentence is its documentation")]
pub enum Cause {
    OtherMerchant,
    KeyFirst,
    KeyAfterName,
    KeyLeftOut,
    KeyWithNewline,
    KeyWithSpace,
    KeyUpperCase,
    KeyLowerCase,
    JsonSigned,
    GbkSigned,
    GbkEncoded,
    PlusBecameSpace,
    PlusWasSigned,
    TextWithNewline,
    TextWithoutNewline,
    UrlEncoded,
    UrlDecoded,
    Base64Url,
    LineBreaksAdded,
    LineBreaksRemoved,
    PaddingRemoved,
    PaddingAdded,
    UpperCaseText,
    UpperCaseSign,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherMerchant => "another merchant's key was used",
            Self::KeyFirst => "the key was put before the text: it belongs after it",
            Self::KeyAfterName => "the key was appended as \"&key=…\": it is appended bare",
            Self::KeyLeftOut => "the text alone was hashed, without a key",
            Self::KeyWithNewline => {
                "the key has a trailing newline: it was probably read from a file and not trimmed"
            }
            Self::KeyWithSpace => "the key has a trailing space",
            Self::KeyUpperCase => "the key was turned into upper case",
            Self::KeyLowerCase => "the key was turned into lower case",
            Self::JsonSigned => "the JSON was signed instead of its base64 text",
            Self::GbkSigned => "the JSON was signed instead of its base64 text, and as GBK instead of UTF-8",
            Self::GbkEncoded => {
                "the signer's JSON was in GBK, not UTF-8: the signature covers the base64 of the GBK bytes"
            }
            Self::PlusBecameSpace => {
                "+ was turned into a space before hashing: the text was form-decoded without having been percent-encoded"
            }
            Self::PlusWasSigned => {
                "the text given has a space where a + was signed: it was form-decoded on the way"
            }
            Self::TextWithNewline => "the text has a trailing newline",
            Self::TextWithoutNewline => "the text was signed without its trailing newline",
            Self::UrlEncoded => "the URL-encoded text was signed: sign first, then encode",
            Self::UrlDecoded => "the text given is URL-encoded, the signature covers the decoded text",
            Self::Base64Url => "the text was signed in the base64url alphabet (- and _ for + and /)",
            Self::LineBreaksAdded => {
                "the text was signed with line breaks (MIME base64): the bytes changed on the way"
            }
            Self::LineBreaksRemoved => "the text was signed without its line breaks",
            Self::PaddingRemoved => "the text was signed without its = padding",
            Self::PaddingAdded => "the text was signed with its = padding, which got lost on the way",
            Self::UpperCaseText => "the text was turned into upper case before hashing",
            Self::UpperCaseSign => {
                "the signature is in upper-case hex: the same value, but a comparison that minds case fails"
            }
        })
    }
}

/// Explains `sign` over `text`. Candidates for the merchant that the text names are believed first.
///
/// ```
/// use countersign::protocol::{explain::{Candidate, Cause, Explanation, explain}, key::Key};
///
/// let key = Key::new("k")?;
/// let candidates = [Candidate { merid: "1", key: &key, old: false }];
/// // The key was put first: `printf 'ke30=' | md5sum`.
/// let Explanation::Fits { causes, .. } = explain("e30=", "41dddad965c769ac3e9909ceb4cd9f80", &candidates) else {
///     panic!("not explained");
/// };
/// assert_eq!(causes, [Cause::KeyFirst]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn explain(text: &str, sign: &str, candidates: &[Candidate<'_>]) -> Explanation {
    let sign = sign.trim();
    if sign.is_empty() {
        return Explanation::Empty;
    }
    let Some(wanted) = Signature::parse(sign) else {
        return Explanation::NotASign;
    };
    let Some((candidate, mut causes)) = search(text, wanted, candidates) else {
        return Explanation::Unknown;
    };
    if sign.bytes().any(|b| b.is_ascii_uppercase()) {
        causes.push(Cause::UpperCaseSign);
    }
    Explanation::Fits {
        merid: candidate.merid.to_owned(),
        old: candidate.old,
        causes,
    }
}

/// The fewest assumptions that give `wanted`, the right merchant before others.
fn search<'c, 'k>(
    text: &str,
    wanted: Signature,
    candidates: &'c [Candidate<'k>],
) -> Option<(&'c Candidate<'k>, Vec<Cause>)> {
    let named = named_merchant(text);
    let texts = text_variants(text);
    let (own, others): (Vec<_>, Vec<_>) = candidates
        .iter()
        .partition(|c| c.merid.is_empty() || named.as_deref().is_none_or(|merid| merid == c.merid));
    let best = |group: Vec<&'c Candidate<'k>>| {
        group
            .into_iter()
            .flat_map(|candidate| {
                let ways = fitting(&texts, wanted, candidate.key);
                ways.into_iter().map(move |causes| (candidate, causes))
            })
            // The first of equals wins, so the order of the variants decides between causes that give the same bytes.
            .min_by_key(|(_, causes)| causes.len())
    };
    best(own).or_else(|| {
        let (candidate, mut causes) = best(others)?;
        causes.insert(0, Cause::OtherMerchant);
        Some((candidate, causes))
    })
}

/// Every way to get `wanted` from the variants of the text and of one key.
fn fitting(
    texts: &[(Option<Cause>, Cow<'_, [u8]>)],
    wanted: Signature,
    key: &Key,
) -> Vec<Vec<Cause>> {
    let keys = key_variants(key.bytes());
    let mut found = Vec::new();
    for (text_cause, text) in texts {
        for (key_cause, key) in &keys {
            for (order_cause, parts) in orders(text, key) {
                let md5 = parts
                    .iter()
                    .fold(Md5::new(), |md5, part| md5.chain_update(part));
                // Not in constant time: what comes out is an explanation for the owner of the key, never a verdict on a
                // message.
                if Signature::finish(md5) == wanted {
                    let causes = [order_cause, *text_cause, *key_cause];
                    found.push(causes.into_iter().flatten().collect());
                }
            }
        }
    }
    found
}

fn orders<'a>(text: &'a [u8], key: &'a [u8]) -> [(Option<Cause>, [&'a [u8]; 3]); 4] {
    [
        (None, [text, key, b""]),
        (Some(Cause::KeyFirst), [key, text, b""]),
        (Some(Cause::KeyAfterName), [text, b"&key=", key]),
        (Some(Cause::KeyLeftOut), [text, b"", b""]),
    ]
}

fn key_variants(key: &[u8]) -> Vec<(Option<Cause>, zeroize::Zeroizing<Vec<u8>>)> {
    let ended = |end: &[u8]| [key, end].concat();
    let without = |key: &[u8], end: &[u8]| {
        let kept = key.iter().rposition(|byte| !end.contains(byte));
        key[..kept.map_or(0, |last| last + 1)].to_vec()
    };
    [
        (None, key.to_vec()),
        (Some(Cause::KeyWithNewline), ended(b"\n")),
        (Some(Cause::KeyWithNewline), ended(b"\r\n")),
        (Some(Cause::KeyWithNewline), without(key, b"\r\n")),
        (Some(Cause::KeyWithSpace), ended(b" ")),
        (Some(Cause::KeyWithSpace), without(key, b" \t")),
        (Some(Cause::KeyUpperCase), key.to_ascii_uppercase()),
        (Some(Cause::KeyLowerCase), key.to_ascii_lowercase()),
    ]
    .map(|(cause, key)| (cause, key.into()))
    .into()
}

fn text_variants(text: &str) -> Vec<(Option<Cause>, Cow<'_, [u8]>)> {
    let mut variants = vec![(None, Cow::Borrowed(text.as_bytes()))];
    let mut add = |cause, variant: Vec<u8>| variants.push((Some(cause), Cow::Owned(variant)));
    let joined = text.replace(['\r', '\n'], "");
    add(Cause::TextWithNewline, format!("{text}\n").into());
    add(Cause::TextWithNewline, format!("{text}\r\n").into());
    add(
        Cause::TextWithoutNewline,
        text.trim_end_matches(['\r', '\n']).into(),
    );
    add(Cause::PlusBecameSpace, text.replace('+', " ").into());
    add(Cause::PlusWasSigned, text.replace(' ', "+").into());
    add(
        Cause::UrlDecoded,
        percent_encoding::percent_decode_str(text).collect(),
    );
    add(Cause::UrlEncoded, percent_encoded(text, true).into());
    // .NET's `HttpUtility.UrlEncode` writes its hex digits in lower case.
    add(Cause::UrlEncoded, percent_encoded(text, false).into());
    add(Cause::LineBreaksRemoved, joined.clone().into());
    // MIME breaks at 76 (RFC 2045 §6.8), PEM and `openssl base64` at 64 (RFC 7468 §2); encoders differ in whether the
    // last line has an end.
    for (line, end) in [(76, "\n"), (76, "\r\n"), (64, "\n"), (64, "\r\n")] {
        let broken = broken_into_lines(&joined, line, end);
        add(Cause::LineBreaksAdded, broken.trim_end().into());
        add(Cause::LineBreaksAdded, broken.into());
    }
    add(Cause::PaddingRemoved, text.trim_end_matches('=').into());
    add(Cause::UpperCaseText, text.to_ascii_uppercase().into());
    if let Some(message) = decoded(text) {
        add(Cause::JsonSigned, message.clone());
        add(Cause::JsonSigned, message.trim_ascii().to_vec());
        add(Cause::Base64Url, URL_SAFE.encode(&message).into());
        add(Cause::Base64Url, URL_SAFE_NO_PAD.encode(&message).into());
        add(Cause::PaddingAdded, STANDARD.encode(&message).into());
        if let Ok(message) = std::str::from_utf8(&message) {
            let (gbk, _, _) = encoding_rs::GBK.encode(message);
            add(Cause::GbkEncoded, STANDARD.encode(&gbk).into());
            add(Cause::GbkSigned, gbk.into_owned());
        }
    }
    // Only what really differs is a cause.
    let plain = text.as_bytes();
    variants.retain(|(cause, variant)| cause.is_none() || variant.as_ref() != plain);
    variants
}

/// The message in a text that may be URL-encoded, in either alphabet, broken or unpadded.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = percent_encoding::percent_decode_str(text)
        .filter(|b| !b.is_ascii_whitespace() && *b != b'=')
        .map(|b| match b {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    STANDARD_NO_PAD.decode(text).ok()
}

fn named_merchant(text: &str) -> Option<String> {
    let message = decoded(text)?;
    let object = Object::parse(&message).ok()?;
    Some(object.string("merid")?.ok()?.into_owned())
}

fn percent_encoded(text: &str, upper: bool) -> String {
    let encoded =
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    if upper {
        encoded
    } else {
        encoded
            .replace("%2B", "%2b")
            .replace("%2F", "%2f")
            .replace("%3D", "%3d")
    }
}

fn broken_into_lines(text: &str, line: usize, end: &str) -> String {
    let mut broken = String::new();
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % line == 0 {
            broken.push_str(end);
        }
        broken.push(character);
    }
    broken + end
}
