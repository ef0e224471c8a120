//! A bound on guesses of the admin token.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::http::server::caller::Caller;

/// Wrong tokens that a caller may give in a row before it has to wait.
const BURST: u32 = 10;
/// Time after which a caller may give one more.
const REFILL: Duration = Duration::from_secs(1);
/// Time for which a caller that gave the right token is not made to wait. A caller that shares its address, a broken script for
/// example, must not lock it out.
const TRUSTED_TIME: Duration = Duration::from_secs(3600);
/// Callers that are remembered. Beyond that, the one that guessed least recently is forgotten.
const MAX_CALLERS: usize = 1024;

/// Guesses of the token, by caller.
#[derive(Default)]
pub struct Guesses(Mutex<HashMap<Caller, Guesser>>);

struct Guesser {
    left: u32,
    refilled: Instant,
    was_right: Option<Instant>,
}

/// Result of a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// It is the token.
    Right,
    /// It is not.
    Wrong,
    /// The caller has to wait; the guess was not looked at, or was wrong once more.
    TooMany,
}

impl Guesses {
    /// Looks at a guess, unless its caller has made too many wrong ones.
    pub fn check(&self, caller: Caller, now: Instant, is_right: impl FnOnce() -> bool) -> Guess {
        let mut callers = self.0.lock();
        if callers.len() >= MAX_CALLERS && !callers.contains_key(&caller) {
            // A scan of all, but only where a new caller comes and the map is full.
            let oldest = callers.iter().min_by_key(|(_, guesser)| guesser.refilled);
            if let Some(oldest) = oldest.map(|(caller, _)| *caller) {
                callers.remove(&oldest);
            }
        }
        let guesser = callers.entry(caller).or_insert(Guesser {
            left: BURST,
            refilled: now,
            was_right: None,
        });
        guesser.refill(now);
        let is_trusted = guesser
            .was_right
            .is_some_and(|at| now.duration_since(at) < TRUSTED_TIME);
        if guesser.left == 0 && !is_trusted {
            return Guess::TooMany;
        }
        if is_right() {
            guesser.was_right = Some(now);
            return Guess::Right;
        }
        if guesser.left == 0 {
            return Guess::TooMany;
        }
        guesser.left -= 1;
        Guess::Wrong
    }
}

impl Guesser {
    fn refill(&mut self, now: Instant) {
        let passed = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let refilled = u32::try_from(passed).unwrap_or(u32::MAX);
        if refilled > 0 {
            self.left = self.left.saturating_add(refilled).min(BURST);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(last: u8) -> Caller {
        Caller::of(Some([192, 0, 2, last].into()))
    }

    #[test]
    fn wrong_guesses_are_throttled_by_caller() {
        let guesses = Guesses::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(guesses.check(caller(1), start, || false), Guess::Wrong);
        }
        assert_eq!(guesses.check(caller(1), start, || true), Guess::TooMany);
        assert_eq!(guesses.check(caller(2), start, || true), Guess::Right);
        let later = start + REFILL;
        assert_eq!(guesses.check(caller(1), later, || false), Guess::Wrong);
        assert_eq!(guesses.check(caller(1), later, || true), Guess::TooMany);
        let much_later = start + 100 * REFILL;
        for _ in 0..BURST {
            assert_eq!(guesses.check(caller(1), much_later, || false), Guess::Wrong);
        }
        assert_eq!(
            guesses.check(caller(1), much_later, || false),
            Guess::TooMany
        );
    }

    #[test]
    fn a_caller_that_knows_the_token_is_not_locked_out() {
        let guesses = Guesses::default();
        let start = Instant::now();
        assert_eq!(guesses.check(caller(1), start, || true), Guess::Right);
        for _ in 0..BURST {
            assert_eq!(guesses.check(caller(1), start, || false), Guess::Wrong);
        }
        assert_eq!(guesses.check(caller(1), start, || false), Guess::TooMany);
        assert_eq!(guesses.check(caller(1), start, || true), Guess::Right);
    }

    #[test]
    fn the_number_of_callers_is_bounded() {
        let guesses = Guesses::default();
        for n in 0..3000_u32 {
            let address = std::net::IpAddr::from(n.to_be_bytes());
            guesses.check(Caller::of(Some(address)), Instant::now(), || false);
        }
        assert_eq!(guesses.0.lock().len(), MAX_CALLERS);
    }
}
