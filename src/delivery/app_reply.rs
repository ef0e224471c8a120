//! The app's reply to a delivery: whether it took the result, and in what words an operator reads why it did not.
//!
//! Old apps reply many things that look like `0000` to their authors. The rule stays strict, so each near miss has its own
//! sentence.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use crate::inbox::attempt::{AppResponse, FIRST_BYTES};

/// Bytes of a body that are looked through for its title.
const LOOKED_THROUGH: usize = 4096;
/// Characters of the app's own that a sentence quotes.
const QUOTED: usize = 80;
/// The one reply that takes a result.
const TAKEN: &[u8] = b"0000";
/// Fields of a request whose values are a customer's.
const SECRETS: [&str; 2] = ["accname", "accno"];
/// Digits from which on a number may identify a card, an account or a customer.
const LONG_NUMBER: usize = 8;
/// Digits of a long number in groups: more than a date and an hour have.
const LONG_GROUPED: usize = 12;
const MASK: &str = "…";
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// A whole response of the app.
pub(super) struct AppReply<'r> {
    pub(super) status: StatusCode,
    pub(super) headers: &'r HeaderMap,
    pub(super) body: &'r Bytes,
}

impl AppReply<'_> {
    /// Returns true for a status of 2xx with the body `0000`; white space around it does not count.
    pub(super) fn is_taken(&self) -> bool {
        self.status.is_success() && self.body.trim_ascii() == TAKEN
    }

    /// The explanation of a reply that does not take the result.
    pub(super) fn explanation(&self) -> String {
        let code = self.status.as_u16();
        if self.status.is_redirection() {
            return match self.target() {
                Some(target) => {
                    format!("status {code}: a redirect to {target}; redirects are not followed")
                }
                None => format!("status {code}: a redirect without a target"),
            };
        }
        if !self.status.is_success() {
            let body = self.body_words();
            return match self.body.trim_ascii() == TAKEN {
                true => format!("status {code}, although with 0000; only 2xx takes a result"),
                false => format!("status {code}: {body}"),
            };
        }
        self.body_words()
    }

    /// The target of a redirect, fit to be shown. Its query may hold a session.
    fn target(&self) -> Option<String> {
        if !self.status.is_redirection() {
            return None;
        }
        let target = self.headers.get(header::LOCATION)?.as_bytes();
        let end = target.iter().position(|byte| matches!(byte, b'?' | b'#'));
        let target = &target[..end.unwrap_or(target.len())];
        Some(shown(&String::from_utf8_lossy(target)))
    }

    /// The type that the app declares, without its parameters.
    fn content_type(&self) -> String {
        let value = self.headers.get(header::CONTENT_TYPE);
        let value = value.and_then(|it| it.to_str().ok()).unwrap_or_default();
        shown(value.split(';').next().unwrap_or_default().trim())
    }

    /// The part of the reply that is kept with the attempt.
    pub(super) fn kept(&self, explanation: String) -> AppResponse {
        AppResponse {
            status: self.status.as_u16(),
            content_type: self.content_type(),
            first_bytes: first_bytes(self.body),
            location: self.target().unwrap_or_default(),
            explanation,
        }
    }

    fn body_words(&self) -> String {
        let body = self.body.trim_ascii();
        if body.is_empty() {
            return "an empty body".to_owned();
        }
        if let Some(coding) = self.headers.get(header::CONTENT_ENCODING)
            && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            let coding = shown(&String::from_utf8_lossy(coding.as_bytes()));
            return format!("a body in the coding {coding:?}, which nobody asked for");
        }
        near_miss(body).unwrap_or_else(|| kind(body))
    }
}

/// The beginning of a body, as it may be kept: without what looks like the number of a card, an account or a customer, and
/// without anything behind `accname` or `accno`. An app that echoes what it got must not fill the store with that.
fn first_bytes(body: &[u8]) -> Vec<u8> {
    // Masked before it is cut, so that no number loses its tail and passes for a short one.
    let mut read = &body[..body.len().min(2 * FIRST_BYTES)];
    if read.len() < body.len() {
        while let [rest @ .., last] = read
            && is_in_number(*last)
        {
            read = rest;
        }
    }
    let mut kept = masked(read);
    kept.truncate(FIRST_BYTES);
    kept
}

