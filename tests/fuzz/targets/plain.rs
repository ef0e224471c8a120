//! The reader of plain requests against Pingora's session.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign::differential::plain(bytes));
