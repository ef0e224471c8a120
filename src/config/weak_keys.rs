//! Warnings about weak keys. They load all the same: the platform assigns them, and md5(text + key) depends on them alone.

use std::cmp::Ordering;

use crate::protocol::key::Key;

/// Bytes; a shorter key can be guessed from one message and its signature.
const SHORT: usize = 16;
/// Bytes; a key that repeats a unit of this length is as weak as the unit.
const LONGEST_UNIT: usize = 4;

/// The keys of one merchant.
#[derive(Clone, Copy)]
pub(super) struct KeyUse<'a> {
    pub(super) merid: &'a str,
    pub(super) key: &'a Key,
    pub(super) next_key: Option<&'a Key>,
    pub(super) old_keys: &'a [Key],
}

/// Returns one line for each weakness, by merid, in the merchants' order; never a key.
pub(super) fn warnings(merchants: &[KeyUse<'_>]) -> Vec<String> {
    let shared = shared(merchants);
    let mut warnings = Vec::new();
    for (merchant, shared) in merchants.iter().zip(shared) {
        let found = weaknesses(merchant.key)
            .into_iter()
            .map(|what| format!("key {what}"));
        let next = merchant.next_key.into_iter().flat_map(weaknesses);
        let next = next.map(|what| format!("next_key {what}"));
        let doubled = doubled(merchant).into_iter().map(str::to_owned);
        let found = found.chain(next).chain(doubled).chain(shared);
        warnings.extend(found.map(|what| format!("merchant {}: {what}", merchant.merid)));
    }
    warnings
}

/// Describes a property that makes a key easy to guess, or that suggests a copy mistake.
fn weaknesses(key: &Key) -> Vec<&'static str> {
    let key = key.bytes();
    let quotes = [b'"', b'\'', b'`'];
    let mut found = Vec::new();
    if key.len() < SHORT {
        found.push("is shorter than 16 bytes");
    }
    if is_repeated(key) {
        found.push("repeats a few characters");
    }
    if key.trim_ascii().len() < key.len() {
        found.push("begins or ends with white space");
    } else if key.iter().any(u8::is_ascii_whitespace) {
        found.push("has white space in it");
    }
    if !key.is_ascii() {
        found.push("has characters beyond ASCII, which two systems may encode in two ways");
    }
    if matches!(key, [first, .., last] if first == last && quotes.contains(first)) {
        found.push("stands in quotes, which are a part of it");
    }
    if LABELS.iter().any(|label| starts_with_label(key, label)) {
        found.push("begins like \"key=\", which is a part of it");
    }
    found
}

/// Names that are pasted along with a key.
const LABELS: [&str; 5] = ["key", "md5key", "secret", "api_key", "sign_key"];