fn masked(bytes: &[u8]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let name = SECRETS.iter().find(|name| {
            let begin = rest.get(..name.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name.as_bytes()))
        });
        if let Some(name) = name {
            masked.extend_from_slice(&rest[..name.len()]);
            masked.extend_from_slice(MASK.as_bytes());
            // To the end: where a value ends depends on how the app escaped it (JSON in JSON, HTML, print_r), and it is a
            // customer's name.
            return masked;
        }
        let length = number(rest);
        let digits = rest[..length].iter().filter(|it| it.is_ascii_digit());
        let most = match rest[..length].iter().all(u8::is_ascii_digit) {
            true => LONG_NUMBER,
            false => LONG_GROUPED,
        };
        if digits.count() >= most {
            masked.extend_from_slice(MASK.as_bytes());
            let letter = rest.get(length).is_some_and(|it| matches!(it, b'x' | b'X'));
            at += length + usize::from(letter);
        } else {
            let step = length.max(1);
            masked.extend_from_slice(&rest[..step]);
            at += step;
        }
    }
    masked
}

/// Returns the length of the number at the beginning: digits, and single blanks or hyphens between them, as on a card.
fn number(bytes: &[u8]) -> usize {
    let mut length = 0;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => length = at + 1,
            b' ' | b'-' if at > 0 && length == at => {}
            _ => break,
        }
    }
    length
}

fn is_in_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b' ' | b'-')
}

/// A body that its author took for `0000`.
fn near_miss(body: &[u8]) -> Option<String> {
    if let Some(rest) = body.strip_prefix(UTF8_MARK) {
        let rest = rest.trim_ascii();
        return match rest {
            TAKEN => Some("0000 after a byte order mark".to_owned()),
            b"" => Some("nothing but a byte order mark".to_owned()),
            _ => Some(format!(
                "a byte order mark, then {}",
                near_miss(rest).unwrap_or_else(|| kind(rest))
            )),
        };
    }
    let words = match body {
        b"\"0000\"" => "the JSON string \"0000\"",
        b"'0000'" => "0000 in single quotes",
        b"0" => "the number 0: a number has no leading zeros; say it as text",
        b"\xff\xfe0\x000\x000\x000\0" | b"0\x000\x000\x000\0" => "0000 in UTF-16",
        b"\xfe\xff\x000\x000\x000\x000" | b"\x000\x000\x000\x000" => "0000 in UTF-16",
        _ if body == "００００".as_bytes() => "0000 in full-width digits",
        _ => "",
    };
    if !words.is_empty() {
        return Some(words.to_owned());
    }
    let bare: Vec<u8> = body.iter().copied().filter(|byte| *byte != 0).collect();
    if bare.len() < body.len() && bare.trim_ascii() == TAKEN {
        return Some("0000 with NUL bytes".to_owned());
    }
    if body.iter().all(|byte| *byte == b'0') {
        return Some(format!("{} zeros instead of four", body.len()));
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(LOOKED_THROUGH)]);
    // PHP prints its notices before what the page prints (`display_errors`).
    let php = [
        "Notice",
        "Warning",
        "Deprecated",
        "Fatal error",
        "Parse error",
    ];
    let notice = php.iter().find(|word| {
        text.contains(&format!("<b>{word}</b>"))
            || text.trim_start().starts_with(&format!("PHP {word}"))
            || text.trim_start().starts_with(&format!("{word}: "))
    });
    if let Some(word) = notice {
        let tail = if body.ends_with(TAKEN) {
            ", then 0000"
        } else {
            ""
        };
        return Some(format!("a PHP {}{tail}", word.to_lowercase()));
    }
    let markup = body.first() == Some(&b'<');
    let is_near = body.starts_with(TAKEN) || body.ends_with(TAKEN);
    (is_near && !markup).then(|| "0000 with other text around it".to_owned())
}

