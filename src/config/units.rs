//! Quantities with units: sizes with KiB and MiB, times with ms, s, m, h and d.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
const TIME_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Parses a size in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZE_UNITS)
        .ok_or_else(|| "expected a size in bytes, as in \"64KiB\" or \"1MiB\"".into())
}

/// Parses a duration. A bare number is rejected, because its unit is unknown.
pub fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, &TIME_UNITS)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            "expected a time, as in \"500ms\", \"3s\", \"15m\", \"72h\" or \"30d\"".into()
        })
}

/// Formats a size in its largest unit.
pub(super) fn shown_size(bytes: u64) -> String {
    shown(bytes, &SIZE_UNITS)
}

/// Formats a duration in its largest unit.
pub(super) fn shown_duration(time: Duration) -> String {
    shown(
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        &TIME_UNITS,
    )
}

/// Divides by the largest unit that leaves no remainder.
fn shown(amount: u64, units: &[(&str, u64)]) -> String {
    let whole = |(_, factor): &&(&str, u64)| amount > 0 && amount.is_multiple_of(*factor);
    let (name, factor) = units.iter().rfind(whole).unwrap_or(&("", 1));
    format!("{}{name}", amount / factor)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_bytes() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MiB"), Ok(1_048_576));
        assert_eq!(size("4096"), Ok(4_096));
        for wrong in [
            "",
            "KiB",
            "64KB",
            "-1",
            "1.5MiB",
            "64 KiB",
            "99999999999999999999",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for text in ["64KiB", "1MiB", "100B"] {
            assert_eq!(shown_size(size(text).unwrap()), text);
        }
        for text in ["500ms", "3s", "15m", "3d", "3650d"] {
            assert_eq!(shown_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn times_name_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("72h"), Ok(Duration::from_secs(72 * 3_600)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in ["", "3", "s", "3 s", "-3s", "3sec", "213503982335d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
