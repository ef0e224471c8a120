//! The payments whose events are in flight: one event of a payment at a time.
//!
//! A payment can have several results (1001, then 0000). Delivered at once they could reach the app in either order,
//! and neither would know whether the other was taken.

use std::collections::HashMap;

use crate::inbox::event::Event;

/// The platform's name of a payment: merid and queryid.
type PaymentKey = (String, String);

/// Payments in flight, by event and by name.
#[derive(Default)]
pub struct Payments {
    by_event: HashMap<String, PaymentKey>,
    /// True where another event of the payment waits for this one's end.
    awaited: HashMap<PaymentKey, bool>,
}

impl Payments {
    /// Begins an attempt, and returns true; false where another event of the payment is in flight.
    pub fn begin(&mut self, event: &Event) -> bool {
        let key = (event.merid.clone(), event.queryid.clone());
        if let Some(awaited) = self.awaited.get_mut(&key) {
            *awaited = true;
            return false;
        }
        self.awaited.insert(key.clone(), false);
        self.by_event.insert(event.id.clone(), key);
        true
    }

    /// Ends an event's attempt. Returns the merchant where another event of the payment waits.
    pub fn end(&mut self, id: &str) -> Option<String> {
        let key = self.by_event.remove(id)?;
        self.awaited.remove(&key)?.then_some(key.0)
    }
}
