//! Rotation: which of a merchant's two keys signs while `next_key` is set.
//!
//! Signing switches on what a fresh response to a query of ours shows: it is signed with `next_key`, or the platform took a
//! query with one key right after it had rejected it with the other. A callback switches nothing: anyone can send an old
//! one again. A platform that goes back to the old key is followed too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::response;
use super::response::{OpenError, UnsignedWords};
use super::switches::{KeySwitches, signing_key};
use crate::config::{Merchant, SigningKey, Snapshot};
use crate::http::client::RawResponse;
use crate::http::client::error::ClientError;
use crate::inbox::store::{KeySwitch, Store, StoreError};
use crate::protocol::envelope::Verified;
use crate::protocol::key::Key;
use crate::protocol::result;
use crate::telemetry::metrics::Metrics;

/// The pause between two probes of a merchant whose keys rotate and who has no other queries.
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// The pause after a submit was rejected: the switch is found out before the next customer comes.
const PROBE_IN_DOUBT: Duration = Duration::from_secs(1);
/// The shortest time between two switches back to `key`: of a platform's machines some may know one key and some the other.
const BACK_EVERY: Duration = Duration::from_secs(60);
/// The time after a switch back in which a response under `next_key` alone is no reason to sign with it again.
const TRUST_AGAIN: Duration = Duration::from_secs(10 * 60);

/// The keys that sign for merchants with a `next_key`.
pub struct KeyRotation {
    /// None for a command that has no store at hand: then nothing switches.
    switches: Option<KeySwitches>,
    metrics: Arc<Metrics>,
    /// By merid; only merchants with a `next_key`.
    rotating: Mutex<HashMap<String, RotationState>>,
    in_doubt: Notify,
}

/// The recent past of a merchant whose keys rotate, until the process ends.
#[derive(Default)]
struct RotationState {
    queried_at: Option<Instant>,
    moved_back: Option<(Instant, KeySwitch)>,
    is_in_doubt: bool,
}

/// A query's response, opened, and the key that the query was signed with.
struct KeyTrial {
    response: RawResponse,
    opened: Result<Verified<Vec<u8>>, OpenError>,
    signed_with: SigningKey,
}

impl KeyRotation {
    /// Begins without a switch; the store is read when the first one could matter.
    pub fn new(store: Option<Arc<dyn Store>>, metrics: Arc<Metrics>) -> Self {
        Self {
            switches: store.map(KeySwitches::new),
            metrics,
            rotating: Mutex::default(),
            in_doubt: Notify::new(),
        }
    }

    /// Returns the key that signs for a merchant.
    pub async fn signing_key<'m>(&self, merchant: &'m Merchant) -> &'m Key {
        merchant.signing_key(self.current(merchant).await)
    }

    /// Sends a query with `post` and opens its response.
    ///
    /// While a `next_key` is set, a query that the platform rejects for its signature is sent once more with the other key:
    /// the platform does not say when it switches, and a query changes nothing.
    pub async fn query<P>(
        &self,
        merchant: &Merchant,
        post: impl Fn(&Key) -> P,
    ) -> Result<(RawResponse, Result<Verified<Vec<u8>>, OpenError>), ClientError>
    where
        P: Future<Output = Result<RawResponse, ClientError>>,
    {
        let signed_with = self.current(merchant).await;
        let first = KeyTrial::run(merchant, signed_with, &post).await?;
        if merchant.next_key.is_none() {
            return Ok((first.response, first.opened));
        }
        self.queried(merchant);
        if !first.rejects_key(merchant) {
            // Signed with `next_key` is reason enough; signed with `key` says nothing of what else the platform takes.
            if first.is_under_next_key(merchant) && !self.moved_back_within(merchant, TRUST_AGAIN) {
                self.switch(merchant, SigningKey::NextKey).await;
            }
            return Ok((first.response, first.opened));
        }
        // Once: where both keys are rejected, the key is not what is wrong.
        let second = KeyTrial::run(merchant, other(signed_with), &post).await?;
        if second.opened.is_ok() && !second.rejects_key(merchant) {
            self.switch(merchant, second.signed_with).await;
        }
        let shown = match (&first.opened, &second.opened) {
            // The platform's own words rather than none that are signed.
            (Ok(_), Err(_)) => first,
            _ => second,
        };
        Ok((shown.response, shown.opened))
    }

    /// Has the merchant's key tried soon: a submit of it got an envelope, which may be the rejection of its signature.
    pub fn doubt(&self, merchant: &Merchant) {
        if merchant.next_key.is_some() && self.switches.is_some() {
            let mut rotating = self.rotating.lock();
            let state = rotating.entry(merchant.merid.clone()).or_default();
            state.is_in_doubt = true;
            self.in_doubt.notify_one();
        }
    }

    /// Waits until a merchant's key is in doubt.
    pub async fn doubted(&self) {
        self.in_doubt.notified().await;
    }

    /// Returns true for a merchant with a `next_key` and without recent queries.
    pub fn is_due(&self, merchant: &Merchant) -> bool {
        if merchant.next_key.is_none() {
            return false;
        }
        let rotating = self.rotating.lock();
        let Some(state) = rotating.get(&merchant.merid) else {
            return true;
        };
        let pause = match state.is_in_doubt {
            true => PROBE_IN_DOUBT,
            false => PROBE_EVERY,
        };
        state.queried_at.is_none_or(|at| at.elapsed() >= pause)
    }

    /// Brings the switches and the figures in step with the file, the store and other sidecars.
    pub async fn keep_in_step(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let Some(switches) = &self.switches else {
            return Ok(());
        };
        let kept = switches.keep_in_step(snapshot).await;
        self.rotating.lock().retain(|merid, _| {
            let merchant = snapshot.merchant(merid);
            merchant.is_none_or(|merchant| merchant.next_key.is_some())
        });
        self.count(snapshot);
        kept
    }

    /// Counts the merchants whose keys rotate by the key that signs.
    pub fn count(&self, snapshot: &Snapshot) {
        let Some(switches) = &self.switches else {
            return;
        };
        let (mut with_key, mut with_next_key) = (0, 0);
        for merchant in snapshot.iter().filter(|it| it.next_key.is_some()) {
            match switches.known_key(merchant) {
                SigningKey::Key => with_key += 1,
                SigningKey::NextKey => with_next_key += 1,
            }
        }
        self.metrics.set_rotating(SigningKey::Key, with_key);
        self.metrics
            .set_rotating(SigningKey::NextKey, with_next_key);
    }

    async fn current(&self, merchant: &Merchant) -> SigningKey {
        match &self.switches {
            // A call of a merchant whose keys do not rotate takes no lock and waits for nothing.
            Some(switches) if merchant.next_key.is_some() => switches.current(merchant).await,
            _ => SigningKey::Key,
        }
    }

    fn queried(&self, merchant: &Merchant) {
        let mut rotating = self.rotating.lock();
        let state = rotating.entry(merchant.merid.clone()).or_default();
        state.queried_at = Some(Instant::now());
        state.is_in_doubt = false;
    }

    fn moved_back_within(&self, merchant: &Merchant, time: Duration) -> bool {
        let rotating = self.rotating.lock();
        let state = rotating.get(&merchant.merid);
        // A switch between keys that the file had before says nothing of these.
        let moved_back = state.and_then(|state| state.moved_back.as_ref());
        moved_back
            .is_some_and(|(at, back)| at.elapsed() < time && signing_key(back, merchant).is_some())
    }

    /// Makes `to` the key that signs, where it is not; many queries may show it at once, and one of them switches.
    async fn switch(&self, merchant: &Merchant, to: SigningKey) {
        let Some(switches) = &self.switches else {
            return;
        };
        let is_back = to == SigningKey::Key;
        if is_back && self.moved_back_within(merchant, BACK_EVERY) {
            return;
        }
        let Some(switch) = switches.switch(merchant, to) else {
            return;
        };
        if is_back {
            let mut rotating = self.rotating.lock();
            let state = rotating.entry(merchant.merid.clone()).or_default();
            state.moved_back = Some((Instant::now(), switch.clone()));
        }
        self.metrics.key_switches(to).inc();
        log(&switch, to);
        switches.save(switch).await;
    }
}

