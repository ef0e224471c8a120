//! The common case in a fraction of the time: one flat object of strings without escapes, whole numbers and literals.
//!
//! Any other input is left to the full parser, which accepts it or reports the error. Eight bytes are tested at a time in
//! one register (SWAR; "Determine if a word has a byte less than n" in S. E. Anderson's Bit Twiddling Hacks).

use super::member::{Member, Name};

/// Returns the members of an object that is as simple as that.
pub(super) fn members(text: &str) -> Option<Vec<Member<'_>>> {
    let bytes = text.as_bytes();
    let mut members = Vec::with_capacity(12);
    let mut at = after(bytes, 0, b'{')?;
    if bytes.get(at) == Some(&b'}') {
        return ends(bytes, at).then_some(members);
    }
    loop {
        let end = string_end(bytes, at)?;
        let name = Name::borrowed(text.get(at + 1..end - 1)?);
        at = after(bytes, end, b':')?;
        let is_unescaped = bytes.get(at) == Some(&b'"');
        let end = match is_unescaped {
            true => string_end(bytes, at)?,
            false => value_end(bytes, at)?,
        };
        members.push(Member {
            name,
            value: text.get(at..end)?,
            is_unescaped,
        });
        at = spaces(bytes, end);
        match bytes.get(at)? {
            b',' => at = spaces(bytes, at + 1),
            b'}' => return ends(bytes, at).then_some(members),
            _ => return None,
        }
    }
}

/// Skips white space and returns the position after it.
fn spaces(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// Consumes `expected` with the white space around it.
fn after(bytes: &[u8], at: usize, expected: u8) -> Option<usize> {
    let at = spaces(bytes, at);
    (bytes.get(at) == Some(&expected)).then(|| spaces(bytes, at + 1))
}

/// Returns true where the object's brace is the last character.
fn ends(bytes: &[u8], brace: usize) -> bool {
    spaces(bytes, brace + 1) == bytes.len()
}

/// Consumes a string and its closing quote.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let inner = bytes.get(at..)?.strip_prefix(b"\"")?;
    let length = stop(inner)?;
    (inner[length] == b'"').then_some(at + length + 2)
}

/// Finds the first byte that ends a string or is not allowed in a plain one: a quote, a backslash, a control character.
/// Eight bytes at a time, because names and values are short.
fn stop(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    // The highest bit marks the first byte below `bound`; marks of later bytes may be wrong, because a borrow spreads up.
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & (ONES << 7);
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let stops = is(word, b'"') | is(word, b'\\') | below(word, 0x20);
        if stops != 0 {
            return Some(8 * at + stops.trailing_zeros() as usize / 8);
        }
    }
    let stops = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | ..0x20));
    stops.map(|at| 8 * words.len() + at)
}

fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let length = match rest.first()? {
        // No digit may follow a leading zero (RFC 8259 §6); `01` fails at what comes next, and the full parser reports
        // it.
        b'0' => 1,
        b'1'..=b'9' => rest.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => {
            let literals = [b"true".as_slice(), b"false", b"null"];
            literals
                .iter()
                .find(|literal| rest.starts_with(literal))?
                .len()
        }
    };
    Some(at + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::json::any_members;
    use proptest::prelude::*;

    #[test]
    fn a_string_stops_wherever_something_stands_that_is_not_plain() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut bytes = [b'x'; 20];
                bytes[at] = byte;
                let stops = matches!(byte, b'"' | b'\\' | ..0x20);
                assert_eq!(stop(&bytes), stops.then_some(at), "{byte} at {at}");
                bytes[19] = b'"';
                assert_eq!(
                    stop(&bytes),
                    Some(if stops { at } else { 19 }),
                    "{byte} at {at}"
                );
            }
        }
    }

    /// Generates objects that are nearly flat, out of pieces that a parser may get wrong.
    fn nearly_flat() -> impl Strategy<Value = String> {
        use proptest::sample::select;
        let name = select(vec![
            r#""a""#,
            r#""b""#,
            r#""""#,
            r#""é""#,
            r#""\u0061""#,
            "a",
            r#"""a""#,
            "\"a\tb\"",
        ]);
        let value = select(vec![
            r#""x""#,
            r#""""#,
            r#""成功""#,
            r#""\"""#,
            "\"\n\"",
            "\"\u{7f}\"",
            "0",
            "1",
            "12",
            "00",
            "01",
            "-1",
            "1.5",
            "1e2",
            "1 2",
            "true",
            "false",
            "null",
            "tru",
            "truex",
            "nullnull",
            "{}",
            "[]",
            r#"{"a":1}"#,
            r#"["x","#,
            "",
            "\u{a0}1",
        ]);
        let space = select(vec!["", "", "", " ", "\n", "\t\r ", "\u{b}"]);
        let colon = select(vec![":", ":", ":", ":", "::", "", "="]);
        let comma = select(vec![",", ",", ",", ",", ",,", "", ";"]);
        let member = (
            space.clone(),
            name,
            space.clone(),
            colon,
            space.clone(),
            value,
            space.clone(),
            comma,
        );
        let member = member.prop_map(|(s1, name, s2, colon, s3, value, s4, comma)| {
            (format!("{s1}{name}{s2}{colon}{s3}{value}{s4}"), comma)
        });
        let members = proptest::collection::vec(member, 0..5);
        let around = select(vec![
            ("{", "}"),
            ("{", "}"),
            ("{", "}"),
            (" {", "}\n"),
            ("{", ""),
            ("[", "]"),
            ("{", "}}"),
            ("\u{feff}{", "}"),
        ]);
        (members, around, any::<bool>()).prop_map(|(members, (open, close), trailing)| {
            let last = members.len().saturating_sub(1);
            let parts = members
                .into_iter()
                .enumerate()
                .map(|(at, (member, comma))| {
                    if at < last || trailing {
                        member + comma
                    } else {
                        member
                    }
                });
            format!("{open}{}{close}", parts.collect::<String>())
        })
    }

    proptest! {
        #[test]
        fn what_is_read_as_flat_is_what_the_whole_grammar_reads(text in nearly_flat()) {
            if let Some(found) = members(&text) {
                prop_assert_eq!(Ok(found), any_members(&text));
            }
        }

        #[test]
        fn cut_and_changed_objects_are_read_alike(at in 0usize..80, byte in any::<u8>()) {
            let mut bytes = br#"{"merid":"100000000000001","txnamt":1280,"orderid":"ORD1","x": null , "y":true}"#.to_vec();
            let cut = std::str::from_utf8(&bytes[..at % bytes.len()]).unwrap();
            prop_assert!(members(cut).is_none());
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes)
                && let Some(found) = members(text)
            {
                prop_assert_eq!(Ok(found), any_members(text));
            }
        }
    }
}
