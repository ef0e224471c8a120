//! Lines to standard output and error. A reader that closes its pipe has seen enough: the command ends quietly.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::Notify;

use crate::time::Millis;

/// Set where the command has things to tidy up, so that it ends normally.
static ENDS_BY_ITSELF: AtomicBool = AtomicBool::new(false);
static CLOSED: Notify = Notify::const_new();

/// Prints a line to standard output.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::cli::print::line(format_args!($($argument)*))
    };
}

/// Prints a line to standard error, which may be closed.
macro_rules! note {
    ($($argument:tt)*) => {
        $crate::cli::print::error_line(format_args!($($argument)*))
    };
}

pub(crate) use {note, say};

/// Prints a line, or ends the process with 0 where the reader is gone.
pub(crate) fn line(text: Arguments<'_>) {
    // Rust ignores SIGPIPE from the start, so that a closed pipe is an error here and does not end the process.
    let printed = writeln!(stdout(), "{text}");
    let Err(error) = printed else {
        return;
    };
    if ENDS_BY_ITSELF.load(Ordering::Relaxed) {
        CLOSED.notify_one();
    } else if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    } else {
        error_line(format_args!("standard output: {error}"));
        std::process::exit(1);
    }
}

/// Prints a JSON document to standard output.
pub(super) fn document(value: &serde_json::Value) {
    say!("{value:#}");
}

/// Writes a time in UTC, for programs: RFC 3339.
pub(super) fn stamp(at: Millis) -> String {
    Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}

/// Writes a time in UTC and in the zone of this machine, for people.
pub(super) fn when(at: Millis) -> String {
    let Ok(timestamp) = Timestamp::from_millisecond(at) else {
        return at.to_string();
    };
    let utc = timestamp.to_zoned(TimeZone::UTC);
    let local = timestamp.to_zoned(TimeZone::system());
    let written = utc.strftime("%Y-%m-%d %H:%M:%S%.3f UTC");
    match local.offset() == utc.offset() {
        true => written.to_string(),
        false => format!("{written} ({})", local.strftime("%Y-%m-%d %H:%M:%S %:z")),
    }
}

/// Prints a line to standard error.
pub(crate) fn error_line(text: Arguments<'_>) {
    let _ = writeln!(stderr(), "{text}");
}

/// Waits until standard output is closed; from the first call on that does not end the process.
pub(crate) async fn until_closed() {
    ENDS_BY_ITSELF.store(true, Ordering::Relaxed);
    CLOSED.notified().await;
}
