//! The envelope: sealing a message, reading one from a form or a JSON object, and verifying it.
//!
//! Knows nothing of what a message says. Only this file's [`Received::verify`] makes a [`Verified`] value.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use base64_simd::{STANDARD, STANDARD_NO_PAD};
use md5::{Digest, Md5};
use memchr::{memchr, memchr2, memchr3_iter};
use subtle::ConstantTimeEq;

use super::json::Object;
use super::key::Key;

/// The platform's signature: MD5 over an envelope's text followed by the key (document §2.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sign([u8; 16]);

impl Sign {
    /// Signs a text as it will be sent.
    pub fn over(text: &[u8], key: &Key) -> Self {
        let md5 = Md5::new().chain_update(text).chain_update(key.bytes());
        Self::finish(md5)
    }

    pub(super) fn finish(md5: Md5) -> Self {
        Self(md5.finalize().into())
    }

    /// Reads 32 hex digits of either case.
    pub fn parse(hex: &str) -> Option<Self> {
        let hex: &[u8; 32] = hex.as_bytes().try_into().ok()?;
        let mut sign = [0; 16];
        for (byte, pair) in sign.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(sign))
    }

    fn hex(self) -> [u8; 32] {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
        let mut hex = [0; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = digit(byte >> 4);
            pair[1] = digit(byte);
        }
        hex
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hex()
            .iter()
            .try_for_each(|&digit| write!(f, "{}", char::from(digit)))
    }
}

impl fmt::Debug for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sign(…)")
    }
}

/// A message sealed by us: base64 text and its sign.
pub struct Envelope {
    text: String,
    sign: Sign,
}

impl Envelope {
    /// Seals a message's bytes as they are.
    pub fn seal(message: &[u8], key: &Key) -> Self {
        let text = STANDARD.encode_to_string(message);
        let sign = Sign::over(text.as_bytes(), key);
        Self { text, sign }
    }

    /// The message's bytes in base64.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sign over [`Envelope::text`].
    pub fn sign(&self) -> Sign {
        self.sign
    }

    /// `req=…&sign=…`, percent-encoded: a form's body and a link's query alike. `name` is `req` or `resp`.
    pub fn form(&self, name: &str) -> String {
        let mut form = Vec::with_capacity(self.form_length(name));
        self.write_form(name, &mut form);
        String::from_utf8(form).expect("base64, escapes and hex digits are ASCII")
    }

    /// Bytes of [`Envelope::form`].
    pub fn form_length(&self, name: &str) -> usize {
        let escapes = 2 * escaped(self.text.as_bytes()).count();
        name.len() + "=&sign=".len() + self.text.len() + escapes + 32
    }

    /// Writes [`Envelope::form`] behind what is there.
    pub fn write_form(&self, name: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(name.as_bytes());
        to.push(b'=');
        let text = self.text.as_bytes();
        let mut written = 0;
        for at in escaped(text) {
            to.extend_from_slice(&text[written..at]);
            to.extend_from_slice(match text[at] {
                b'+' => b"%2B",
                b'/' => b"%2F",
                _ => b"%3D",
            });
            written = at + 1;
        }
        to.extend_from_slice(&text[written..]);
        to.extend_from_slice(b"&sign=");
        to.extend_from_slice(&self.sign.hex());
    }
}

/// Where the characters stand that mean something else in a form: of base64's only these.
fn escaped(text: &[u8]) -> impl Iterator<Item = usize> {
    memchr3_iter(b'+', b'/', b'=', text)
}

/// What a sender got wrong that can be put right without a guess. Tolerated, and counted by whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oddities {
    /// A raw `+` (or the space that form decoding made of it) stood in the text.
    pub raw_plus: bool,
    /// The base64 text was broken into lines.
    pub line_breaks: bool,
    /// The base64 text had lost its padding.
    pub unpadded: bool,
}

impl Oddities {
    /// The oddities that were met, by the names that the metrics use.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.raw_plus, "raw-plus"),
            (self.line_breaks, "line-breaks"),
            (self.unpadded, "unpadded"),
        ]
        .into_iter()
        .filter_map(|(met, name)| met.then_some(name))
    }
}

