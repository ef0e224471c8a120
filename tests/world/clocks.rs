//! The clocks of the world: the time since boot, a wall clock that jumps, and the product's trusted time beside the model's.

use crate::time::{ClockTrust, DOUBTED_FOR, JUMP, KeptTrust, Millis, Moments};

/// A wall time to begin with.
const BEGINNING: Millis = 1_800_000_000_000;

/// All clocks.
pub(super) struct Clocks {
    /// The time since boot.
    pub(super) up: Millis,
    /// Wall time minus time since boot.
    offset: Millis,
    boot: u32,
    trust: ClockTrust,
    kept: KeptTrust,
    /// The model's view: the offset that things may be old by, and a doubted one with the time of its beginning.
    accepted: Millis,
    doubt: Option<(Millis, Millis)>,
}

impl Clocks {
    /// All are right.
    pub(super) fn new() -> Self {
        let mut clocks = Self {
            up: 0,
            offset: BEGINNING,
            boot: 0,
            trust: ClockTrust::new(BEGINNING, 0),
            kept: KeptTrust {
                boot: String::new(),
                up: 0,
                trusted: 0,
                doubted: 0,
            },
            accepted: BEGINNING,
            doubt: None,
        };
        clocks.look();
        clocks
    }

    fn wall(&self) -> Millis {
        self.up + self.offset
    }

    /// Returns the times that the product reads.
    pub(super) fn moments(&self) -> Moments {
        Moments::of(self.wall(), self.kept.trusted + self.up - self.kept.up)
    }

    pub(super) fn now(&self) -> Millis {
        self.moments().now
    }

    /// The time that the model trusts.
    pub(super) fn trusted(&self) -> Millis {
        self.up + self.accepted
    }

    pub(super) fn pass(&mut self, millis: Millis) {
        self.up += millis;
        self.look();
    }

    pub(super) fn jump(&mut self, seconds: i32) {
        self.offset += Millis::from(seconds) * 1000;
        self.look();
    }

    pub(super) fn confirm(&mut self) {
        self.trust = ClockTrust::new(self.wall(), self.up);
        (self.accepted, self.doubt) = (self.offset, None);
        self.look();
    }

    /// The sidecar is started again, after a boot where `machine` is set, and finds the clock changed.
    pub(super) fn restart(&mut self, machine: bool, jump: i32) {
        if machine {
            let (wall, trusted) = (self.wall(), self.trusted());
            self.boot += 1;
            // The time since boot begins anew. The machine was off for no time that anyone knows of.
            let doubted = self.doubt.map(|(offset, since)| (offset, self.up - since));
            self.up = 20_000;
            self.offset = wall;
            self.accepted = trusted;
            self.doubt = doubted.map(|(_, passed)| (self.offset, -passed));
        }
        self.offset += Millis::from(jump) * 1000;
        // A doubt counts on through a start, whatever the clock was set to.
        if let Some((offset, _)) = &mut self.doubt {
            *offset = self.offset;
        }
        self.trust = ClockTrust::resume(&self.kept, &self.boot.to_string(), self.up);
        self.look();
    }

    /// A look at the clocks, as the product takes one every second.
    fn look(&mut self) {
        self.judge();
        let trusted = self.trust.look(self.wall(), self.up);
        self.kept = KeptTrust {
            boot: self.boot.to_string(),
            up: self.up,
            trusted,
            doubted: self.trust.doubted(self.up),
        };
    }

    fn judge(&mut self) {
        let is_near = |one: Millis, other: Millis| (one - other).abs() <= JUMP;
        if is_near(self.offset, self.accepted) {
            (self.accepted, self.doubt) = (self.offset, None);
            return;
        }
        match self.doubt {
            Some((offset, since)) if is_near(offset, self.offset) => {
                if self.up - since >= DOUBTED_FOR {
                    (self.accepted, self.doubt) = (self.offset, None);
                }
            }
            _ => self.doubt = Some((self.offset, self.up)),
        }
    }
}
