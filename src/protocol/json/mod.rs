//! Strict reading of one JSON object, and splicing members into its bytes without printing it again.
//!
//! Two readers of one signed payload must never see two different payloads. Input that readers are known to disagree
//! about is rejected: duplicate keys at any depth (however they are spelled), lone surrogates, invalid UTF-8, anything
//! after the object.

mod member;

mod fast;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub use member::WrongTypeError;
use member::{Member, Name};

/// Limit of nested arrays and objects, the payload itself included. The document's payloads are flat.
pub const MAX_DEPTH: usize = 32;

/// The reason for which bytes are no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8 (document §2.1).
    #[error("not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// Number of bytes before the first invalid one.
        offset: usize,
    },
    /// Not JSON, or not exactly one object.
    #[error("expected one JSON object: {reason} at line {line} column {column}")]
    NotAnObject {
        /// The parser's finding, never the text itself.
        reason: &'static str,
        /// Line in the text, from 1; 0 where the text ended.
        line: usize,
        /// Column in the line, from 1.
        column: usize,
    },
    /// A duplicate key.
    #[error("member {name:?} stands twice in one object")]
    DuplicateMember {
        /// The key after decoding its escapes, at most 64 characters of it.
        name: String,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// One JSON object that borrows the text it was parsed from.
#[derive(Debug)]
pub struct Object<'a> {
    text: &'a str,
    members: Vec<Member<'a>>,
}

impl<'a> Object<'a> {
    /// Parses one object; white space around it is allowed, anything else is not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let text = text_of(bytes)?;
        let members = match fast::members(text) {
            Some(members) => members,
            None => any_members(text)?,
        };
        // RFC 8259 §4 leaves it to each reader which of two equal names counts.
        refuse_duplicates(&members, |member| &member.name)?;
        Ok(Self { text, members })
    }

    /// Returns the text as it was given.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Returns a member's value as written; `None` where it is missing or `null`.
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        Some(self.member(name)?.value)
    }

    /// Returns a string member, decoded; `None` where it is missing or `null`.
    pub fn string(&self, name: &str) -> Option<Result<Cow<'a, str>, WrongTypeError>> {
        Some(self.member(name)?.string())
    }

    /// Returns a member that is written in digits alone: no sign, fraction or exponent.
    pub fn integer(&self, name: &str) -> Option<Result<u64, WrongTypeError>> {
        let raw = self.raw(name)?;
        let digits = raw.bytes().all(|b| b.is_ascii_digit());
        Some(match raw.parse() {
            Ok(number) if digits => Ok(number),
            _ => Err(WrongTypeError),
        })
    }

    /// Returns the members' names, decoded.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.text())
    }

    /// Returns each member as plain text: strings decoded, `null` empty, other values as written.
    pub fn plain_members(&self) -> impl Iterator<Item = (&str, Cow<'a, str>)> {
        self.members.iter().map(|member| {
            let text = match member.string() {
                Ok(text) => text,
                Err(WrongTypeError) if member.is_null() => Cow::Borrowed(""),
                Err(WrongTypeError) => Cow::Borrowed(member.value),
            };
            (member.name.text(), text)
        })
    }

    /// Returns the text with string members set: an existing value is replaced, a missing member is put first, and every
    /// other byte stays.
    pub fn splice(&self, members: &[(&str, &str)]) -> String {
        let mut text = self.text.to_owned();
        let mut replaced: Vec<_> = members
            .iter()
            .filter_map(|(name, value)| Some((self.span(name)?, quoted(value))))
            .collect();
        // From the back, so that each replacement leaves the spans before it in place.
        replaced.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
        for (span, value) in replaced {
            text.replace_range(span, &value);
        }
        let mut added: Vec<_> = members
            .iter()
            .filter(|(name, _)| self.span(name).is_none())
            .map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)))
            .collect();
        if !added.is_empty() {
            if !self.members.is_empty() {
                added.push(String::new());
            }
            // The offset in the old text holds in the new one too: every replaced value comes after the brace.
            let brace = self.text.find('{').map_or(0, |at| at + 1);
            text.insert_str(brace, &added.join(","));
        }
        text
    }

    /// Returns the range of a member's value in the text, in bytes.
    fn span(&self, name: &str) -> Option<std::ops::Range<usize>> {
        let name = Name::borrowed(name);
        // Also where it is `null`, unlike `member`: splicing must replace that value, or the key would be there twice.
        let member = self.members.iter().find(|member| member.name == name)?;
        // Both readers return values as slices of `text`, so the distance of the pointers is the offset.
        let start = member.value.as_ptr() as usize - self.text.as_ptr() as usize;
        Some(start..start + member.value.len())
    }

    /// Finds a member that is not `null`.
    fn member(&self, name: &str) -> Option<&Member<'a>> {
        let name = Name::borrowed(name);
        let member = self.members.iter().find(|member| member.name == name)?;
        (!member.is_null()).then_some(member)
    }
}

