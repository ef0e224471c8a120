//! Changes that keep a message's meaning: every tolerance of the reader, and what any sender is free to choose.

use super::draft::{Compression, Draft, FormStyle, Place, Plus, Shape};
use super::message::{Route, Value, raw, text};
use super::rng::Rng;

/// A kind of change. It returns false where it changes nothing of this message.
pub(crate) struct SameKind {
    pub(crate) name: &'static str,
    pub(crate) apply: fn(&mut Draft, &mut Rng) -> bool,
    /// True for a kind that few messages admit.
    pub(crate) is_rare: bool,
}

const fn kind(name: &'static str, apply: fn(&mut Draft, &mut Rng) -> bool) -> SameKind {
    SameKind {
        name,
        apply,
        is_rare: false,
    }
}

const fn rare(name: &'static str, apply: fn(&mut Draft, &mut Rng) -> bool) -> SameKind {
    SameKind {
        is_rare: true,
        ..kind(name, apply)
    }
}

/// Every kind.
pub(crate) const SAME: &[SameKind] = &[
    // The payload.
    kind("merid-as-integer", |draft, _| unquote(draft, "merid")),
    rare("orderid-as-integer", |draft, _| unquote(draft, "orderid")),
    kind("queryid-as-integer", |draft, _| unquote(draft, "queryid")),
    kind("resultcode-as-integer", |draft, _| {
        unquote(draft, "resultcode")
    }),
    rare("respcode-as-integer", |draft, _| unquote(draft, "respcode")),
    kind("quoted-amount", |draft, _| {
        amount(draft, |digits| text(&digits))
    }),
    kind("amount-with-zeros", |draft, rng| {
        let zeros = rng.pick(&[".0", ".00", ".000000000000000000000"]);
        let is_failure = draft.message.meaning.failure.is_some();
        match draft.value("txnamt") {
            Some(Value::Raw(digits) | Value::Text(digits)) if !is_failure => digits.push_str(zeros),
            _ => return false,
        }
        true
    }),
    kind("null-for-empty", |draft, rng| {
        blank(draft, rng, |draft, name| draft.set(name, raw("null")))
    }),
    kind("absent-for-empty", |draft, rng| {
        blank(draft, rng, Draft::remove)
    }),
    kind("other-scalar-as-text", |draft, rng| {
        let scalars = [
            "0",
            "-1.5e3",
            "true",
            "false",
            "null",
            "1488340805000",
            "12345678901234567890123",
        ];
        let scalar = rng.pick(&scalars);
        let names = ["resultmsg", "paytime"];
        draft.set(rng.pick(&names), raw(scalar));
        true
    }),
    kind("unicode-text", |draft, rng| {
        let texts = [
            "支付成功，谢谢！",
            "\u{1f4b0} 张三丰 \u{10ffff}",
            "ÿþ~~~???>>>",
            "\u{2028}\u{feff}\u{7f}",
            "𠮷野家",
        ];
        draft.set("resultmsg", text(rng.pick(&texts)));
        true
    }),
    kind("member-order", |draft, rng| {
        rng.shuffle(&mut draft.message.members);
        true
    }),
    kind("unknown-members", |draft, rng| {
        let further = [
            ("Txnamt", "1"),
            ("TXNAMT", "\"1\""),
            ("resultcode ", "\"0000\""),
            ("_merid", "null"),
            ("", "0"),
            ("code", "1.5e300"),
            (
                "deep",
                "{\"txnamt\":7,\"resultcode\":\"0000\",\"deep\":[{\"merid\":[]}]}",
            ),
            ("list", "[1,\"\\u4e2d\",{}]"),
            ("signature", "\"0\""),
        ];
        for _ in 0..=rng.below(3) {
            let (name, value) = further[rng.below(further.len())];
            draft.set(name, raw(value));
        }
        true
    }),
    kind("escaped-values", |draft, _| set(&mut draft.escapes)),
    kind("escaped-names", |draft, _| set(&mut draft.escaped_names)),
    kind("spaces-in-json", |draft, _| set(&mut draft.spaces)),
    kind("spaces-around-json", |draft, _| set(&mut draft.around_json)),
    // The text and its signature.
    kind("lines-with-lf", |draft, _| {
        draft.line_end.replace("\n").is_none()
    }),
    kind("lines-with-crlf", |draft, _| {
        draft.line_end.replace("\r\n").is_none()
    }),
    kind("no-padding", |draft, _| set(&mut draft.unpadded)),
    kind("sign-in-upper-case", |draft, _| {
        draft
            .sign_case
            .replace(|sign, _| sign.to_uppercase())
            .is_none()
    }),
    kind("sign-in-mixed-case", |draft, _| {
        draft.sign_case.replace(mixed_case).is_none()
    }),
    // The form.
    kind("raw-plus", |draft, _| plus(draft, Plus::Raw)),
    kind("space-for-plus", |draft, _| plus(draft, Plus::Space)),
    kind("sign-first", |draft, _| {
        styled(draft, |form| &mut form.sign_first)
    }),
    kind("further-parameters", |draft, _| {
        styled(draft, |form| &mut form.further)
    }),
    kind("escaped-throughout", |draft, _| {
        styled(draft, |form| &mut form.escaping.all)
    }),
    kind("escapes-in-lower-case", |draft, _| {
        styled(draft, |form| &mut form.escaping.lower)
    }),
    kind("unescaped-specials", |draft, _| {
        styled(draft, |form| &mut form.specials)
    }),
    kind("escaped-parameter-names", |draft, _| {
        styled(draft, |form| &mut form.escaped_names)
    }),
    kind("empty-pairs", |draft, _| {
        styled(draft, |form| &mut form.empty_pairs)
    }),
    kind("json-envelope", |draft, _| shape(draft, Shape::Json)),
    rare("multipart", |draft, rng| {
        let boundaries = [
            "x",
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "------------------------d74496d66958873e",
            "a:b'c=d",
        ];
        draft.boundary = rng.pick(&boundaries);
        draft.message.route == Route::Back && shape(draft, Shape::Multipart)
    }),
    // Around the envelope.
    kind("byte-order-mark", |draft, _| around(draft, "\u{feff}", "")),
    kind("white-space", |draft, rng| {
        let (before, after) = (
            rng.pick(&["", " ", "\r\n\r\n", "\t"]),
            rng.pick(&["\n", "\r\n", "  "]),
        );
        around(draft, before, after)
    }),
    kind("nuls", |draft, rng| {
        let (before, after) = (rng.pick(&["", "\0", "\0\0\0\0"]), rng.pick(&["\0", "\0\0"]));
        around(draft, before, after)
    }),
    kind("nominal-content-encoding", |draft, rng| {
        let names = [
            "identity",
            "UTF-8",
            "utf8",
            "GBK",
            "gb2312",
            "ISO-8859-1",
            "Identity, utf-8",
            "us-ascii",
            "",
        ];
        draft.compression.is_none() && draft.content_encoding.replace(rng.pick(&names)).is_none()
    }),
    rare("gzip", |draft, rng| {
        compress(
            draft,
            rng.pick(&["gzip", "x-gzip", "GZIP", "identity, gzip"]),
            Compression::Gzip,
        )
    }),
    rare("zlib", |draft, _| {
        compress(draft, "deflate", Compression::Zlib)
    }),
    rare("deflate-without-header", |draft, _| {
        compress(draft, "Deflate", Compression::Raw)
    }),
    // The request.
    rare("in-url", |draft, _| {
        draft.shape == Shape::Form
            && draft.after.is_empty()
            && draft.before.is_empty()
            && place(draft, Place::Url)
    }),
    kind("in-url-and-body", |draft, _| place(draft, Place::Both)),
    rare("get", |draft, _| {
        draft.shape == Shape::Form
            && draft.after.is_empty()
            && draft.before.is_empty()
            && place(draft, Place::Get)
    }),
    kind("odd-path", |draft, _| {
        draft.message.route != Route::Query && set(&mut draft.odd_path)
    }),
];

