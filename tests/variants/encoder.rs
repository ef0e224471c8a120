//! The document's envelope (§2.2), written once more for these tests: MD5, base64, JSON text, forms, multipart, gzip. It
//! shares no code and no crate with the product.

use super::rng::Rng;
use std::fmt::Write as _;

/// MD5 (RFC 1321) of the parts, one after the other, as 32 hex digits.
pub(crate) fn md5_hex(parts: &[&[u8]]) -> String {
    const SHIFTS: [[u32; 4]; 4] = [
        [7, 12, 17, 22],
        [5, 9, 14, 20],
        [4, 11, 16, 23],
        [6, 10, 15, 21],
    ];
    let mut bytes = parts.concat();
    let bits = bytes.len() as u64 * 8;
    bytes.push(0x80);
    bytes.resize((bytes.len() + 8).div_ceil(64) * 64 - 8, 0);
    bytes.extend(bits.to_le_bytes());
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in bytes.chunks_exact(64) {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| block[4 * at + byte]));
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64 {
            let (mixed, at) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), 7 * step % 16),
            };
            let sum = a
                .wrapping_add(mixed)
                .wrapping_add(SINES[step])
                .wrapping_add(word(at));
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let digits = state.iter().flat_map(|part| part.to_le_bytes());
    digits.fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// The integer parts of 2^32 × |sin(i)| for i from 1 to 64 (RFC 1321 §3.4).
static SINES: std::sync::LazyLock<[u32; 64]> = std::sync::LazyLock::new(|| {
    std::array::from_fn(|at| ((at as f64 + 1.0).sin().abs() * 4_294_967_296.0) as u32)
});

/// Base64 (RFC 4648 §4) in one line, padded.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

/// Extent and spelling of a form's percent-encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Escaping {
    /// Every character, letters too.
    pub(crate) all: bool,
    /// Hex digits in lower case.
    pub(crate) lower: bool,
}

/// Percent-encodes a text for a form.
pub(crate) fn percent(text: &str, how: Escaping) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match (byte, how.lower) {
            (b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9', _) if !how.all => out.push(char::from(byte)),
            (_, true) => write!(out, "%{byte:02x}").unwrap(),
            (_, false) => write!(out, "%{byte:02X}").unwrap(),
        }
    }
    out
}

/// Writes a JSON string; with a generator some of its characters are escaped that need not be.
pub(crate) fn json_string(text: &str, mut escapes: Option<&mut Rng>) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let chosen = escapes.as_deref_mut().map_or(9, |rng| rng.below(4));
        match c {
            '/' if chosen == 0 => out.push_str("\\/"),
            '"' | '\\' | '\0'..'\u{20}' => escape(c, &mut out, chosen == 1),
            _ if chosen <= 1 => escape(c, &mut out, chosen == 1),
            _ => out.push(c),
        }
    }
    out + "\""
}

/// `\u` escapes, a pair of surrogates beyond the basic plane (RFC 8259 §7).
fn escape(c: char, out: &mut String, lower: bool) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        match lower {
            true => write!(out, "\\u{unit:04x}").unwrap(),
            false => write!(out, "\\u{unit:04X}").unwrap(),
        }
    }
}

/// A multipart/form-data body (RFC 7578) of these parts.
pub(crate) fn multipart(parts: &[(&str, &str, &str)], boundary: &str) -> String {
    let part = |(name, further, value): &(&str, &str, &str)| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{further}\r\n\r\n{value}\r\n"
        )
    };
    parts.iter().map(part).collect::<String>() + &format!("--{boundary}--\r\n")
}

/// A deflate stream (RFC 1951): one stored block, or literals in the fixed code.
pub(crate) fn deflate(bytes: &[u8], stored: bool) -> Vec<u8> {
    if stored {
        let length = u16::try_from(bytes.len()).unwrap();
        let mut out = vec![1];
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(bytes);
        return out;
    }
    // The last block, of the fixed code.
    let mut bits = vec![true, true, false];
    let mut code =
        |value: u32, length: u32| bits.extend((0..length).rev().map(|at| value >> at & 1 == 1));
    for &byte in bytes {
        match byte {
            0..=143 => code(0x30 + u32::from(byte), 8),
            _ => code(0x190 + u32::from(byte) - 144, 9),
        }
    }
    code(0, 7);
    let byte = |bits: &[bool]| {
        bits.iter()
            .rev()
            .fold(0, |byte, bit| byte << 1 | u8::from(*bit))
    };
    bits.chunks(8).map(byte).collect()
}

/// A gzip member (RFC 1952).
pub(crate) fn gzip(bytes: &[u8], stored: bool) -> Vec<u8> {
    let mut crc = !0_u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    out.extend(deflate(bytes, stored));
    out.extend((!crc).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out
}

/// A zlib stream (RFC 1950).
pub(crate) fn zlib(bytes: &[u8], stored: bool) -> Vec<u8> {
    let (mut a, mut b) = (1_u32, 0_u32);
    for &byte in bytes {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let mut out = vec![0x78, 0x9c];
    out.extend(deflate(bytes, stored));
    out.extend((b << 16 | a).to_be_bytes());
    out
}

#[test]
fn the_encoder_agrees_with_the_vectors_of_other_tools() {
    // RFC 1321 §A.5 and RFC 4648 §10.
    assert_eq!(md5_hex(&[]), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(
        md5_hex(&[b"message ", b"digest"]),
        "f96b697d7cb7938d525a2f31aaf161d0"
    );
    let long = "1234567890".repeat(8);
    assert_eq!(
        md5_hex(&[long.as_bytes()]),
        "57edf4a22be3c955ac49da2e2107b67a"
    );
    let texts = [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foobar", "Zm9vYmFy"),
    ];
    for (plain, text) in texts {
        assert_eq!(base64(plain.as_bytes()), text);
    }
    assert_eq!(percent("a+/=", Escaping::default()), "a%2B%2F%3D");
    let forms: serde_json::Value =
        serde_json::from_str(include_str!("../spec/vectors.json")).unwrap();
    assert!(
        forms
            .to_string()
            .contains("7d3c4fbcea6f4e436ae785b2f9c75053")
    );
    let query = r#"{"merid":"100000000000001","orderid":"ORD2017030100000001"}"#;
    let text = base64(query.as_bytes());
    let sign = md5_hex(&[text.as_bytes(), b"7d0f1c0a9be84e6e8e1f6f6a2c5b9d31"]);
    assert_eq!(sign, "7d3c4fbcea6f4e436ae785b2f9c75053");
}
