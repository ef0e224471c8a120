//! The conformance run: tests a merchant's own handler through a running sidecar.
//!
//! It plays the platform towards the sidecar's callbacks and judges by what is visible from outside: the replies, and the
//! number of accepted results in the sidecar's metrics. No other platform may send results meanwhile. The app's books are
//! not visible from here.

pub mod finding;

mod sidecar;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt, join_all};
use http::StatusCode;
use serde_json::json;
use url::Url;

use super::dialect::Dialect;
use super::fault;
use super::fault::{SandboxFault, Sealed};
use super::notify::Way;
use super::order;
use super::order::SandboxOrder;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::protocol::key::Key;
use crate::protocol::result::ResultCode;
use crate::time;
use finding::{CaseOutcome, Doubt, Finding};
pub use sidecar::SidecarAddresses;
use sidecar::{Figures, Said, Sidecar};

/// The amount of each order, in cents.
const AMOUNT: u64 = 1280;
/// The platform's limit of notifications for one result (document §3.3.1).
const REPEATS: usize = 10;
/// Bytes of the JSON of a large result: its envelope fits into the 64 KiB that a sidecar accepts.
const LARGE: usize = 32 * 1024;
/// The pause before the next look or notification.
const PAUSE: Duration = Duration::from_millis(100);

/// A sidecar, and the merchant whose platform is played.
pub struct CaseRun {
    sidecar: Sidecar,
    merid: String,
    key: Key,
    /// The time that a handler may take.
    patience: Duration,
    /// True where the sidecar signs orders, so that its ledger knows them.
    signs: Result<(), String>,
    numbered: AtomicUsize,
}

impl CaseRun {
    /// Finds out which cases can be tested. Fails where the callback listener is not reachable.
    pub async fn begin(
        at: SidecarAddresses,
        clients: ClientsByOrigin,
        (merid, key): (String, Key),
        patience: Duration,
    ) -> Result<Self, String> {
        let mut trial = Self {
            sidecar: Sidecar { at, clients },
            merid,
            key,
            patience,
            signs: Ok(()),
            numbered: AtomicUsize::new(0),
        };
        // Rejected in any case, so that looking for a sidecar leaves nothing in its store.
        let nothing = fault::seal("", &trial.key, &[SandboxFault::EmptySign]);
        let answered = trial.sidecar.tell(&nothing, Way::Get).await;
        answered.map_err(|why| format!("{}: {why}", trial.sidecar.at.back))?;
        let order = trial.unknown_order();
        trial.signs = trial.sidecar.sign(trial.submit(&order)).await;
        Ok(trial)
    }

    /// Returns the conditions of the run for its reader, by name.
    pub async fn premises(&self) -> [(&'static str, String); 4] {
        let SidecarAddresses {
            back, app, admin, ..
        } = &self.sidecar.at;
        let orders = match &self.signs {
            Ok(()) => format!("signed by the sidecar at {app}, so that its ledger knows them"),
            Err(why) => format!("unknown to the sidecar, because {app} signs none: {why}"),
        };
        let taken = match self.sidecar.figures().await {
            Ok(_) => {
                format!("seen in the metrics at {admin}; no other results may come meanwhile")
            }
            Err(why) => format!("not seen, because {admin} does not tell: {why}"),
        };
        [
            ("merchant", self.merid.clone()),
            ("back", back.to_string()),
            ("orders", orders),
            ("taken", taken),
        ]
    }

    /// Runs every case and reports each once it is complete. `restart` returns when the sidecar, the app or both were
    /// restarted.
    pub async fn run(
        &self,
        restart: impl AsyncFn() -> Result<(), Doubt>,
        tell: impl Fn(&Finding),
    ) -> Vec<Finding> {
        let cases = [
            ("each result once", self.each_result_once().boxed_local()),
            ("repeats", self.repeats().boxed_local()),
            ("out of order", self.out_of_order().boxed_local()),
            ("dialects", self.dialects().boxed_local()),
            ("slow", self.slow().boxed_local()),
            ("large", self.large().boxed_local()),
            ("unknown order", self.unknown().boxed_local()),
            (
                "restart in between",
                self.restart_in_between(restart).boxed_local(),
            ),
            ("wrong amount", self.wrong_amount().boxed_local()),
            ("forged", self.forged().boxed_local()),
            ("front page shown", self.front_shown().boxed_local()),
            ("front page refused", self.front_refused().boxed_local()),
        ];
        let mut findings = Vec::with_capacity(cases.len());
        for (case, tried) in cases {
            let started = Instant::now();
            let finding = Finding {
                case,
                outcome: tried.await,
                took: started.elapsed(),
            };
            tell(&finding);
            findings.push(finding);
        }
        findings
    }

    async fn each_result_once(&self) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        for result in ResultCode::ALL {
            let order = self.order().await?;
            let told = self.told(&order, result, AMOUNT);
            self.acknowledged(&told, Way::Get).await?;
        }
        let taken = self.taken(before, ResultCode::ALL.len()).await?;
        Ok(format!("each acknowledged; {taken}"))
    }

