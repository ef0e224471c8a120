//! The envelope: sealing a payload, reading an envelope from a form or a JSON object, and verifying it.
//!
//! Knows nothing of what a payload says. Only this file makes a [`Verified`] value, and only from a signature that fits.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use base64_simd::{STANDARD, STANDARD_NO_PAD};
use memchr::{memchr, memchr2, memchr3_iter};

use super::json::{JsonError, Object};
use super::key::Key;
use super::oddity::{Oddities, Oddity};
use super::signature::{Signature, hex_digit};

/// A payload sealed by us: base64 text and its signature.
pub struct Envelope {
    text: String,
    signature: Signature,
}

impl Envelope {
    /// Seals a payload's bytes as they are.
    pub fn seal(payload: &[u8], key: &Key) -> Self {
        let text = STANDARD.encode_to_string(payload);
        let signature = Signature::over(text.as_bytes(), key);
        Self { text, signature }
    }

    /// Returns the payload's bytes in base64.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the signature over [`Envelope::text`].
    pub fn sign(&self) -> Signature {
        self.signature
    }

    /// Writes `req=…&sign=…`, percent-encoded: a form's body and a link's query alike. `name` is `req` or `resp`.
    pub fn form(&self, name: &str) -> String {
        let mut form = Vec::with_capacity(self.form_length(name));
        self.write_form(name, &mut form);
        String::from_utf8(form).expect("base64, escapes and hex digits are ASCII")
    }

    /// Counts the bytes of [`Envelope::form`].
    pub fn form_length(&self, name: &str) -> usize {
        let escapes = 2 * escaped(self.text.as_bytes()).count();
        name.len() + "=&sign=".len() + self.text.len() + escapes + 32
    }

    /// Appends [`Envelope::form`] to a buffer.
    pub fn write_form(&self, name: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(name.as_bytes());
        to.push(b'=');
        let text = self.text.as_bytes();
        let mut written = 0;
        for at in escaped(text) {
            to.extend_from_slice(&text[written..at]);
            to.extend_from_slice(match text[at] {
                // Hex digits in upper case (RFC 3986 §2.1), and a `+` never raw: form decoders turn it into a space.
                b'+' => b"%2B",
                b'/' => b"%2F",
                _ => b"%3D",
            });
            written = at + 1;
        }
        to.extend_from_slice(&text[written..]);
        to.extend_from_slice(b"&sign=");
        to.extend_from_slice(&self.signature.hex());
    }
}

/// Finds the characters of base64 that mean something else in a form: only these three.
fn escaped(text: &[u8]) -> impl Iterator<Item = usize> {
    memchr3_iter(b'+', b'/', b'=', text)
}

