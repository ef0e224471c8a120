//! Changes that alter a message's meaning, or leave none: the result of the original must never come out.

use super::draft::{Compression, Draft, FormStyle, Place, Shape};
use super::encoder::{base64, gzip, md5_hex, multipart, percent};
use super::message::{Route, Value, raw, text};
use super::rng::Rng;

/// Results that a changed message may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// No result at all.
    Rejection,
    /// Another result, or none.
    OtherResult,
}

/// A kind of change. It returns false where it does not apply to this message.
pub(crate) struct AlteredKind {
    pub(crate) name: &'static str,
    pub(crate) expected: Expected,
    pub(crate) apply: fn(&mut Draft, &mut Rng) -> bool,
}

const fn other(name: &'static str, apply: fn(&mut Draft, &mut Rng) -> bool) -> AlteredKind {
    AlteredKind {
        name,
        expected: Expected::OtherResult,
        apply,
    }
}

const fn none(name: &'static str, apply: fn(&mut Draft, &mut Rng) -> bool) -> AlteredKind {
    AlteredKind {
        name,
        expected: Expected::Rejection,
        apply,
    }
}

/// Every kind.
pub(crate) const ALTERED: &[AlteredKind] = &[
    // Another result.
    other("amount-off-by-one", |draft, rng| {
        amount(
            draft,
            |amount| if amount > 1 { amount - 1 } else { amount + 1 },
            rng,
        )
    }),
    other("amount-in-other-units", |draft, rng| {
        amount(
            draft,
            |amount| {
                amount
                    .checked_mul(100)
                    .filter(|it| *it < 1 << 62)
                    .unwrap_or(amount / 100)
            },
            rng,
        )
    }),
    other("other-order", |draft, _| suffixed(draft, "orderid")),
    other("other-payment", |draft, _| suffixed(draft, "queryid")),
    other("other-merchant", |draft, _| suffixed(draft, "merid")),
    other("other-state", |draft, rng| {
        let own = draft.message.meaning.resultcode.clone();
        let codes = ["0000", "1001", "1002", "1003", "1004", "", "9999"];
        let code = rng.pick(&codes);
        draft.set("resultcode", text(code));
        *code != own
    }),
    // Numbers that are no amount.
    none("amount-with-exponent", |draft, rng| {
        set(
            draft,
            "txnamt",
            rng,
            &["128e1", "1.28e3", "\"128E+1\"", "1280e0", "1280.0e0"],
        )
    }),
    none("amount-with-sign", |draft, rng| {
        set(
            draft,
            "txnamt",
            rng,
            &["-1280", "\"+1280\"", "\"-0\"", "-0", "\"-1280.0\""],
        )
    }),
    none("amount-with-fraction", |draft, rng| {
        set(
            draft,
            "txnamt",
            rng,
            &[
                "1280.5",
                "12.80",
                "\"1280.01\"",
                "1280.000000000000000001",
                "\"1280.\"",
                "\".5\"",
                "\"1280.0.0\"",
            ],
        )
    }),
    none("amount-with-leading-zero", |draft, rng| {
        set(
            draft,
            "txnamt",
            rng,
            &["\"01280\"", "\"00\"", "\"0001280.00\""],
        )
    }),
    none("amount-with-blank", |draft, rng| {
        set(
            draft,
            "txnamt",
            rng,
            &[
                "\" 1280\"",
                "\"1280 \"",
                "\"1 280\"",
                "\"1280\\n\"",
                "\"1,280\"",
                "\"１２８０\"",
                "\"1280元\"",
                "\"0x500\"",
            ],
        )
    }),
    none("amount-missing", |draft, rng| missing(draft, "txnamt", rng)),
    none("amount-of-other-type", |draft, rng| {
        set(
            draft,
            "txnamt",
            rng,
            &["true", "false", "[1280]", "{\"a\":1280}", "[]", "\"true\""],
        )
    }),
    none("amount-too-large", |draft, rng| {
        set(
            draft,
            "txnamt",
            rng,
            &[
                "9223372036854775808",
                "18446744073709552896",
                "\"99999999999999999999\"",
                "1280000000000000000000000000000",
            ],
        )
    }),
    // Codes that a comparison of numbers takes for one of the document's.
    none("zero-for-0000", |draft, rng| {
        set(
            draft,
            "resultcode",
            rng,
            &[
                "0",
                "\"0\"",
                "\"00000\"",
                "\"000\"",
                "\"0.0\"",
                "\"-0\"",
                "\" 0000\"",
                "\"0000\\n\"",
                "\"0e0\"",
                "0.0",
                "0e1",
            ],
        )
    }),
    none("code-as-other-number", |draft, rng| {
        set(
            draft,
            "resultcode",
            rng,
            &[
                "1002.0",
                "\"1002.0\"",
                "1.002e3",
                "\"+1002\"",
                "\"01002\"",
                "\" 1002\"",
                "\"1.002e3\"",
                "-1002",
            ],
        )
    }),
    none("code-of-other-type", |draft, rng| {
        set(
            draft,
            "resultcode",
            rng,
            &["true", "false", "[]", "[\"0000\"]", "{}"],
        )
    }),
    // Members of other types, and members that are not there.
    none("number-of-other-type", |draft, rng| {
        let names = ["merid", "orderid", "queryid"];
        let name = rng.pick(&names);
        set(
            draft,
            name,
            rng,
            &[
                "1.0",
                "100000000000001.0",
                "1e9",
                "-1",
                "true",
                "false",
                "[]",
                "[\"1\"]",
                "{}",
            ],
        )
    }),
    none("number-missing", |draft, rng| {
        let names = ["merid", "orderid", "queryid"];
        missing(draft, rng.pick(&names), rng)
    }),
    none("text-of-other-type", |draft, rng| {
        let names = ["resultmsg", "paytime"];
        let name = rng.pick(&names);
        set(draft, name, rng, &["{}", "[]", "[\"a\"]", "{\"a\":1}"])
    }),
    none("member-twice", |draft, rng| twice(draft, rng, false)),
    none("member-twice-escaped", |draft, rng| twice(draft, rng, true)),
    none("failure-that-names-a-payment", |draft, rng| {
        draft.message.route != Route::Query
            && set(
                draft,
                "respcode",
                rng,
                &["\"25\"", "25", "\"\"", "0", "\"0\"", "true", "[]"],
            )
    }),
    // Requests.
    none("action-in-it", |draft, rng| {
        set(
            draft,
            "action",
            rng,
            &["\"AliPay\"", "\"Bank\"", "\"\"", "0"],
        )
    }),
    none("neither-code-nor-amount", |draft, _| {
        draft.remove("resultcode");
        draft.remove("txnamt");
        true
    }),
    // Payloads that are no strict JSON object.
    none("payload-cut", |draft, _| {
        payload(draft, |payload, rng| {
            payload.truncate(rng.below(payload.trim_ascii_end().len()))
        })
    }),
    none("payload-with-more", |draft, _| {
        payload(draft, |payload, rng| {
            payload.extend(
                rng.pick(&["x", "{}", "]", "\0", ",", "\u{b}", "//"])
                    .bytes(),
            )
        })
    }),
    none("payload-wrapped", |draft, _| {
        payload(draft, |payload, rng| {
            let wraps = [
                ("[", "]"),
                ("\u{feff}", ""),
                ("{\"a\":", "}"),
                ("cb(", ")"),
                ("\0", ""),
                ("\u{a0}", ""),
            ];
            let (before, after) = wraps[rng.below(wraps.len())];
            *payload = [before.as_bytes(), payload, after.as_bytes()].concat();
        })
    }),
    none("payload-not-utf8", |draft, _| {
        payload(draft, |payload, _| {
            insert(payload, b"\"n\":\"\xd5\xc5\xff\"")
        })
    }),
    none("payload-with-broken-string", |draft, _| {
        payload(draft, |payload, rng| {
            let broken = [
                "\\ud83d",
                "\\udc00\\ud800",
                "\u{1}",
                "\\x41",
                "a\nb",
                "\\u12",
            ];
            insert(
                payload,
                format!("\"n\":\"{}\"", rng.pick(&broken)).as_bytes(),
            );
        })
    }),
    none("payload-with-broken-member", |draft, _| {
        payload(draft, |payload, rng| {
            let broken = [
                "\"n\":01",
                "\"n\":NaN",
                "\"n\":+1",
                "\"n\":.5",
                "n:1",
                "'n':1",
                "\"n\":",
                "\"n\" 1",
                "",
                "/* n */",
            ];
            insert(payload, rng.pick(&broken).as_bytes());
        })
    }),
    none("payload-too-deep", |draft, _| {
        payload(draft, |payload, rng| {
            let levels = [33, 64, 200, 2_000][rng.below(4)];
            let deep = format!("\"deep\":{}{}", "[".repeat(levels), "]".repeat(levels));
            insert(payload, deep.as_bytes());
        })
    }),
    // Signatures over something else.
    none("sign-empty", |draft, _| {
        sealed(draft, |_, sign, rng| {
            *sign = rng.pick(&["", "null", " ", "NULL"]).to_owned()
        })
    }),
    none("sign-of-another-key", |draft, _| {
        signing(draft, |text, _, key| {
            md5_hex(&[text.as_bytes(), key.as_bytes(), b"x"])
        })
    }),
    none("sign-without-key", |draft, _| {
        signing(draft, |text, _, _| md5_hex(&[text.as_bytes()]))
    }),
    none("sign-key-first", |draft, _| {
        signing(draft, |text, _, key| {
            md5_hex(&[key.as_bytes(), text.as_bytes()])
        })
    }),
    none("sign-over-json", |draft, _| {
        signing(draft, |_, payload, key| md5_hex(&[payload, key.as_bytes()]))
    }),
    none("sign-over-escaped-text", |draft, _| {
        draft.with_plus();
        signing(draft, |text, _, key| {
            md5_hex(&[percent(text, Default::default()).as_bytes(), key.as_bytes()])
        })
    }),
    none("sign-changed", |draft, _| {
        sealed(draft, |_, sign, rng| {
            let at = rng.below(sign.len());
            let digit = if sign[at..].starts_with('0') {
                "1"
            } else {
                "0"
            };
            sign.replace_range(at..=at, digit);
        })
    }),
    none("sign-of-other-length", |draft, _| {
        sealed(draft, |_, sign, rng| match rng.below(4) {
            0 => sign.truncate(31),
            1 => sign.push('0'),
            2 => sign.insert(0, ' '),
            _ => *sign = sign.repeat(2),
        })
    }),
    // Texts that were changed, or are no base64.
    none("text-changed", |draft, _| {
        sealed(draft, |text, _, rng| {
            let at = rng.below(text.len().saturating_sub(4).max(1));
            let digit = if text[at..].starts_with('A') {
                "B"
            } else {
                "A"
            };
            text.replace_range(at..=at, digit);
        })
    }),
    none("text-in-other-alphabet", |draft, _| {
        draft.with_plus();
        draft.form = FormStyle::default();
        draft.edit_text = Some(|text| *text = text.replace('+', "-").replace('/', "_"));
        true
    }),
    none("text-with-wrong-padding", |draft, _| {
        draft.edit_text = Some(|text| {
            text.push_str(if text.len().is_multiple_of(4) {
                "="
            } else {
                "==="
            })
        });
        true
    }),
    none("text-empty", |draft, _| {
        draft.form = FormStyle::default();
        draft.edit_text = Some(String::clear);
        true
    }),
    // Parameters.
    none("resp-twice", |draft, _| {
        form(draft, |form, rng| {
            let other = percent(&base64(b"{}"), Default::default());
            let own = form.clone();
            *form = match rng.below(3) {
                0 => format!("resp={other}&{own}"),
                1 => format!("{own}&r%65sp={other}"),
                _ => format!(
                    "{own}&{}",
                    own.split('&')
                        .find(|pair| pair.starts_with("resp"))
                        .unwrap()
                ),
            };
        })
    }),
    none("sign-twice", |draft, _| {
        form(draft, |form, rng| match rng.below(3) {
            0 => form.push_str("&sign=00000000000000000000000000000000"),
            1 => form.insert_str(0, "sign=&"),
            _ => *form = format!("{form}&s%69gn={}", form.split("sign=").nth(1).unwrap()),
        })
    }),
    none("other-parameter-name", |draft, _| {
        form(draft, |form, rng| {
            let name = rng.pick(&["req=", "RESP=", "resp[]=", "resp%00=", " resp=", "resp;="]);
            *form = form.replacen("resp=", &name.replace(' ', "%20"), 1);
        })
    }),
    none("broken-escape", |draft, _| {
        form(draft, |form, rng| {
            let broken = rng.pick(&["%", "%4", "%zz", "%ff", "%u0041"]);
            *form = form.replacen("resp=", &format!("resp={broken}"), 1);
        })
    }),
    none("url-and-body-differ", |draft, rng| {
        draft.place = Place::Both;
        draft.edit_url = Some(
            [
                |url: &mut String| *url = url.replacen("sign=", "sign=0", 1),
                |url: &mut String| {
                    *url = format!("resp={}", percent(&base64(b"{}"), Default::default()))
                },
                |url: &mut String| "sign=0".clone_into(url),
                |url: &mut String| "req=QQ%3D%3D".clone_into(url),
            ][rng.below(4)],
        );
        draft.form = FormStyle::default();
        draft.message.route == Route::Back
    }),
    none("half-in-url", |draft, _| {
        draft.shape = Shape::Form;
        draft.form = FormStyle::default();
        draft.place = Place::Both;
        draft.edit_url = Some(|url| *url = url.split('&').next().unwrap_or_default().to_owned());
        draft.edit_form =
            Some(|form, _| *form = form.split('&').nth(1).unwrap_or_default().to_owned());
        draft.message.route == Route::Back
    }),
    none("member-of-json-envelope-twice", |draft, _| {
        draft.place = Place::Body;
        draft.form = FormStyle::default();
        draft.shape = Shape::Json;
        draft.compression = None;
        draft.content_encoding = None;
        draft.edit_body = Some(|body, rng| {
            let more = rng.pick(&[
                "\"sign\":\"0\"",
                "\"resp\":\"e30=\"",
                "\"r\\u0065sp\":\"e30=\"",
            ]);
            let at = body.iter().position(|byte| *byte == b'{').unwrap();
            body.splice(at + 1..=at, format!("{more},").bytes());
        });
        draft.message.route != Route::Front
    }),
    // Bodies.
    none("compressed-request", |draft, rng| {
        draft.place = Place::Body;
        draft.content_encoding = Some(["gzip", "deflate"][rng.below(2)]);
        draft.compression = Some(if draft.content_encoding == Some("gzip") {
            Compression::Gzip
        } else {
            Compression::Zlib
        });
        draft.message.route == Route::Back
    }),
    none("unknown-or-layered-coding", |draft, rng| {
        let (coding, compression) = [
            ("br", None),
            ("zstd", None),
            ("gzip, gzip", Some(Compression::Gzip)),
            ("gzip, br", Some(Compression::Gzip)),
            ("compress", None),
            ("gzip", None),
            ("deflate", None),
            ("deflate", Some(Compression::Gzip)),
        ][rng.below(8)];
        draft.content_encoding = Some(coding);
        draft.compression = compression;
        draft.message.route == Route::Query
    }),
    none("broken-compression", |draft, _| {
        draft.content_encoding = Some("gzip");
        draft.compression = Some(Compression::Gzip);
        draft.edit_body = Some(|body, rng| match rng.below(4) {
            0 => body.truncate(rng.below(body.len())),
            1 => body.push(b'x'),
            2 => body.extend(gzip(b"x", true)),
            _ => {
                let crc = body.len() - 8;
                body[crc] ^= 1;
            }
        });
        draft.message.route == Route::Query
    }),
    none("broken-multipart", |draft, _| {
        draft.place = Place::Body;
        draft.form = FormStyle::default();
        draft.shape = Shape::Multipart;
        draft.before.clear();
        draft.after.clear();
        draft.edit_body = Some(|body, rng| {
            let whole = String::from_utf8_lossy(body).into_owned();
            let first = "name=\"resp\"";
            *body = match rng.below(6) {
                0 => whole.replacen(first, &format!("{first}; filename=\"a\""), 1),
                1 => whole.replacen(
                    first,
                    &format!("{first}\r\nContent-Transfer-Encoding: base64"),
                    1,
                ),
                2 => whole.replacen("name=\"charset\"", first, 1),
                3 => whole.trim_end_matches("--\r\n").to_owned(),
                4 => whole.replace("\r\n", "\n"),
                _ => multipart(&[("resp", "", "QQ==")], "another"),
            }
            .into_bytes();
        });
        draft.message.route == Route::Back
    }),
    none("utf-16", |draft, _| {
        draft.place = Place::Body;
        draft.before.clear();
        draft.after.clear();
        if draft.shape == Shape::Multipart {
            draft.shape = Shape::Form;
        }
        draft.compression = None;
        draft.content_encoding = None;
        draft.edit_body = Some(|body, rng| {
            let text = String::from_utf8_lossy(body).into_owned();
            let mark = if rng.flip() { "\u{feff}" } else { "" };
            let bytes = if rng.flip() {
                u16::to_le_bytes
            } else {
                u16::to_be_bytes
            };
            *body = format!("{mark}{text}")
                .encode_utf16()
                .flat_map(bytes)
                .collect();
        });
        draft.message.route != Route::Front
    }),
];