    async fn repeats(&self) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        let order = self.order().await?;
        let told = self.told(&order, ResultCode::Paid, AMOUNT);
        let at_once = [Way::Get, Way::Post].map(|way| self.acknowledged(&told, way));
        for answer in join_all(at_once).await {
            answer?;
        }
        // Two have gone out at once above.
        for _ in 2..REPEATS {
            self.acknowledged(&told, Way::Get).await?;
        }
        let taken = self.taken(before, 1).await?;
        Ok(format!("all {REPEATS} acknowledged; {taken}"))
    }

    async fn out_of_order(&self) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        let order = self.order().await?;
        for result in [ResultCode::Paid, ResultCode::Processing] {
            let told = self.told(&order, result, AMOUNT);
            self.acknowledged(&told, Way::Get).await?;
        }
        let taken = self.taken(before, 2).await?;
        Ok(format!(
            "acknowledged; {taken}; look whether your app still has {} as paid",
            order.orderid
        ))
    }

    async fn dialects(&self) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        for dialect in Dialect::ALL {
            let order = self.order().await?;
            let json = order.result_json(ResultCode::Paid, AMOUNT, false, &[dialect]);
            let told = fault::seal(&json, &self.key, &[SandboxFault::Dialect(dialect)]);
            let acknowledged = self.acknowledged(&told, Way::Post).await;
            acknowledged.map_err(|doubt| doubt.in_case(dialect.name()))?;
        }
        let taken = self.taken(before, Dialect::ALL.len()).await?;
        Ok(format!("each acknowledged; {taken}"))
    }

    async fn slow(&self) -> CaseOutcome {
        if self.sidecar.at.back.scheme() != "http" {
            return Err(Doubt::Unseen("tried over plain http alone".to_owned()));
        }
        let before = self.sidecar.figures().await;
        let order = self.order().await?;
        let told = self.told(&order, ResultCode::Paid, AMOUNT);
        match self.sidecar.tell_slowly(&told).await {
            Ok(said) if said.acknowledges => {}
            Ok(said) => return Err(not_acknowledged(&said.to_string())),
            Err(why) => return Err(not_acknowledged(&why)),
        }
        let taken = self.taken(before, 1).await?;
        Ok(format!("acknowledged, though it came in pieces; {taken}"))
    }

    async fn large(&self) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        let order = self.order().await?;
        let result = order.result_json(ResultCode::Paid, AMOUNT, false, &[]);
        let memo = "收据 receipt ".repeat(LARGE / "收据 receipt ".len());
        let large = format!(r#"{},"memo":"{memo}"}}"#, result.trim_end_matches('}'));
        let told = fault::seal(&large, &self.key, &[]);
        self.acknowledged(&told, Way::Post).await?;
        let taken = self.taken(before, 1).await?;
        Ok(format!("{} bytes acknowledged; {taken}", large.len()))
    }

    async fn unknown(&self) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        let told = self.told(&self.unknown_order(), ResultCode::Paid, AMOUNT);
        self.acknowledged(&told, Way::Get).await?;
        let taken = self.taken(before, 1).await?;
        Ok(format!("acknowledged; {taken}, marked as unknown"))
    }

    async fn restart_in_between(
        &self,
        restart: impl AsyncFn() -> Result<(), Doubt>,
    ) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        let [earlier, later] = [self.order().await?, self.order().await?];
        let earlier = self.told(&earlier, ResultCode::Paid, AMOUNT);
        self.acknowledged(&earlier, Way::Get).await?;
        restart().await?;
        let later = self.told(&later, ResultCode::Paid, AMOUNT);
        for told in [&earlier, &later] {
            self.acknowledged(told, Way::Get).await?;
        }
        let taken = self.taken(before, 2).await?;
        Ok(format!("acknowledged before and after; {taken}"))
    }

    async fn wrong_amount(&self) -> CaseOutcome {
        if self.signs.is_err() {
            let unseen = "the sidecar does not know the order, nor its amount";
            return Err(Doubt::Unseen(unseen.to_owned()));
        }
        let before = self.sidecar.figures().await;
        let order = self.order().await?;
        let told = self.told(&order, ResultCode::Paid, AMOUNT + 1);
        self.refused(&told).await?;
        let kept = self.nothing_kept(&before).await?;
        match (&before, self.sidecar.figures().await) {
            (Ok(before), Ok(now)) if now.disputed == before.disputed => Err(Doubt::Broken(
                "refused, but not for its amount; the sidecar's log says why".to_owned(),
            )),
            (Ok(_), Ok(_)) => Ok(format!("not acknowledged, held for a person; {kept}")),
            _ => Ok(format!("not acknowledged; {kept}")),
        }
    }

    async fn forged(&self) -> CaseOutcome {
        let before = self.sidecar.figures().await;
        let order = self.order().await?;
        let forged = self.forgeries(&order);
        for told in &forged {
            self.refused(told).await?;
        }
        let kept = self.nothing_kept(&before).await?;
        Ok(format!(
            "none of {} forgeries acknowledged; {kept}",
            forged.len()
        ))
    }

    async fn front_shown(&self) -> CaseOutcome {
        let front = self.front()?;
        let before = self.sidecar.figures().await;
        let order = self.order().await?;
        let shown = self.told(&order, ResultCode::Paid, AMOUNT);
        let said = self.sidecar.bring_back(front, &shown).await;
        let said = said.map_err(Doubt::Broken)?;
        // A shop need not know our order: any page of its own is enough.
        let is_apps = match (&before, self.sidecar.figures().await) {
            (Ok(before), Ok(now)) => now.shown > before.shown,
            _ => !said.status.is_client_error(),
        };
        let is_page = said.status.is_success() || said.status.is_redirection();
        if !is_apps || !is_page {
            return Err(Doubt::Broken(format!(
                "{said} instead of the app's page; has the merchant a front, is it up, and is its path right?"
            )));
        }
        let kept = self.nothing_kept(&before).await?;
        Ok(format!("the app's page came with {said}; {kept}"))
    }

    async fn front_refused(&self) -> CaseOutcome {
        let front = self.front()?;
        let order = self.order().await?;
        let forged = self.forgeries(&order);
        for shown in &forged {
            let said = self.sidecar.bring_back(front, shown).await;
            let said = said.map_err(Doubt::Broken)?;
            if said.status != StatusCode::BAD_REQUEST {
                return Err(Doubt::Broken(format!(
                    "{said} instead of 400 for a forged return"
                )));
            }
        }
        Ok(format!("none of {} forgeries shown", forged.len()))
    }

    fn front(&self) -> Result<&Url, Doubt> {
        let front = self.sidecar.at.front.as_ref();
        front.ok_or_else(|| Doubt::Unseen("no --front".to_owned()))
    }

    /// Makes an order that the ledger knows, where the sidecar signs any.
    async fn order(&self) -> Result<SandboxOrder, Doubt> {
        let order = self.unknown_order();
        if self.signs.is_ok() {
            let signed = self.sidecar.sign(self.submit(&order)).await;
            signed.map_err(|why| Doubt::Broken(format!("the order was not signed: {why}")))?;
        }
        Ok(order)
    }

    fn unknown_order(&self) -> SandboxOrder {
        let number = self.numbered.fetch_add(1, Ordering::Relaxed);
        // New in each run, because the ledger keeps the orders of earlier ones.
        let orderid = format!("CONF{:X}N{number}", time::now());
        SandboxOrder {
            merid: self.merid.clone(),
            queryid: format!("Q{orderid}"),
            orderid,
            amount: AMOUNT,
            action: "AliPay".to_owned(),
            backurl: self.sidecar.at.back.to_string(),
            fronturl: None,
            result: ResultCode::Paid,
            paytime: order::paytime(time::now()),
            messages: Vec::new(),
            next_call: None,
        }
    }

    /// Builds the submit that an app sends.
    fn submit(&self, order: &SandboxOrder) -> String {
        let SandboxOrder {
            merid,
            orderid,
            action,
            backurl,
            amount,
            ..
        } = order;
        json!({"action": action, "txnamt": amount, "merid": merid, "orderid": orderid, "backurl": backurl})
            .to_string()
    }

    fn told(&self, order: &SandboxOrder, result: ResultCode, amount: u64) -> Sealed {
        fault::seal(
            &order.result_json(result, amount, false, &[]),
            &self.key,
            &[],
        )
    }

    /// Builds results that the platform never sent; the last is an order of the app, reflected.
    fn forgeries(&self, order: &SandboxOrder) -> Vec<Sealed> {
        let paid = order.result_json(ResultCode::Paid, AMOUNT, false, &[]);
        let forged = [
            SandboxFault::WrongSign,
            SandboxFault::OtherKey,
            SandboxFault::EmptySign,
        ];
        let mut forged: Vec<_> = forged
            .into_iter()
            .map(|fault| fault::seal(&paid, &self.key, &[fault]))
            .collect();
        forged.push(fault::seal(&self.submit(order), &self.key, &[]));
        forged
    }

    /// Notifies until the result is acknowledged: again after "later" or no reply, as the platform would.
    async fn acknowledged(&self, told: &Sealed, way: Way) -> Result<(), Doubt> {
        let deadline = Instant::now() + self.patience;
        loop {
            let heard = match self.sidecar.tell(told, way).await {
                Ok(said) if said.acknowledges => return Ok(()),
                Ok(said) if said.status.is_client_error() => {
                    return Err(not_acknowledged(&said.to_string()));
                }
                Ok(said) => said.to_string(),
                Err(why) => why,
            };
            if Instant::now() > deadline {
                return Err(not_acknowledged(&heard));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends a result that must be rejected: with the reply that every rejection has, from a sidecar that is there.
    async fn refused(&self, told: &Sealed) -> Result<(), Doubt> {
        let said = self.sidecar.tell(told, Way::Get).await;
        match said.map_err(Doubt::Broken)? {
            Said {
                acknowledges: true, ..
            } => Err(Doubt::Broken("acknowledged with 0000".to_owned())),
            said if said.status == StatusCode::BAD_REQUEST => Ok(()),
            said => Err(Doubt::Broken(format!(
                "{said} instead of 400; is --back the sidecar's address for callbacks?"
            ))),
        }
    }

    /// Waits until the app accepted `count` more results than `before`; no more than these may have been kept.
    async fn taken(&self, before: Result<Figures, String>, count: usize) -> CaseOutcome {
        let unseen =
            |_| Doubt::Unseen("acknowledged; whether the app took it is not seen".to_owned());
        let before = before.map_err(unseen)?;
        let count = count as u64;
        let deadline = Instant::now() + self.patience;
        loop {
            let now = self.sidecar.figures().await.map_err(unseen)?;
            let taken = now.delivered.saturating_sub(before.delivered);
            let kept = now.kept().saturating_sub(before.kept());
            if kept > count {
                return Err(Doubt::Broken(format!("{kept} results kept, {count} told")));
            }
            // Results that were pending before may arrive in between.
            if taken >= count && now.pending <= before.pending {
                return Ok(format!("the app took {count}"));
            }
            if now.parked > before.parked {
                return Err(Doubt::Broken(
                    "acknowledged, but parked: has the merchant a back?".to_owned(),
                ));
            }
            if Instant::now() > deadline {
                return Err(Doubt::Broken(format!(
                    "acknowledged, but the app took {taken} of {count} within {:?}; \
                     `countersign inbox list` says why",
                    self.patience
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn nothing_kept(&self, before: &Result<Figures, String>) -> CaseOutcome {
        match (before, &self.sidecar.figures().await) {
            (Ok(before), Ok(now)) if now.kept() > before.kept() => {
                Err(Doubt::Broken("kept for the app all the same".to_owned()))
            }
            (Ok(_), Ok(_)) => Ok("nothing kept for the app".to_owned()),
            _ => Ok("whether it was kept is not seen".to_owned()),
        }
    }
}

fn not_acknowledged(heard: &str) -> Doubt {
    Doubt::Broken(format!(
        "{heard} instead of 0000; the sidecar's log says why"
    ))
}
