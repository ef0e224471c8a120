//! The platform's notifications, exactly on the document's schedule (§3.3.1).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::{Position, Url};

use super::Sandbox;
use super::dialect::Dialect;
use super::fault::{SandboxFault, Sealed};
use super::framed::Framed;
use super::order::SandboxOrder;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::client::{RawResponse, Repeat};
use crate::protocol::result::ResultCode;
use crate::time;
use crate::time::Millis;

/// Seconds before each of the ten calls: at once, three times after 10 s, three times after a minute, then every
/// three minutes.
pub const GAPS: [u64; 10] = [0, 10, 10, 10, 60, 60, 60, 180, 180, 180];
/// The delay of the first call with [`SandboxFault::Delayed`].
const DELAY: u64 = 30;
/// Characters of a merchant's answer that are kept to be shown.
const MAX_SHOWN: usize = 200;

impl Sandbox {
    /// Calls back until the merchant says `0000`, ten times at most.
    pub(super) async fn notify(self: Arc<Self>, queryid: String) {
        let faults = self.faults_of(&queryid);
        if faults.contains(&SandboxFault::Never) {
            return;
        }
        if faults.contains(&SandboxFault::Delayed) {
            self.wait(&queryid, DELAY).await;
        }
        for gap in GAPS {
            self.wait(&queryid, gap).await;
            let Some(order) = self.order(&queryid) else {
                return;
            };
            let said = self.call(&order, order.result).await;
            if faults.contains(&SandboxFault::Doubled) {
                self.call(&order, order.result).await;
            }
            // The whole body and nothing more, as a strict platform reads §3.3.1.
            if said.as_deref() == Some("0000") {
                break;
            }
        }
        self.with_order(&queryid, |order| order.next_call = None);
        if faults.contains(&SandboxFault::Reordered)
            && let Some(order) = self.order(&queryid)
        {
            self.call(&order, ResultCode::Processing).await;
        }
    }

    async fn wait(&self, queryid: &str, seconds: u64) {
        let pause = Duration::from_secs(seconds).div_f64(self.speed);
        let millis = Millis::try_from(pause.as_millis()).unwrap_or_default();
        self.with_order(queryid, |order| {
            order.next_call = Some(time::now() + millis)
        });
        tokio::time::sleep(pause).await;
    }

    /// One notification; what the merchant answered with status 200.
    async fn call(&self, order: &SandboxOrder, result: ResultCode) -> Option<String> {
        let faults = self.faults_of(&order.queryid);
        let (plain, sealed) = self.sealed(order, result, false, &faults)?;
        let way = match self.post {
            true => Way::Post,
            false => Way::Get,
        };
        let (wire, said) = match Url::parse(&order.backurl) {
            Ok(url) => send(&self.clients, url, &sealed, way).await,
            Err(error) => (sealed.form, Err(format!("backurl: {error}"))),
        };
        let said = said.and_then(|response| {
            let body = String::from_utf8_lossy(response.body());
            let body: String = body.chars().take(MAX_SHOWN).collect();
            match response.status() {
                StatusCode::OK => Ok(body),
                status => Err(format!("{} {body}", status.as_u16())),
            }
        });
        let answer = said.clone().unwrap_or_else(|why| why);
        self.note(&order.queryid, "notification", plain, wire, answer);
        said.ok()
    }
}

/// The method of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In the query, as the document has it.
    Get,
    /// In a posted form.
    Post,
}

/// Sends one callback: what went over the wire, and the answer or why there is none.
pub(super) async fn send(
    clients: &ClientsByOrigin,
    url: Url,
    sealed: &Sealed,
    way: Way,
) -> (String, Result<RawResponse, String>) {
    let has = |dialect| sealed.dialects.contains(&dialect);
    let is_posted = way == Way::Post || sealed.dialects.iter().any(|one| one.is_posted());
    let is_in_url = !is_posted || has(Dialect::InUrl) || has(Dialect::InUrlAndBody);
    let (origin, target) = (
        &url[..Position::BeforePath],
        &url[Position::BeforePath..Position::AfterQuery],
    );
    // Appended by hand: what is wrong in it is to stay wrong.
    let target = match is_in_url {
        true => format!(
            "{target}{}{}",
            if url.query().is_some() { '&' } else { '?' },
            sealed.form
        ),
        false => target.to_owned(),
    };
    let mut headers = HeaderMap::new();
    let body = match is_posted {
        true if has(Dialect::InUrl) => Some(Vec::new()),
        true => Some(frame(sealed, &mut headers)),
        false => None,
    };
    let wire = match &body {
        None => format!("GET {origin}{target}"),
        Some(body) => format!("POST {origin}{target} {}", String::from_utf8_lossy(body)),
    };
    let Some(client) = clients.client(&url) else {
        return (wire, Err("no client for this address".to_owned()));
    };
    let sent = match &body {
        None => client.get(&target, &headers).await,
        Some(body) => client.post(&target, &headers, body, Repeat::Never).await,
    };
    if let Ok(response) = &sent
        && response.status().is_success()
    {
        response.keep_connection();
    }
    (wire, sent.map_err(|error| error.to_string()))
}

/// Returns the body of a posted callback, and sets its header fields.
fn frame(sealed: &Sealed, headers: &mut HeaderMap) -> Vec<u8> {
    let framed = Framed::new(sealed, false);
    let kind = HeaderValue::from_static(framed.content_type);
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(coding) = framed.content_encoding {
        let coding = HeaderValue::from_static(coding);
        headers.insert(header::CONTENT_ENCODING, coding);
    }
    framed.body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_when_the_document_says() {
        let times: Vec<u64> = GAPS
            .iter()
            .scan(0, |at, gap| {
                *at += gap;
                Some(*at)
            })
            .collect();
        assert_eq!(times, [0, 10, 20, 30, 90, 150, 210, 390, 570, 750]);
    }
}
