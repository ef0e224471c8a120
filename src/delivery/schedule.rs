//! The retry schedule of deliveries, and the times that go with it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use crate::inbox::attempt::AHEAD_ATTEMPT;
use crate::time::Millis;

/// Delays after the first failure, the second, and so on; the last one is repeated.
const DELAYS: [Millis; 8] = [
    1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000,
];
/// Share by which a delay varies, so that events that failed together do not return together.
const JITTER: f64 = 0.2;
/// Pause after the store failed.
pub(super) const BACK_OFF: Duration = Duration::from_secs(1);
/// Longest time in which an event is noticed that was not announced: another process put it, or decided about it.
pub(super) const SURVEY: Duration = Duration::from_millis(200);
/// Longest pause between two surveys.
pub(super) const RAREST_SURVEY: Duration = Duration::from_secs(2);
/// The pause after a survey, in multiples of its own duration, between [`SURVEY`] and [`RAREST_SURVEY`].
pub(super) const SURVEY_SHARE: u32 = 50;
/// Time for attempts under way to end when another process begins to deliver. It repeats the others.
pub(super) const LANDING: Duration = Duration::from_secs(3);

// The store takes anything beyond for a plan that was made before the clock was set back.
const _: () = assert!(DELAYS[DELAYS.len() - 1] * 6 / 5 < AHEAD_ATTEMPT);

/// Returns the pause after this many attempts.
pub(super) fn delay(attempts: u32) -> Millis {
    // `attempts` counts from 1 here, but a replayed event goes on from its earlier number.
    let index = (attempts as usize).saturating_sub(1).min(DELAYS.len() - 1);
    // A hash with a random key is random enough to spread what failed together.
    let random = (RandomState::new().hash_one(attempts) % 1024) as f64 / 1024.0;
    let factor = 1.0 + JITTER * (2.0 * random - 1.0);
    (DELAYS[index] as f64 * factor) as Millis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_five_minutes_and_vary_by_a_fifth() {
        for (attempts, plain) in [
            (1, 1_000),
            (2, 2_000),
            (3, 5_000),
            (8, 300_000),
            (500, 300_000),
        ] {
            let delays: Vec<_> = (0..200).map(|_| delay(attempts)).collect();
            assert!(
                delays
                    .iter()
                    .all(|delay| (plain * 4 / 5..=plain * 6 / 5).contains(delay)),
                "{delays:?}"
            );
            assert!(delays.iter().any(|delay| *delay != delays[0]));
        }
    }
}