/// The kind of a body that does not resemble `0000`.
fn kind(body: &[u8]) -> String {
    let head = &body[..body.len().min(LOOKED_THROUGH)];
    let text = String::from_utf8_lossy(head);
    let lower = text.to_ascii_lowercase();
    let is_page = [
        "<!doctype html",
        "<html",
        "<head",
        "<body",
        "<title",
        "<script",
        "<p>",
        "<h1",
        "<div",
        "<br",
        "<center",
        "<meta",
    ]
    .iter()
    .any(|tag| lower.trim_start().starts_with(tag));
    if is_page || (lower.trim_start().starts_with("<?xml") && lower.contains("<html")) {
        return match title(&text, &lower) {
            Some(title) => format!("an HTML page: {title}"),
            None => "an HTML page without a title".to_owned(),
        };
    }
    match body.first() {
        Some(b'{') => "a JSON object".to_owned(),
        Some(b'[') => "a JSON list".to_owned(),
        Some(b'"') => "a JSON string".to_owned(),
        Some(b'<') => "XML".to_owned(),
        _ if body.starts_with(&[0x1f, 0x8b]) => "compressed bytes (gzip)".to_owned(),
        _ if std::str::from_utf8(head).is_err() && body.len() <= LOOKED_THROUGH => {
            format!("{} bytes that are no UTF-8", body.len())
        }
        // The text itself is kept with the attempt; a log line is no place for an app's words.
        _ => format!("a text of {} bytes", body.len()),
    }
}

fn title(text: &str, lower: &str) -> Option<String> {
    let begin = lower.find("<title")?;
    let open = begin + lower[begin..].find('>')? + 1;
    let close = open + lower[open..].find("</title")?;
    let words: Vec<_> = text.get(open..close)?.split_whitespace().collect();
    let title = shown(&words.join(" "));
    (!title.is_empty()).then_some(title)
}

