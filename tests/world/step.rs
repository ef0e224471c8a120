//! One step of a history, as it is generated, printed and read again.

use std::fmt;
use std::str::FromStr;

use proptest::prelude::*;

/// One action of the platform, an app, an operator or fate. Orders and payments are named by numbers that wrap around.
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
    /// The sidecar is ended and started again on the same store; meanwhile the clock may have been set.
    Restart { jump: i32 },
    /// The sidecar dies, or its machine with it, and is started on what is on the disk.
    Crash { machine: bool, jump: i32 },
    /// The retention drops old events and orders.
    Forget,
    /// The wall clock is set by this many seconds while the sidecar runs.
    Jump { seconds: i32 },
    /// An operator confirms the wall clock.
    Confirm,
    /// Commits of the next step fail.
    Disk { fault: DiskFault },
    /// A bit of a pending event's row flips.
    Flip { event: u8, kind: FlipKind },
    /// Many other merchants get results, and their apps are all like this.
    Crowd { size: u8, app: AppMood },
    /// A merchant whose app always works gets a result.
    Healthy,
    /// The process that delivers is stopped, attempts under way included, and another begins to deliver.
    Freeze,
    /// The stopped process goes on, and records its attempts.
    Thaw,
}

/// Knowledge of whether a submit was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    No,
    Yes,
    Unknown,
}

/// The behaviour of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AppMood {
    Takes,
    Rejects,
    /// It accepts no connection.
    Silent,
    /// It takes results after a second and a half.
    Slow,
    /// It does not respond within the deadline.
    Hangs,
    /// It takes the result, and the sidecar dies before it has written that down.
    TakesUnheard,
}

/// The failure of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskFault {
    Full,
    Failed,
    Unreported,
}

/// The place of a flipped bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlipKind {
    /// The payload stays readable text.
    Readable,
    /// The payload is no text any more.
    NoText,
    /// The number of attempts becomes negative.
    Attempts,
}

/// The content of the merchants file.
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
const DISK_FAULTS: [(DiskFault, &str); 3] = [
    (DiskFault::Full, "full"),
    (DiskFault::Failed, "failed"),
    (DiskFault::Unreported, "unreported"),
];
const FLIPS: [(FlipKind, &str); 3] = [
    (FlipKind::Readable, "readable"),
    (FlipKind::NoText, "no-text"),
    (FlipKind::Attempts, "attempts"),
];
const MOODS: [(AppMood, &str); 6] = [
    (AppMood::Takes, "takes"),
    (AppMood::Rejects, "rejects"),
    (AppMood::Silent, "silent"),
    (AppMood::Slow, "slow"),
    (AppMood::Hangs, "hangs"),
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
            Self::Restart { jump } => write!(f, "restart {jump}"),
            Self::Crash { machine, jump } => write!(f, "crash {} {jump}", u8::from(machine)),
            Self::Jump { seconds } => write!(f, "jump {seconds}"),
            Self::Confirm => f.write_str("confirm"),
            Self::Disk { fault } => write!(f, "disk {}", word(&DISK_FAULTS, fault)),
            Self::Flip { event, kind } => write!(f, "flip {event} {}", word(&FLIPS, kind)),
            Self::Crowd { size, app } => write!(f, "crowd {size} {}", word(&MOODS, app)),
            Self::Healthy => f.write_str("healthy"),
            Self::Freeze => f.write_str("freeze"),
            Self::Thaw => f.write_str("thaw"),
            Self::Forget => f.write_str("forget"),
        }
    }
}

/// One line of a history, word by word.
struct Words<'l>(std::str::SplitWhitespace<'l>);

