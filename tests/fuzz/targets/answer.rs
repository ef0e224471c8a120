//! The platform's answer at once against the same one in pieces; the first four bytes are the pieces' sizes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((sizes, answer)) = bytes.split_at_checked(4) {
        countersign::differential::answer(answer, sizes);
    }
});
