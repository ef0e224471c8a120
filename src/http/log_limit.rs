//! Log lines about what strangers do, at a bounded rate.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// A kind of log line that is written at most every ten seconds.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Option<Due>>);

#[derive(Debug)]
struct Due {
    last: Instant,
    left_out: u64,
}

impl LogLimit {
    /// Counts an occasion for the line. Returns the number of occasions since the last line where another one is due.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        match &mut *state {
            Some(due) if now.duration_since(due.last) < INTERVAL => {
                due.left_out += 1;
                None
            }
            before => {
                let left_out = before.as_ref().map_or(0, |due| due.left_out);
                *before = Some(Due {
                    last: now,
                    left_out: 0,
                });
                Some(left_out + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occasions_between_two_lines_are_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        assert_eq!(limit.due_at(start), Some(1));
        for second in 1..=9 {
            assert_eq!(limit.due_at(start + Duration::from_secs(second)), None);
        }
        assert_eq!(limit.due_at(start + INTERVAL), Some(10));
        assert_eq!(limit.due_at(start + 3 * INTERVAL), Some(1));
    }
}
