//! The platform's envelope, done again from its document (§2.2): base64 of the JSON, MD5 over that text and the key.
//! Knows nothing of the product.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use std::fmt::Write as _;

/// Standard base64, padded, in one line.
pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn unbase64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// The 32 hex digits of MD5 over the parts, one after the other.
/// The SHA-256 of a text.
pub(crate) fn sha256(text: &str) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(text).to_vec()
}

pub(crate) fn md5_hex(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut hex = String::new();
    for byte in md5.finalize() {
        write!(hex, "{byte:02x}").unwrap();
    }
    hex
}

/// The sign over a text as it is sent: the text first, the key last.
pub(crate) fn sign(text: &str, key: &str) -> String {
    md5_hex(&[text.as_bytes(), key.as_bytes()])
}

/// Percent-encoding as `application/x-www-form-urlencoded` wants it.
pub(crate) fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").unwrap(),
        }
    }
    out
}

fn unpercent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The pairs of a form, decoded, in their order.
pub(crate) fn pairs(form: &str) -> Vec<(String, String)> {
    form.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unpercent(name), unpercent(value))
        })
        .collect()
}

/// The first value of a form under this name.
pub(crate) fn value(form: &str, name: &str) -> Option<String> {
    pairs(form)
        .into_iter()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value)
}

/// `resp=…&sign=…` around a text that is already encoded, with the sign given.
pub(crate) fn answer_around(text: &str, sign: &str) -> String {
    format!("resp={}&sign={}", percent(text), percent(sign))
}

/// `resp=…&sign=…`, signed as the document says.
pub(crate) fn answer(json: impl AsRef<[u8]>, key: &str) -> String {
    let text = base64(json);
    answer_around(&text, &sign(&text, key))
}

/// `req=…&sign=…`, signed as the document says.
pub(crate) fn request(json: impl AsRef<[u8]>, key: &str) -> String {
    let text = base64(json);
    format!("req={}&sign={}", percent(&text), sign(&text, key))
}

#[test]
fn our_own_signing_agrees_with_the_vectors() {
    let vectors = crate::vectors::load();
    for case in &vectors.requests {
        assert_eq!(base64(&case.json), case.text, "{}", case.name);
        assert_eq!(sign(&case.text, &case.key), case.sign, "{}", case.name);
        assert_eq!(request(&case.json, &case.key), case.form, "{}", case.name);
    }
    for case in vectors.answers.iter().filter(|case| case.name == "paid") {
        assert_eq!(answer(&case.json, &case.key), case.form, "{}", case.name);
    }
}

#[test]
fn forms_are_decoded_as_they_are_encoded() {
    let text = "a+/=% ~中";
    assert_eq!(value(&format!("x={}", percent(text)), "x").unwrap(), text);
}
