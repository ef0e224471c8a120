//! Another merchant of the same sidecar, whose app is always well: the measure of fairness.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{OTHER_KEY, OTHER_MERID, fresh_orderid};
use crate::platform::{Platform, Seen};
use crate::shop::{Payment, callback, is_acknowledged, merchant_at, taken};
use std::net::SocketAddr;

/// A healthy app has its result in this time, whatever other apps do: the promised second, and room for a debug build
/// on a busy machine.
const PROMPT: Duration = Duration::from_secs(6);

pub(super) struct Neighbour(Platform);

impl Neighbour {
    pub(super) fn new() -> Self {
        Self(Platform::start(|_: &Seen| taken()))
    }

    /// Its entry in the merchants file.
    pub(super) fn entry(&self) -> String {
        merchant_at(&self.0.url(), OTHER_MERID, OTHER_KEY)
    }

    /// Notifies a result of this merchant, and waits for its delivery.
    pub(super) fn is_served(&self, address: SocketAddr) -> Result<(), String> {
        let orderid = fresh_orderid();
        // 1002, since "paid" may wait for the platform's confirmation.
        let payment = Payment::of(&orderid).to(OTHER_MERID).with_result("1002");
        let began = Instant::now();
        let reply = callback(address, payment.form());
        if !is_acknowledged(&reply) {
            return Err(format!("fairness: {orderid}: {reply:?}"));
        }
        while began.elapsed() < PROMPT {
            let seen = self.0.take();
            if seen.iter().any(|seen| seen.form() == payment.json()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!(
            "fairness: {orderid} was not delivered within {PROMPT:?}"
        ))
    }
}
