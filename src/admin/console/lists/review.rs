//! Results that need manual review: what was signed beside what the platform claims.

use maud::{Markup, html};

use crate::admin::console::decision::{actions, result};
use crate::admin::console::labels::{self, yuan};
use crate::admin::console::page::{Visit, order_address};
use crate::admin::context::AdminContext;
use crate::inbox::event::{Event, ReviewReason, shown};
use crate::inbox::order::SignedOrder;
use crate::inbox::store::StoreError;

/// An event under review, with its order where the ledger has it.
pub struct Claim {
    /// The event.
    pub event: Event,
    /// The order as it was signed.
    pub signed: Option<SignedOrder>,
}

impl Claim {
    /// Returns true where no amount could be read.
    fn is_unread(&self) -> bool {
        matches!(
            self.event.review,
            Some(ReviewReason::Malformed | ReviewReason::Unreadable)
        )
    }

    fn claimed(&self, visit: &Visit<'_>) -> String {
        if self.is_unread() {
            return visit.say("无法读取", "not readable").to_owned();
        }
        yuan(self.event.amount)
    }

    fn signed(&self, visit: &Visit<'_>) -> String {
        let not_here = || visit.say("非本机签名", "not signed here").to_owned();
        self.signed
            .as_ref()
            .map_or_else(not_here, |signed| yuan(signed.amount))
    }

    /// The reason for the review, with the field that could not be read.
    fn reason(&self, visit: &Visit<'_>) -> Markup {
        let Event { review, field, .. } = &self.event;
        html! {
            @if let Some(reason) = review {
                code { (reason.name()) } " " span.soft { (labels::review(visit.language, *reason)) }
            } @else { "–" }
            @if !field.is_empty() { " " code { (shown(field)) } }
        }
    }

    /// The claimed amount minus the signed one, with its sign.
    fn difference(&self) -> String {
        let Some(signed) = self.signed.as_ref() else {
            return "–".to_owned();
        };
        if self.is_unread() {
            return "–".to_owned();
        }
        let claimed = self.event.amount;
        match claimed.abs_diff(signed.amount) {
            0 => yuan(0),
            more if claimed > signed.amount => format!("+ {}", yuan(more)),
            less => format!("− {}", yuan(less)),
        }
    }
}

/// Looks up the orders of events under review.
pub async fn claims(admin: &AdminContext, events: Vec<Event>) -> Result<Vec<Claim>, StoreError> {
    let mut claims = Vec::with_capacity(events.len());
    for event in events {
        let signed = admin.store.signed(&event.merid, &event.orderid).await?;
        claims.push(Claim { event, signed });
    }
    Ok(claims)
}

fn columns(visit: &Visit<'_>) -> [&'static str; 9] {
    visit.say(
        [
            "收到",
            "订单",
            "商户",
            "结果",
            "签名金额",
            "声称金额",
            "差额",
            "原因",
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
            "Reason",
            "Action",
        ],
    )
}

/// Renders the list of results under review.
pub fn table(visit: &Visit<'_>, claims: &[Claim]) -> Markup {
    let labels = columns(visit);
    html! {
        table {
            caption { (visit.say("最新在前：", "Newest first: ")) (claims.len()) }
            thead { tr { @for label in labels { th scope="col" { (label) } } } }
            tbody { @for claim in claims { (row(visit, claim, labels)) } }
        }
    }
}

fn row(visit: &Visit<'_>, claim: &Claim, labels: [&str; 9]) -> Markup {
    let Claim { event, .. } = claim;
    let address = order_address(&event.merid, &event.orderid);
    html! {
        tr data-key=(event.id) {
            td data-label=(labels[0]) { span { (visit.when(event.received_at)) } }
            th scope="row" data-label=(labels[1]) { a.number href=(address) { (shown(&event.orderid)) } }
            td data-label=(labels[2]) { span.number { (event.merid) } }
            td data-label=(labels[3]) { span { (result(visit, &event.resultcode)) } }
            td data-label=(labels[4]) { span.amount { (claim.signed(visit)) } }
            td data-label=(labels[5]) { span.amount { (claim.claimed(visit)) } }
            td data-label=(labels[6]) { strong.amount { (claim.difference()) } }
            td data-label=(labels[7]) { span { (claim.reason(visit)) } }
            td data-label=(labels[8]) { (actions(visit, event)) }
        }
    }
}

/// Renders signed, claimed and difference for one event, side by side.
pub fn compared(visit: &Visit<'_>, claim: &Claim) -> Markup {
    let labels = columns(visit);
    let difference = claim.difference();
    let tone = if difference == yuan(0) || difference == "–" {
        ""
    } else {
        "bad"
    };
    html! {
        div.compare {
            div { span.soft { (labels[4]) } " " strong.amount { (claim.signed(visit)) } }
            div { span.soft { (labels[5]) } " " strong.amount { (claim.claimed(visit)) } }
            div { span.soft { (labels[6]) } " " strong.amount.(tone) { (difference) } }
        }
    }
}

/// Renders the reason for an event's review, as an entry of a definition list.
pub fn reason(visit: &Visit<'_>, claim: &Claim) -> Markup {
    html! { @if claim.event.review.is_some() { dt { (columns(visit)[7]) } dd { (claim.reason(visit)) } } }
}