fn set(flag: &mut bool) -> bool {
    !std::mem::replace(flag, true)
}

/// Takes the quotes off a member that is an integer.
fn unquote(draft: &mut Draft, name: &str) -> bool {
    let Some(value) = draft.value(name) else {
        return false;
    };
    let Value::Text(digits) = value.clone() else {
        return false;
    };
    let has_leading_zero = digits.len() > 1 && digits.starts_with('0');
    if digits.is_empty() || has_leading_zero || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    *value = Value::Raw(digits);
    true
}

fn amount(draft: &mut Draft, write: fn(String) -> Value) -> bool {
    let is_failure = draft.message.meaning.failure.is_some();
    match draft.value("txnamt") {
        Some(value @ Value::Raw(_)) if !is_failure => {
            let Value::Raw(digits) = value.clone() else {
                return false;
            };
            *value = write(digits);
            true
        }
        _ => false,
    }
}

/// Writes one empty nullable member otherwise; of a failure, any of them but its code and reason.
fn blank(draft: &mut Draft, rng: &mut Rng, write: fn(&mut Draft, &str)) -> bool {
    let is_failure = draft.message.meaning.failure.is_some();
    let nullable: &[&str] = match is_failure {
        true => &[
            "resultcode",
            "resultmsg",
            "queryid",
            "merid",
            "orderid",
            "paytime",
            "txnamt",
        ],
        false => &["resultcode", "resultmsg", "paytime"],
    };
    let mut names: Vec<&str> = nullable.to_vec();
    rng.shuffle(&mut names);
    let mut has_changed = false;
    for name in names {
        let is_empty = match draft.value(name) {
            Some(Value::Text(content)) => content.is_empty(),
            Some(Value::Raw(written)) => is_failure && written == "0",
            None => false,
        };
        if is_empty && (!has_changed || rng.flip()) {
            write(draft, name);
            has_changed = true;
        }
    }
    has_changed
}

