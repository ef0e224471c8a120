//! Results that need manual review: what was signed beside what the platform claims.

use maud::{Markup, html};

use super::decision::{actions, result};
use super::labels::yuan;
use super::page::{Visit, order_address};
use crate::inbox::event::{Event, shown};
use crate::inbox::order::SignedOrder;

/// An event under review, with its order where the ledger has it.
pub struct Claim {
    /// The event.
    pub event: Event,
    /// The order as it was signed.
    pub signed: Option<SignedOrder>,
}

impl Claim {
    fn signed(&self, visit: &Visit<'_>) -> String {
        let not_here = || visit.say("非本机签名", "not signed here").to_owned();
        self.signed
            .as_ref()
            .map_or_else(not_here, |signed| yuan(signed.amount))
    }

    /// The claimed amount minus the signed one, with its sign.
    fn difference(&self) -> String {
        let Some(signed) = self.signed.as_ref() else {
            return "–".to_owned();
        };
        let claimed = self.event.amount;
        match claimed.abs_diff(signed.amount) {
            0 => yuan(0),
            more if claimed > signed.amount => format!("+ {}", yuan(more)),
            less => format!("− {}", yuan(less)),
        }
    }
}

fn labels(visit: &Visit<'_>) -> [&'static str; 8] {
    visit.say(
        [
            "收到",
            "订单",
            "商户",
            "结果",
            "签名金额",
            "声称金额",
            "差额",
            "操作",
        ],
        [
            "Kept",
            "Order",
            "Merchant",
            "Result",
            "Signed",
            "Claimed",
            "Difference",
            "Action",
        ],
    )
}

/// Renders the list of results under review.
pub fn table(visit: &Visit<'_>, claims: &[Claim]) -> Markup {
    let labels = labels(visit);
    html! {
        table {
            caption { (visit.say("最新在前：", "Newest first: ")) (claims.len()) }
            thead { tr { @for label in labels { th scope="col" { (label) } } } }
            tbody { @for claim in claims { (row(visit, claim, labels)) } }
        }
    }
}

fn row(visit: &Visit<'_>, claim: &Claim, labels: [&str; 8]) -> Markup {
    let Claim { event, .. } = claim;
    let address = order_address(&event.merid, &event.orderid);
    html! {
        tr {
            td data-label=(labels[0]) { span { (visit.when(event.received_at)) } }
            th scope="row" data-label=(labels[1]) { a.number href=(address) { (shown(&event.orderid)) } }
            td data-label=(labels[2]) { span.number { (event.merid) } }
            td data-label=(labels[3]) { span { (result(visit, &event.resultcode)) } }
            td data-label=(labels[4]) { span.amount { (claim.signed(visit)) } }
            td data-label=(labels[5]) { span.amount { (yuan(event.amount)) } }
            td data-label=(labels[6]) { strong.amount { (claim.difference()) } }
            td data-label=(labels[7]) { (actions(visit, event)) }
        }
    }
}

/// Renders signed, claimed and difference for one event, as entries of a definition list.
pub fn entries(visit: &Visit<'_>, claim: &Claim) -> Markup {
    let labels = labels(visit);
    html! {
        dt { (labels[4]) } dd.amount { (claim.signed(visit)) }
        dt { (labels[5]) } dd.amount { (yuan(claim.event.amount)) }
        dt { (labels[6]) } dd.amount { strong { (claim.difference()) } }
    }
}
