//! multipart/form-data (RFC 7578): what PHP's cURL sends where its fields are an array.
//!
//! A small strict reader instead of a library: an envelope has two short parts, and whatever readers disagree about (a
//! part that is a file, a transfer encoding, bare line feeds, text before or after) is rejected.

use memchr::memmem;

/// A body that is not the multipart/form-data it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not valid multipart/form-data: expected {0}")]
pub struct MultipartError(&'static str);

/// The RFC's limit (RFC 2046 §5.1.1).
const MAX_BOUNDARY: usize = 70;
/// An envelope has two parts; some senders add the button and the character set.
const MAX_PARTS: usize = 64;
/// Bytes of one part's header.
const MAX_HEAD: usize = 1024;

/// Returns the boundary of a content type that is multipart/form-data. A broken one is empty, and fits no body.
pub(super) fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    let (kind, parameters) = split(content_type, b';');
    if !kind
        .trim_ascii()
        .eq_ignore_ascii_case(b"multipart/form-data")
    {
        return None;
    }
    let boundary = parameter(parameters, b"boundary").unwrap_or_default();
    Some(if boundary.len() <= MAX_BOUNDARY {
        boundary
    } else {
        b""
    })
}

/// Turns the envelope's parts into the same form, percent-encoded. Other parts are left out.
pub(super) fn form(body: &[u8], boundary: &[u8]) -> Result<Vec<u8>, MultipartError> {
    if boundary.is_empty() {
        return Err(MultipartError("a boundary in the content type"));
    }
    let first = [b"--", boundary].concat();
    let between = [b"\r\n", &*first].concat();
    let mut rest = body
        .strip_prefix(&*first)
        .ok_or(MultipartError("the boundary as the first thing"))?;
    let mut form = Vec::new();
    // One round more than parts: the last one only reads the closing boundary.
    for _ in 0..=MAX_PARTS {
        if let Some(rest) = rest.strip_prefix(b"--") {
            return match rest.trim_ascii() {
                b"" => Ok(form),
                _ => Err(MultipartError("nothing after the last boundary")),
            };
        }
        rest = rest
            .strip_prefix(b"\r\n")
            .ok_or(MultipartError("a line break after each boundary"))?;
        let end =
            memmem::find(rest, &between).ok_or(MultipartError("a boundary after each part"))?;
        add_part(&rest[..end], &mut form)?;
        rest = &rest[end + between.len()..];
    }
    Err(MultipartError("at most 64 parts"))
}

fn add_part(part: &[u8], form: &mut Vec<u8>) -> Result<(), MultipartError> {
    let end = memmem::find(part, b"\r\n\r\n").filter(|&end| end <= MAX_HEAD);
    let end = end.ok_or(MultipartError("a short header before each part"))?;
    let (head, value) = (&part[..end], &part[end + 4..]);
    let mut name = None;
    let mut is_plain = true;
    for line in lines(head)? {
        let (field, content) = split(line, b':');
        let content = content.trim_ascii();
        if field.eq_ignore_ascii_case(b"content-disposition") {
            let (kind, parameters) = split(content, b';');
            let is_form_data = kind.trim_ascii().eq_ignore_ascii_case(b"form-data");
            if !is_form_data || name.is_some() {
                return Err(MultipartError("one Content-Disposition: form-data a part"));
            }
            name = parameter(parameters, b"name");
            is_plain &= parameter(parameters, b"filename").is_none();
        } else if field.eq_ignore_ascii_case(b"content-transfer-encoding") {
            let plain = [b"7bit".as_slice(), b"8bit", b"binary"];
            is_plain &= plain
                .iter()
                .any(|known| content.eq_ignore_ascii_case(known));
        }
    }
    let Some(name @ (b"req" | b"resp" | b"sign")) = name else {
        return Ok(());
    };
    if !is_plain {
        return Err(MultipartError("the envelope's parts as plain values"));
    }
    if !form.is_empty() {
        form.push(b'&');
    }
    form.extend_from_slice(name);
    form.push(b'=');
    // Everything but letters and digits, so that a `&` in a value begins no further parameter.
    let encoded = percent_encoding::percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
    form.extend(encoded.flat_map(str::bytes));
    Ok(())
}