fn starts_with_label(key: &[u8], label: &str) -> bool {
    let Some((start, rest)) = key.split_at_checked(label.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(label.as_bytes())
        && matches!(rest.trim_ascii_start().first(), Some(b'=' | b':'))
}

fn doubled(merchant: &KeyUse<'_>) -> Vec<&'static str> {
    let mut found = Vec::new();
    if merchant.old_keys.contains(merchant.key) {
        found.push("an old key equals the key");
    }
    if merchant.next_key == Some(merchant.key) {
        found.push("next_key equals key, so nothing will change");
    }
    found
}

fn is_repeated(key: &[u8]) -> bool {
    let made_of = |unit: usize| key.iter().zip(key.iter().skip(unit)).all(|(a, b)| a == b);
    (1..=LONGEST_UNIT).any(|unit| key.len() >= 2 * unit && made_of(unit))
}

/// Finds keys that end with another key: such a key signs for the shorter one too. Sorted from the last byte on, equal
/// keys and keys with the same ending are neighbours, so that 10,000 merchants take one sort.
fn shared(merchants: &[KeyUse<'_>]) -> Vec<Option<String>> {
    let numbered = merchants.iter().enumerate();
    let mut order: Vec<(usize, &str, &Key)> = numbered
        .map(|(i, merchant)| (i, merchant.merid, merchant.key))
        .collect();
    order.sort_unstable_by(|(.., a), (.., b)| backwards(a, b));
    let mut found = vec![None; merchants.len()];
    for group in order.chunk_by(|(.., a), (.., b)| a.bytes() == b.bytes()) {
        for ((i, ..), (other, merid, _)) in group.iter().zip(group.iter().cycle().skip(1)) {
            if i != other {
                let what = format!("key equals that of merchant {merid}");
                note(&mut found, *i, what);
            }
        }
    }
    for pair in order.windows(2) {
        if let [(i, _, short), (_, merid, long)] = pair
            && long.bytes().len() > short.bytes().len()
            // What is signed is md5(text + key): with the front of the longer key at the end of the text, both make the
            // same digest.
            && long.bytes().ends_with(short.bytes())
        {
            let what = format!("key is the end of that of merchant {merid}");
            note(&mut found, *i, what);
        }
    }
    found
}

fn note(found: &mut [Option<String>], i: usize, what: String) {
    if let Some(place) = found.get_mut(i) {
        place.get_or_insert(what);
    }
}

fn backwards(a: &Key, b: &Key) -> Ordering {
    a.bytes().iter().rev().cmp(b.bytes().iter().rev())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn one<'a>(merid: &'a str, key: &'a Key) -> KeyUse<'a> {
        KeyUse {
            merid,
            key,
            next_key: None,
            old_keys: &[],
        }
    }

    #[test]
    fn each_weakness_names_its_merchant() {
        let keys = [
            ("fine", "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31"),
            ("short", "c5b9d3100"),
            ("repeated", "abcdabcdabcdabcdab"),
            ("spaced", " 1f6f6a2c5b9d317d0f1c0a9be84e6e8e"),
            ("twin", "0123456789abcdefghijk"),
            ("other-twin", "0123456789abcdefghijk"),
            ("end", "1c0a9be84e6e8e1f6f6a2c5b9d31"),
        ]
        .map(|(merid, text)| (merid, key(text)));
        let merchants: Vec<_> = keys.iter().map(|(merid, key)| one(merid, key)).collect();
        assert_eq!(
            warnings(&merchants),
            [
                "merchant short: key is shorter than 16 bytes",
                "merchant repeated: key repeats a few characters",
                "merchant spaced: key begins or ends with white space",
                "merchant twin: key equals that of merchant other-twin",
                "merchant other-twin: key equals that of merchant twin",
                "merchant end: key is the end of that of merchant fine",
            ]
        );
    }

    #[test]
    fn old_key_that_equals_the_key_is_called_out() {
        let key = key("7d0f1c0a9be84e6e8e1f6f6a2c5b9d31");
        let old_keys = [key.clone()];
        assert_eq!(
            warnings(&[KeyUse {
                next_key: Some(&key),
                old_keys: &old_keys,
                ..one("m", &key)
            }]),
            [
                "merchant m: an old key equals the key",
                "merchant m: next_key equals key, so nothing will change"
            ]
        );
    }

    #[test]
    fn keys_that_were_pasted_with_something_around_them_are_called_out() {
        for (text, what) in [
            ("\"7d0f1c0a9be84e6e8e1f6f6a2c5b9d31\"", "stands in quotes"),
            ("'7d0f1c0a9be84e6e8e1f6f6a2c5b9d31'", "stands in quotes"),
            ("key=7d0f1c0a9be84e6e8e1f6f6a2c5b9d31", "begins like"),
            ("MD5Key: 7d0f1c0a9be84e6e8e1f6f6a2c5b9d31", "begins like"),
            ("7d0f1c0a9be84e6e 8e1f6f6a2c5b9d31", "white space in it"),
            ("7d0f1c0a9be84e6e8e1f6f6a2c5b9d3密", "beyond ASCII"),
        ] {
            let key = key(text);
            let found = warnings(&[one("m", &key)]);
            assert!(
                found.iter().any(|it| it.contains(what)),
                "{text}: {found:?}"
            );
        }
        for text in [
            "keyring-7d0f1c0a9be84e6e8e1f",
            "7d0f1c0a9be84e6e=8e1f\"6f6a2c5b9d31",
        ] {
            let key = key(text);
            assert_eq!(warnings(&[one("m", &key)]), [""; 0], "{text}");
        }
    }
}
