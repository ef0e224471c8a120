//! `Content-Length`, read in one way for requests and responses alike.

/// Returns the number in a `Content-Length` field (RFC 9110 §8.6): digits alone, so no sign, no blank, no list and no
/// second radix. `None` rejects the field. A number that `usize` cannot hold is rejected too.
pub fn content_length(value: &[u8]) -> Option<usize> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_usize, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_a_length() {
        for (value, length) in [
            ("0", 0),
            ("02", 2),
            ("65536", 65_536),
            ("18446744073709551615", usize::MAX),
        ] {
            assert_eq!(content_length(value.as_bytes()), Some(length), "{value}");
        }
        for value in [
            "",
            " 2",
            "2 ",
            "+2",
            "-2",
            "0x2",
            "2,2",
            "2, 2",
            "1\u{b2}",
            "2e3",
            "18446744073709551616",
        ] {
            assert_eq!(content_length(value.as_bytes()), None, "{value}");
        }
    }
}
