//! Apps that still sign: what came is passed on unchanged, and our key's verdict stands beside the answer.

use bytes::Bytes;

use super::call::Call;
use crate::config::Snapshot;
use crate::protocol::envelope;
use crate::protocol::explain;
use crate::protocol::explain::{Candidate, Explanation};
use crate::protocol::json::Object;
use crate::protocol::request;
use crate::protocol::request::Order;
use crate::protocol::subject::Subject;

/// An app's own envelope, and what our key says about it.
pub(super) struct Shadow {
    /// The text and sign as the app made them, decoded from the form.
    pub(super) envelope: Option<(String, String)>,
    /// Our key gives the same sign.
    pub(super) verdict: ShadowVerdict,
    /// Whom and what it is about, where it can be read.
    pub(super) subject: Subject,
    /// The call, where our key fits: what the answer is verified against.
    pub(super) call: Option<Call>,
}

/// Whether our key gives the sign that the app sent, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ShadowVerdict {
    /// It does.
    Match,
    /// It does not; in words, for the log.
    Mismatch(String),
}

impl ShadowVerdict {
    /// The value of `countersign-shadow`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Mismatch(_) => "mismatch",
        }
    }
}

/// Longer texts are not searched for the cause of a mismatch; `countersign explain` does that.
const EXPLAINED: usize = 4096;

/// Whether a body is a form with an envelope rather than plain JSON.
pub(super) fn is_signed(body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    may_be_signed(body)
        && (start.starts_with(b"req=")
            || start.starts_with(b"sign=")
            || envelope::read(body, "req").is_ok())
}

/// Whether a body that begins like this can be one.
pub(super) fn may_be_signed(body: &[u8]) -> bool {
    !body.trim_ascii_start().starts_with(b"{")
}

impl Shadow {
    /// Compares the app's sign with ours. Nothing is refused: in shadow the app's own signing is in force.
    pub(super) fn of(body: &[u8], snapshot: &Snapshot) -> Self {
        let mismatch = |why: &str| Self {
            envelope: None,
            verdict: ShadowVerdict::Mismatch(why.to_owned()),
            subject: Subject::default(),
            call: None,
        };
        let received = match envelope::read(body, "req") {
            Ok(received) => received,
            Err(error) => return mismatch(&error.to_string()),
        };
        let envelope = Some((received.text().to_owned(), received.sign().to_owned()));
        let Some(bytes) = received.unverified() else {
            return Self {
                envelope,
                ..mismatch("req is not base64")
            };
        };
        let object = match Object::parse(&bytes) {
            Ok(object) => object,
            Err(error) => {
                return Self {
                    envelope,
                    ..mismatch(&error.to_string())
                };
            }
        };
        let subject = Subject::of(&object);
        let merchant = subject
            .merid
            .as_deref()
            .and_then(|merid| snapshot.merchant(merid));
        let Some(merchant) = merchant else {
            return Self {
                envelope,
                subject,
                ..mismatch("no key is configured for its merid")
            };
        };
        // Only the key that we would sign with: an old key would be a mismatch after the move.
        if received.verify([&merchant.key]).is_err() {
            let candidate = Candidate {
                merid: &merchant.merid,
                key: &merchant.key,
                old: false,
            };
            let found = match received.text().len() {
                // The search hashes the text some hundred times, and other calls wait.
                0..=EXPLAINED => explain::explain(received.text(), received.sign(), &[candidate]),
                _ => Explanation::Unknown,
            };
            return Self {
                envelope,
                subject,
                ..mismatch(&in_words(&found))
            };
        }
        let order = request::read_order(&object).ok();
        let json = Bytes::from(bytes.clone());
        let call = Call::signed_by_app(merchant.clone(), json, subject.clone(), order);
        Self {
            envelope,
            verdict: ShadowVerdict::Match,
            subject,
            call: Some(call),
        }
    }

    /// The order that the ledger is to learn.
    pub(super) fn order(&self) -> Option<&Order> {
        self.call.as_ref()?.order.as_ref()
    }
}

fn in_words(explanation: &Explanation) -> String {
    match explanation {
        Explanation::Empty => "sign is empty".to_owned(),
        Explanation::NotASign => "sign is not 32 hex digits".to_owned(),
        Explanation::Fits { causes, .. } => causes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
        Explanation::Unknown => "the app signs with another key".to_owned(),
    }
}