/// Bytes that are no envelope: the sender is at fault, and no key was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Neither a form nor a JSON object with the payload's parameter.
    #[error("no envelope: expected {0} and sign, as a form or a JSON object")]
    Missing(&'static str),
    /// A parameter given twice, so that two readers could take different ones.
    #[error("{0} is given twice")]
    Doubled(&'static str),
    /// A member of the JSON form that is no string.
    #[error("{0} is not a string")]
    NotAString(&'static str),
    /// A `%` without two hex digits, or a value that is not UTF-8.
    #[error("{0} is not valid percent-encoding of UTF-8")]
    BadEscape(&'static str),
    /// Different envelopes in the URL and in the body of one request.
    #[error("{0} in the URL and in the body differ: expected one envelope")]
    Contradictory(&'static str),
}

/// An envelope whose payload must not be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// `sign` is empty: the platform could not find the key (document §2.2). Anyone could have sent this.
    #[error("sign is empty")]
    Unsigned,
    /// `sign` fits the text with none of the keys.
    #[error("sign does not fit the text with any of the merchant's keys")]
    BadSignature,
    /// The text is not base64 in the standard alphabet.
    #[error("the text is not base64")]
    NotBase64,
}

/// An envelope as it came in: nothing in it is believed yet.
pub struct Received<'a> {
    text: Cow<'a, str>,
    sign: Cow<'a, str>,
    pub(super) oddities: Oddities,
}

/// A payload that carried the right signature. Only verification makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    oddities: Oddities,
    key_index: usize,
}

impl<T> Verified<T> {
    /// Returns the deviations that were tolerated on the way.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// Returns which of the keys that were tried fits: 0 is the first.
    pub fn key_index(&self) -> usize {
        self.key_index
    }

    /// Takes the value out; from here on its type no longer says that it was verified.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// Turns the value into what it says; `read` may add oddities.
    pub(super) fn try_map<U, E>(
        self,
        read: impl FnOnce(T, &mut Oddities) -> Result<U, E>,
    ) -> Result<Verified<U>, E> {
        let mut oddities = self.oddities;
        Ok(Verified {
            inner: read(self.inner, &mut oddities)?,
            oddities,
            key_index: self.key_index,
        })
    }

    /// Puts another reading of the same payload in the place of this one.
    pub(super) fn replaced_by<U>(self, inner: U) -> Verified<U> {
        Verified {
            inner,
            oddities: self.oddities,
            key_index: self.key_index,
        }
    }

    /// Borrows the value with the proof that it was verified.
    pub(super) fn borrowed(&self) -> Verified<&T> {
        Verified {
            inner: &self.inner,
            oddities: self.oddities,
            key_index: self.key_index,
        }
    }
}

// No `DerefMut`, and no constructor outside this file: nothing can change the value and keep the proof.
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
///
/// A `sign` that is missing or `null` reads as the empty one: verification then says that the payload is unsigned.
pub fn read<'a>(body: &'a [u8], name: &'static str) -> Result<Received<'a>, EnvelopeError> {
    let mut oddities = Oddities::default();
    let body = without_padding(body, &mut oddities);
    let (text, sign) = match body.first() {
        Some(b'{') => read_json(body, name)?,
        _ => read_form(body, name, &mut oddities)?,
    };
    Ok(Received {
        text,
        sign,
        oddities,
    })
}

/// Returns true if a form has any of an envelope's parameters, however often and in whatever state.
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

/// Cuts off what some senders put around an envelope: a byte order mark, white space, NULs.
pub(super) fn without_padding<'a>(mut body: &'a [u8], oddities: &mut Oddities) -> &'a [u8] {
    // The common case in two comparisons.
    let is_plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_graphic);
    if is_plain(body.first()) && is_plain(body.last()) {
        return body;
    }
    loop {
        let (rest, oddity) = if let Some(rest) = body.strip_prefix(b"\xef\xbb\xbf") {
            (rest, Oddity::ByteOrderMark)
        } else if let Some(rest) = body.strip_prefix(b"\0").or(body.strip_suffix(b"\0")) {
            (rest, Oddity::Nul)
        } else if body.trim_ascii().len() < body.len() {
            (body.trim_ascii(), Oddity::Whitespace)
        } else {
            return body;
        };
        oddities.add(oddity);
        body = rest;
    }
}

type TextAndSign<'a> = (Cow<'a, str>, Cow<'a, str>);

fn read_json<'a>(body: &'a [u8], name: &'static str) -> Result<TextAndSign<'a>, EnvelopeError> {
    let object = Object::parse(body).map_err(|_| EnvelopeError::Missing(name))?;
    let member = |name| match object.string(name) {
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(_)) => Err(EnvelopeError::NotAString(name)),
        None => Ok(None),
    };
    let text = member(name)?.ok_or(EnvelopeError::Missing(name))?;
    Ok((text, member("sign")?.unwrap_or_default()))
}

fn read_form<'a>(
    body: &'a [u8],
    name: &'static str,
    oddities: &mut Oddities,
) -> Result<TextAndSign<'a>, EnvelopeError> {
    let (mut text, mut sign) = (None, None);
    let mut rest = Some(body);
    while let Some(pairs) = rest {
        let pair;
        (pair, rest) = cut(pairs, b'&');
        let (field, value) = cut(pair, b'=');
        let value = value.unwrap_or_default();
        // A name that cannot be decoded is none of ours.
        // They are decoded before they are compared: other readers take `%73ign` for `sign`, so it must count as the
        // second one.
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
    let text = text.ok_or(EnvelopeError::Missing(name))?;
    // Base64 has no space: one can only have been a `+` before a form decoder.
    let has_space = memchr(b' ', text.as_bytes()).is_some();
    oddities.add_if(has_space || memchr(b'+', body).is_some(), Oddity::RawPlus);
    let text = match has_space {
        true => Cow::Owned(text.replace(' ', "+")),
        false => text,
    };
    Ok((text, sign.unwrap_or_default()))
}

/// Splits at the first separator.
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

impl<'a> Received<'a> {
    /// Believes the text where the signature fits it with one of the keys, and decodes it. Every key is tried in
    /// turn; each comparison takes constant time.
    pub fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<Verified<Vec<u8>>, VerifyError> {
        let key_index = self.fitting_key(keys)?;
        let (inner, oddities) = self.decoded().ok_or(VerifyError::NotBase64)?;
        Ok(self.verified(inner, oddities, key_index))
    }

