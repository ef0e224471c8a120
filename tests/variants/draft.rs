//! A message on its way to bytes: what the changes set, and the writer that carries it out.

use super::encoder::{
    Escaping, base64, deflate, gzip, json_string, md5_hex, multipart, percent, zlib,
};
use super::message::{Message, Route, Value};
use super::rng::Rng;

/// The form of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Form,
    Json,
    Multipart,
}

/// Place of an envelope in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Body,
    /// In the address of a POST without a body (§2.3).
    Url,
    Both,
    /// In the address of a GET.
    Get,
}

/// Spelling of base64's `+` in a form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Plus {
    #[default]
    Escaped,
    Raw,
    Space,
}

/// Spelling of a form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FormStyle {
    pub(crate) plus: Plus,
    pub(crate) escaping: Escaping,
    pub(crate) escaped_names: bool,
    pub(crate) sign_first: bool,
    pub(crate) further: bool,
    pub(crate) empty_pairs: bool,
    /// `/` and `=` as they are.
    pub(crate) specials: bool,
}

/// A compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zlib,
    Raw,
}

/// Makes the signature from the text, the payload and the key.
pub(crate) type Signing = fn(&str, &[u8], &str) -> String;

/// A message with everything that changes may set.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) message: Message,
    pub(crate) spaces: bool,
    pub(crate) escapes: bool,
    pub(crate) escaped_names: bool,
    pub(crate) around_json: bool,
    pub(crate) line_end: Option<&'static str>,
    pub(crate) unpadded: bool,
    pub(crate) sign_case: Option<fn(&str, &mut Rng) -> String>,
    pub(crate) form: FormStyle,
    pub(crate) shape: Shape,
    pub(crate) place: Place,
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    pub(crate) content_encoding: Option<&'static str>,
    pub(crate) compression: Option<Compression>,
    pub(crate) odd_path: bool,
    pub(crate) boundary: &'static str,
    // The stages at which a change of meaning may step in.
    pub(crate) edit_payload: Option<fn(&mut Vec<u8>, &mut Rng)>,
    pub(crate) edit_text: Option<fn(&mut String)>,
    pub(crate) signing: Signing,
    pub(crate) edit_sealed: Option<fn(&mut String, &mut String, &mut Rng)>,
    pub(crate) edit_form: Option<fn(&mut String, &mut Rng)>,
    pub(crate) edit_body: Option<fn(&mut Vec<u8>, &mut Rng)>,
    /// Another form for the address than for the body.
    pub(crate) edit_url: Option<fn(&mut String)>,
}

/// A message as bytes.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) query: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Text that the signature is over.
    pub(crate) payload: Vec<u8>,
}

/// The document's signature (§2.2): over the text, the key last.
pub(crate) fn rightly(text: &str, _: &[u8], key: &str) -> String {
    md5_hex(&[text.as_bytes(), key.as_bytes()])
}

impl Draft {
    pub(crate) fn of(message: Message) -> Self {
        Self {
            place: if message.route == Route::Front {
                Place::Get
            } else {
                Place::Body
            },
            message,
            spaces: false,
            escapes: false,
            escaped_names: false,
            around_json: false,
            line_end: None,
            unpadded: false,
            sign_case: None,
            form: FormStyle::default(),
            shape: Shape::Form,
            before: Vec::new(),
            after: Vec::new(),
            content_encoding: None,
            compression: None,
            odd_path: false,
            boundary: "----WebKitFormBoundary7MA4YWxkTrZu0gW",
            edit_payload: None,
            edit_text: None,
            signing: rightly,
            edit_sealed: None,
            edit_form: None,
            edit_body: None,
            edit_url: None,
        }
    }

