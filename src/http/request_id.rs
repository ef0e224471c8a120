//! The id of a request: in its response, in the log and in the console.

use std::cell::RefCell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use rustix::rand::{GetRandomFlags, getrandom};

/// The header that carries it.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Random bytes that a thread fetches at once.
const FETCHED: usize = 512;

/// Returns the caller's own id where it is printable and short, or else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    // It goes into log lines and response headers: a blank or a control character could forge a field there.
    let own = headers.get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
    });
    own.cloned().unwrap_or_else(new_request_id)
}

/// Returns an id for the app listener: the start of the process and a counter, which costs next to nothing and sorts in the
/// order of the calls.
fn new_request_id() -> HeaderValue {
    static START: LazyLock<u64> = LazyLock::new(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(0)
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // Six digits at least, so that the ids of a process sort as text up to the sixteen millionth.
    let digits = 6.max((u64::BITS - next.leading_zeros()).div_ceil(4) as usize);
    // 13 digits hold the microseconds until the year 2112.
    let mut id = [b'-'; 14 + 16];
    write_hex(&mut id[..13], *START);
    write_hex(&mut id[14..14 + digits], next);
    HeaderValue::from_bytes(&id[..14 + digits]).expect("hex digits are a header value")
}

/// Returns an id for the callback listener. A counter would show strangers the shop's volume, and the start of the process
/// when it was last restarted.
pub fn random_request_id() -> HeaderValue {
    HeaderValue::from_bytes(&random_hex()).expect("hex digits are a header value")
}

/// Returns 128 bits that cannot be guessed, in hex.
pub fn random_hex() -> [u8; 32] {
    // One system call for many ids: each costs more than an id.
    thread_local! {
        static SPARE: RefCell<([u8; FETCHED], usize)> = const { RefCell::new(([0; FETCHED], FETCHED)) };
    }
    let number = SPARE.with_borrow_mut(|(bytes, used)| {
        if *used == FETCHED {
            getrandom(&mut bytes[..], GetRandomFlags::empty())
                .expect("the kernel has random numbers once the machine is up");
            *used = 0;
        }
        let taken = &mut bytes[*used..*used + 16];
        *used += 16;
        let mut number = [0; 16];
        number.copy_from_slice(taken);
        // An id that was given out is nowhere in memory for the next one's reader.
        taken.fill(0);
        number
    });
    let mut digits = [0; 32];
    let (high, low) = digits.split_at_mut(16);
    let [first, second] = [&number[..8], &number[8..]].map(|half| {
        let half: [u8; 8] = half.try_into().expect("half of 16 bytes");
        u64::from_be_bytes(half)
    });
    write_hex(high, first);
    write_hex(low, second);
    digits
}

/// Writes the last digits of a number, as many as fit.
fn write_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn random_ids_differ_and_have_no_order() {
        let ids: Vec<_> = (0..1000).map(|_| random_hex()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert!(ids.iter().flatten().all(u8::is_ascii_hexdigit));
        assert!(!ids.is_sorted());
        // Each digit takes every value at each place, as good as certainly.
        for place in 0..32 {
            let values: HashSet<_> = ids.iter().map(|id| id[place]).collect();
            assert_eq!(values.len(), 16, "digit {place}");
        }
    }
}
