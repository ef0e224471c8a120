//! The wall clock, read at the edges; below them time is an argument. Beside it a trusted time, for what cannot be undone.
//!
//! A wall clock can be wrong for minutes or years: after a start without a battery, by a typing error, in a restored
//! virtual machine. Plans follow it, since they can be made anew. Deletion, parking and giving up follow
//! [`trusted_now`], which takes no jump for true until 24 hours have passed, or an operator has confirmed it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

/// Milliseconds since 1970. The clock is read at the edges and passed in.
pub type Millis = i64;

/// Change of the wall clock against the time since boot that counts as a jump. NTP slews below it.
pub const JUMP: Millis = 60 * 1000;
/// Trusted time after which a jump is taken for true.
pub const DOUBTED_FOR: Millis = 24 * 60 * 60 * 1000;

/// No other clock decides.
const NONE: i64 = i64::MIN;

/// The offset of another host's clock from our time since boot: a fleet's database decides for all of its sidecars.
static REFERENCE: AtomicI64 = AtomicI64::new(NONE);

static TRUST: Mutex<Option<ClockTrust>> = Mutex::new(None);

/// Returns the time of the wall clock, or of the database that decides; the trusted time while that clock is behind it.
pub fn now() -> Millis {
    Moments::now().now
}

/// Returns the time by which something may be deleted, parked or given up.
pub fn trusted_now() -> Millis {
    trusted_at(since_boot())
}

fn trusted_at(up: Millis) -> Millis {
    let wall = wall_at(up);
    TRUST
        .lock()
        .get_or_insert(ClockTrust::new(wall, up))
        .look(wall, up)
}

/// Lets another host's clock decide, which showed `reference` now.
pub fn follow(reference: Millis) {
    // Kept against the time since boot: this host's wall clock may jump before the database is read again.
    let before = REFERENCE.swap(reference - since_boot(), Ordering::Relaxed);
    // What was trusted until then came from this host's clock, which may be wrong by years.
    if before == NONE {
        *TRUST.lock() = None;
    }
}

/// Takes the wall clock for true from now on.
pub fn confirm() {
    let up = since_boot();
    *TRUST.lock() = Some(ClockTrust::new(wall_at(up), up));
}

/// The times of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// The time for plans and stamps: the wall clock, or the trusted time where the wall clock is behind it.
    pub now: Millis,
    /// The trusted time, for what cannot be undone.
    pub trusted: Millis,
}

impl Moments {
    /// Reads the clocks.
    pub fn now() -> Self {
        let up = since_boot();
        Self::of(wall_at(up), trusted_at(up))
    }

    /// Combines both: a stamp of a clock that is behind would look old, and be deleted or given up, once the clock is right.
    pub(crate) fn of(wall: Millis, trusted: Millis) -> Self {
        Self {
            now: wall.max(trusted),
            trusted,
        }
    }
}

/// Returns the jump of the wall clock that is in doubt: positive where it went ahead.
pub fn doubted_jump() -> Option<Millis> {
    let up = since_boot();
    let wall = wall_at(up);
    let trusted = trusted_now();
    ((wall - trusted).abs() > JUMP).then_some(wall - trusted)
}

/// Returns what the next process has to know, to go on trusting the same time.
pub fn kept() -> KeptTrust {
    let trusted = trusted_now();
    let doubted = TRUST
        .lock()
        .as_ref()
        .map_or(0, |trust| trust.doubted(since_boot()));
    KeptTrust {
        boot: boot(),
        up: since_boot(),
        trusted,
        doubted,
    }
}

/// Goes on where an earlier process was.
pub fn resume(kept: &KeptTrust) {
    *TRUST.lock() = Some(ClockTrust::resume(kept, &boot(), since_boot()));
}

/// ClockTrust as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptTrust {
    /// The kernel's id of its run.
    pub boot: String,
    /// Time since boot.
    pub up: Millis,
    /// The trusted time at that moment.
    pub trusted: Millis,
    /// Trusted time for which the wall clock has been in doubt.
    pub doubted: Millis,
}

/// The relation of the wall clock to the time since boot, as far as it is trusted.
#[derive(Debug)]
pub(crate) struct ClockTrust {
    /// Wall time minus time since boot.
    offset: Millis,
    jump: Option<Jump>,
}

/// A jump in doubt.
#[derive(Debug)]
struct Jump {
    /// The offset that the wall clock has now.
    offset: Millis,
    /// The time since boot at which it was seen first.
    since: Millis,
}

impl ClockTrust {
    /// Trusts the wall clock.
    pub(crate) fn new(wall: Millis, up: Millis) -> Self {
        Self {
            offset: wall - up,
            jump: None,
        }
    }

    /// After another boot, the time since boot has passed for certain, and nothing is known of the time before it.
    pub(crate) fn resume(kept: &KeptTrust, boot: &str, up: Millis) -> Self {
        // One run of the kernel is not enough: a time namespace shifts CLOCK_BOOTTIME within it (time_namespaces(7)).
        let is_same = kept.boot == boot && kept.up <= up;
        let offset = if is_same {
            kept.trusted - kept.up
        } else {
            kept.trusted
        };
        let passed = if is_same { up - kept.up } else { up };
        // Which jump it was shows at the first look; its age counts on.
        let jump = (kept.doubted > 0).then(|| Jump {
            offset: NONE,
            since: up - passed - kept.doubted,
        });
        Self { offset, jump }
    }

