//! One step of a history: printed as a line, read again, and chosen by a seed.

use std::fmt;
use std::str::FromStr;

use crate::variants::rng::Rng;

/// Orders of one history.
pub(super) const ORDERS: usize = 6;

/// The platform's states in the order in which a payment may pass through them.
pub(super) const STATES: [&str; 5] = ["1001", "1004", "1002", "0000", "1003"];

/// One event of the outside world. `order` counts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HistoryStep {
    pub(super) kind: Kind,
    pub(super) order: usize,
    /// A state, a pause or a variant: see each kind.
    pub(super) number: usize,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $text:literal $is_fault:literal $numbers:literal,)+) => {
        /// The kinds of steps.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Kind {
            $($(#[$doc])* $name,)+
        }

        impl Kind {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word in a history.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// True for what a good day does not have; a campaign counts these.
            pub(super) fn is_fault(self) -> bool {
                match self {
                    $(Self::$name => $is_fault,)+
                }
            }

            /// `HistoryStep::number` stays below this.
            fn numbers(self) -> usize {
                match self {
                    $(Self::$name => $numbers,)+
                }
            }
        }
    };
}

kinds! {
    /// The app submits the order once more.
    Submit "submit" false 1,
    /// The platform moves the payment on to `STATES[number]`, unless it has ended, and notifies its state.
    Notify "notify" false 5,
    /// The app is well again.
    AppTakes "app-takes" false 1,
    /// The platform's query interface is well again.
    QueriesWork "queries-work" false 1,
    /// The merchant's entry is complete again.
    PutBack "put-back" false 1,
    /// So many hundredths of a second pass.
    Wait "wait" false 100,
    /// The platform takes the submit and cuts the connection.
    CutSubmit "cut-submit" true 1,
    /// The state is notified `number + 2` times more.
    Repeat "repeat" true 3,
    /// An earlier state of the payment is notified.
    Late "late" true 5,
    /// A stranger notifies "paid": with another key, a signature of something else, or an empty one.
    Forge "forge" true 3,
    /// The platform's own key signs another amount.
    Misstate "misstate" true 1,
    /// The app rejects whatever comes.
    AppRejects "app-rejects" true 1,
    /// The app never replies.
    AppHangs "app-hangs" true 1,
    /// The app takes what comes, and its reply is lost.
    AppUnheard "app-unheard" true 1,
    /// Queries do not know of any payment yet.
    QueriesLag "queries-lag" true 1,
    /// Queries get no response.
    QueriesCut "queries-cut" true 1,
    /// Queries get a response with a stranger's signature.
    QueriesForged "queries-forged" true 1,
    /// `kill -9`, and another start.
    Kill "kill" true 1,
    /// `kill -9` so many milliseconds into a burst of notifications, and another start.
    KillBusy "kill-busy" true 60,
    /// The process is stopped for so many hundredths of a second while a notification arrives, and goes on.
    Stop "stop" true 60,
    /// SIGTERM, and another start.
    Drain "drain" true 1,
    /// Another start with the clock so many times 100 days ahead, or right again with 0.
    Clock "clock" true 5,
    /// One undelivered payload is changed in the store while no sidecar runs.
    Flip "flip" true 1,
    /// An operator replays an event of the order.
    Replay "replay" true 1,
    /// An operator discards an event of the order.
    Discard "discard" true 1,
    /// `back` is taken out of the merchants file.
    NoBack "no-back" true 1,
    /// The merchant is taken out of the merchants file.
    NoMerchant "no-merchant" true 1,
    /// A result of another merchant, whose app is well, has to arrive in time.
    Other "other" true 1,
}

impl fmt::Display for HistoryStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind.name(), self.order, self.number)
    }
}

impl FromStr for HistoryStep {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, order, number] = words[..] else {
            return Err(format!("expected a kind and two numbers: {line:?}"));
        };
        let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
        let read = |word: &str| {
            word.parse::<usize>()
                .map_err(|error| format!("{line:?}: {error}"))
        };
        Ok(Self {
            kind: *kind.ok_or_else(|| format!("no such step: {line:?}"))?,
            order: read(order)?,
            number: read(number)?,
        })
    }
}

/// Chooses the next step. Faults are chosen evenly over a campaign: `counts` holds how often each came.
pub(super) fn next(rng: &mut Rng, counts: &mut [usize]) -> HistoryStep {
    let index = match rng.below(5) {
        0 => position(Kind::Notify),
        1 => {
            let good = Kind::ALL.iter().filter(|kind| !kind.is_fault()).count();
            rng.below(good)
        }
        _ => rarest(rng, counts),
    };
    counts[index] += 1;
    let kind = Kind::ALL[index];
    HistoryStep {
        kind,
        order: rng.below(ORDERS),
        number: rng.below(kind.numbers()),
    }
}

/// One of the faults that came less often than the others.
fn rarest(rng: &mut Rng, counts: &[usize]) -> usize {
    let faults: Vec<_> = (0..counts.len())
        .filter(|at| Kind::ALL[*at].is_fault())
        .collect();
    let two = [
        faults[rng.below(faults.len())],
        faults[rng.below(faults.len())],
    ];
    two[usize::from(counts[two[1]] < counts[two[0]])]
}

fn position(kind: Kind) -> usize {
    Kind::ALL.iter().position(|it| *it == kind).unwrap()
}

#[test]
fn a_step_is_read_as_it_is_written() {
    let mut counts = vec![0; Kind::ALL.len()];
    let mut rng = Rng::new(1);
    for _ in 0..2_000 {
        let step = next(&mut rng, &mut counts);
        assert_eq!(step.to_string().parse(), Ok(step));
    }
    let rare = Kind::ALL.iter().zip(&counts);
    let rare: Vec<_> = rare
        .filter(|(kind, count)| kind.is_fault() && **count < 20)
        .collect();
    assert!(rare.is_empty(), "{rare:?}");
    assert!("kill 1".parse::<HistoryStep>().is_err());
    assert!("kil 1 1".parse::<HistoryStep>().is_err());
}