fn log(switch: &KeySwitch, to: SigningKey) {
    let KeySwitch {
        merid,
        from_key,
        to_key,
        ..
    } = switch;
    match to {
        SigningKey::NextKey => tracing::warn!(
            merid,
            from_key,
            to_key,
            "the platform uses next_key, and the sidecar signs with it from now on; make it the merchant's key in the file"
        ),
        SigningKey::Key => tracing::warn!(
            merid,
            from_key,
            to_key,
            "the platform rejects next_key and takes key: the sidecar signs with key again; ask the platform which one counts"
        ),
    }
}

fn other(key: SigningKey) -> SigningKey {
    match key {
        SigningKey::Key => SigningKey::NextKey,
        SigningKey::NextKey => SigningKey::Key,
    }
}

impl KeyTrial {
    async fn run<P>(
        merchant: &Merchant,
        signed_with: SigningKey,
        post: impl Fn(&Key) -> P,
    ) -> Result<Self, ClientError>
    where
        P: Future<Output = Result<RawResponse, ClientError>>,
    {
        let response = post(merchant.signing_key(signed_with)).await?;
        let opened = response::open(&response, merchant);
        Ok(Self {
            response,
            opened,
            signed_with,
        })
    }

    fn is_under_next_key(&self, merchant: &Merchant) -> bool {
        let index = self.opened.as_ref().map(Verified::key_index);
        index.is_ok_and(|index| merchant.is_next_key(index))
    }

    /// Returns true where the platform did not know the key that signed the query: it leaves its own signature empty
    /// (document §2.2), signs a failure with another key, or says what it objects to. The document fixes no code for it.
    fn rejects_key(&self, merchant: &Merchant) -> bool {
        match &self.opened {
            Ok(payload) => {
                let key = merchant.verifying_keys().nth(payload.key_index());
                let is_other = key != Some(merchant.signing_key(self.signed_with));
                result::failed_respcode(payload).is_some() && (is_other || speaks_of_key(payload))
            }
            Err(error) => matches!(error, OpenError::Unsigned(_)),
        }
    }
}

/// Returns true for a failure whose words are about a signature or a key. A wrong guess costs one query.
fn speaks_of_key(payload: &[u8]) -> bool {
    let Some(words) = UnsignedWords::read(payload).respmsg else {
        return false;
    };
    let words = words.to_lowercase();
    ["签", "密钥", "sign", "md5"]
        .iter()
        .any(|word| words.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_about_a_signature_are_told_from_others() {
        let speaks = |respmsg: &str| {
            let json = format!(r#"{{"respcode":"97","respmsg":"{respmsg}"}}"#);
            speaks_of_key(json.as_bytes())
        };
        for words in [
            "签名错误",
            "验签失败",
            "商户密钥不正确",
            "Invalid signature",
            "bad SIGN",
        ] {
            assert!(speaks(words), "{words}");
        }
        for words in ["订单不存在", "no such order", ""] {
            assert!(!speaks(words), "{words}");
        }
        assert!(!speaks_of_key(br#"{"respcode":"97"}"#) && !speaks_of_key(b"sign"));
    }
}