fn set(draft: &mut Draft, name: &str, rng: &mut Rng, values: &[&str]) -> bool {
    let value = values[rng.below(values.len())];
    draft.set(name, raw(value));
    true
}

fn missing(draft: &mut Draft, name: &str, rng: &mut Rng) -> bool {
    match rng.below(3) {
        0 => draft.remove(name),
        1 => draft.set(name, raw("null")),
        _ => draft.set(name, text("")),
    }
    true
}

fn amount(draft: &mut Draft, change: fn(u64) -> u64, rng: &mut Rng) -> bool {
    let own = draft.message.meaning.amount;
    let changed = change(own);
    let written = changed.to_string();
    draft.set(
        "txnamt",
        if rng.flip() {
            raw(&written)
        } else {
            text(&written)
        },
    );
    changed != own
}

/// Another number: one digit more.
fn suffixed(draft: &mut Draft, name: &str) -> bool {
    match draft.value(name) {
        Some(Value::Text(number) | Value::Raw(number)) => number.push('1'),
        None => return false,
    }
    true
}

fn twice(draft: &mut Draft, rng: &mut Rng, escaped: bool) -> bool {
    // Escapes in its name could make it twice the same name, or a name of its own.
    let at = rng.below(draft.message.members.len());
    let (name, value) = draft.message.members[at].clone();
    let value = if rng.flip() { value } else { text("1") };
    if escaped {
        draft.escaped_names = true;
    }
    draft.message.members.push((name, value));
    true
}

fn insert(payload: &mut Vec<u8>, member: &[u8]) {
    let at = payload.iter().position(|byte| *byte == b'{').unwrap() + 1;
    payload.splice(at..at, [member, b","].concat());
}

fn payload(draft: &mut Draft, edit: fn(&mut Vec<u8>, &mut Rng)) -> bool {
    draft.edit_payload = Some(edit);
    true
}

fn sealed(draft: &mut Draft, edit: fn(&mut String, &mut String, &mut Rng)) -> bool {
    draft.edit_sealed = Some(edit);
    true
}

fn signing(draft: &mut Draft, signing: super::draft::Signing) -> bool {
    draft.signing = signing;
    true
}

/// Edits the form itself, which then is the only place of the envelope.
fn form(draft: &mut Draft, edit: fn(&mut String, &mut Rng)) -> bool {
    draft.shape = Shape::Form;
    draft.form = FormStyle::default();
    if draft.message.route != Route::Front && draft.place != Place::Get {
        draft.place = Place::Body;
    }
    draft.edit_form = Some(edit);
    true
}
