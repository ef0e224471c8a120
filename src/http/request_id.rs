//! The id under which a request is found again: in its answer, in the log and in the console.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use rustix::rand::{GetRandomFlags, getrandom};

/// The header that carries it.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The caller's own where it is printable and short, or a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let own = headers.get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
    });
    own.cloned().unwrap_or_else(new_request_id)
}

/// Unlike any other of this process, and of processes started at another microsecond.
pub fn new_request_id() -> HeaderValue {
    static START: LazyLock<u64> = LazyLock::new(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(0)
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let digits = 6.max((u64::BITS - next.leading_zeros()).div_ceil(4) as usize);
    let mut id = [b'-'; 14 + 16];
    write_hex(&mut id[..13], *START);
    write_hex(&mut id[14..14 + digits], next);
    HeaderValue::from_bytes(&id[..14 + digits]).expect("hex digits are a header value")
}

/// Makes an id for strangers: random, so that it reveals neither when the process started nor how much it does.
pub fn random_request_id() -> HeaderValue {
    let mut halves = [[0; 8]; 2];
    // Fails only on systems without a source of randomness; the id is then their least problem.
    let _ = getrandom(halves.as_flattened_mut(), GetRandomFlags::empty());
    let mut id = [0; 32];
    for (digits, half) in id.chunks_exact_mut(16).zip(halves) {
        write_hex(digits, u64::from_be_bytes(half));
    }
    HeaderValue::from_bytes(&id).expect("hex digits are a header value")
}

/// The last digits of a number, as many as fit.
fn write_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}
