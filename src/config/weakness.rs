//! Keys that load and are called out: the platform assigns them, and md5(text + key) leans on them alone.

use std::cmp::Ordering;

use super::merchants::Merchant;
use crate::protocol::key::Key;

/// Bytes; a shorter key can be guessed from one message and its sign.
const SHORT: usize = 16;
/// Bytes; a key made of one unit up to this long has no more to guess than the unit.
const LONGEST_UNIT: usize = 4;

/// One line for each weakness, by merid, in the merchants' order; never a key.
pub(super) fn warnings(merchants: &[Merchant]) -> Vec<String> {
    let shared = shared(merchants);
    let mut warnings = Vec::new();
    for (merchant, shared) in merchants.iter().zip(shared) {
        let found = alone(merchant).into_iter().map(str::to_owned).chain(shared);
        warnings.extend(found.map(|what| format!("merchant {}: {what}", merchant.merid)));
    }
    warnings
}

fn alone(merchant: &Merchant) -> Vec<&'static str> {
    let key = merchant.key.bytes();
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
    if merchant.old_keys.contains(&merchant.key) {
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
fn shared(merchants: &[Merchant]) -> Vec<Option<String>> {
    let mut order: Vec<(usize, &Merchant)> = merchants.iter().enumerate().collect();
    order.sort_unstable_by(|(_, a), (_, b)| backwards(&a.key, &b.key));
    let mut found = vec![None; merchants.len()];
    for group in order.chunk_by(|(_, a), (_, b)| a.key.bytes() == b.key.bytes()) {
        for (pair, other) in group.iter().zip(group.iter().cycle().skip(1)) {
            if pair.0 != other.0 {
                note(
                    &mut found,
                    pair.0,
                    format!("key equals that of merchant {}", other.1.merid),
                );
            }
        }
    }
    for pair in order.windows(2) {
        if let [(i, short), (_, long)] = pair
            && long.key.bytes().len() > short.key.bytes().len()
            && long.key.bytes().ends_with(short.key.bytes())
        {
            note(
                &mut found,
                *i,
                format!("key is the end of that of merchant {}", long.merid),
            );
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

    fn merchant(merid: &str, key: &str) -> Merchant {
        Merchant {
            merid: merid.into(),
            key: Key::new(key).unwrap(),
            old_keys: Vec::new(),
            back: None,
            front: None,
        }
    }

    #[test]
    fn each_weakness_names_its_merchant() {
        let merchants = [
            merchant("fine", "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31"),
            merchant("short", "c5b9d3100"),
            merchant("repeated", "abcdabcdabcdabcdab"),
            merchant("spaced", " 1f6f6a2c5b9d317d0f1c0a9be84e6e8e"),
            merchant("twin", "0123456789abcdefghijk"),
            merchant("other-twin", "0123456789abcdefghijk"),
            merchant("end", "1c0a9be84e6e8e1f6f6a2c5b9d31"),
        ];
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
        let mut merchant = merchant("m", "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31");
        merchant.old_keys.push(merchant.key.clone());
        assert_eq!(
            warnings(&[merchant]),
            ["merchant m: an old key equals the key"]
        );
    }
}