/// Formats a string as a JSON literal.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The members of an object of any shape.
fn any_members(text: &str) -> Result<Vec<Member<'_>>, JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = reader
        .deserialize_map(Members)
        .and_then(|members| reader.end().map(|()| members))
        .map_err(|e| not_an_object(&e))?;
    for member in &members {
        check_nested(member)?;
    }
    Ok(members)
}

/// Finds the first invalid byte. `simdutf8` decides whether there is one, in a third of the time of the standard library.
fn text_of(bytes: &[u8]) -> Result<&str, JsonError> {
    simdutf8::basic::from_utf8(bytes).or_else(|_| {
        std::str::from_utf8(bytes).map_err(|error| JsonError::NotUtf8 {
            offset: error.valid_up_to(),
        })
    })
}

/// Parses the top level: names decoded, values as slices of the text.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // The document's longest payload has nine members (§3.4.4): one allocation.
        let mut members = Vec::with_capacity(12);
        while let Some(name) = map.next_key_seed(AsName)? {
            members.push(Member::new(name, map.next_value::<&RawValue>()?.get()));
        }
        Ok(members)
    }
}

/// Parses a member's name, borrowed where it has no escapes.
struct AsName;

impl<'de> DeserializeSeed<'de> for AsName {
    type Value = Name<'de>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for AsName {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Name::borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Name::owned(name.to_owned()))
    }
}

/// Checks a raw value. Its grammar is valid already; escapes and nested members remain.
fn check_nested(member: &Member<'_>) -> Result<(), JsonError> {
    // serde_json skips a raw value without recursion and without looking into its escapes, so depth, nested duplicates
    // and lone surrogates (`\ud800`) are only found here.
    let has_inside = member.value.starts_with(['"', '{', '[']);
    if member.is_unescaped || !has_inside {
        return Ok(());
    }
    let fault = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_str(member.value);
    Strict {
        depth: 1,
        fault: &fault,
    }
    .deserialize(&mut reader)
    .map_err(|e| fault.take().unwrap_or_else(|| not_an_object(&e)))
}

/// Walks a nested value, builds nothing, and stops at the first error.
#[derive(Clone, Copy)]
struct Strict<'f> {
    depth: usize,
    fault: &'f RefCell<Option<JsonError>>,
}

impl Strict<'_> {
    fn stop<E: de::Error>(self, fault: JsonError) -> E {
        // An error of serde carries nothing but text; its cause goes beside it.
        let error = E::custom(&fault);
        self.fault.replace(Some(fault));
        error
    }

    fn inner<E: de::Error>(self) -> Result<Self, E> {
        // Well below the 128 levels at which serde_json gives up with a mere syntax error.
        if self.depth == MAX_DEPTH {
            return Err(self.stop(JsonError::TooDeep));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut names = Vec::new();
        while let Some(name) = map.next_key_seed(AsName)? {
            names.push(name);
            map.next_value_seed(inner)?;
        }
        refuse_duplicates(&names, |name| name).map_err(|fault| self.stop(fault))
    }
}

/// Number of members from which they are sorted before they are compared.
const FEW: usize = 16;

