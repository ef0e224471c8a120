//! Keys that load and are called out: the platform assigns them, and md5(text + key) leans on them alone.

use std::cmp::Ordering;

use crate::protocol::key::Key;

/// Bytes; a shorter key can be guessed from one message and its sign.
const SHORT: usize = 16;
/// Bytes; a key made of one unit up to this long has no more to guess than the unit.
const LONGEST_UNIT: usize = 4;

/// A merchant's merid, key and old keys.
pub(super) type KeyUses<'a> = (&'a str, &'a Key, &'a [Key]);

/// One line for each weakness, by merid, in the merchants' order; never a key.
pub(super) fn warnings(merchants: &[KeyUses<'_>]) -> Vec<String> {
    let shared = shared(merchants);
    let mut warnings = Vec::new();
    for (&(merid, key, old_keys), shared) in merchants.iter().zip(shared) {
        let found = alone(key, old_keys).into_iter().map(str::to_owned);
        let found = found.chain(shared);
        warnings.extend(found.map(|what| format!("merchant {merid}: {what}")));
    }
    warnings
}

fn alone(own: &Key, old_keys: &[Key]) -> Vec<&'static str> {
    let key = own.bytes();
    let mut found = Vec::new();
    if key.len() < SHORT {
        found.push("key is shorter than 16 bytes");
    }
    if is_repeated(key) {
        found.push("key repeats a few characters");
    }
    if key.trim_ascii().len() < key.len() {
        found.push("key begins or ends with white space");
    }
    if old_keys.contains(own) {
        found.push("an old key equals the key");
    }
    found
}

fn is_repeated(key: &[u8]) -> bool {
    let made_of = |unit: usize| key.iter().zip(key.iter().skip(unit)).all(|(a, b)| a == b);
    (1..=LONGEST_UNIT).any(|unit| key.len() >= 2 * unit && made_of(unit))
}

/// A key that ends another one signs for it too. Sorted from the last byte on, equal keys and the keys that end with a
/// key follow right behind it, so that 10,000 merchants take one sort.
fn shared(merchants: &[KeyUses<'_>]) -> Vec<Option<String>> {
    let numbered = merchants.iter().enumerate();
    let mut order: Vec<(usize, &str, &Key)> = numbered
        .map(|(i, &(merid, key, _))| (i, merid, key))
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
        let merchants: Vec<KeyUses<'_>> = keys.iter().map(|(m, k)| (*m, k, &[][..])).collect();
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
            warnings(&[("m", &key, &old_keys)]),
            ["merchant m: an old key equals the key"]
        );
    }
}
