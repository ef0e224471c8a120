//! Lines to standard output and error. A reader that closes its pipe has seen enough: the command ends quietly.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

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

/// Prints a line to standard error.
pub(crate) fn error_line(text: Arguments<'_>) {
    let _ = writeln!(stderr(), "{text}");
}

/// Waits until standard output is closed; from the first call on that does not end the process.
pub(crate) async fn until_closed() {
    ENDS_BY_ITSELF.store(true, Ordering::Relaxed);
    CLOSED.notified().await;
}