/// Splits a part's header into its lines. A bare CR or LF ends a line for some readers only, and a folded line (RFC 5322
/// §2.2.3) belongs to the one before it for some only: a file name could hide in either.
fn lines(head: &[u8]) -> Result<Vec<&[u8]>, MultipartError> {
    let mut lines = Vec::new();
    let mut rest = Some(head);
    while let Some(head) = rest {
        let line;
        (line, rest) = match memmem::find(head, b"\r\n") {
            Some(at) => (&head[..at], Some(&head[at + 2..])),
            None => (head, None),
        };
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Err(MultipartError("no folded line in a part's header"));
        }
        if memchr::memchr2(b'\r', b'\n', line).is_some() {
            return Err(MultipartError("CR LF after each line of a part's header"));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Finds a parameter's value, out of its quotes. One with an escape in it is none of ours.
fn parameter<'a>(mut parameters: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut found = None;
    while !parameters.is_empty() {
        let (name, rest) = split(parameters, b'=');
        let rest = rest.trim_ascii_start();
        let value;
        (value, parameters) = match rest.strip_prefix(b"\"") {
            Some(quoted) => {
                let (value, rest) = split(quoted, b'"');
                (value, split(rest, b';').1)
            }
            None => {
                let (value, rest) = split(rest, b';');
                (value.trim_ascii(), rest)
            }
        };
        if name.trim_ascii().eq_ignore_ascii_case(wanted) {
            // Given twice, two readers could take different ones: then neither.
            found = match found {
                None => Some(value),
                Some(_) => Some(b"".as_slice()),
            };
        }
    }
    found
}

/// Splits at the first separator; without one everything is before it.
fn split(bytes: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match memchr::memchr(separator, bytes) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(head: &str, value: &str) -> String {
        format!("--B\r\n{head}\r\n\r\n{value}\r\n")
    }

    fn field(name: &str, value: &str) -> String {
        part(
            &format!("Content-Disposition: form-data; name=\"{name}\""),
            value,
        )
    }

    fn read(body: &str) -> Result<String, MultipartError> {
        let form = form(body.as_bytes(), b"B");
        form.map(|form| String::from_utf8(form).unwrap())
    }

    #[test]
    fn boundaries_are_found() {
        for (kind, expected) in [
            ("multipart/form-data; boundary=B", Some("B")),
            (
                "Multipart/Form-Data;charset=utf-8; BOUNDARY=\"a b\"",
                Some("a b"),
            ),
            ("multipart/form-data", Some("")),
            ("multipart/form-data; boundary=B; boundary=C", Some("")),
            ("multipart/mixed; boundary=B", None),
            ("application/json", None),
        ] {
            let found = boundary(kind.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{kind}");
        }
    }

    #[test]
    fn the_envelopes_parts_become_a_form() {
        let typed = "content-disposition: form-data; name=sign\r\n\
                     Content-Type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit";
        let body = field("a", "1") + &field("resp", "Q+/=") + &part(typed, "0a") + "--B--\r\n";
        assert_eq!(read(&body).unwrap(), "resp=Q%2B%2F%3D&sign=0a");
        assert_eq!(read("--B--").unwrap(), "");
        // Doubled parts stay doubled, for the reader of forms to reject.
        let doubled = field("sign", "a") + &field("sign", "b") + "--B--";
        assert_eq!(read(&doubled).unwrap(), "sign=a&sign=b");
    }

    #[test]
    fn what_readers_disagree_about_is_rejected() {
        let good = field("resp", "x") + "--B--";
        for body in [
            "".to_owned(),
            format!("preamble\r\n{good}"),
            format!("{good}epilogue"),
            good.replace("\r\n", "\n"),
            good.replace("--B--", ""),
            good.replace("--B--", "--B-"),
            good.replace("form-data", "attachment"),
            good.replace("name=", "filename=\"f\"; name="),
            good.replace("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n"),
            good.replace(
                "\r\n\r\n",
                "\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n",
            ),
            good.replace("; name=", ";\r\n name="),
            good.replace("\r\n\r\n", "\r\n\t; filename=\"f\"\r\n\r\n"),
            good.replace("\r\n\r\n", "\n; filename=\"f\"\r\n\r\n"),
            good.replace("\r\n\r\n", "\r; filename=\"f\"\r\n\r\n"),
            good.replace("\r\n\r\n", "\nA: b\r\n\r\n"),
            field("a", "1").repeat(65) + "--B--",
        ] {
            assert!(read(&body).is_err(), "{body}");
        }
    }
}
