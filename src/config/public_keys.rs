//! Keys that are no secret: printed by every copy of this program, or never filled in.

use crate::protocol::key::Key;

/// The merchant that a sandbox without a merchants file knows.
pub const DEMO_MERID: &str = "100000000000001";
/// The demo's first key, and the one that it changes to.
pub const DEMO_KEYS: [&str; 2] = [
    "demo-key-one-0123456789abcdef0123",
    "demo-key-two-0123456789abcdef0123",
];
/// The key in `conf/merchants.toml`.
const PLACEHOLDER: &str = "placeholder-put-the-key-from-the-platform-here";
/// The marks of a template's variable, around a name or anywhere in a text.
const MARKS: [(&str, &str); 4] = [("${", "}"), ("{{", "}}"), ("$(", ")"), ("<%", "%>")];

/// The demo's key of this index, 0 or 1.
pub fn demo_key(index: usize) -> Key {
    Key::new(DEMO_KEYS[index]).expect("the demo's keys are not empty")
}

/// Explains why a key cannot be the platform's own.
pub(super) fn objection(key: &Key) -> Option<&'static str> {
    let bytes = key.bytes();
    if DEMO_KEYS.iter().any(|known| known.as_bytes() == bytes) {
        return Some(
            "this is the demo's key, which everybody has, expected the platform's own; the demo's works only where \
             platform.url is on this machine",
        );
    }
    if bytes == PLACEHOLDER.as_bytes() {
        return Some("this is the example's placeholder, expected the key from the platform");
    }
    std::str::from_utf8(bytes).ok().and_then(template)
}

/// Explains that a secret is still a template's variable.
pub(super) fn template(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let is_within = |(open, close): (&str, &str)| {
        text.find(open)
            .is_some_and(|at| text.get(at..).unwrap_or_default().contains(close))
    };
    let is_around = |open: &str, close: &str| {
        let inner = text
            .strip_prefix(open)
            .and_then(|it| it.strip_suffix(close));
        inner.is_some_and(|name| name.len() > 1)
    };
    // Placeholders of names in shells, in Windows' and in Python's templates.
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_uppercase())
            && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    let is_variable = text.strip_prefix('$').is_some_and(is_name)
        || text
            .strip_prefix('%')
            .and_then(|it| it.strip_suffix('%'))
            .is_some_and(is_name);
    // Of shells and Compose; Jinja, Helm and Mustache; Make and Azure Pipelines; ERB.
    (MARKS.into_iter().any(is_within)
        || is_around("<", ">")
        || is_around("__", "__")
        || is_variable)
        .then_some(
            "this is a template's variable that nothing has filled in, expected the secret itself",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_objected_to(text: &str) -> bool {
        objection(&Key::new(text).unwrap()).is_some()
    }

    #[test]
    fn templates_and_public_keys_are_no_keys() {
        for text in [
            "${PAY_KEY}",
            "{{ pay.key }}",
            "<PUT-KEY-HERE>",
            "<%= key %>",
            "prefix-${KEY}",
            "$(cat key)",
            "$PAY_KEY",
            "%PAY_KEY%",
            "__PAY_KEY__",
            PLACEHOLDER,
            DEMO_KEYS[0],
            DEMO_KEYS[1],
        ] {
            assert!(is_objected_to(text), "{text}");
        }
    }

    #[test]
    fn odd_keys_that_a_platform_may_give_out_are_keys() {
        for text in [
            "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31",
            "a<b>c",
            "$7d0f1c0a",
            "p$ssw}rd",
            "100%",
            "{}",
            "<>",
            "demo-key-one-0123456789abcdef012",
        ] {
            assert!(!is_objected_to(text), "{text}");
        }
    }
}
