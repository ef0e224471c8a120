//! Admission: which connections a listener serves when there are more than it can.
//!
//! Three rules, the same on every listener. A caller has at most its share. Callers that the listener is for have permits of
//! their own, which strangers cannot take. When all permits are taken, the connection that has waited longest makes room,
//! beginning with the caller that has most of them; a request that has begun is never cut.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;

use super::listener_metrics::{ListenerMetrics, ShedCounter, ShedReason};
use super::memory::MemoryBudget;
use super::slot::Slot;
use crate::http::server::caller::Caller;
use crate::http::server::client_address::is_in;
use crate::http::server::limits::Limits;

/// The connections of one listener.
pub struct Admission {
    pub(in crate::http::server) listener: &'static str,
    pub(in crate::http::server) trusted: Vec<IpNet>,
    pub(in crate::http::server) counter: Arc<ShedCounter>,
    limits: Limits,
    allowed: Vec<IpNet>,
    started: Instant,
    memory: Arc<MemoryBudget>,
    table: Mutex<Table>,
}

/// An open connection with its permit, which is given back when this is dropped.
pub(in crate::http::server) struct Admitted {
    pub(in crate::http::server) slot: Arc<Slot>,
    admission: Arc<Admission>,
    /// Bytes that the memory budget counts.
    held: usize,
}

/// Open connections by caller.
#[derive(Default)]
struct Table {
    callers: HashMap<Caller, Vec<Arc<Slot>>>,
    taken: usize,
    /// Connections with a permit for known callers, among those taken.
    known: usize,
}

impl Admission {
    /// An empty listener. Proxies in `trusted` say which client they speak for; callers in `allowed` and they have permits of
    /// their own on a public listener.
    pub fn new(
        listener: &'static str,
        limits: Limits,
        trusted: Vec<IpNet>,
        allowed: Vec<IpNet>,
        memory: Arc<MemoryBudget>,
        metrics: Arc<dyn ListenerMetrics>,
    ) -> Self {
        Self {
            listener,
            trusted,
            counter: Arc::new(ShedCounter::new(listener, metrics)),
            limits,
            allowed,
            started: Instant::now(),
            memory,
            table: Mutex::default(),
        }
    }

    /// Takes a permit for a connection from `peer`, if need be that of another one. `None`: there is none to take.
    pub(in crate::http::server) fn admit(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
    ) -> Option<Admitted> {
        let caller = Caller::of(peer);
        let is_known = match peer {
            None => true,
            Some(peer) if self.limits.is_public => {
                is_in(&self.trusted, peer) || is_in(&self.allowed, peer)
            }
            // Here it only decides who is spared when memory runs out: there are no permits of their own for known
            // callers.
            Some(peer) => peer.is_loopback(),
        };
        let now = self.millis(Instant::now());
        let slot = Arc::new(Slot::new(self.counter.clone(), caller, is_known, now));
        let mut table = self.table.lock();
        if let Some(scope) = self.shortage(&table, &slot) {
            let cut = table.make_room(scope, &slot, now, self.limits.spared);
            if cut.is_empty() {
                return None;
            }
            for slot in cut {
                // Now, not when its task is dropped: the newcomer has the permit from here on.
                table.remove(&slot);
                self.counter.shed(ShedReason::Replaced, slot.caller);
            }
        }
        table.insert(slot.clone());
        Some(Admitted {
            slot,
            admission: self.clone(),
            held: 0,
        })
    }

    /// Finds out whose connection has to go for another one of this caller, if any has.
    fn shortage(&self, table: &Table, slot: &Slot) -> Option<Scope> {
        let Limits {
            max_connections,
            max_known,
            max_per_caller,
            ..
        } = self.limits;
        let own = table.callers.get(&slot.caller).map_or(0, Vec::len);
        let has_own_permits = max_known > 0;
        // One caller's share does not bind known callers: all callbacks may come from one address of the platform or of
        // a proxy.
        if has_own_permits && slot.is_known {
            return (table.known >= max_known).then_some(Scope::Known);
        }
        if own >= max_per_caller {
            return Some(Scope::Caller);
        }
        let taken = match has_own_permits {
            true => table.taken - table.known,
            false => table.taken,
        };
        let scope = if has_own_permits {
            Scope::Strangers
        } else {
            Scope::All
        };
        (taken >= max_connections).then_some(scope)
    }

