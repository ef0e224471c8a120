//! The end of a request, as the framing finds it, against Pingora's session.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign::differential::end(bytes));
