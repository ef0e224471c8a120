//! The log: one line an event, written to standard error without delaying a request.
//!
//! Lines gather for a moment and are written together: a write for each would cost a call a tenth more. What a slow reader
//! leaves waiting is bounded, and what is beyond that is dropped.

mod text;

pub mod limit;

use std::io::{self, Write};
use std::mem::{swap, take};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::settings::LogFormat;

/// Bytes of lines that wait for a slow reader: some ten thousand lines.
const WAITING: usize = 4 * 1024 * 1024;
/// Bytes that are kept for the next lines.
const BUFFER: usize = 64 * 1024;
/// The time for which lines gather.
const GATHERING: Duration = Duration::from_millis(5);
/// The time for which the shutdown waits for a slow reader.
const LAST_WRITE: Duration = Duration::from_secs(1);

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
        thread::spawn(move || writer.write_out());
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

/// Formats a duration in milliseconds with three decimals.
pub fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Lines on their way out.
#[derive(Default)]
struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// The writer waits for a line; while lines gather it is not to be woken.
    idle: bool,
    /// Some was taken and is being written.
    writing: bool,
    ended: bool,
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        // Dropped instead of waited for: a log pipe that is blocked must not stop requests.
        if waiting.text.len() + line.len() > WAITING {
            return;
        }
        waiting.text.extend_from_slice(line);
        // The writer is woken only where it sleeps; a wake-up for each line would be a system call for each.
        let idle = take(&mut waiting.idle);
        drop(waiting);
        if idle {
            self.changed.notify_all();
        }
    }

    /// Writes pushed lines; never returns.
    fn write_out(&self) {
        let mut text = Vec::new();
        loop {
            let waiting = self.waiting();
            let is_idle = |waiting: &mut Waiting| {
                waiting.idle = waiting.text.is_empty();
                waiting.idle
            };
            let mut waiting = self
                .changed
                .wait_while(waiting, is_idle)
                .unwrap_or_else(PoisonError::into_inner);
            // Written outside the lock below: a full pipe blocks the writer for as long as its reader sleeps.
            swap(&mut text, &mut waiting.text);
            waiting.writing = true;
            drop(waiting);
            // There is no other place to report that standard error is closed.
            let _ = io::stderr().write_all(&text);
            text.clear();
            text.shrink_to(BUFFER);
            let mut waiting = self.waiting();
            waiting.writing = false;
            if waiting.ended {
                self.changed.notify_all();
            }
            // A line that comes alone is written at once; those that follow gather. The end waits for nothing.
            let gathered = self
                .changed
                .wait_timeout_while(waiting, GATHERING, |waiting| !waiting.ended);
            drop(gathered);
        }
    }

    fn end(&self) {
        let mut waiting = self.waiting();
        waiting.ended = true;
        self.changed.notify_all();
        let unwritten = |waiting: &mut Waiting| waiting.writing || !waiting.text.is_empty();
        let _ = self
            .changed
            .wait_timeout_while(waiting, LAST_WRITE, unwritten);
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
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
