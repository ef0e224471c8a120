//! The events of one merchant that wait for an attempt, and the standing of its app.

use std::collections::VecDeque;
use std::time::Duration;

use crate::inbox::attempt::DueEvent;
use crate::time::Millis;

/// Attempts in flight for one merchant whose app answers quickly. More would bring a small app server no gain.
const WIDEST: usize = 64;
/// Attempts in flight for one merchant whose app takes results slowly, or has an aged attempt.
const WIDEST_SLOW: usize = 8;
/// An app that takes a result within this time is quick.
const QUICK: Duration = Duration::from_secs(1);
/// An app that needs longer than this gets fewer attempts at once: they are waiting for each other there.
const CROWDED: Duration = Duration::from_millis(100);
/// Rejections in a row that make an app a failing one; a single one may be about a single result.
const REJECTIONS: u32 = 3;
/// Ids that are read for a merchant at least, so that not every attempt costs a read.
const READ_AHEAD: usize = 4;

/// The end of an attempt, as far as it says something about the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// The app took the result.
    Taken,
    /// The app responded with something else.
    Rejected,
    /// The app did not respond.
    Silent,
    /// The app was not contacted.
    NotSent,
}

/// The standing of a merchant's app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is down, or rejects one result after the other.
    Failing,
    /// It has not shown anything yet, or takes results slowly.
    Unproven,
    /// It takes results quickly.
    Proven,
}

/// A change of an app's standing that outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandingChange {
    /// It began to fail, for this reason.
    Failing(String),
    /// It takes results again.
    Working,
}

/// The events of one merchant, and what its app has shown so far.
pub(super) struct MerchantQueue {
    /// Due events that were read, longest due first.
    pub(super) queued: VecDeque<DueEvent>,
    /// The time at which the store has further ones, as far as is known.
    pub(super) more_at: Option<Millis>,
    /// The time under which it waits to be read.
    pub(super) read_at: Option<Millis>,
    /// The ring that it waits in.
    pub(super) ring: Option<Standing>,
    pub(super) in_flight: usize,
    pub(super) aged: usize,
    /// Events that the store still shows as pending although their attempts are over.
    pub(super) unrecorded: usize,
    pub(super) standing: Standing,
    /// Attempts in flight that its app has shown to bear.
    width: usize,
    rejections: u32,
    /// A fresh event announced it, and its app was never tried.
    pub(super) is_newcomer: bool,
    /// Its app was tried in this run.
    pub(super) was_tried: bool,
    /// It has an address that results can be delivered to.
    pub(super) deliverable: bool,
}

impl MerchantQueue {
    pub(super) fn new(standing: Standing, deliverable: bool) -> Self {
        Self {
            queued: VecDeque::new(),
            more_at: None,
            read_at: None,
            ring: None,
            in_flight: 0,
            aged: 0,
            unrecorded: 0,
            standing,
            width: 1,
            rejections: 0,
            is_newcomer: false,
            was_tried: false,
            deliverable,
        }
    }

    fn width(&self) -> usize {
        match self.standing {
            // One probe at a time: a dead app learns nothing from more.
            Standing::Failing => 1,
            _ if self.aged > 0 => self.width.min(WIDEST_SLOW),
            _ => self.width,
        }
    }

    fn has_room(&self) -> bool {
        self.deliverable && self.in_flight < self.width()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.has_room() && !self.queued.is_empty()
    }

    /// A read is worth its cost once the queue would not fill the next round.
    pub(super) fn wants_more(&self) -> bool {
        self.has_room() && 2 * self.queued.len() <= self.width()
    }

    pub(super) fn wanted(&self) -> usize {
        // The store still shows all of these as pending, so that a smaller read could return nothing new.
        self.in_flight + self.unrecorded + self.queued.len() + (2 * self.width()).max(READ_AHEAD)
    }

    pub(super) fn learn(&mut self, landing: Landing, took: Duration) {
        match landing {
            Landing::Taken if took <= QUICK => {
                self.standing = Standing::Proven;
                self.rejections = 0;
                // One more after a quick reply, a share less after a slow one: as TCP finds its window (RFC 5681 §3.1).
                self.width = if took <= CROWDED {
                    (self.width + 1).min(WIDEST)
                } else if self.width > WIDEST_SLOW {
                    self.width - self.width / 4
                } else {
                    (self.width + 1).min(WIDEST_SLOW)
                };
            }
            Landing::Taken => {
                self.standing = Standing::Unproven;
                self.rejections = 0;
                self.width = (self.width + 1).min(WIDEST_SLOW);
            }
            Landing::Rejected => {
                self.rejections += 1;
                self.width = (self.width / 2).max(1);
                let was_proven = self.standing == Standing::Proven;
                if !was_proven || self.rejections >= REJECTIONS || took > QUICK {
                    self.standing = Standing::Failing;
                }
            }
            Landing::Silent => {
                self.standing = Standing::Failing;
                self.width = 1;
            }
            Landing::NotSent => {}
        }
    }
}
