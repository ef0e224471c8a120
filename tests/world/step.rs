//! One step of a history, as it is generated, printed and read again.

use std::fmt;
use std::str::FromStr;

use proptest::prelude::*;

/// What somebody does. Orders and payments are named by numbers, and wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The app submits an order. `sent` is what the sidecar knows of it; a payment begins unless it is `No`.
    Submit { order: u8, sent: Sending },
    /// The platform moves a payment on.
    Pay { payment: u8, state: u8 },
    /// The platform notifies a state that a payment has or had.
    Notify { payment: u8, state: u8 },
    /// The platform notifies another amount.
    Misstate { payment: u8 },
    /// The platform's query interface begins or ends to lag: it knows of no payment yet.
    Lag { on: bool },
    /// Due events are attempted; the app replies like this.
    Deliver { app: AppMood },
    /// Open orders are queried.
    Reconcile,
    /// An operator decides about an event.
    Decide { event: u8, kind: u8 },
    /// The merchants file gets or loses `back`, or the merchant.
    Back { file: FileState },
    /// Time passes.
    Wait { minutes: u16 },
    /// The sidecar is started again on the same store.
    Restart,
    /// What is older than the retention is dropped.
    Forget,
}

/// What the sidecar knows of a submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    No,
    Yes,
    Unknown,
}

/// What the app does with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AppMood {
    Takes,
    Rejects,
    Silent,
    /// It takes the result, and the sidecar dies before it has written that down.
    TakesUnheard,
}

/// What the merchants file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileState {
    Back,
    NoBack,
    NoMerchant,
}

const SENDINGS: [(Sending, &str); 3] = [
    (Sending::No, "no"),
    (Sending::Yes, "yes"),
    (Sending::Unknown, "unknown"),
];
const MOODS: [(AppMood, &str); 4] = [
    (AppMood::Takes, "takes"),
    (AppMood::Rejects, "rejects"),
    (AppMood::Silent, "silent"),
    (AppMood::TakesUnheard, "takes-unheard"),
];
const FILES: [(FileState, &str); 3] = [
    (FileState::Back, "back"),
    (FileState::NoBack, "no-back"),
    (FileState::NoMerchant, "no-merchant"),
];

fn word<T: Copy + PartialEq>(of: &[(T, &'static str)], value: T) -> &'static str {
    of.iter().find(|(it, _)| *it == value).unwrap().1
}

fn value<T: Copy>(of: &[(T, &'static str)], word: &str) -> Result<T, String> {
    let found = of.iter().find(|(_, it)| *it == word);
    found
        .map(|it| it.0)
        .ok_or_else(|| format!("unknown word {word:?}"))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Submit { order, sent } => write!(f, "submit {order} {}", word(&SENDINGS, sent)),
            Self::Pay { payment, state } => write!(f, "pay {payment} {state}"),
            Self::Notify { payment, state } => write!(f, "notify {payment} {state}"),
            Self::Misstate { payment } => write!(f, "misstate {payment}"),
            Self::Lag { on } => write!(f, "lag {}", u8::from(on)),
            Self::Deliver { app } => write!(f, "deliver {}", word(&MOODS, app)),
            Self::Reconcile => f.write_str("reconcile"),
            Self::Decide { event, kind } => write!(f, "decide {event} {kind}"),
            Self::Back { file } => write!(f, "file {}", word(&FILES, file)),
            Self::Wait { minutes } => write!(f, "wait {minutes}"),
            Self::Restart => f.write_str("restart"),
            Self::Forget => f.write_str("forget"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let mut next = || words.next().ok_or_else(|| format!("too short: {line:?}"));
        let number = |word: &str| {
            word.parse::<u8>()
                .map_err(|error| format!("{line:?}: {error}"))
        };
        Ok(match verb {
            "submit" => Self::Submit {
                order: number(next()?)?,
                sent: value(&SENDINGS, next()?)?,
            },
            "pay" => Self::Pay {
                payment: number(next()?)?,
                state: number(next()?)?,
            },
            "notify" => Self::Notify {
                payment: number(next()?)?,
                state: number(next()?)?,
            },
            "misstate" => Self::Misstate {
                payment: number(next()?)?,
            },
            "lag" => Self::Lag {
                on: number(next()?)? != 0,
            },
            "deliver" => Self::Deliver {
                app: value(&MOODS, next()?)?,
            },
            "reconcile" => Self::Reconcile,
            "decide" => Self::Decide {
                event: number(next()?)?,
                kind: number(next()?)?,
            },
            "file" => Self::Back {
                file: value(&FILES, next()?)?,
            },
            "wait" => Self::Wait {
                minutes: next()?
                    .parse()
                    .map_err(|error| format!("{line:?}: {error}"))?,
            },
            "restart" => Self::Restart,
            "forget" => Self::Forget,
            _ => return Err(format!("unknown step {line:?}")),
        })
    }
}

/// Any step, the common ones more often.
pub(super) fn any_step() -> impl Strategy<Value = Step> {
    let sent = prop_oneof![
        Just(Sending::Yes),
        Just(Sending::Unknown),
        Just(Sending::No)
    ];
    let mood = prop_oneof![
        3 => Just(AppMood::Takes),
        2 => Just(AppMood::Rejects),
        1 => Just(AppMood::Silent),
        1 => Just(AppMood::TakesUnheard),
    ];
    let file = prop_oneof![
        Just(FileState::Back),
        Just(FileState::NoBack),
        Just(FileState::NoMerchant)
    ];
    // Days too: after one, an order is given up until it is submitted again.
    let minutes = prop_oneof![4 => 0u16..3, 2 => 3u16..90, 2 => 90u16..6_000];
    prop_oneof![
        4 => (0u8..3, sent).prop_map(|(order, sent)| Step::Submit { order, sent }),
        5 => (0u8..6, 0u8..5).prop_map(|(payment, state)| Step::Pay { payment, state }),
        6 => (0u8..6, 0u8..4).prop_map(|(payment, state)| Step::Notify { payment, state }),
        1 => (0u8..6).prop_map(|payment| Step::Misstate { payment }),
        2 => any::<bool>().prop_map(|on| Step::Lag { on }),
        6 => mood.prop_map(|app| Step::Deliver { app }),
        3 => Just(Step::Reconcile),
        2 => (0u8..8, 0u8..3).prop_map(|(event, kind)| Step::Decide { event, kind }),
        1 => file.prop_map(|file| Step::Back { file }),
        3 => minutes.prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::Restart),
        1 => Just(Step::Forget),
    ]
}
