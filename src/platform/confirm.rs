//! Decides whether the platform confirms an event that says "paid", for `confirm = "paid"`.

use super::query::{PaymentName, PlatformQuery, QueryError};
use crate::config::Merchant;
use crate::inbox::event::Event;
use crate::protocol::response::ResponseError;
use crate::protocol::result::{PaymentResult, ResultCode};
use crate::protocol::subject::Subject;
use crate::time::Millis;

/// The share of an event's age that passes until the next query: the older it is, the less is changed by waiting.
const SHARE_OF_AGE: Millis = 24;
/// The shortest delay between two queries.
const SHORTEST: Millis = 1_000;
/// The longest, as on the schedule of deliveries.
const LONGEST: Millis = 300_000;

/// The platform's word on an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// Paid: the same payment, order and amount.
    Confirmed,
    /// Nothing that speaks for or against it: the query is repeated later. With the reason.
    NotYet(String),
    /// Failed, or about another order or amount for the same payment: needs manual review. With the reason.
    Contradicted(String),
}

impl PlatformQuery {
    /// Asks the platform about the event's own try. An order may have several tries, so `orderid` would not do.
    pub async fn confirm(&self, merchant: &Merchant, event: &Event) -> Confirmation {
        match self.result(merchant, question(event)).await {
            Ok(result) => compare(event, &result),
            Err(error) => {
                self.review_unread(event, &error).await;
                not_yet(&error)
            }
        }
    }

    /// Keeps a response that cannot be read for review; the event itself goes on waiting.
    async fn review_unread(&self, event: &Event, error: &QueryError) {
        let QueryError::Payload {
            error: ResponseError::Read(error),
            payload,
        } = error
        else {
            return;
        };
        let subject = Subject {
            queryid: Some(event.queryid.clone()),
            ..Subject::about(&event.merid, &event.orderid)
        };
        if let Err(error) = self.review(&subject, payload, error).await {
            let event = event.id.as_str();
            tracing::error!(event, %error, "a payload could not be kept for review");
        }
    }
}

/// Returns the payment that is queried to confirm an event.
pub fn question(event: &Event) -> PaymentName<'_> {
    PaymentName::Queryid(&event.queryid)
}

/// Returns the delay until the next confirmation of an event of this age.
///
/// Queries cost the app nothing, so they are repeated faster than deliveries: an app hears of a payment a second to a
/// twentieth of its age later than the platform's query interface does.
pub fn next_query(age: Millis) -> Millis {
    (age / SHARE_OF_AGE).clamp(SHORTEST, LONGEST)
}

/// Compares an event with the result that the platform has for its `queryid`.
pub fn compare(event: &Event, result: &PaymentResult) -> Confirmation {
    compare_with(&event.orderid, event.amount, result)
}

fn compare_with(orderid: &str, amount: u64, result: &PaymentResult) -> Confirmation {
    // Whatever its state: these cannot become right by waiting.
    if result.orderid != orderid {
        let why = "the platform has another order for this queryid";
        return Confirmation::Contradicted(why.to_owned());
    }
    if result.amount != amount {
        let why = format!(
            "the platform has another amount for this queryid: txnamt {}, the notification says {}",
            result.amount, amount
        );
        return Confirmation::Contradicted(why);
    }
    match ResultCode::parse(&result.resultcode) {
        Some(ResultCode::Paid) => Confirmation::Confirmed,
        Some(ResultCode::Failed) => {
            let why = "the platform says 1003 (failed) for this queryid, the notification 0000";
            Confirmation::Contradicted(why.to_owned())
        }
        // 1002 too: the notification says that the payment is settled already.
        Some(code) => Confirmation::NotYet(format!("the platform still says {}", code.code())),
        None => Confirmation::NotYet("the platform has no resultcode yet".to_owned()),
    }
}

fn not_yet(error: &QueryError) -> Confirmation {
    // No error speaks against the payment: anyone in between can cause one.
    Confirmation::NotYet(match error {
        QueryError::Payload {
            error: ResponseError::Foreign("queryid"),
            ..
        } => "the platform told of another try of the order".to_owned(),
        error => format!("not confirmed: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::result::ReadError;

    fn result(orderid: &str, amount: u64, resultcode: &str) -> PaymentResult {
        PaymentResult {
            json: String::new(),
            merid: "1".to_owned(),
            orderid: orderid.to_owned(),
            queryid: "QA".to_owned(),
            resultcode: resultcode.to_owned(),
            amount,
        }
    }

    #[test]
    fn only_a_failure_another_amount_or_another_order_contradicts() {
        let said =
            |orderid, amount, code| compare_with("ABCDEFGH", 1280, &result(orderid, amount, code));
        assert_eq!(said("ABCDEFGH", 1280, "0000"), Confirmation::Confirmed);
        for code in ["1001", "1002", "1004", "", "9999"] {
            let found = said("ABCDEFGH", 1280, code);
            assert!(matches!(found, Confirmation::NotYet(_)), "{code}");
        }
        for (orderid, amount, code, why) in [
            ("ABCDEFGH", 1280, "1003", "1003"),
            ("ABCDEFGH", 1281, "0000", "txnamt 1281"),
            ("ABCDEFGH", 1281, "1001", "amount"),
            ("ABCDEFGI", 1280, "0000", "another order"),
        ] {
            let found = said(orderid, amount, code);
            let Confirmation::Contradicted(reason) = &found else {
                panic!("{orderid} {amount} {code}: {found:?}")
            };
            assert!(reason.contains(why), "{reason}");
        }
    }

    #[test]
    fn no_response_and_another_try_mean_not_yet() {
        let payload = |error| QueryError::Payload {
            error,
            payload: Vec::new(),
        };
        for error in [
            QueryError::Failed("25".to_owned()),
            payload(ResponseError::Foreign("queryid")),
            payload(ReadError::Reflected.into()),
        ] {
            assert!(matches!(not_yet(&error), Confirmation::NotYet(_)));
        }
    }

    #[test]
    fn a_platform_that_catches_up_within_a_minute_is_noticed_within_seconds() {
        let (mut age, mut queries) = (0, 0);
        while age < 60_000 {
            let delay = next_query(age);
            assert!((SHORTEST..=3_000).contains(&delay), "{delay} at {age}");
            age += delay;
            queries += 1;
        }
        assert!(queries < 60, "{queries} queries in {age} ms");
        assert_eq!(next_query(Millis::MAX), LONGEST);
        assert_eq!(next_query(-1), SHORTEST);
    }
}