    /// Milliseconds of this listener's own clock.
    fn millis(&self, now: Instant) -> u64 {
        let millis = now.duration_since(self.started).as_millis();
        // Half of the range, because a slot adds 2 to it.
        u64::try_from(millis).unwrap_or(u64::MAX / 2)
    }
}

/// Connections that may make room for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Caller,
    Strangers,
    Known,
    All,
}

/// Part of the connections that are cut together when all permits are taken. Finding the longest wait means looking at all of
/// them, which a flood of new connections must not cause each time.
const CUT_TOGETHER: usize = 64;

impl Table {
    fn insert(&mut self, slot: Arc<Slot>) {
        self.taken += 1;
        self.known += usize::from(slot.is_known);
        self.callers.entry(slot.caller).or_default().push(slot);
    }

    /// Removes a connection, unless it was removed when it was cut.
    fn remove(&mut self, slot: &Slot) {
        let Some(own) = self.callers.get_mut(&slot.caller) else {
            return;
        };
        let Some(at) = own.iter().position(|it| it.id == slot.id) else {
            return;
        };
        own.swap_remove(at);
        if own.is_empty() {
            self.callers.remove(&slot.caller);
        }
        self.taken -= 1;
        self.known -= usize::from(slot.is_known);
    }

    /// Cuts connections that wait, at least one if there is one that may go.
    ///
    /// The caller with most connections goes first, and the longest wait within it. A connection younger than `spared` goes
    /// only where its caller has more than the newcomer's would have: its request may be on its way.
    fn make_room(
        &self,
        scope: Scope,
        newcomer: &Slot,
        now: u64,
        spared: Duration,
    ) -> Vec<Arc<Slot>> {
        let own = self.callers.get(&newcomer.caller);
        let own_count = own.map_or(0, Vec::len) + 1;
        let spared = u64::try_from(spared.as_millis()).unwrap_or(u64::MAX);
        let mut candidates = Vec::new();
        let mut add = |slots: &[Arc<Slot>]| {
            for slot in slots {
                let Some(since) = slot.waiting_since() else {
                    continue;
                };
                if slots.len() > own_count || now.saturating_sub(since) >= spared {
                    candidates.push((Reverse(slots.len()), since, slot.clone()));
                }
            }
        };
        let most = match scope {
            Scope::Caller => {
                add(own.map_or(&[], Vec::as_slice));
                1
            }
            _ => {
                let in_scope = |slot: &Slot| match scope {
                    Scope::Strangers => !slot.is_known,
                    Scope::Known => slot.is_known,
                    Scope::Caller | Scope::All => true,
                };
                // All connections of one caller to one listener are alike.
                let callers = self.callers.values();
                callers
                    .filter(|it| it.first().is_some_and(|it| in_scope(it)))
                    .for_each(|it| add(it));
                (self.taken / CUT_TOGETHER).max(1)
            }
        };
        candidates.sort_unstable_by_key(|(count, since, _)| (*count, *since));
        // One that begins a request at this moment cannot be cut: the next one then.
        let cut = candidates.into_iter().filter(|(.., slot)| slot.cut());
        cut.take(most).map(|(.., slot)| slot).collect()
    }
}

impl Admitted {
    /// Marks the beginning of a request. False where the connection has been cut.
    pub(in crate::http::server) fn begin(&self) -> bool {
        self.slot.begin()
    }

    /// Marks the end of a request: the connection waits for its client again.
    pub(in crate::http::server) fn wait(&self, now: Instant) {
        self.slot.wait(self.admission.millis(now));
    }