/// Why bytes are not an envelope: the sender's fault, before any key is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Neither a form nor a JSON object with both members.
    #[error("no envelope: expected {0} and sign, as a form or a JSON object")]
    Missing(&'static str),
    /// A parameter stands twice, so two readers could take different ones.
    #[error("{0} stands twice")]
    Doubled(&'static str),
    /// A member of the JSON form is not a string.
    #[error("{0} is not a string")]
    NotAString(&'static str),
    /// A `%` without two hex digits, or a value that is not text.
    #[error("{0} is not valid percent-encoding of text")]
    BadEscape(&'static str),
}

/// Why an envelope is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// `sign` is empty: the platform could not find the key (document §2.2). Anyone could have sent this.
    #[error("sign is empty")]
    Unsigned,
    /// `sign` fits the text with none of the keys.
    #[error("sign does not fit the text with any of the merchant's keys")]
    BadSignature,
    /// Signed, but the text is not base64 in the standard alphabet.
    #[error("the signed text is not base64")]
    NotBase64,
}

/// An envelope as it came in: nothing in it is believed yet.
pub struct Received<'a> {
    text: Cow<'a, str>,
    sign: Cow<'a, str>,
    raw_plus: bool,
}

/// Something that carried a right sign. Only verification makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    oddities: Oddities,
    key_index: usize,
}

impl<T> Verified<T> {
    /// What the sender got wrong, and was put right.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// Which of the keys that were tried fits: 0 is the first.
    pub fn key_index(&self) -> usize {
        self.key_index
    }

    /// Takes the value out; from here on its type no longer says that it was verified.
    pub fn into_inner(self) -> T {
        self.inner
    }

    pub(super) fn try_map<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<Verified<U>, E> {
        Ok(Verified {
            inner: f(self.inner)?,
            oddities: self.oddities,
            key_index: self.key_index,
        })
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verified(…)")
    }
}

/// Reads an envelope, `{name}=…&sign=…` or `{"name": "…", "sign": "…"}`, in any order. `name` is `req` or
/// `resp`; other parameters are ignored. A body that opens with `{` is read as JSON.
pub fn read<'a>(body: &'a [u8], name: &'static str) -> Result<Received<'a>, EnvelopeError> {
    match body.trim_ascii_start().first() {
        Some(b'{') => read_json(body, name),
        _ => read_form(body, name),
    }
}

/// Whether a form has any of an envelope's parameters, however often and in whatever state.
pub fn names_any(form: &[u8]) -> bool {
    let names = form
        .split(|&byte| byte == b'&')
        .map(|pair| cut(pair, b'=').0);
    names.into_iter().any(|name| {
        matches!(
            percent_decode(name).as_deref(),
            Some("req" | "resp" | "sign")
        )
    })
}

fn read_json<'a>(body: &'a [u8], name: &'static str) -> Result<Received<'a>, EnvelopeError> {
    let object = Object::parse(body).map_err(|_| EnvelopeError::Missing(name))?;
    let member = |name| match object.string(name) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(EnvelopeError::NotAString(name)),
        None => Err(EnvelopeError::Missing(name)),
    };
    Ok(Received {
        text: member(name)?,
        sign: member("sign")?,
        raw_plus: false,
    })
}

fn read_form<'a>(body: &'a [u8], name: &'static str) -> Result<Received<'a>, EnvelopeError> {
    let (mut text, mut sign) = (None, None);
    let mut rest = Some(body.trim_ascii());
    while let Some(pairs) = rest {
        let pair;
        (pair, rest) = cut(pairs, b'&');
        let (field, value) = cut(pair, b'=');
        let value = value.unwrap_or_default();
        // A name that cannot be decoded is none of ours.
        let (slot, name) = match percent_decode(field).as_deref() {
            Some(field) if field == name => (&mut text, name),
            Some("sign") => (&mut sign, "sign"),
            _ => continue,
        };
        let value = percent_decode(value).ok_or(EnvelopeError::BadEscape(name))?;
        if slot.replace(value).is_some() {
            return Err(EnvelopeError::Doubled(name));
        }
    }
    let (Some(text), Some(sign)) = (text, sign) else {
        return Err(EnvelopeError::Missing(name));
    };
    // Base64 has no space: one can only have been a `+` before somebody's form decoding.
    let has_space = memchr(b' ', text.as_bytes()).is_some();
    Ok(Received {
        text: match has_space {
            true => Cow::Owned(text.replace(' ', "+")),
            false => text,
        },
        sign,
        raw_plus: has_space || memchr(b'+', body).is_some(),
    })
}

