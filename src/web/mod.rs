//! Pages for browsers: what every page of the console, the sandbox and the callback listener shares.

pub mod language;
