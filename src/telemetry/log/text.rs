//! The form of a line: `2017-03-01T12:00:05.000001Z  INFO call endpoint="query" status=200`. In JSON only the time is ours.
//!
//! What tracing would write, in a third of its time, because every request has a line. Control characters in a message are
//! the log's business.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// The time in UTC to a millionth of a second. All but the millionths is made once a second.
pub(super) struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        thread_local! {
            static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
        }
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_err(|_| fmt::Error)?;
        SECOND.with_borrow_mut(|(second, text)| {
            if *second != since.as_secs() || text.is_empty() {
                (*second, *text) = (since.as_secs(), to_the_second(now.into()));
            }
            writer.write_str(text)
        })?;
        let mut digits = *b".000000Z";
        let mut micros = since.subsec_micros();
        for digit in digits[1..7].iter_mut().rev() {
            *digit += (micros % 10) as u8;
            micros /= 10;
        }
        writer.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

fn to_the_second(at: OffsetDateTime) -> String {
    let (hour, minute, second) = at.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}", at.date())
}

/// The message and the fields of an event.
pub(super) struct LogFields;

impl<'w> FormatFields<'w> for LogFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        thread_local! {
            static LINE: RefCell<LogLine> = const { RefCell::new(LogLine(String::new())) };
        }
        // Entered again while a line is written: by a value that logs when it is shown.
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => line.write(fields, &mut writer),
            Err(_) => LogLine(String::new()).write(fields, &mut writer),
        })
    }
}

/// A line that is built in memory: the writer is called once, because each of its pieces costs more than a field.
struct LogLine(String);

impl LogLine {
    fn write(&mut self, fields: impl RecordFields, writer: &mut Writer<'_>) -> fmt::Result {
        self.0.clear();
        fields.record(self);
        writer.write_str(&self.0)
    }

    /// Everything before a field's value.
    fn name(&mut self, field: &Field) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        if field.name() != "message" {
            self.0.push_str(field.name());
            self.0.push('=');
        }
    }
}

impl Visit for LogLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        let is_usual = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        if field.name() == "message" {
            self.0.push_str(value);
        } else if value.bytes().fold(true, |all, byte| all & is_usual(byte)) {
            self.0.push('"');
            self.0.push_str(value);
            self.0.push('"');
        } else {
            // Writing to memory cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.0.push_str(itoa::Buffer::new().format(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.name(field);
        // Only a value that cannot be shown fails, and it has had its say.
        let _ = write!(self.0, "{value:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::{MakeWriter, Subscriber, SubscriberBuilder};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Written {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    fn log() -> SubscriberBuilder {
        Subscriber::builder().with_ansi(false).with_target(false)
    }

    /// The lines of some events, without their times.
    fn lines(log: impl tracing::Subscriber + Send + Sync, written: &Written) -> Vec<String> {
        tracing::subscriber::with_default(log, || {
            let error = "a \"reason\"\n\u{1b}[m";
            tracing::info!(
                text = "plain",
                odd = "a\"b\\c\u{e9}\u{7f}\n",
                empty = "",
                "call"
            );
            tracing::warn!(
                status = 200_u16, most = u64::MAX, least = i64::MIN, ms = 0.349, whole = 2.0, yes = true,
                %error, debug = ?Some("x"), "{} made", "up"
            );
            tracing::error!(error, r#type = "reserved", none = Option::<u64>::None);
            tracing::info!("alone");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines = text.split_inclusive("Z ").skip(1);
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_line_reads_as_tracing_writes_it() {
        let (ours, theirs) = (Written::default(), Written::default());
        let by_us = log().with_writer(ours.clone());
        let by_us = by_us.with_timer(Clock).fmt_fields(LogFields).finish();
        let by_them = log().with_writer(theirs.clone()).finish();
        let (by_us, by_them) = (lines(by_us, &ours), lines(by_them, &theirs));
        // A line has its successor's time at its end.
        for (ours, theirs) in by_us.iter().zip(&by_them) {
            let without_time = |line: &str| line.rsplit_once('\n').map(|it| it.0.to_owned());
            assert_eq!(without_time(ours), without_time(theirs));
        }
        assert_eq!((by_us.len(), by_them.len()), (4, 4));
    }

    #[test]
    fn the_time_is_the_clocks() {
        let time = |clock: &dyn FormatTime| {
            let mut text = String::new();
            clock.format_time(&mut Writer::new(&mut text)).unwrap();
            text
        };
        for _ in 0..1000 {
            let before = time(&tracing_subscriber::fmt::time::SystemTime);
            let ours = time(&Clock);
            let after = time(&tracing_subscriber::fmt::time::SystemTime);
            assert!(before <= ours && ours <= after, "{before} {ours} {after}");
            assert_eq!(ours.len(), after.len());
        }
    }
}
