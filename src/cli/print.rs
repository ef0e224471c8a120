//! Lines to standard output and error. A reader that closes its pipe has seen enough: the command ends quietly.

use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::Notify;

use crate::time::Millis;

/// Set where the command has things to tidy up, so that it ends normally.
static ENDS_BY_ITSELF: AtomicBool = AtomicBool::new(false);
static CLOSED: Notify = Notify::const_new();

const WARNING: &str = "warning:";

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

/// Prints a line to standard error. On a terminal a warning begins in yellow.
pub(crate) fn error_line(text: Arguments<'_>) {
    let text = text.to_string();
    let warning = text
        .strip_prefix(WARNING)
        .filter(|_| is_coloured(&stderr()));
    let _ = match warning {
        Some(rest) => writeln!(stderr(), "\x1b[33m{WARNING}\x1b[0m{rest}"),
        None => writeln!(stderr(), "{text}"),
    };
}

/// Paints the name of a state for a terminal: green where all is well, red where a person has to look.
pub(super) fn painted(name: &str, width: usize) -> String {
    let padded = format!("{name:<width$}");
    let colour = match name {
        "delivered" | "paid" => 32,
        "parked" | "disputed" | "differs" => 31,
        _ => return padded,
    };
    match is_coloured(&stdout()) {
        true => format!("\x1b[{colour}m{padded}\x1b[0m"),
        false => padded,
    }
}

/// Returns true for a terminal, unless its user wants no colour (no-color.org).
fn is_coloured(stream: &impl IsTerminal) -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
    stream.is_terminal() && !is_unwanted && !is_dumb
}

/// Waits until standard output is closed; from the first call on that does not end the process.
pub(crate) async fn until_closed() {
    ENDS_BY_ITSELF.store(true, Ordering::Relaxed);
    CLOSED.notified().await;
}
