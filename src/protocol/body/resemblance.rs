//! Bodies that an app could take for a result, in whatever disguise.
//!
//! A submit may be answered with a page, which cannot be verified. An app's library may parse more than a page from what
//! it gets: JSON behind a byte order mark, in UTF-16, in a function call, or a form. An unverified body of that kind must
//! never reach an app, so whatever is not clearly a page is held back.

use crate::protocol::signature::hex_digit;

/// First bytes of the picture formats that browsers show, and of PDF: a page may be a QR code.
const PICTURES: [&[u8]; 5] = [b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"%PDF-"];
/// First bytes of gzip (RFC 1952 §2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";

/// The members that make a payload a result (§3.2.3, §3.4.4), and the envelope's own.
const NAMES: [&str; 9] = [
    "respcode",
    "respmsg",
    "resultcode",
    "resultmsg",
    "queryid",
    "txnamt",
    "paytime",
    "resp",
    "sign",
];

/// Returns true for a body, its content coding undone, that an app could take for a result: any JSON and any form,
/// whatever its type says, behind padding of any kind.
///
/// ```
/// use countersign::protocol::body::resemblance::could_be_result;
///
/// assert!(could_be_result("\u{feff} callback({\"resultcode\":\"0000\"});".as_bytes()));
/// assert!(!could_be_result(b"<!doctype html><title>Pay</title>"));
/// ```
pub fn could_be_result(body: &[u8]) -> bool {
    // Nearly every body is a page, and a page may be large.
    let is_page = body.trim_ascii_start().starts_with(b"<");
    let is_picture = PICTURES.iter().any(|magic| body.starts_with(magic));
    if is_page || is_picture {
        return false;
    }
    let text = undisguised(body);
    let Some(first) = text.chars().next() else {
        return false;
    };
    // A page, or XML: no reader of JSON or forms gets past this.
    if first == '<' {
        return false;
    }
    let plain = without_guard(&text);
    // JSON of any kind, alone or inside a call, an assignment or a comment; Go's and Rust's readers stop at its end.
    text.contains('{')
        || plain.starts_with(['[', '"', '\'', '('])
        || calls_with_a_literal(plain)
        || is_json_scalar(plain)
        // Compressed without saying so: some libraries look at the bytes.
        || body.starts_with(GZIP)
        || is_form(&text)
        || text.contains("form-data")
        || names_a_member(&text)
}

/// Returns true for a gateway's error that speaks as the platform would: it names a member of a result, or is a form
/// with a part of an envelope. Any other JSON of a gateway is its own affair; its status says that it is no result.
pub fn error_could_be_result(body: &[u8]) -> bool {
    let text = undisguised(body);
    !text.starts_with('<') && names_a_member(&text)
}

/// Takes off what may stand before JSON, and what hides it: byte order marks, NULs (in UTF-16 every other byte of it),
/// white space, control and format characters, bytes of no encoding.
fn undisguised(body: &[u8]) -> String {
    // UTF-16 and UTF-32 of ASCII are ASCII with NULs in between, in either byte order and without a mark too.
    let bytes: Vec<u8> = body.iter().copied().filter(|&byte| byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes);
    let is_padding = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{fffd}' | '\u{feff}' | '\u{ad}' | '\u{180e}')
            || ('\u{200b}'..='\u{200f}').contains(&c)
            || ('\u{2028}'..='\u{202e}').contains(&c)
            || ('\u{2060}'..='\u{206f}').contains(&c)
    };
    text.trim_matches(is_padding).to_owned()
}

/// Takes off the line that some senders put before JSON, so that no script can include it; their clients take it off too.
fn without_guard(text: &str) -> &str {
    const GUARDS: [&str; 5] = [")]}',", ")]}'", "while(1);", "for(;;);", "throw 1;"];
    let guarded = GUARDS.iter().find_map(|guard| text.strip_prefix(guard));
    guarded.unwrap_or(text).trim_start()
}

