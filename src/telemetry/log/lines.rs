//! Lines on their way to standard error, on a thread of their own: a reader that stops delays no request.

use std::io::{ErrorKind, Write};
use std::mem::{swap, take};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

/// Bytes of lines that wait for a slow reader: some ten thousand lines.
const WAITING: usize = 4 * 1024 * 1024;
/// Bytes that are kept for the next lines.
const BUFFER: usize = 64 * 1024;
/// The time for which lines gather.
const GATHERING: Duration = Duration::from_millis(5);
/// The pause before the next write to a full pipe that does not block.
const FULL_PIPE: Duration = Duration::from_millis(20);
/// The time for which the shutdown waits for a slow reader.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// The lines that wait.
#[derive(Default)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Lines that were dropped since the last report.
    lost: u64,
    /// The last write came through, so that a report would.
    is_read: bool,
    /// The writer waits for a line; while lines gather it is not to be woken.
    idle: bool,
    /// Some was taken and is being written.
    writing: bool,
    ended: bool,
}

impl Waiting {
    fn has_work(&self) -> bool {
        !self.text.is_empty() || (self.is_read && self.lost > 0)
    }
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, or drops it where too much waits.
    pub(super) fn push(&self, line: &[u8], lost: &IntCounter) {
        let mut waiting = self.waiting();
        // Dropped instead of waited for: a log pipe that is blocked must not stop requests.
        if waiting.text.len() + line.len() > WAITING {
            waiting.lost += 1;
            lost.inc();
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

    /// Writes pushed lines; never returns. `report` logs how many were lost, once `output` is read again.
    pub(super) fn write_to(&self, mut output: impl Write, lost: &IntCounter, report: fn(u64)) {
        let mut text = Vec::new();
        loop {
            let is_idle = |waiting: &mut Waiting| {
                waiting.idle = !waiting.has_work();
                waiting.idle
            };
            let mut waiting = self
                .changed
                .wait_while(self.waiting(), is_idle)
                .unwrap_or_else(PoisonError::into_inner);
            // Written outside the lock below: a full pipe blocks the writer for as long as its reader sleeps.
            swap(&mut text, &mut waiting.text);
            waiting.writing = true;
            let missed = if waiting.is_read {
                take(&mut waiting.lost)
            } else {
                0
            };
            drop(waiting);
            if missed > 0 {
                // Here it comes after the last line before the gap, and before the first one after it.
                report(missed);
            }
            let unwritten = write_lines(&mut output, &text);
            lost.inc_by(unwritten);
            text.clear();
            text.shrink_to(BUFFER);
            let mut waiting = self.waiting();
            waiting.writing = false;
            waiting.is_read = unwritten == 0;
            waiting.lost += unwritten;
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

    /// Waits until everything is written, for a moment.
    pub(super) fn end(&self) {
        let mut waiting = self.waiting();
        waiting.ended = true;
        self.changed.notify_all();
        let unwritten = |waiting: &mut Waiting| waiting.writing || waiting.has_work();
        let _ = self
            .changed
            .wait_timeout_while(waiting, LAST_WRITE, unwritten);
    }
}

/// Writes whole lines; returns the number of those that could not be written.
fn write_lines(output: &mut impl Write, text: &[u8]) -> u64 {
    let mut rest = text;
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => break,
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the pipe may have set it so, and a full one is no closed one.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PIPE),
            // There is no other place to report that standard error is closed.
            Err(_) => break,
        }
    }
    let lines = memchr::memchr_iter(b'\n', rest).count();
    u64::try_from(lines).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, mpsc};

    /// An output whose next writes are scripted: take everything, or fail.
    struct Scripted {
        turns: mpsc::Receiver<io::Result<()>>,
        written: mpsc::Sender<String>,
    }

    impl Write for Scripted {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.turns.recv().unwrap_or(Ok(()))?;
            let _ = self.written.send(String::from_utf8(text.to_vec()).unwrap());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    static REPORTED: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn what_a_reader_misses_is_counted_and_reported_once_it_is_back() {
        let (turns, told) = mpsc::channel();
        let (written, seen) = mpsc::channel();
        let lines = Arc::<Lines>::default();
        let lost = IntCounter::new("lost", "lost").unwrap();
        let (writer, counter) = (lines.clone(), lost.clone());
        thread::spawn(move || {
            let output = Scripted {
                turns: told,
                written,
            };
            let report = |missed| {
                REPORTED.fetch_add(missed, Ordering::SeqCst);
            };
            writer.write_to(output, &counter, report);
        });
        let next = || seen.recv_timeout(Duration::from_secs(10)).unwrap();
        lines.push(b"first\n", &lost);
        turns.send(Ok(())).unwrap();
        assert_eq!(next(), "first\n");
        // A full pipe that does not block loses nothing.
        lines.push(b"second\n", &lost);
        turns.send(Err(ErrorKind::WouldBlock.into())).unwrap();
        turns.send(Ok(())).unwrap();
        assert_eq!(next(), "second\n");
        // A closed one loses what was to be written, without a report.
        lines.push(b"third\n", &lost);
        turns.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        let large = [vec![b'x'; WAITING - 5], b"\n".to_vec()].concat();
        while lost.get() == 0 {
            thread::yield_now();
        }
        // One that stops leaves room for so much.
        lines.push(&large, &lost);
        let is_taken = || lines.waiting().text.is_empty();
        while !is_taken() {
            thread::yield_now();
        }
        lines.push(&large, &lost);
        for _ in 0..3 {
            lines.push(b"too much\n", &lost);
        }
        lines.push(b"\n", &lost);
        assert_eq!((lost.get(), REPORTED.load(Ordering::SeqCst)), (4, 0));
        turns.send(Ok(())).unwrap();
        turns.send(Ok(())).unwrap();
        assert_eq!(next().len(), large.len());
        assert_eq!(next().len(), large.len() + 1);
        assert_eq!(REPORTED.load(Ordering::SeqCst), 4);
    }
}