    /// Decodes the payload once, for a reader who must look into it to find the key.
    pub fn decode(self) -> Result<Payload<'a>, VerifyError> {
        let (bytes, oddities) = self.decoded().ok_or(VerifyError::NotBase64)?;
        Ok(Payload {
            received: self,
            bytes,
            oddities,
        })
    }

    /// Returns the payload's bytes without verification: for payloads that say they are unsigned, and for display.
    pub fn unverified(&self) -> Option<Vec<u8>> {
        self.decoded().map(|(payload, _)| payload)
    }

    /// Returns the base64 text as it is to be signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns `sign` as it was sent.
    pub fn sign(&self) -> &str {
        &self.sign
    }

    /// Returns true if `sign` is the empty one of §2.2: blank, or the word that some languages print for it.
    pub fn is_unsigned(&self) -> bool {
        let sign = self.sign.trim();
        sign.is_empty() || sign.eq_ignore_ascii_case("null")
    }

    /// Returns true if both carry the same text and the same signature.
    pub(super) fn agrees_with(&self, other: &Received<'_>) -> bool {
        // Both come from the same sender, so that there is no secret to compare in constant time.
        self.text == other.text && self.sign.eq_ignore_ascii_case(&other.sign)
    }

    fn fitting_key<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<usize, VerifyError> {
        let Some(signature) = Signature::parse(&self.sign) else {
            return Err(match self.is_unsigned() {
                true => VerifyError::Unsigned,
                false => VerifyError::BadSignature,
            });
        };
        keys.into_iter()
            // Over the text as it came. Its line breaks and its missing padding are part of what the sender signed;
            // `decoded` drops them afterwards.
            .position(|key| signature.fits(self.text.as_bytes(), key))
            .ok_or(VerifyError::BadSignature)
    }

    fn verified<T>(&self, inner: T, mut oddities: Oddities, key_index: usize) -> Verified<T> {
        oddities.extend(self.oddities);
        oddities.add_if(
            self.sign.bytes().any(|digit| digit.is_ascii_uppercase()),
            Oddity::UpperCaseSign,
        );
        Verified {
            inner,
            oddities,
            key_index,
        }
    }

    fn decoded(&self) -> Option<(Vec<u8>, Oddities)> {
        let line_breaks = memchr2(b'\r', b'\n', self.text.as_bytes()).is_some();
        let text = match line_breaks {
            true => Cow::Owned(self.text.replace(['\r', '\n'], "")),
            false => Cow::Borrowed(self.text.as_ref()),
        };
        // Some senders strip the padding; half a padding is never sent and rejected.
        let unpadded = !text.len().is_multiple_of(4);
        let alphabet = if unpadded { STANDARD_NO_PAD } else { STANDARD };
        let payload = alphabet.decode_to_vec(text.as_bytes()).ok()?;
        let mut oddities = Oddities::default();
        oddities.add_if(line_breaks, Oddity::LineBreaks);
        oddities.add_if(unpadded, Oddity::Unpadded);
        Some((payload, oddities))
    }
}

/// A payload that was decoded, and is not believed yet.
pub struct Payload<'a> {
    received: Received<'a>,
    bytes: Vec<u8>,
    oddities: Oddities,
}

impl Payload<'_> {
    /// Returns the decoded bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses the payload once; the object then says whose keys to verify with.
    pub fn claim(&self) -> Result<Claimed<'_>, JsonError> {
        let object = Object::parse(&self.bytes)?;
        Ok(Claimed {
            payload: self,
            object,
        })
    }

    /// Believes the bytes where the signature fits with one of the keys: for a payload that cannot be parsed.
    pub fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<Verified<&[u8]>, VerifyError> {
        let key_index = self.received.fitting_key(keys)?;
        Ok(self
            .received
            .verified(&*self.bytes, self.oddities, key_index))
    }
}

/// A payload that was parsed, and is not believed yet.
pub struct Claimed<'p> {
    payload: &'p Payload<'p>,
    object: Object<'p>,
}

impl<'p> Claimed<'p> {
    /// Returns what the payload claims.
    pub fn object(&self) -> &Object<'p> {
        &self.object
    }

    /// Believes the object where the signature fits with one of the keys.
    pub fn verify<'k>(
        self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<Verified<Object<'p>>, VerifyError> {
        let Payload {
            received, oddities, ..
        } = self.payload;
        let key_index = received.fitting_key(keys)?;
        Ok(received.verified(self.object, *oddities, key_index))
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
        for body in ["", "sign=x", "<html>", "RESP=QQ==&sign=x", "{}", "[]"] {
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
        for unsigned in ["", "%20", "null", "NULL"] {
            assert_eq!(verify(unsigned), VerifyError::Unsigned, "{unsigned}");
        }
        let right = Signature::over(b"QQ==", &key("k")).to_string();
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
            let sign = Signature::over(text.as_bytes(), &key("k"));
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