/// Returns true for `name([…`, `name("…`, `name(1002…` or `name(true…`: a JSONP call around something else than an object.
fn calls_with_a_literal(text: &str) -> bool {
    let Some((name, rest)) = text.split_once('(') else {
        return false;
    };
    // Quotes as in `typeof cb === 'function' && cb(0)`.
    let is_name = |c: char| c.is_ascii_alphanumeric() || " \t\r\n_$.;&|!/*='\"".contains(c);
    let rest = rest.trim_start();
    name.chars().all(is_name)
        && (rest.starts_with(|c: char| c.is_ascii_digit() || "[\"'`+-.".contains(c))
            || ["true", "false", "null"]
                .iter()
                .any(|word| rest.starts_with(word)))
}

/// Returns true for a number, `true`, `false` or `null`, and for digits of any kind: `0000` is one for an app.
fn is_json_scalar(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
        || text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns true for `name=…`, alone or first of several, as any form begins.
fn is_form(text: &str) -> bool {
    // Readers pass over empty pairs, and over the mark of a query.
    let text = text.trim_start_matches(['?', '&', ';', '#']);
    let (name, rest) = match text.split_once('=') {
        Some(pair) => pair,
        None => return false,
    };
    // `==` is the padding of base64 or a comparison, not a form.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.%[]+*~".contains(c);
    !name.is_empty() && name.chars().all(is_name) && !rest.starts_with('=')
}

/// Returns true where a member of a result is followed by `:` or `=`, in either case, behind escapes of either kind.
fn names_a_member(text: &str) -> bool {
    let text = unescaped(text).to_ascii_lowercase();
    NAMES.iter().any(|name| {
        text.match_indices(name).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after =
                text[at + name.len()..].trim_start_matches(['"', '\'', '\\', ' ', '\t', ']']);
            !before.is_some_and(|c| c.is_ascii_alphanumeric()) && after.starts_with([':', '='])
        })
    })
}