fn refuse_duplicates<'m, M>(
    members: &'m [M],
    name: impl Fn(&'m M) -> &'m Name<'m>,
) -> Result<(), JsonError> {
    let doubled = if members.len() <= FEW {
        let mut seen = members.iter().enumerate();
        seen.find_map(|(at, member)| {
            let stands_before = members[..at].iter().any(|m| name(m) == name(member));
            stands_before.then(|| name(member).text())
        })
    } else {
        // A comparison of each with each would let a stranger's thousand members cost half a million comparisons.
        let mut names: Vec<&str> = members.iter().map(|member| name(member).text()).collect();
        names.sort_unstable();
        names
            .windows(2)
            .find(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
    };
    match doubled {
        Some(name) => Err(JsonError::DuplicateMember {
            name: name.chars().take(64).collect(),
        }),
        None => Ok(()),
    }
}

/// Reduces an error of serde_json to its kind, because its message may quote the text.
fn not_an_object(error: &serde_json::Error) -> JsonError {
    let reason = match error.classify() {
        serde_json::error::Category::Eof => "the text ends too early",
        serde_json::error::Category::Data => "another kind of value",
        _ => "a syntax error",
    };
    JsonError::NotAnObject {
        reason,
        line: error.line(),
        column: error.column(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> JsonError {
        Object::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn members_are_found_and_decoded() {
        let text = r#" {"a":"x","b":12,"\u0063":"\u5f20","d":null} "#;
        let object = Object::parse(text.as_bytes()).unwrap();
        assert_eq!(object.string("a"), Some(Ok("x".into())));
        assert_eq!(object.integer("b"), Some(Ok(12)));
        assert_eq!(object.string("c"), Some(Ok("张".into())));
        assert_eq!(object.raw("d"), None);
        assert_eq!(object.string("b"), Some(Err(WrongTypeError)));
    }

    #[test]
    fn amounts_are_digits_alone() {
        for wrong in [
            "1.0",
            "1e3",
            "-1",
            "\"1\"",
            "true",
            "[1]",
            "99999999999999999999",
        ] {
            let text = format!("{{\"n\":{wrong}}}");
            let object = Object::parse(text.as_bytes()).unwrap();
            assert_eq!(object.integer("n"), Some(Err(WrongTypeError)), "{wrong}");
        }
    }

    #[test]
    fn a_member_named_twice_is_refused_however_it_is_spelled() {
        for text in [
            r#"{"merid":1,"merid":1}"#,
            r#"{"merid":1,"m\u0065rid":1}"#,
            r#"{"a":{"merid":1,"x":2,"m\u0065rid":1}}"#,
            r#"{"a":[[{"merid":1,"merid":1}]]}"#,
        ] {
            let expected = JsonError::DuplicateMember {
                name: "merid".into(),
            };
            assert_eq!(refused(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in [
            "",
            "x",
            "[]",
            "1",
            "{",
            "{}{}",
            "{} x",
            "{a:1}",
            "{'a':1}",
            r#"{"a":1,}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":["\udc00x"]}"#,
            r#"{"\ud800":1}"#,
            "{\"a\":\"\u{1}\"}",
            "{\"a\":01}",
            "{\"a\":NaN}",
            "\u{feff}{}",
        ] {
            assert!(
                matches!(refused(text), JsonError::NotAnObject { .. }),
                "{text:?}"
            );
        }
        let not_utf8 = Object::parse(b"{\"a\":\"\xff\"}").unwrap_err();
        assert_eq!(not_utf8, JsonError::NotUtf8 { offset: 6 });
    }

    #[test]
    fn depth_is_bounded() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(Object::parse(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        for levels in [MAX_DEPTH, 127, 128, 60_000] {
            let error = refused(&nested(levels));
            assert!(
                !matches!(error, JsonError::DuplicateMember { .. }),
                "{error}"
            );
        }
        assert_eq!(refused(&nested(MAX_DEPTH)), JsonError::TooDeep);
    }

    #[test]
    fn splicing_leaves_every_other_byte() {
        let text = "{ \"b\" : \"old\" ,\n \"n\":1.50 }\n";
        let object = Object::parse(text.as_bytes()).unwrap();
        assert_eq!(
            object.splice(&[("a", "\"张\\"), ("b", "new")]),
            "{\"a\":\"\\\"张\\\\\", \"b\" : \"new\" ,\n \"n\":1.50 }\n"
        );
        assert_eq!(
            Object::parse(b" {}").unwrap().splice(&[("a", "1")]),
            r#" {"a":"1"}"#
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Object::parse(&bytes);
        }

        #[test]
        fn spliced_members_are_read_back(
            names in proptest::collection::hash_set("[a-e]|张|\"", 0..6), a: String, b: String,
        ) {
            let members: Vec<_> = names.iter().map(|n| format!("{}: {}", quoted(n), quoted(n))).collect();
            let text = format!("{{{}}}", members.join(" ,"));
            let object = Object::parse(text.as_bytes()).unwrap();
            let spliced = object.splice(&[("a", &a), ("b", &b)]);
            let again = Object::parse(spliced.as_bytes()).unwrap();
            prop_assert_eq!(again.string("a"), Some(Ok(a.into())));
            prop_assert_eq!(again.string("b"), Some(Ok(b.into())));
            for name in names.iter().filter(|n| *n != "a" && *n != "b") {
                prop_assert_eq!(again.raw(name), object.raw(name));
            }
        }
    }
}
