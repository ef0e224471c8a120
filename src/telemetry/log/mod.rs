//! The log: one line an event, written to standard error without delaying a request.
//!
//! Lines gather for a moment and are written together: a write for each would cost a call a tenth more. What a slow reader
//! leaves waiting is bounded. What is beyond that is dropped, counted, and reported once the reader is back.

mod text;

mod lines;

pub mod limit;

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;
use tracing_subscriber::EnvFilter;

use crate::config::settings::LogFormat;
use lines::Lines;

/// The lines that were dropped. There is one log a process, and it begins before its metrics.
static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let about = "Log lines that were dropped, because their reader was too slow or gone";
    IntCounter::new("log_lines_lost_total", about).expect("the name is a valid one")
});

static LINES: OnceLock<Arc<Lines>> = OnceLock::new();

/// Starts logging to standard error. `level` is error, warn, info, debug or trace.
///
/// Other crates are held to warnings: at trace level Pingora writes whole messages, and a message beside its
/// sign is a secret. Its connectors are silent: each failure comes back to us, and what they call an error
/// besides is a pooled connection that another call was quicker to take. So are its listeners: what a stranger
/// does wrong in a handshake is no error of ours.
pub fn start(format: LogFormat, level: &str) {
    let lines = LINES.get_or_init(|| {
        let lines = Arc::<Lines>::default();
        let writer = lines.clone();
        thread::spawn(move || writer.write_to(io::stderr(), &LOST, report_lost));
        lines
    });
    let filter = EnvFilter::new(format!(
        "warn,pingora_core::connectors=off,pingora_core::services=off,countersign={level}"
    ));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || OneLine(lines.as_ref()))
        .with_timer(text::Clock)
        .with_ansi(false)
        .with_target(false);
    // A second start would be a test's in the same process; the first one stays.
    let _ = match format {
        LogFormat::Text => log.fmt_fields(text::LogFields).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// Writes out what waits; the last thing a process does.
pub fn end() {
    if let Some(lines) = LINES.get() {
        lines.end();
    }
}

/// Returns the counter of lines that were dropped.
pub fn lost_lines() -> IntCounter {
    LOST.clone()
}

/// Logged as an error, because every level has those.
fn report_lost(lines: u64) {
    tracing::error!("{lines} lines lost: the reader of the log was too slow or gone");
}

/// Formats a duration in milliseconds with three decimals.
pub fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line, &LOST);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Each event is one line: control characters in the texts of others are escaped.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// Gets an event at a time, with its line end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        // With 0xC2 begin the controls beyond ASCII, and others. Each byte is looked at, without a branch for any.
        let may_control = |byte: u8| byte.is_ascii_control() | (byte == 0xc2);
        if !line
            .iter()
            .fold(false, |any, byte| any | may_control(*byte))
        {
            return self.0.write(event);
        }
        let mut escaped = String::with_capacity(event.len() + 16);
        for char in String::from_utf8_lossy(line).chars() {
            if char.is_control() {
                // Also what JSON would call it: there, only those from 0x7f on stand in a line as they are.
                escaped.push_str(&format!("\\u{:04x}", u32::from(char)));
            } else {
                escaped.push(char);
            }
        }
        escaped.push('\n');
        self.0.write_all(escaped.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_stands_in_it() {
        for (event, line) in [
            ("plain \u{e9}\n", "plain \u{e9}\n"),
            ("a\nINFO forged\n", "a\\u000aINFO forged\n"),
            ("\x1b[m\r\x7f\0\n", "\\u001b[m\\u000d\\u007f\\u0000\n"),
            (
                "\u{9b}2J\u{85}\u{a0}\u{a9}\n",
                "\\u009b2J\\u0085\u{a0}\u{a9}\n",
            ),
        ] {
            let mut written = Vec::new();
            OneLine(&mut written).write_all(event.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), line);
        }
    }
}
