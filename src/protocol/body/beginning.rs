//! The beginning of a body, in words for a message: never a quotation.

use std::fmt;

/// What a body looks like from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's phrase is its documentation")]
pub enum Beginning {
    Empty,
    ByteOrderMark,
    Utf16,
    Gzip,
    HtmlPage,
    Xml,
    JsonObject,
    JsonArray,
    JsonString,
    Form,
    Picture,
    Text,
    Binary,
}

/// First bytes of the picture formats that browsers show, and of PDF: a page may be a QR code.
const PICTURES: [&[u8]; 5] = [b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"%PDF-"];

impl Beginning {
    /// Looks at the first bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let start = bytes.trim_ascii_start();
        let starts = |prefix: &[u8]| start.starts_with(prefix);
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Self::Utf16;
        }
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return match Self::of(&bytes[3..]) {
                page @ Self::HtmlPage => page,
                _ => Self::ByteOrderMark,
            };
        }
        if bytes.starts_with(b"\x1f\x8b") {
            return Self::Gzip;
        }
        if PICTURES.iter().any(|picture| bytes.starts_with(picture)) {
            return Self::Picture;
        }
        match start.first() {
            None => Self::Empty,
            Some(b'<') if starts(b"<?xml") => Self::Xml,
            Some(b'<') => Self::HtmlPage,
            Some(b'{') => Self::JsonObject,
            Some(b'[') => Self::JsonArray,
            Some(b'"') => Self::JsonString,
            _ if start.len() > 1 && start[1] == 0 => Self::Utf16,
            _ if is_form(start) => Self::Form,
            _ if start[..start.len().min(64)]
                .iter()
                .any(u8::is_ascii_control) =>
            {
                Self::Binary
            }
            _ => Self::Text,
        }
    }
}

/// Returns true for a name, `=` and anything: how every form begins.
fn is_form(start: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.%[]*".contains(byte);
    let length = start.iter().take_while(|byte| is_name(byte)).count();
    length > 0 && start.get(length) == Some(&b'=')
}

impl fmt::Display for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "white space",
            Self::ByteOrderMark => "a byte order mark",
            Self::Utf16 => "UTF-16",
            Self::Gzip => "gzip",
            Self::HtmlPage => "an HTML page",
            Self::Xml => "XML",
            Self::JsonObject => "a JSON object",
            Self::JsonArray => "a JSON array",
            Self::JsonString => "a JSON string",
            Self::Form => "a form",
            Self::Picture => "a picture",
            Self::Text => "text",
            Self::Binary => "binary data",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_told_apart() {
        for (bytes, expected) in [
            (b"".as_slice(), Beginning::Empty),
            (b" \r\n", Beginning::Empty),
            (b"\n <html>", Beginning::HtmlPage),
            (b"\xef\xbb\xbf<html>", Beginning::HtmlPage),
            (b"\xef\xbb\xbfresp=", Beginning::ByteOrderMark),
            (b"<?xml version=\"1.0\"?>", Beginning::Xml),
            (b"{}", Beginning::JsonObject),
            (b"[1]", Beginning::JsonArray),
            (b"\"x\"", Beginning::JsonString),
            (b"{\0\"\0", Beginning::JsonObject),
            (b"r\0e\0", Beginning::Utf16),
            (b"\xff\xfe{\0", Beginning::Utf16),
            (b"\x1f\x8b\x08", Beginning::Gzip),
            (b"\x89PNG\r\n\x1a\n", Beginning::Picture),
            (b"resp=QQ", Beginning::Form),
            (b"a[b]=1", Beginning::Form),
            (b"Service Unavailable", Beginning::Text),
            (b"\x01\x02\x03", Beginning::Binary),
        ] {
            assert_eq!(Beginning::of(bytes), expected, "{bytes:?}");
        }
    }
}
