//! A point in time of the command line: so long from now, or a date and a time.

use std::time::{Duration, Instant};

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

use crate::config::units;

/// A point in time to come; one that has passed is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct PointInTime(Instant);

impl PointInTime {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let left = units::duration(text).or_else(|_| {
            let at = OffsetDateTime::parse(text, &Rfc3339)
                .map_err(|_| "expected 30s, 5m, or 2026-03-01T12:00:00+08:00")?;
            let left = at - OffsetDateTime::now_utc();
            Ok::<_, String>(Duration::try_from(left).unwrap_or_default())
        })?;
        let moment = Instant::now().checked_add(left);
        moment
            .map(Self)
            .ok_or_else(|| "expected a nearer moment".to_owned())
    }

    /// The time until then.
    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_durations_or_dates() {
        let left = |text| PointInTime::parse(text).map(|moment| moment.left().as_secs());
        assert!((28..=30).contains(&left("30s").unwrap()));
        assert_eq!(left("2017-03-01T12:00:00+08:00"), Ok(0));
        assert!(left("2117-03-01T12:00:00Z").unwrap() > 2_000_000_000);
        for wrong in [
            "",
            "30",
            "tomorrow",
            "2017-03-01",
            "-5s",
            "99999999999999999999s",
        ] {
            assert!(left(wrong).is_err(), "{wrong}");
        }
    }
}
