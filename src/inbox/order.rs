//! The ledger's nouns: an order that was signed, and each try at submitting it.

use crate::time::Millis;

// The platform's ten notifications take 15.5 minutes (§3.3.1: three at 10 s, three at 1 min, four at 3 min).
/// Time between the signature of an order and the first query about it.
pub(super) const FIRST_LOOK: Millis = 20 * 60 * 1000;
/// Tries of one order that are kept, the newest: an app that submits in a loop fills no disk.
pub(super) const KEPT_TRIES: u32 = 100;
/// Age at which a try that is still in flight belongs to a process that died: beyond the longest deadline of a call.
pub(super) const LOST_TRY: Millis = 2 * 60 * 1000;

/// The way an order leaves the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryKind {
    /// `/api/icashier`: the sidecar submits it.
    Submit,
    /// `/apis/icashier`: the customer's browser submits it, any number of times.
    Link,
    /// The app signed it, and the sidecar passed it on.
    Shadow,
}

impl TryKind {
    /// Every kind, in the order of its first use.
    pub const ALL: [Self; 3] = [Self::Submit, Self::Link, Self::Shadow];

    /// Returns the name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Link => "link",
            Self::Shadow => "shadow",
        }
    }

    /// Finds a kind by its name. An unknown one counts as a submit.
    pub(super) fn stored(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .unwrap_or(Self::Submit)
    }

    /// Returns the state in which a try of this kind begins.
    pub(super) fn first_state(self) -> TryState {
        match self {
            Self::Submit => TryState::InFlight,
            Self::Link => TryState::Linked,
            Self::Shadow => TryState::Yes,
        }
    }
}

/// Knowledge of whether the platform got a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryState {
    /// The call goes on, or its process died.
    InFlight,
    /// It was never sent.
    No,
    /// The platform responded to it.
    Yes,
    /// It was sent, wholly or in part, and no response came.
    Unknown,
    /// The customer's browser has it.
    Linked,
}

impl TryState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::InFlight,
        Self::No,
        Self::Yes,
        Self::Unknown,
        Self::Linked,
    ];

    /// Returns the name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
            Self::Linked => "linked",
        }
    }

    /// Finds a state by its name. An unreadable one counts as unknown.
    pub(super) fn stored(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == name)
            .unwrap_or(Self::Unknown)
    }
}

/// A try that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewTry<'a> {
    /// The way it leaves.
    pub kind: TryKind,
    /// The `backurl` that the app itself gave; `None` where the sidecar filled it in.
    pub backurl: Option<&'a str>,
}

/// The number of a try, which settles and links it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// The merchant.
    pub merid: String,
    /// The merchant's order number.
    pub orderid: String,
    /// The try's number within its order, from 1.
    pub number: u32,
    /// True where this try wrote the order's row.
    pub created: bool,
}

/// A try as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryRecord {
    /// Its number within the order, from 1.
    pub number: u32,
    /// The way it left.
    pub kind: TryKind,
    /// The time of its signature.
    pub at: Millis,
    /// Knowledge of whether the platform got it.
    pub state: TryState,
    /// The app's own `backurl`.
    pub backurl: Option<String>,
    /// The platform's number for the payment, once it is known.
    pub queryid: Option<String>,
}

/// The ledger's response to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordOutcome {
    /// Written now, or earlier with the same amount and action. The try is kept.
    Agrees(Try),
    /// Signed earlier with another amount or action. Nothing is kept.
    Conflicts,
}

/// An order whose final result is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOrder {
    /// The merchant.
    pub merid: String,
    /// The merchant's order number.
    pub orderid: String,
    /// The time of its latest signature that opened it.
    pub signed_at: Millis,
}

/// An order as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOrder {
    /// In cents.
    pub amount: u64,
    /// `Bank`, `WeiXin`, `AliPay` or `Arbi`.
    pub action: String,
    /// The time of its first signature.
    pub signed_at: Millis,
    /// The time of the next query about it; `None` where there will be none.
    pub next_look: Option<Millis>,
}