impl<'l> Words<'l> {
    fn next(&mut self) -> Result<&'l str, String> {
        self.0
            .next()
            .ok_or_else(|| "the line is too short".to_owned())
    }

    fn number<T: FromStr<Err = std::num::ParseIntError>>(&mut self) -> Result<T, String> {
        let word = self.next()?;
        word.parse().map_err(|error| format!("{word:?}: {error}"))
    }

    fn one_of<T: Copy>(&mut self, of: &[(T, &'static str)]) -> Result<T, String> {
        value(of, self.next()?)
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = Words(line.split_whitespace());
        let verb = words.next()?;
        match verb {
            "submit" | "pay" | "notify" | "misstate" | "lag" | "deliver" | "reconcile" | "file" => {
                payment_step(verb, &mut words)
            }
            _ => fault_step(verb, &mut words),
        }
    }
}

fn payment_step(verb: &str, words: &mut Words<'_>) -> Result<Step, String> {
    Ok(match verb {
        "submit" => Step::Submit {
            order: words.number()?,
            sent: words.one_of(&SENDINGS)?,
        },
        "pay" => Step::Pay {
            payment: words.number()?,
            state: words.number()?,
        },
        "notify" => Step::Notify {
            payment: words.number()?,
            state: words.number()?,
        },
        "misstate" => Step::Misstate {
            payment: words.number()?,
        },
        "lag" => Step::Lag {
            on: words.number::<u8>()? != 0,
        },
        "deliver" => Step::Deliver {
            app: words.one_of(&MOODS)?,
        },
        "file" => Step::Back {
            file: words.one_of(&FILES)?,
        },
        _ => Step::Reconcile,
    })
}

fn fault_step(verb: &str, words: &mut Words<'_>) -> Result<Step, String> {
    Ok(match verb {
        "decide" => Step::Decide {
            event: words.number()?,
            kind: words.number()?,
        },
        "wait" => Step::Wait {
            minutes: words.number()?,
        },
        "restart" => Step::Restart {
            jump: words.number()?,
        },
        "crash" => Step::Crash {
            machine: words.number::<u8>()? != 0,
            jump: words.number()?,
        },
        "jump" => Step::Jump {
            seconds: words.number()?,
        },
        "disk" => Step::Disk {
            fault: words.one_of(&DISK_FAULTS)?,
        },
        "flip" => Step::Flip {
            event: words.number()?,
            kind: words.one_of(&FLIPS)?,
        },
        "crowd" => Step::Crowd {
            size: words.number()?,
            app: words.one_of(&MOODS)?,
        },
        "confirm" => Step::Confirm,
        "healthy" => Step::Healthy,
        "freeze" => Step::Freeze,
        "thaw" => Step::Thaw,
        "forget" => Step::Forget,
        _ => return Err(format!("unknown step {verb:?}")),
    })
}

fn one_of<T: Copy + std::fmt::Debug + 'static>(
    of: &'static [(T, &'static str)],
) -> impl Strategy<Value = T> {
    (0..of.len()).prop_map(move |at| of[at].0)
}

/// Changes of a clock, in seconds: a year, hours, just beyond what counts as a jump, and just below.
fn any_jump() -> impl Strategy<Value = i32> {
    const YEAR: i32 = 400 * 86_400;
    proptest::sample::select(vec![
        YEAR,
        -YEAR,
        40 * 86_400,
        90_000,
        7_200,
        -7_200,
        61,
        -61,
        50,
        -50,
    ])
}

/// Any step, the common ones more often.
pub(super) fn any_step() -> impl Strategy<Value = Step> {
    let start = || prop_oneof![3 => Just(0), 1 => any_jump()];
    let faults = prop_oneof![
        2 => start().prop_map(|jump| Step::Restart { jump }),
        3 => (any::<bool>(), start()).prop_map(|(machine, jump)| Step::Crash { machine, jump }),
        4 => any_jump().prop_map(|seconds| Step::Jump { seconds }),
        1 => Just(Step::Confirm),
        6 => one_of(&DISK_FAULTS).prop_map(|fault| Step::Disk { fault }),
        3 => (0u8..8, one_of(&FLIPS)).prop_map(|(event, kind)| Step::Flip { event, kind }),
        3 => Just(Step::Freeze),
        3 => Just(Step::Thaw),
        4 => Just(Step::Healthy),
    ];
    prop_oneof![60 => usual_step(), 20 => faults]
}

/// A crowd of other merchants, which makes every later step slower.
pub(super) fn any_crowd() -> impl Strategy<Value = Step> {
    let app = proptest::sample::select(vec![AppMood::Hangs, AppMood::Silent, AppMood::Slow]);
    (40u8..90, app).prop_map(|(size, app)| Step::Crowd { size, app })
}

fn usual_step() -> impl Strategy<Value = Step> {
    let mood = prop_oneof![
        4 => Just(AppMood::Takes),
        2 => Just(AppMood::Rejects),
        1 => Just(AppMood::Silent),
        1 => Just(AppMood::Slow),
        1 => Just(AppMood::Hangs),
        1 => Just(AppMood::TakesUnheard),
    ];
    // Days too: after one, an order is given up until it is submitted again.
    let minutes = prop_oneof![4 => 0u16..3, 2 => 3u16..90, 2 => 90u16..6_000];
    prop_oneof![
        4 => (0u8..3, one_of(&SENDINGS)).prop_map(|(order, sent)| Step::Submit { order, sent }),
        5 => (0u8..6, 0u8..5).prop_map(|(payment, state)| Step::Pay { payment, state }),
        6 => (0u8..6, 0u8..4).prop_map(|(payment, state)| Step::Notify { payment, state }),
        1 => (0u8..6).prop_map(|payment| Step::Misstate { payment }),
        2 => any::<bool>().prop_map(|on| Step::Lag { on }),
        6 => mood.prop_map(|app| Step::Deliver { app }),
        3 => Just(Step::Reconcile),
        2 => (0u8..8, 0u8..3).prop_map(|(event, kind)| Step::Decide { event, kind }),
        1 => one_of(&FILES).prop_map(|file| Step::Back { file }),
        3 => minutes.prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::Forget),
    ]
}