    pub(crate) fn value(&mut self, name: &str) -> Option<&mut Value> {
        let members = self.message.members.iter_mut();
        members
            .into_iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) {
        match self.value(name) {
            Some(found) => *found = value,
            None => self.message.members.push((name.to_owned(), value)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.message.members.retain(|(found, _)| found != name);
    }

    /// Makes sure that the text has a `+` in it.
    pub(crate) fn with_plus(&mut self) {
        self.set("memo", Value::Raw("\">>>>>>>>>>\"".to_owned()));
    }

    fn json(&self, rng: &mut Rng) -> Vec<u8> {
        let space = |rng: &mut Rng| match self.spaces {
            true => rng.pick(&["", " ", "\n", "\r\n\t", "  "]),
            false => "",
        };
        let mut json = String::from("{");
        for (at, (name, value)) in self.message.members.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let name = json_string(name, self.escaped_names.then_some(&mut *rng));
            let value = match value {
                Value::Text(text) => json_string(text, self.escapes.then_some(&mut *rng)),
                Value::Raw(raw) => raw.clone(),
            };
            let [a, b, c, d] = [(); 4].map(|()| space(rng));
            json += &format!("{comma}{a}{name}{b}:{c}{value}{d}");
        }
        json.push('}');
        if self.around_json {
            json = format!(
                "{}{json}{}",
                rng.pick(&[" ", "\n", "\t\r\n"]),
                rng.pick(&["", "\n"])
            );
        }
        if self.unpadded {
            while json.len().is_multiple_of(3) {
                json.push(' ');
            }
        }
        json.into_bytes()
    }

    fn seal(&self, payload: &[u8], key: &str, rng: &mut Rng) -> (String, String) {
        let mut text = base64(payload);
        if self.unpadded {
            assert!(text.ends_with('=') || self.edit_payload.is_some());
            text = text.trim_end_matches('=').to_owned();
        }
        if let Some(end) = self.line_end {
            let length = rng.pick(&[&60_usize, &64, &76]);
            let lines = text.as_bytes().chunks(*length);
            text = lines
                .map(|line| String::from_utf8_lossy(line) + end)
                .collect();
        }
        if let Some(edit) = self.edit_text {
            edit(&mut text);
        }
        let mut sign = (self.signing)(&text, payload, key);
        if let Some(case) = self.sign_case {
            sign = case(&sign, rng);
        }
        if let Some(edit) = self.edit_sealed {
            edit(&mut text, &mut sign, rng);
        }
        (text, sign)
    }

    /// A form with this style. In an address a space cannot stand as it is.
    fn form(&self, style: FormStyle, (text, sign): (&str, &str), is_address: bool) -> String {
        let plus = match style.plus {
            Plus::Escaped => None,
            Plus::Raw => Some("+"),
            Plus::Space if is_address => Some("%20"),
            Plus::Space => Some(" "),
        };
        let mut value = percent(text, style.escaping);
        if let Some(plus) = plus {
            assert!(text.contains('+') || self.edit_payload.is_some());
            value = value.replace("%2B", plus).replace("%2b", plus);
        }
        if style.specials {
            value = value.replace("%2F", "/").replace("%3D", "=");
        }
        let name = |name: &str| match style.escaped_names {
            true => percent(
                name,
                Escaping {
                    all: true,
                    ..style.escaping
                },
            ),
            false => name.to_owned(),
        };
        let mut pairs = vec![
            format!("{}={value}", name("resp")),
            format!("{}={}", name("sign"), percent(sign, style.escaping)),
        ];
        if style.sign_first {
            pairs.swap(0, 1);
        }
        if style.further {
            pairs.insert(1, "charset=utf-8".to_owned());
            pairs.push("submit=%E6%8F%90%E4%BA%A4".to_owned());
        }
        let form = pairs.join(if style.empty_pairs { "&&" } else { "&" });
        if style.empty_pairs { form + "&" } else { form }
    }

    fn envelope(&self, sealed: (&str, &str), rng: &mut Rng) -> Vec<u8> {
        let (text, sign) = sealed;
        match self.shape {
            Shape::Form => {
                let mut form = self.form(self.form, sealed, false);
                if let Some(edit) = self.edit_form {
                    edit(&mut form, rng);
                }
                form
            }
            Shape::Json => {
                let mut escapes = rng.clone();
                let escapes = rng.flip().then_some(&mut escapes);
                let text = json_string(text, escapes);
                match rng.below(3) {
                    0 => format!("{{\"resp\":{text},\"sign\":\"{sign}\"}}"),
                    1 => format!("{{ \"sign\" : \"{sign}\",\n \"resp\" : {text} }}"),
                    _ => format!(
                        "{{\"sign\":\"{sign}\",\"charset\":\"utf-8\",\"resp\":{text},\"more\":[1]}}"
                    ),
                }
            }
            Shape::Multipart => {
                let parts = [
                    ("resp", "", text),
                    ("charset", "\r\nContent-Type: text/plain", "utf-8"),
                    ("sign", "\r\nContent-Type: text/plain; charset=utf-8", sign),
                ];
                multipart(&parts, self.boundary)
            }
        }
        .into_bytes()
    }

    /// Writes the message.
    pub(crate) fn write(&self, key: &str, rng: &mut Rng) -> Wire {
        let mut payload = self.json(rng);
        if let Some(edit) = self.edit_payload {
            edit(&mut payload, rng);
        }
        let sealed = self.seal(&payload, key, rng);
        let sealed = (sealed.0.as_str(), sealed.1.as_str());
        let mut query = String::new();
        if self.place != Place::Body {
            let style = if self.shape == Shape::Form {
                self.form
            } else {
                FormStyle::default()
            };
            query = self.form(style, sealed, true);
            if let (Place::Get, Some(edit)) = (self.place, self.edit_form) {
                edit(&mut query, rng);
            }
            if let Some(edit) = self.edit_url {
                edit(&mut query);
            }
        }
        let mut body = Vec::new();
        if matches!(self.place, Place::Body | Place::Both) {
            body = [
                self.before.clone(),
                self.envelope(sealed, rng),
                self.after.clone(),
            ]
            .concat();
        }
        let stored = rng.flip();
        body = match self.compression {
            None => body,
            Some(Compression::Gzip) => gzip(&body, stored),
            Some(Compression::Zlib) => zlib(&body, stored),
            Some(Compression::Raw) => deflate(&body, stored),
        };
        if let Some(edit) = self.edit_body {
            edit(&mut body, rng);
        }
        let mut headers = vec![("Content-Type", self.content_type())];
        headers.extend(
            self.content_encoding
                .map(|coding| ("Content-Encoding", coding.to_owned())),
        );
        Wire {
            method: if self.place == Place::Get {
                "GET"
            } else {
                "POST"
            },
            path: self.path(rng),
            query,
            headers,
            body,
            payload,
        }
    }

    fn content_type(&self) -> String {
        match self.shape {
            Shape::Form => "application/x-www-form-urlencoded".to_owned(),
            Shape::Json => "application/json".to_owned(),
            // Not a token (RFC 9110 §5.6.2), so it is put in quotes.
            Shape::Multipart if self.boundary.contains(':') => {
                format!("Multipart/Form-Data; boundary=\"{}\"", self.boundary)
            }
            Shape::Multipart => format!("multipart/form-data; boundary={}", self.boundary),
        }
    }

    fn path(&self, rng: &mut Rng) -> &'static str {
        match (self.message.route, self.odd_path) {
            (Route::Back, false) => "/notify/back",
            (Route::Back, true) => rng.pick(&[
                "//notify/back",
                "/notify/back/",
                "/notify//back//",
                "/cashier//notify/back",
            ]),
            (Route::Front, false) => "/notify/front",
            (Route::Front, true) => rng.pick(&[
                "//notify/front",
                "/notify/front/",
                "/cashier/notify///front",
            ]),
            (Route::Query, _) => "",
        }
    }
}
