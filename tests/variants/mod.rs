//! Metamorphic variants: messages of the platform in every form that means the same, and their neighbours that do not.
//!
//! A variant is named by a number: its message, its changes and their details follow from it. `tests/variants.rs` gives
//! many to the library's reader, `tests/blackbox/metamorphic.rs` fewer to the binary.

#![allow(
    dead_code,
    reason = "two test crates share this module, and neither uses all of it"
)]

mod altered;
mod draft;
mod encoder;
mod message;
pub(crate) mod rng;
mod same;

use std::collections::BTreeMap;

pub(crate) use altered::{ALTERED, Expected};
use draft::Draft;
pub(crate) use draft::Wire;
pub(crate) use message::{Meaning, Message, Route};
use rng::Rng;
pub(crate) use same::SAME;

/// A message and what is changed of it.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    pub(crate) message: Message,
    seed: u64,
    /// Places in [`SAME`].
    same: Vec<usize>,
    /// A place in [`ALTERED`].
    altered: Option<usize>,
}

/// A variant as bytes, with the names of the changes that it has.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) wire: Wire,
    pub(crate) changes: Vec<&'static str>,
}

/// Number of times that each kind of change was tried.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<&'static str, usize>);

impl Variant {
    /// Makes up a variant that means the same as its message.
    pub(crate) fn same(route: Route, merid: &str, number: u64, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut message = Message::any(route, merid, number, &mut rng);
        if route == Route::Query && rng.below(3) == 0 {
            message = message.failed(&mut rng);
        }
        Self::of(message, &mut rng)
    }

    /// Makes up another variant of the same message.
    pub(crate) fn again(&self) -> Self {
        let mut rng = Rng::new(self.seed);
        let message = Message {
            members: self.message.members.clone(),
            ..self.message.clone()
        };
        Self::of(message, &mut rng)
    }

    fn of(message: Message, rng: &mut Rng) -> Self {
        // Those that few messages admit are tried on more of them.
        let odds = |at: usize| if SAME[at].is_rare { 2 } else { 6 };
        let mut same: Vec<usize> = (0..SAME.len())
            .filter(|&at| rng.below(odds(at)) == 0)
            .collect();
        rng.shuffle(&mut same);
        Self {
            message,
            seed: rng.next(),
            same,
            altered: None,
        }
    }

    /// Makes up a variant with this kind of alteration among changes that mean the same. `None` where it does not apply.
    pub(crate) fn altered(
        route: Route,
        kind: usize,
        merid: &str,
        number: u64,
        seed: u64,
    ) -> Option<Self> {
        let mut rng = Rng::new(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let message = Message::any(route, merid, number, &mut rng);
        let mut variant = Self::of(message, &mut rng);
        // Few of them, so that the alteration is what is read.
        variant.same.truncate(rng.below(4));
        variant.altered = Some(kind);
        let kind = &ALTERED[kind];
        variant.drafted().1.contains(&kind.name).then_some(variant)
    }

    fn drafted(&self) -> (Draft, Vec<&'static str>) {
        let mut draft = Draft::of(self.message.clone());
        let mut changes = Vec::new();
        for &at in &self.same {
            let mut rng = Rng::new(self.seed ^ (at as u64 + 1) << 32);
            let mut changed = draft.clone();
            if (SAME[at].apply)(&mut changed, &mut rng) {
                draft = changed;
                changes.push(SAME[at].name);
            }
        }
        if let Some(at) = self.altered {
            let mut rng = Rng::new(self.seed ^ (at as u64 + 1) << 48);
            if (ALTERED[at].apply)(&mut draft, &mut rng) {
                changes.push(ALTERED[at].name);
            }
        }
        (draft, changes)
    }

    /// Writes the variant as bytes, signed with this key.
    pub(crate) fn write(&self, key: &str) -> Written {
        let (draft, changes) = self.drafted();
        let wire = draft.write(key, &mut Rng::new(self.seed));
        Written { wire, changes }
    }

    /// Leaves out every change that a failure does without.
    pub(crate) fn shrunk(mut self, fails: impl Fn(&Self) -> bool) -> Self {
        let mut at = 0;
        while at < self.same.len() {
            let mut less = self.clone();
            less.same.remove(at);
            if fails(&less) {
                self = less;
            } else {
                at += 1;
            }
        }
        self
    }
}

impl Counts {
    pub(crate) fn add(&mut self, changes: &[&'static str]) {
        for name in changes {
            *self.0.entry(name).or_default() += 1;
        }
    }

    pub(crate) fn of(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (name, count) in other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// One line of all counts, the rarest first.
    pub(crate) fn line(&self) -> String {
        let mut counts: Vec<_> = self.0.iter().map(|(name, count)| (count, name)).collect();
        counts.sort();
        let words: Vec<_> = counts
            .iter()
            .map(|(count, name)| format!("{name} {count}"))
            .collect();
        words.join(", ")
    }
}

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