/// What stands before the first separator, and what after it.
fn cut(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr(separator, bytes) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    }
}

/// Decodes `%XX` and nothing else: `+` stays, because base64 text is the only thing that has one here.
/// `None` for a broken escape or bytes that are not UTF-8.
fn percent_decode(bytes: &[u8]) -> Option<Cow<'_, str>> {
    if memchr(b'%', bytes).is_none() {
        return simdutf8::basic::from_utf8(bytes).ok().map(Cow::Borrowed);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr(b'%', rest) {
        decoded.extend_from_slice(&rest[..at]);
        let (pair, tail) = rest[at + 1..].split_first_chunk::<2>()?;
        decoded.push(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?);
        rest = tail;
    }
    decoded.extend_from_slice(rest);
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

impl Received<'_> {
    /// Believes the text where the sign fits it with one of the keys, and decodes it. Every key is tried in
    /// turn; each comparison takes constant time.
    pub fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<Verified<Vec<u8>>, VerifyError> {
        if self.sign.is_empty() {
            return Err(VerifyError::Unsigned);
        }
        let sign = Sign::parse(&self.sign).ok_or(VerifyError::BadSignature)?;
        let fits = |key: &Key| bool::from(Sign::over(self.text.as_bytes(), key).0.ct_eq(&sign.0));
        let key_index = keys
            .into_iter()
            .position(fits)
            .ok_or(VerifyError::BadSignature)?;
        let (inner, oddities) = self.decode().ok_or(VerifyError::NotBase64)?;
        Ok(Verified {
            inner,
            oddities,
            key_index,
        })
    }

    /// The message's bytes, whoever wrote them: for messages that say they are unsigned, and for people.
    pub fn unverified(&self) -> Option<Vec<u8>> {
        self.decode().map(|(message, _)| message)
    }

    /// The base64 text as it is to be signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sign as it was sent.
    pub fn sign(&self) -> &str {
        &self.sign
    }

    fn decode(&self) -> Option<(Vec<u8>, Oddities)> {
        let line_breaks = memchr2(b'\r', b'\n', self.text.as_bytes()).is_some();
        let text = match line_breaks {
            true => Cow::Owned(self.text.replace(['\r', '\n'], "")),
            false => Cow::Borrowed(self.text.as_ref()),
        };
        // Some senders strip the padding; half a padding is nobody's habit and refused.
        let unpadded = !text.len().is_multiple_of(4);
        let alphabet = if unpadded { STANDARD_NO_PAD } else { STANDARD };
        let message = alphabet.decode_to_vec(text.as_bytes()).ok()?;
        let oddities = Oddities {
            raw_plus: self.raw_plus,
            line_breaks,
            unpadded,
        };
        Some((message, oddities))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn error(body: &str) -> EnvelopeError {
        read(body.as_bytes(), "resp").err().unwrap()
    }

    #[test]
    fn a_parameter_that_stands_twice_is_refused() {
        assert_eq!(
            error("resp=QQ==&sign=x&resp=QQ=="),
            EnvelopeError::Doubled("resp")
        );
        assert_eq!(
            error("resp=QQ==&%72esp=QQ==&sign=x"),
            EnvelopeError::Doubled("resp")
        );
        assert_eq!(
            error("sign=x&resp=QQ==&s%69gn="),
            EnvelopeError::Doubled("sign")
        );
        let json = r#"{"resp":"QQ==","sign":"x","r\u0065sp":"QQ=="}"#;
        assert_eq!(error(json), EnvelopeError::Missing("resp"));
    }

    #[test]
    fn what_is_not_an_envelope_is_refused() {
        for body in [
            "",
            "resp=QQ==",
            "sign=x",
            "<html>",
            "RESP=QQ==&sign=x",
            "{}",
            "[]",
        ] {
            assert_eq!(error(body), EnvelopeError::Missing("resp"), "{body}");
        }
        for body in [
            "resp=%&sign=x",
            "resp=%4&sign=x",
            "resp=%zz&sign=x",
            "resp=%ff&sign=x",
        ] {
            assert_eq!(error(body), EnvelopeError::BadEscape("resp"), "{body}");
        }
        assert_eq!(
            error(r#"{"resp":1,"sign":"x"}"#),
            EnvelopeError::NotAString("resp")
        );
    }

    #[test]
    fn a_sign_is_32_hex_digits_or_nothing() {
        let verify = |sign: &str| {
            let body = format!("resp=QQ==&sign={sign}");
            read(body.as_bytes(), "resp")
                .unwrap()
                .verify([&key("k")])
                .unwrap_err()
        };
        assert_eq!(verify(""), VerifyError::Unsigned);
        let right = Sign::over(b"QQ==", &key("k")).to_string();
        for wrong in [
            "0",
            &right[..31],
            &format!("{right}0"),
            &format!(" {}", &right[1..]),
            "0e0",
        ] {
            assert_eq!(verify(wrong), VerifyError::BadSignature, "{wrong}");
        }
    }

    #[test]
    fn the_key_that_fits_is_named() {
        let form = Envelope::seal(b"{}", &key("old")).form("resp");
        let verified = read(form.as_bytes(), "resp")
            .unwrap()
            .verify([&key("new"), &key("old")])
            .unwrap();
        assert_eq!(verified.key_index(), 1);
    }

    #[test]
    fn other_alphabets_are_refused() {
        for text in [
            "-_-_",
            "QQ=",
            "QQ===",
            "Q",
            "QQ==QQ==",
            "QQ==\tQQ==",
            "Q*==",
        ] {
            let sign = Sign::over(text.as_bytes(), &key("k"));
            let body = format!("resp={text}&sign={sign}");
            let verdict = read(body.as_bytes(), "resp").unwrap().verify([&key("k")]);
            assert_eq!(verdict.unwrap_err(), VerifyError::NotBase64, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_form_is_as_long_as_it_says(message: Vec<u8>, name in select(vec!["req", "resp"])) {
            let envelope = Envelope::seal(&message, &key("k"));
            prop_assert_eq!(envelope.form_length(name), envelope.form(name).len());
        }

        /// Speed must not make us read a text that others refuse, or the other way about.
        #[test]
        fn base64_is_read_as_the_common_library_reads_it(
            text in "[A-Za-z0-9+/=_ -]{0,40}", padded in any::<bool>(), message in any::<Vec<u8>>(), at in any::<usize>(),
        ) {
            use base64::Engine;
            use base64::engine::general_purpose as common;
            let (ours, theirs) = if padded { (STANDARD, common::STANDARD) } else { (STANDARD_NO_PAD, common::STANDARD_NO_PAD) };
            prop_assert_eq!(ours.decode_to_vec(&text).ok(), theirs.decode(&text).ok());
            let mut right = ours.encode_to_string(&message).into_bytes();
            prop_assert_eq!(&right, &theirs.encode(&message).into_bytes());
            // One digit changed: the bits that the last one must leave empty, above all.
            if !right.is_empty() {
                let at = right.len() - 1 - at % right.len().min(4);
                right[at] = b'B';
                prop_assert_eq!(ours.decode_to_vec(&right).ok(), theirs.decode(&right).ok());
            }
        }

        #[test]
        fn what_is_sealed_is_verified(message: Vec<u8>, secret in ".{1,40}") {
            let key = key(&secret);
            let form = Envelope::seal(&message, &key).form("req");
            let verified = read(form.as_bytes(), "req").unwrap().verify([&key]).unwrap();
            prop_assert_eq!(&*verified, &message);
            prop_assert_eq!(verified.oddities(), Oddities::default());
            let other = read(form.as_bytes(), "req").unwrap().verify([&Key::new("other").unwrap()]);
            prop_assert!(other.is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(body: Vec<u8>) {
            if let Ok(received) = read(&body, "resp") {
                let _ = received.verify([&key("k")]);
            }
        }
    }
}
