//! Pingora's gzip module asks for zlib-ng, whose build needs cmake. Plain zlib has the same interface and
//! builds with a C compiler alone. Countersign compresses nothing, so its speed does not matter here.

pub use libz_sys::*;