    /// Sets the bytes that the connection holds for a request that is not whole. False where it has been cut.
    pub(in crate::http::server) fn hold(&mut self, bytes: usize) -> bool {
        if bytes != self.held {
            self.held = bytes;
            self.admission.memory.hold(&self.slot, bytes);
        }
        !self.slot.is_cut()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.hold(0);
        self.admission.table.lock().remove(&self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::admission::listener_metrics::Unmeasured;

    fn admission(limits: Limits) -> Arc<Admission> {
        let metrics = Arc::new(Unmeasured);
        let memory = Arc::new(MemoryBudget::new(1 << 20));
        let (trusted, allowed) = ("10.0.0.0/8", "198.51.100.0/24");
        Arc::new(Admission::new(
            "callbacks",
            limits,
            vec![trusted.parse().unwrap()],
            vec![allowed.parse().unwrap()],
            memory,
            metrics,
        ))
    }

    fn connect(admission: &Arc<Admission>, address: &str) -> Option<Admitted> {
        let admitted = admission.admit(Some(address.parse().unwrap()))?;
        let task = tokio::spawn(std::future::pending::<()>());
        admitted.slot.set_task(task.abort_handle());
        Some(admitted)
    }

    const SMALL: Limits = Limits {
        max_connections: 4,
        max_known: 2,
        max_per_caller: 2,
        spared: Duration::ZERO,
        ..Limits::CALLBACKS
    };

    #[tokio::test]
    async fn strangers_cannot_take_the_permits_of_known_callers() {
        let spared = Duration::from_secs(60);
        let admission = admission(Limits { spared, ..SMALL });
        let strangers: Vec<_> = (1..=8)
            .filter_map(|last| connect(&admission, &format!("192.0.2.{last}")))
            .collect();
        assert_eq!(strangers.len(), 4);
        let known = ["198.51.100.1", "10.0.0.1"].map(|known| connect(&admission, known));
        assert!(known.iter().all(Option::is_some));
        assert!(connect(&admission, "10.0.0.2").is_none());
        assert!(strangers.iter().all(|it| !it.slot.is_cut()));
        drop(known);
        assert!(connect(&admission, "10.0.0.2").is_some());
    }

    #[tokio::test]
    async fn the_longest_wait_of_the_largest_caller_makes_room() {
        let admission = admission(Limits {
            max_per_caller: 3,
            ..SMALL
        });
        let one = connect(&admission, "192.0.2.1").unwrap();
        let many: Vec<_> = (0..3)
            .map(|_| connect(&admission, "192.0.2.2").unwrap())
            .collect();
        assert!(many[0].begin());
        many[1].wait(Instant::now() + Duration::from_secs(1));
        let _newcomer = connect(&admission, "192.0.2.3").unwrap();
        assert!(!many[0].slot.is_cut(), "its request is being handled");
        assert!(!many[1].slot.is_cut() && many[2].slot.is_cut() && !one.slot.is_cut());
        assert_eq!(admission.table.lock().taken, 4);
        drop(many);
        assert_eq!(admission.table.lock().taken, 2);
    }

    #[tokio::test]
    async fn a_caller_at_its_share_makes_room_for_itself() {
        let admission = admission(SMALL);
        let own: Vec<_> = (0..2)
            .map(|last| connect(&admission, &format!("2001:db8::{last}")).unwrap())
            .collect();
        let third = connect(&admission, "2001:db8::3").unwrap();
        assert!(own[0].slot.is_cut() && !own[1].slot.is_cut());
        assert!(own[1].begin() && third.begin());
        assert!(connect(&admission, "2001:db8::4").is_none());
        assert!(connect(&admission, "2001:db8:0:1::4").is_some());
    }

    #[tokio::test]
    async fn a_connection_that_has_only_just_come_is_spared() {
        let spared = Duration::from_secs(60);
        let admission = admission(Limits { spared, ..SMALL });
        let own = ["192.0.2.1"; 2].map(|address| connect(&admission, address).unwrap());
        assert!(connect(&admission, "192.0.2.1").is_none());
        assert!(own.iter().all(|it| !it.slot.is_cut()));
    }
}
