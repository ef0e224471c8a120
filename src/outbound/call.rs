//! The app's bytes become a call that may be signed: merchant found, members filled in, rules checked.

use std::sync::Arc;

use bytes::Bytes;
use url::Url;

use super::rejection::{CallRejection, Code};
use super::route::Endpoint;
use crate::config::{Merchant, Snapshot};
use crate::protocol::envelope::Envelope;
use crate::protocol::json::Object;
use crate::protocol::request::{Order, read_query, read_submit};
use crate::protocol::subject::Subject;

/// A call that keeps the rules.
pub(super) struct Call {
    /// The merchant whose key signs, from the one snapshot that the call uses.
    pub(super) merchant: Arc<Merchant>,
    /// What is signed: the app's bytes, members filled in.
    pub(super) json: Bytes,
    /// Whom and what it is about.
    pub(super) subject: Subject,
    /// What the ledger keeps, where the call submits or signs an order.
    pub(super) order: Option<Order>,
}

/// Where the platform is told to send results, where callbacks come to us.
#[derive(Debug, Clone)]
pub(super) struct Notify {
    back: String,
    front: String,
}

impl Notify {
    /// The two addresses below `public_url`.
    pub(super) fn below(public_url: &Url) -> Self {
        let base = public_url.as_str().trim_end_matches('/');
        Self {
            back: format!("{base}/notify/back"),
            front: format!("{base}/notify/front"),
        }
    }
}

impl Call {
    /// Reads `body` for `endpoint`.
    pub(super) fn parse(
        body: &Bytes,
        endpoint: Endpoint,
        snapshot: &Snapshot,
        notify: Option<&Notify>,
    ) -> Result<Self, CallRejection> {
        let object = Object::parse(body)?;
        let mut subject = Subject::of(&object);
        let merchant = merchant(&object, snapshot).map_err(|refused| refused.about(&subject))?;
        if subject.merid.is_none() {
            subject.merid = Some(merchant.merid.clone());
        }
        let filled = fill_in(&object, endpoint, merchant, notify);
        let order = match &filled {
            Some(json) => check(&Object::parse(json.as_bytes())?, endpoint),
            None => check(&object, endpoint),
        };
        let order = order.map_err(|refused| refused.about(&subject))?;
        let merchant = merchant.clone();
        let json = filled.map_or_else(|| body.clone(), Bytes::from);
        Ok(Self {
            merchant,
            json,
            subject,
            order,
        })
    }

    /// The message as it is sent.
    pub(super) fn seal(&self) -> Envelope {
        Envelope::seal(&self.json, &self.merchant.key)
    }

    /// A call that an app signed itself with this merchant's key: no rule is checked.
    pub(super) fn signed_by_app(
        merchant: Arc<Merchant>,
        json: Bytes,
        subject: Subject,
        order: Option<Order>,
    ) -> Self {
        Self {
            merchant,
            json,
            subject,
            order,
        }
    }
}

fn merchant<'s>(
    object: &Object<'_>,
    snapshot: &'s Snapshot,
) -> Result<&'s Arc<Merchant>, CallRejection> {
    let wrong = |expected: &str| {
        CallRejection::new(Code::InvalidField, format!("merid: expected {expected}")).at("merid")
    };
    match object.string("merid") {
        None => snapshot
            .sole()
            .ok_or_else(|| wrong("a merchant's number, because more than one is configured")),
        Some(Err(_)) => Err(wrong("a string")),
        Some(Ok(merid)) => snapshot.merchant(&merid).ok_or_else(|| {
            CallRejection::new(
                Code::UnknownMerchant,
                "merid: expected one of the merchants in the merchants file",
            )
            .at("merid")
        }),
    }
}

/// The app's bytes with the members that it may leave out; `None` where nothing is to be filled in.
fn fill_in(
    object: &Object<'_>,
    endpoint: Endpoint,
    merchant: &Merchant,
    notify: Option<&Notify>,
) -> Option<String> {
    let mut members = Vec::new();
    if object.raw("merid").is_none() {
        members.push(("merid", merchant.merid.as_str()));
    }
    if let (Some(notify), true) = (notify, endpoint.takes_orders()) {
        if merchant.back.is_some() {
            members.push(("backurl", &notify.back));
        }
        if merchant.front.is_some() {
            members.push(("fronturl", &notify.front));
        }
    }
    (!members.is_empty()).then(|| object.splice(&members))
}

fn check(message: &Object<'_>, endpoint: Endpoint) -> Result<Option<Order>, CallRejection> {
    Ok(match endpoint {
        Endpoint::Query => {
            read_query(message)?;
            None
        }
        Endpoint::Submit | Endpoint::Link => Some(read_submit(message)?),
        Endpoint::Extra => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::key::Key;

    fn snapshot(back: Option<&str>) -> Snapshot {
        Snapshot::from_merchants(vec![Merchant {
            back: back.map(|url| Url::parse(url).unwrap()),
            ..Merchant::new("1", Key::new("k").unwrap())
        }])
    }

    #[test]
    fn results_are_sent_to_us_where_the_merchant_has_back() {
        let notify = Notify::below(&Url::parse("https://shop.example.com/cashier/").unwrap());
        let body = br#"{"action":"Bank","txnamt":1,"orderid":"ABCDEFGH","backurl":"http://own/"}"#;
        let parse = |back| {
            let body = Bytes::from_static(body);
            let call = Call::parse(&body, Endpoint::Submit, &snapshot(back), Some(&notify));
            String::from_utf8(call.unwrap().json.into()).unwrap()
        };
        let ours = r#""backurl":"https://shop.example.com/cashier/notify/back"}"#;
        assert!(parse(Some("http://127.0.0.1/")).ends_with(ours));
        assert!(parse(None).ends_with(r#""backurl":"http://own/"}"#));
        assert!(parse(None).starts_with(r#"{"merid":"1","action""#));
    }
}
