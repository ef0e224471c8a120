//! A call: the app's bytes, read once against the rules of the document, with its merchant and its order.

use std::sync::Arc;

use bytes::Bytes;
use url::Url;

use super::rejection::{CallRejection, Code};
use super::route::Endpoint;
use crate::config::{Merchant, Snapshot};
use crate::protocol::json::Object;
use crate::protocol::request::{Order, read_query, read_submit};
use crate::protocol::subject::Subject;

/// A call that keeps the document's rules and may be signed.
pub(super) struct Call {
    /// The merchant whose key signs, from the one snapshot that the call uses.
    pub(super) merchant: Arc<Merchant>,
    /// The bytes that are signed: the app's own, with the fields set that it may leave out.
    pub(super) json: Bytes,
    /// The merchant, order and payment that the call names.
    pub(super) subject: Subject,
    /// The order for the ledger, where the call submits or signs one.
    pub(super) order: Option<Order>,
    /// The address that the app itself gave for the order's results.
    pub(super) backurl: Option<String>,
}

/// A longer address is no one's; bytes.
const MAX_BACKURL: usize = 2048;

/// The two addresses for results that the platform is given, where callbacks come to the sidecar.
#[derive(Debug, Clone)]
pub(super) struct Notify {
    back: String,
    front: String,
}

impl Notify {
    /// Returns the two addresses below `public_url`.
    pub(super) fn below(public_url: &Url) -> Self {
        let base = public_url.as_str().trim_end_matches('/');
        Self {
            back: format!("{base}/notify/back"),
            front: format!("{base}/notify/front"),
        }
    }
}

impl Call {
    /// Reads `body` for `endpoint`. It is parsed once, also where fields are set: the rules hold for what the app wrote, and
    /// what is set here needs no check.
    pub(super) fn parse(
        body: &Bytes,
        endpoint: Endpoint,
        snapshot: &Snapshot,
        notify: Option<&Notify>,
    ) -> Result<Self, CallRejection> {
        let object = Object::parse(body)?;
        let mut subject = Subject::of(&object);
        let merchant = merchant(&object, snapshot).map_err(|error| error.about(&subject))?;
        if subject.merid.is_none() {
            subject.merid = Some(merchant.merid.clone());
        }
        let set = fields_to_set(&object, endpoint, merchant, notify);
        let order = check(&object, endpoint, &set).map_err(|error| error.about(&subject))?;
        // Without a field to set, the app's buffer is shared, not copied.
        let json = match set.is_empty() {
            true => body.clone(),
            false => Bytes::from(object.splice(&set)),
        };
        Ok(Self {
            merchant: merchant.clone(),
            json,
            subject,
            backurl: order.as_ref().and_then(|_| backurl(&object)),
            order,
        })
    }

    /// Wraps a call that an app signed itself with this merchant's key; the document's rules are not checked.
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
            // Such an app gets its results from the platform.
            backurl: None,
        }
    }
}

/// The app's own address for results; the delivery checks it.
fn backurl(object: &Object<'_>) -> Option<String> {
    // Where the sidecar's own address is signed instead, the app's was not checked.
    let url = object.string("backurl")?.ok()?;
    (!url.is_empty() && url.len() <= MAX_BACKURL).then(|| url.into_owned())
}

fn merchant<'s>(
    object: &Object<'_>,
    snapshot: &'s Snapshot,
) -> Result<&'s Arc<Merchant>, CallRejection> {
    let invalid = |expected: &str| {
        CallRejection::new(Code::InvalidField, format!("merid: expected {expected}")).at("merid")
    };
    match object.string("merid") {
        // `merid` is mandatory (document §3.4.3), but a sole merchant cannot be meant otherwise.
        None => snapshot
            .sole()
            .ok_or_else(|| invalid("a merchant's number, because more than one is configured")),
        Some(Err(_)) => Err(invalid("a string")),
        Some(Ok(merid)) => snapshot.merchant(&merid).ok_or_else(|| {
            CallRejection::new(
                Code::UnknownMerchant,
                "merid: expected one of the merchants in the merchants file",
            )
            .at("merid")
        }),
    }
}

/// The fields that the sidecar sets in the app's JSON: the sole merchant's number, and its own addresses for results where
/// the merchant takes them from the sidecar.
fn fields_to_set<'v>(
    object: &Object<'_>,
    endpoint: Endpoint,
    merchant: &'v Merchant,
    notify: Option<&'v Notify>,
) -> Vec<(&'static str, &'v str)> {
    let mut fields = Vec::new();
    if object.raw("merid").is_none() {
        fields.push(("merid", merchant.merid.as_str()));
    }
    if let (Some(notify), true) = (notify, endpoint.takes_orders()) {
        if merchant.back.is_some() {
            fields.push(("backurl", notify.back.as_str()));
        }
        // Both are served below our own address; the browser has to come there first.
        if merchant.front.is_some() || merchant.front_redirect.is_some() {
            fields.push(("fronturl", notify.front.as_str()));
        }
    }
    fields
}

fn check(
    message: &Object<'_>,
    endpoint: Endpoint,
    set: &[(&str, &str)],
) -> Result<Option<Order>, CallRejection> {
    Ok(match endpoint {
        Endpoint::Query => {
            read_query(message)?;
            None
        }
        Endpoint::Submit | Endpoint::Link => Some(read_submit(message, set)?),
        // Its document is not ours to know.
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

    #[test]
    fn the_browser_comes_to_us_where_the_merchant_has_a_page_of_either_kind() {
        let notify = Notify::below(&Url::parse("https://shop.example.com/cashier/").unwrap());
        let body = br#"{"action":"Bank","txnamt":1,"orderid":"ABCDEFGH","backurl":"http://own/","fronturl":"http://own/done"}"#;
        let page = Url::parse("https://shop.example.com/done").unwrap();
        let fronturl = |front: Option<&Url>, front_redirect: Option<&Url>| {
            let snapshot = Snapshot::from_merchants(vec![Merchant {
                front: front.cloned(),
                front_redirect: front_redirect.cloned(),
                ..Merchant::new("1", Key::new("k").unwrap())
            }]);
            let body = Bytes::from_static(body);
            let call = Call::parse(&body, Endpoint::Submit, &snapshot, Some(&notify)).unwrap();
            let signed: serde_json::Value = serde_json::from_slice(&call.json).unwrap();
            signed["fronturl"].as_str().unwrap().to_owned()
        };
        let ours = "https://shop.example.com/cashier/notify/front";
        assert_eq!(fronturl(Some(&page), None), ours);
        assert_eq!(fronturl(None, Some(&page)), ours);
        assert_eq!(fronturl(None, None), "http://own/done");
    }
}