    /// Returns the trusted time, by a look at both clocks.
    pub(crate) fn look(&mut self, wall: Millis, up: Millis) -> Millis {
        let offset = wall - up;
        // A clock that creeps is followed, however far it gets; only a step of more than a minute is in doubt.
        if (offset - self.offset).abs() <= JUMP {
            if self.jump.take().is_some() {
                tracing::info!("the clock is right again");
            }
            self.offset = offset;
            return wall;
        }
        match &mut self.jump {
            Some(jump) if jump.offset == NONE => jump.offset = offset,
            Some(jump) if (jump.offset - offset).abs() <= JUMP => {}
            // A jump on top of another one is in doubt for 24 hours of its own.
            slot => {
                *slot = Some(Jump { offset, since: up });
                tracing::warn!(
                    seconds = (offset - self.offset) / 1000,
                    "the clock has jumped: nothing is deleted, parked or given up for 24 hours, or until `countersign clock \
                     confirm`"
                );
            }
        }
        if self.doubted(up) >= DOUBTED_FOR {
            tracing::warn!("the clock has kept its new time for 24 hours: it is taken for true");
            *self = Self::new(wall, up);
            return wall;
        }
        up + self.offset
    }

    /// Returns the trusted time for which the wall clock has been in doubt.
    pub(crate) fn doubted(&self, up: Millis) -> Millis {
        self.jump
            .as_ref()
            // At least 1, because a store takes 0 for no doubt.
            .map_or(0, |jump| (up - jump.since).max(1))
    }
}

fn wall_at(up: Millis) -> Millis {
    match REFERENCE.load(Ordering::Relaxed) {
        NONE => {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
        }
        offset => up + offset,
    }
}

/// Reads `CLOCK_BOOTTIME`, which no operator sets and which counts while the machine sleeps.
fn since_boot() -> Millis {
    let up = clock_gettime(ClockId::Boottime);
    up.tv_sec * 1000 + up.tv_nsec / 1_000_000
}

/// Reads the id of the kernel's run; empty where the system has none, so that no two runs are taken for one.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Formats as `YYYY-MM-DD hh:mm:ss` at this offset.
pub fn shown(at: Millis, offset: UtcOffset) -> String {
    let at = OffsetDateTime::from_unix_timestamp(at.div_euclid(1000))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .to_offset(offset);
    let (date, (hour, minute, second)) = (at.date(), at.to_hms());
    format!("{date} {hour:02}:{minute:02}:{second:02}")
}

/// Returns the first millisecond of a day in UTC, written as `YYYY-MM-DD`.
pub fn first_of_day(day: &str) -> Option<Millis> {
    let mut parts = day.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
    // Further years are no milliseconds of a database.
    (1970..=9999)
        .contains(&date.year())
        .then(|| OffsetDateTime::new_utc(date, Time::MIDNIGHT).unix_timestamp() * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 60 * 60 * 1000;
    const BOOT: Millis = 1_000_000 * HOUR;

    #[test]
    fn a_jump_is_not_trusted_for_24_hours_and_forgotten_when_the_clock_is_right_again() {
        for jump in [400 * 24 * HOUR, 2 * HOUR, 61_000, -61_000, -400 * 24 * HOUR] {
            let mut trust = ClockTrust::new(BOOT, 0);
            assert_eq!(trust.look(BOOT + HOUR + 59_000, HOUR), BOOT + HOUR + 59_000);
            let right = |up| BOOT + 59_000 + up;
            for up in [HOUR, 2 * HOUR, 24 * HOUR] {
                assert_eq!(trust.look(right(up) + jump, up), right(up), "{jump} {up}");
            }
            assert_eq!(trust.look(right(24 * HOUR), 24 * HOUR), right(24 * HOUR));
            assert_eq!(
                trust.look(right(25 * HOUR) + jump, 25 * HOUR),
                right(25 * HOUR)
            );
            let later = 49 * HOUR;
            assert_eq!(trust.look(right(later) + jump, later), right(later) + jump);
        }
    }

    #[test]
    fn doubt_outlives_the_process_and_the_boot() {
        let mut trust = ClockTrust::new(BOOT, 0);
        let ahead = 400 * 24 * HOUR;
        trust.look(BOOT + ahead, 0);
        let kept = |trust: &mut ClockTrust, up: Millis| KeptTrust {
            boot: "a".to_owned(),
            up,
            trusted: trust.look(BOOT + ahead + up, up),
            doubted: trust.doubted(up),
        };
        let first = kept(&mut trust, 10 * HOUR);
        let mut again = ClockTrust::resume(&first, "a", 20 * HOUR);
        assert_eq!(
            again.look(BOOT + ahead + 20 * HOUR, 20 * HOUR),
            BOOT + 20 * HOUR
        );
        assert_eq!(
            again.look(BOOT + ahead + 24 * HOUR, 24 * HOUR),
            BOOT + ahead + 24 * HOUR
        );
        // Of another boot only the time since then has passed for certain.
        let mut booted = ClockTrust::resume(&first, "b", HOUR);
        assert_eq!(
            booted.look(BOOT + ahead + 99 * HOUR, HOUR),
            BOOT + 11 * HOUR
        );
        let right = BOOT + 11 * HOUR + 5_000;
        assert_eq!(booted.look(right, HOUR), right);
    }

    #[test]
    fn a_day_is_read_as_calendars_have_it() {
        // `date -u -d 2024-02-29 +%s`.
        assert_eq!(first_of_day("2024-02-29"), Some(1_709_164_800_000));
        for wrong in [
            "",
            "2023-02-29",
            "2024-13-01",
            "2024-2",
            "x-y-z",
            "-1-01-01",
        ] {
            assert_eq!(first_of_day(wrong), None, "{wrong}");
        }
    }
}
