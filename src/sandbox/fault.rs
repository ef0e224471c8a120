//! Faults on demand: what a platform, or whoever sits before it, gets wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::protocol::key::Key;
use crate::protocol::signature::Signature;

/// Marks a response, among its extensions, that ends in the middle.
#[derive(Debug, Clone, Copy)]
pub struct CutOff;

/// One thing that goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxFault {
    /// The sign fits nothing.
    WrongSign,
    /// Rightly signed, over one cent more.
    WrongAmount,
    /// Signed with another merchant's key.
    OtherKey,
    /// The sign is empty.
    EmptySign,
    /// Each notification is sent twice at once.
    Doubled,
    /// A notification "processing" comes after the final one.
    Reordered,
    /// The first notification comes 30 s late.
    Delayed,
    /// No notification at all.
    Never,
    /// Answers take 5 s.
    SlowAnswers,
    /// Answers end in the middle.
    CutAnswers,
    /// Answers have status 500.
    Status500,
    /// `+` is not percent-encoded.
    RawPlus,
    /// The base64 text is broken into lines.
    LineBreaks,
    /// The sign is in upper case.
    UpperCaseSign,
    /// The envelope is a JSON object instead of a form.
    JsonEnvelope,
}

impl SandboxFault {
    /// All of them, as the page lists them.
    pub const ALL: [Self; 15] = [
        Self::WrongSign,
        Self::WrongAmount,
        Self::OtherKey,
        Self::EmptySign,
        Self::Doubled,
        Self::Reordered,
        Self::Delayed,
        Self::Never,
        Self::SlowAnswers,
        Self::CutAnswers,
        Self::Status500,
        Self::RawPlus,
        Self::LineBreaks,
        Self::UpperCaseSign,
        Self::JsonEnvelope,
    ];

    /// The name in flags, forms and the JSON API.
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongSign => "wrong-sign",
            Self::WrongAmount => "wrong-amount",
            Self::OtherKey => "other-key",
            Self::EmptySign => "empty-sign",
            Self::Doubled => "doubled",
            Self::Reordered => "reordered",
            Self::Delayed => "delayed",
            Self::Never => "never",
            Self::SlowAnswers => "slow-answers",
            Self::CutAnswers => "cut-answers",
            Self::Status500 => "status-500",
            Self::RawPlus => "raw-plus",
            Self::LineBreaks => "line-breaks",
            Self::UpperCaseSign => "upper-case-sign",
            Self::JsonEnvelope => "json-envelope",
        }
    }

    /// Finds a fault by its name.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        let names = || Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| format!("expected one of {}", names()))
    }
}

/// A message as it goes over the wire, faults and all.
pub struct Sealed {
    /// The parameters, percent-encoded: a form's body or a link's query.
    pub form: String,
    /// The same as a JSON object.
    pub json: String,
}

/// Seals `message` with `key`, as well as `faults` let it.
pub fn seal(message: &str, key: &Key, faults: &[SandboxFault]) -> Sealed {
    let has = |fault| faults.contains(&fault);
    let mut text = STANDARD.encode(message);
    if has(SandboxFault::RawPlus) {
        // White space around the object is no part of it, and moves the bytes until a `+` comes out.
        let padded =
            (0..3).map(|spaces| STANDARD.encode(format!("{}{message}", " ".repeat(spaces))));
        text = padded
            .into_iter()
            .find(|text| text.contains('+'))
            .unwrap_or(text);
    }
    if has(SandboxFault::LineBreaks) {
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(76)
            .map(String::from_utf8_lossy)
            .collect();
        text = lines.join("\r\n");
    }
    let other = Key::new("another merchant's key").expect("is not empty");
    let key = if has(SandboxFault::OtherKey) {
        &other
    } else {
        key
    };
    let mut sign = Signature::over(text.as_bytes(), key).to_string();
    if has(SandboxFault::WrongSign) {
        sign = Signature::over(sign.as_bytes(), key).to_string();
    }
    if has(SandboxFault::UpperCaseSign) {
        sign = sign.to_uppercase();
    }
    if has(SandboxFault::EmptySign) {
        sign.clear();
    }
    let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC)
        .to_string();
    let encoded = if has(SandboxFault::RawPlus) {
        encoded.replace("%2B", "+")
    } else {
        encoded
    };
    Sealed {
        form: format!("resp={encoded}&sign={sign}"),
        json: serde_json::json!({ "resp": text, "sign": sign }).to_string(),
    }
}