fn mixed_case(sign: &str, rng: &mut Rng) -> String {
    let mixed = sign.chars().map(|c| {
        if rng.flip() {
            c.to_ascii_uppercase()
        } else {
            c
        }
    });
    mixed.collect()
}

fn plus(draft: &mut Draft, plus: Plus) -> bool {
    if draft.shape != Shape::Form || draft.form.plus != Plus::Escaped || draft.form.escaping.all {
        return false;
    }
    draft.with_plus();
    draft.form.plus = plus;
    true
}

fn styled(draft: &mut Draft, flag: fn(&mut FormStyle) -> &mut bool) -> bool {
    // A space in place of a `+` is not to be escaped again.
    draft.shape == Shape::Form && draft.form.plus == Plus::Escaped && set(flag(&mut draft.form))
}

fn shape(draft: &mut Draft, shape: Shape) -> bool {
    let is_plain = draft.shape == Shape::Form && draft.form == FormStyle::default();
    if !is_plain || matches!(draft.place, Place::Url | Place::Get) {
        return false;
    }
    draft.shape = shape;
    true
}

fn around(draft: &mut Draft, before: &str, after: &str) -> bool {
    if matches!(draft.place, Place::Url | Place::Get) {
        return false;
    }
    draft.before.splice(0..0, before.bytes());
    draft.after.extend(after.bytes());
    true
}

fn compress(draft: &mut Draft, name: &'static str, compression: Compression) -> bool {
    let may = draft.message.route == Route::Query
        && draft.compression.is_none()
        && draft.content_encoding.is_none();
    if may {
        draft.content_encoding = Some(name);
        draft.compression = Some(compression);
    }
    may
}

fn place(draft: &mut Draft, place: Place) -> bool {
    let may = draft.message.route == Route::Back && draft.place == Place::Body;
    if may {
        draft.place = place;
    }
    may
}