/// Decodes `\u0041` and `%41` wherever they stand, as far as they are ASCII.
fn unescaped(text: &str) -> String {
    let hex = |digits: &[u8]| {
        digits.iter().try_fold(0_u32, |value, &digit| {
            hex_digit(digit).map(|digit| value << 4 | u32::from(digit))
        })
    };
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '%']) {
        plain.push_str(&rest[..at]);
        let bytes = &rest.as_bytes()[at..];
        let (escape, length) = match bytes {
            [b'\\', b'u', a, b, c, d, ..] => (hex(&[*a, *b, *c, *d]), 6),
            [b'%', a, b, ..] => (hex(&[*a, *b]), 3),
            _ => (None, 1),
        };
        match escape.and_then(char::from_u32).filter(char::is_ascii) {
            Some(decoded) => {
                plain.push(decoded);
                rest = &rest[at + length..];
            }
            None => {
                plain.push(char::from(bytes[0]));
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"respcode":"00","resultcode":"0000"}"#;

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        let bytes = |unit: u16| {
            if big {
                unit.to_be_bytes()
            } else {
                unit.to_le_bytes()
            }
        };
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn utf32(text: &str) -> Vec<u8> {
        text.chars()
            .flat_map(|c| u32::from(c).to_le_bytes())
            .collect()
    }

    #[test]
    fn a_result_is_seen_behind_every_disguise() {
        let string = serde_json::to_string(RESULT).unwrap();
        let with_mark = format!("\u{feff}{RESULT}");
        let disguises: Vec<Vec<u8>> = vec![
            RESULT.into(),
            with_mark.clone().into(),
            format!("\u{feff}\u{feff} \r\n{RESULT}").into(),
            format!(" \t\r\n\u{b}\u{c}{RESULT}").into(),
            format!("\u{a0}\u{2028}\u{3000}{RESULT}").into(),
            format!("\u{200b}\u{2060}\u{ad}{RESULT}").into(),
            format!("\0\0{RESULT}\0").into(),
            [b"\xff\xfe", &*utf16(RESULT, false)].concat(),
            [b"\xfe\xff", &*utf16(RESULT, true)].concat(),
            utf16(RESULT, false),
            utf16(RESULT, true),
            utf16(&with_mark, true),
            utf32(RESULT),
            utf32(&with_mark),
            [b"\xff", RESULT.as_bytes()].concat(),
            string.clone().into(),
            format!("\u{feff}{string}").into(),
            format!("[{RESULT}]").into(),
            format!("callback({RESULT})").into(),
            format!("/**/ cb && cb({RESULT});").into(),
            format!("jQuery.cb_1({string})").into(),
            format!("cb([{string}])").into(),
            "cb(1002)".into(),
            "cb( 1002 );".into(),
            "cb(-1.5e3)".into(),
            "cb(true)".into(),
            "cb(null, 0)".into(),
            "typeof cb === 'function' && cb(0)".into(),
            format!("({RESULT})").into(),
            format!("var result = {RESULT};").into(),
            format!(")]}}',\n{RESULT}").into(),
            format!("while(1);{RESULT}").into(),
            ")]}',\n[\"0000\"]".into(),
            "for(;;);[\"resultcode\",\"0000\"]".into(),
            "while(1);\"0000\"".into(),
            "throw 1; 0000".into(),
            "?a=b".into(),
            "&&a=b&c=d".into(),
            format!("/* result */{RESULT}").into(),
            format!("// result\n{RESULT}").into(),
            format!("{RESULT}<html>").into(),
            format!("ok {RESULT}").into(),
            "{'resultcode':'0000'}".into(),
            "{resultcode:0}".into(),
            "0000".into(),
            "\"0000\"".into(),
            "0".into(),
            "true".into(),
            "null".into(),
            "-1.5e3".into(),
            "resp=e30%3D&sign=".into(),
            "respcode=00&resultcode=0000".into(),
            "a=b".into(),
            "a%5Bb%5D=1".into(),
            "a[b]=1".into(),
            "\u{feff}respcode=00".into(),
            "respcode: 00\nresultcode: 0000\n".into(),
            "resultcode: 0000".into(),
            "RESULTCODE = 0000".into(),
            "--B\r\nContent-Disposition: form-data; name=\"resultcode\"\r\n\r\n0000\r\n--B--"
                .into(),
        ];
        for body in disguises {
            let shown = String::from_utf8_lossy(&body).into_owned();
            assert!(could_be_result(&body), "{shown:?}");
        }
    }

    #[test]
    fn a_page_is_none() {
        for page in [
            "",
            " \r\n",
            "<!doctype html><title>收银台</title><script>var order={\"respcode\":\"00\"}</script>",
            "\u{feff}\r\n<html><form><input name=\"resp\" value=\"\"></form>",
            "<?xml version=\"1.0\"?><html/>",
            "<script>location.href='https://pay.example.com/?a=1'</script>",
            "Service Unavailable",
            "Service Unavailable (try again later)",
            "系统繁忙，请稍后再试",
            "\u{89}PNG",
        ] {
            assert!(!could_be_result(page.as_bytes()), "{page}");
        }
        assert!(!could_be_result(b"\x89PNG\r\n\x1a\n{\"a\":1}"));
        assert!(!could_be_result(&utf16("<html>{</html>", false)));
    }

    #[test]
    fn a_gateways_error_is_its_own_unless_it_speaks_of_a_result() {
        for error in [
            r#"{"message":"no healthy upstream"}"#,
            r#"{"error":{"code":502,"response":"none","assigned":"x"}}"#,
            "upstream connect error or disconnect/reset before headers",
            "error=busy",
            "<html>resultcode=0000</html>",
        ] {
            assert!(!error_could_be_result(error.as_bytes()), "{error}");
        }
        for result in [
            RESULT.to_owned(),
            RESULT
                .replace("resultcode", "result\\u0063ode")
                .replace("respcode", "x"),
            format!("\u{feff}{RESULT}"),
            format!("{{\"data\":{RESULT}}}"),
            serde_json::to_string(RESULT).unwrap(),
            "resp=e30%3D&sign=".to_owned(),
            "%72esultcode=0000".to_owned(),
            r#"{"resp":"e30=","sign":null}"#.to_owned(),
        ] {
            assert!(error_could_be_result(result.as_bytes()), "{result}");
        }
    }
}
