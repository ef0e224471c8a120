//! Faults on demand: the mistakes of a platform, or of something in front of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::dialect::Dialect;
use crate::protocol::key::Key;
use crate::protocol::signature::Signature;

/// Marks a response, among its extensions, that ends in the middle.
#[derive(Debug, Clone, Copy)]
pub struct CutOff;

/// One thing that goes wrong on purpose, or is written in another dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxFault {
    /// The signature fits nothing.
    WrongSign,
    /// Rightly signed, over one cent more.
    WrongAmount,
    /// Signed with another merchant's key.
    OtherKey,
    /// The signature is empty.
    EmptySign,
    /// Each notification is sent twice at once.
    Doubled,
    /// A notification "processing" comes after the final one.
    Reordered,
    /// The first notification comes 30 s late.
    Delayed,
    /// No notification at all.
    Never,
    /// Responses take 5 s.
    SlowAnswers,
    /// Responses end in the middle.
    CutAnswers,
    /// Responses have status 500.
    Status500,
    /// An equal meaning in another form.
    Dialect(Dialect),
}

impl SandboxFault {
    const CHANGES: [Self; 11] = [
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
    ];

    /// Lists all of them, as the page does.
    pub fn all() -> impl Iterator<Item = Self> {
        let dialects = Dialect::ALL.into_iter().map(Self::Dialect);
        Self::CHANGES.into_iter().chain(dialects)
    }

    /// Returns the name in flags, forms and the JSON API.
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
            Self::Dialect(dialect) => dialect.name(),
        }
    }

    /// Finds a fault by its name.
    pub fn parse(name: &str) -> Result<Self, String> {
        let names = || Self::all().map(Self::name).collect::<Vec<_>>().join(", ");
        Self::all()
            .find(|fault| fault.name() == name)
            .ok_or_else(|| format!("expected one of {}", names()))
    }

    /// Lists the dialects among these faults.
    pub fn dialects(faults: &[Self]) -> Vec<Dialect> {
        let dialect = |fault: &Self| match fault {
            Self::Dialect(dialect) => Some(*dialect),
            _ => None,
        };
        faults.iter().filter_map(dialect).collect()
    }
}

/// A message as it goes over the wire, faults and all.
pub struct Sealed {
    /// The parameters, percent-encoded: a form's body or a link's query.
    pub form: String,
    /// The envelope as a JSON object.
    pub json: String,
    /// The dialects for the body and its header fields.
    pub dialects: Vec<Dialect>,
}

/// Seals `message` with `key`, as well as `faults` let it.
pub fn seal(message: &str, key: &Key, faults: &[SandboxFault]) -> Sealed {
    let has = |fault| faults.contains(&fault);
    let speaks = |dialect| has(SandboxFault::Dialect(dialect));
    let mut text = STANDARD.encode(message);
    if speaks(Dialect::RawPlus) {
        // White space around the object is no part of it, and moves the bytes until a `+` comes out.
        let padded =
            (0..3).map(|spaces| STANDARD.encode(format!("{}{message}", " ".repeat(spaces))));
        text = padded
            .into_iter()
            .find(|text| text.contains('+'))
            .unwrap_or(text);
    }
    if speaks(Dialect::Unpadded) {
        text.truncate(text.trim_end_matches('=').len());
    }
    if speaks(Dialect::LineBreaks) {
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
    if speaks(Dialect::UpperCaseSign) {
        sign = sign.to_uppercase();
    }
    if has(SandboxFault::EmptySign) {
        sign.clear();
    }
    let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC)
        .to_string();
    let encoded = if speaks(Dialect::RawPlus) {
        encoded.replace("%2B", "+")
    } else {
        encoded
    };
    let dialects = SandboxFault::dialects(faults);
    // An empty `sign` that another language prints as nothing at all.
    if sign.is_empty() && speaks(Dialect::NullSign) {
        return Sealed {
            form: format!("resp={encoded}"),
            json: serde_json::json!({ "resp": text, "sign": null }).to_string(),
            dialects,
        };
    }
    Sealed {
        form: format!("resp={encoded}&sign={sign}"),
        json: serde_json::json!({ "resp": text, "sign": sign }).to_string(),
        dialects,
    }
}
