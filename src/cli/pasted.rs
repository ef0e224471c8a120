//! Envelopes as people paste them: a body, a query string, a URL, an access-log line, quoted or with a byte order mark.

use std::borrow::Cow;

use crate::protocol::envelope;
use crate::protocol::envelope::{EnvelopeError, Received};

/// Finds the envelope in what was pasted, as a form or a JSON object that [`read`] takes.
pub(super) fn envelope_in(pasted: &[u8]) -> Cow<'_, [u8]> {
    let bare = unquoted(pasted);
    // A JSON string around the envelope, as a log writes it.
    let bare = match serde_json::from_slice::<String>(&[b"\"", bare, b"\""].concat()) {
        Ok(text) if text.as_bytes() != bare => Cow::Owned(text.into_bytes()),
        _ => Cow::Borrowed(bare),
    };
    let starts = |start: &str| bare.starts_with(start.as_bytes());
    let is_json = || starts("{") && read(&bare).is_ok();
    if starts("resp=") || starts("req=") || starts("sign=") || is_json() {
        return bare;
    }
    match query_in(&String::from_utf8_lossy(&bare)) {
        Some(query) => Cow::Owned(query.into_bytes()),
        None => bare,
    }
}

/// Reads the platform's envelope, or the app's.
pub(super) fn read(body: &[u8]) -> Result<Received<'_>, EnvelopeError> {
    match envelope::read(body, "resp") {
        Err(EnvelopeError::Missing(_)) => {
            envelope::read(body, "req").map_err(|error| match error {
                EnvelopeError::Missing(_) => EnvelopeError::Missing("resp or req"),
                other => other,
            })
        }
        other => other,
    }
}

/// Takes off a byte order mark, white space and one pair of quotes.
pub(super) fn unquoted(pasted: &[u8]) -> &[u8] {
    let text = pasted.trim_ascii();
    let text = text
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(text)
        .trim_ascii();
    match text {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner.trim_ascii(),
        text => text,
    }
}

/// Finds the query string with an envelope among the words of a line: the one with a signature before others.
fn query_in(line: &str) -> Option<String> {
    // Pages and JSON logs write the ampersand otherwise.
    let line = line
        .replace("&amp;", "&")
        .replace("\\u0026", "&")
        .replace("\\x26", "&");
    let ends_word = |c: char| c.is_whitespace() || "\"'<>`|,".contains(c);
    let queries = line.split(ends_word).filter_map(|word| {
        let word = word.split('#').next().unwrap_or_default();
        let query = word.rsplit_once('?').map_or(word, |(_, query)| query);
        let has = |name: &str| query.split('&').any(|pair| pair.starts_with(name));
        (has("resp=") || has("req=")).then(|| (has("sign="), query.to_owned()))
    });
    let mut queries: Vec<_> = queries.collect();
    // Stable: of equals the first stays first.
    queries.sort_by_key(|(is_signed, _)| !is_signed);
    queries.into_iter().next().map(|(_, query)| query)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "resp=e30%3D&sign=0123456789abcdef0123456789abcdef";

    #[test]
    fn an_envelope_is_found_in_whatever_was_pasted() {
        let json = r#"{"resp":"e30=","sign":"0123456789abcdef0123456789abcdef"}"#;
        for pasted in [
            FORM.to_owned(),
            format!("\u{feff}{FORM}\r\n"),
            format!("\"{FORM}\""),
            format!("'{FORM}'"),
            format!("?{FORM}"),
            format!("store=7&{FORM}"),
            format!("https://shop.example.com/notify/back?{FORM}"),
            format!("https://shop.example.com/notify/back?store=7&{FORM}#top"),
            format!("\"https://shop.example.com/notify/back?{FORM}\""),
            format!("/notify/back?{FORM}"),
            format!("GET /notify/back?{FORM} HTTP/1.1"),
            format!(
                r#"203.0.113.7 - - [01/Mar/2017:12:00:05 +0800] "GET /notify/back?{FORM} HTTP/1.1" 200 4 "-" "Java/1.8""#
            ),
            format!(
                r#"{{"level":"info","uri":"/notify/back?{}"}}"#,
                FORM.replace('&', "\\u0026")
            ),
            format!("<a href=\"/notify/front?{}\">", FORM.replace('&', "&amp;")),
            format!("curl -d '{FORM}' http://127.0.0.1:8081/notify/back"),
            json.to_owned(),
            format!("\u{feff}{json}\n"),
            serde_json::to_string(json).unwrap(),
        ] {
            let found = envelope_in(pasted.as_bytes());
            let received = read(&found).unwrap_or_else(|error| panic!("{pasted}: {error}"));
            assert_eq!(received.text(), "e30=", "{pasted}");
            assert_eq!(
                received.sign(),
                "0123456789abcdef0123456789abcdef",
                "{pasted}"
            );
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        for pasted in [
            "",
            "https://shop.example.com/",
            "GET /?a=b HTTP/1.1",
            "e30=",
        ] {
            assert!(read(&envelope_in(pasted.as_bytes())).is_err(), "{pasted}");
        }
    }
}