/// The app's words without anything that could move a cursor or turn a line around, and cut to a sentence's length.
fn shown(text: &str) -> String {
    let text = masked(text.as_bytes());
    let text = String::from_utf8_lossy(&text);
    let is_plain = |c: &char| c.is_alphanumeric() || c.is_ascii_graphic() || *c == ' ' || *c == '…';
    let mut shown: String = text
        .chars()
        .take(QUOTED)
        .map(|c| if is_plain(&c) { c } else { '?' })
        .collect();
    if text.chars().nth(QUOTED).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(
        status: u16,
        fields: &[(&'static str, &'static str)],
        body: &[u8],
    ) -> (bool, String) {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                let name: http::HeaderName = name.parse().unwrap();
                (name, http::HeaderValue::from_static(value))
            })
            .collect();
        let reply = AppReply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            body: &Bytes::copy_from_slice(body),
        };
        (reply.is_taken(), reply.explanation())
    }

    #[test]
    fn only_2xx_with_four_zeros_takes_a_result() {
        for (status, body) in [(200, "0000"), (201, " 0000\r\n"), (299, "0000\n")] {
            assert!(
                explained(status, &[], body.as_bytes()).0,
                "{status} {body:?}"
            );
        }
        for (status, body) in [
            (199, "0000"),
            (300, "0000"),
            (200, "000"),
            (200, "\"0000\""),
        ] {
            assert!(
                !explained(status, &[], body.as_bytes()).0,
                "{status} {body:?}"
            );
        }
    }

    #[test]
    fn near_misses_are_named() {
        for (body, words) in [
            (&b"\xef\xbb\xbf0000"[..], "0000 after a byte order mark"),
            (b"\xef\xbb\xbf\r\n0000\r\n", "0000 after a byte order mark"),
            (b"\xef\xbb\xbf\"0000\"", "a byte order mark, then the JSON string \"0000\""),
            (b"\"0000\"", "the JSON string \"0000\""),
            (b"'0000'", "0000 in single quotes"),
            (b"0000\0", "0000 with NUL bytes"),
            (b"\xff\xfe0\x000\x000\x000\x00", "0000 in UTF-16"),
            ("００００".as_bytes(), "0000 in full-width digits"),
            (b"00000", "5 zeros instead of four"),
            (b"0", "the number 0: a number has no leading zeros; say it as text"),
            (b"0000OK", "0000 with other text around it"),
            (b"<br />\n<b>Notice</b>:  Undefined index: sent in <b>/a.php</b> on line <b>3</b><br />\n0000", "a PHP notice, then 0000"),
            (b"<br />\n<b>Fatal error</b>: no such function", "a PHP fatal error"),
            (b"", "an empty body"),
            (b"  \n", "an empty body"),
            (b"{\"code\":0}", "a JSON object"),
            (b"success", "a text of 7 bytes"),
            (b"\x1f\x8b\x08", "compressed bytes (gzip)"),
            (b"\xb3\xc9\xb9\xa6", "4 bytes that are no UTF-8"),
            (b"<Response>0000</Response>", "XML"),
        ] {
            assert_eq!(explained(200, &[], body).1, words, "{body:?}");
        }
    }

    #[test]
    fn pages_are_named_by_their_titles_and_redirects_by_their_targets() {
        let login =
            b"<!DOCTYPE html>\n<html><head><title>\n Login\x1b[31m </title></head>0000</html>";
        assert_eq!(explained(200, &[], login).1, "an HTML page: Login?[31m");
        assert_eq!(
            explained(200, &[], b"<html>").1,
            "an HTML page without a title"
        );
        assert_eq!(
            explained(200, &[], b"<TITLE>\xe7\x99\xbb\xe5\xbd\x95</TITLE>").1,
            "an HTML page: 登录"
        );
        assert_eq!(
            explained(302, &[("location", "/login?next=%2Fpay")], b"0000").1,
            "status 302: a redirect to /login; redirects are not followed"
        );
        assert_eq!(
            explained(301, &[], b"").1,
            "status 301: a redirect without a target"
        );
        assert_eq!(
            explained(404, &[], b"<html><title>Not Found</title>").1,
            "status 404: an HTML page: Not Found"
        );
        assert_eq!(
            explained(500, &[], b"0000").1,
            "status 500, although with 0000; only 2xx takes a result"
        );
        let coded = explained(200, &[("content-encoding", "br")], b"0000x").1;
        assert_eq!(coded, "a body in the coding \"br\", which nobody asked for");
    }

    #[test]
    fn numbers_and_names_of_customers_are_not_kept() {
        for (body, kept) in [
            (
                "paid 6222021234567890 by 11010119900307863X!",
                "paid … by …!",
            ),
            ("accname=张三丰&accno=CARD1", "accname…"),
            (
                r#"{"a":1,"accname" : "张三丰","accno":"1"}"#,
                r#"{"a":1,"accname…"#,
            ),
            // JSON in JSON, HTML, PHP's print_r and var_dump.
            (r#"{\"accname\":\"张三丰\"}"#, r#"{\"accname…"#),
            ("&quot;accname&quot;:&quot;张三丰", "&quot;accname…"),
            ("Array ( [accname] => 张三丰", "Array ( [accname…"),
            ("[\"accno\"]=> string(5) \"CARD1\"", "[\"accno…"),
            ("<b>ACCNAME</b>", "<b>ACCNAME…"),
            (
                "card 6222 0212 3456 7890, 6222-0212-3456-7890.",
                "card …, ….",
            ),
            ("order 1234567, 0000", "order 1234567, 0000"),
            ("2017-03-01 12:00:05 ok", "2017-03-01 12:00:05 ok"),
        ] {
            assert_eq!(String::from_utf8_lossy(&first_bytes(body.as_bytes())), kept);
        }
        let long = "a".repeat(FIRST_BYTES - 4) + "622202123456789012";
        assert!(!String::from_utf8_lossy(&first_bytes(long.as_bytes())).contains("6222"));
        // A number across the end of what is read at all, behind enough that shrinks.
        let shrinks = "12345678 a ".repeat(40);
        for cut in 0..20 {
            let body = format!(
                "{}{}6222021234567890",
                &shrinks[..300],
                "b".repeat(80 + cut)
            );
            let kept = String::from_utf8_lossy(&first_bytes(body.as_bytes())).into_owned();
            assert!(!kept.contains("62"), "{cut}: {kept}");
        }
        assert_eq!(shown("Order 6222021234567890"), "Order …");
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_it_panic_or_speak_at_length(
            status in 200u16..600, body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)
        ) {
            let (_, words) = explained(status, &[], &body);
            proptest::prop_assert!(words.chars().count() < 200 && !words.contains(char::is_control));
        }
    }
}
