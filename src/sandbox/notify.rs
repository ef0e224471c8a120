//! The platform's notifications, exactly on the document's schedule (§3.3.1).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::{Position, Url};

use super::Sandbox;
use super::fault::{SandboxFault, Sealed};
use super::order::SandboxOrder;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::client::{RawResponse, Repeat};
use crate::protocol::result::ResultCode;
use crate::time;
use crate::time::Millis;

/// Seconds before each of the ten calls: at once, three times after 10 s, three times after a minute, then every
/// three minutes.
pub const GAPS: [u64; 10] = [0, 10, 10, 10, 60, 60, 60, 180, 180, 180];
/// How late the first call is with [`SandboxFault::Delayed`].
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
        let (plain, sealed) = self.sealed(order, result, false)?;
        let is_json = self
            .faults_of(&order.queryid)
            .contains(&SandboxFault::JsonEnvelope);
        let way = match (is_json, self.post) {
            (true, _) => Way::Json,
            (false, true) => Way::Post,
            (false, false) => Way::Get,
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

/// How a callback travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the document has it: in the query.
    Get,
    /// As a form.
    Post,
    /// As a JSON object.
    Json,
}

/// Sends one callback: what went over the wire, and the answer or why there is none.
pub(super) async fn send(
    clients: &ClientsByOrigin,
    mut url: Url,
    sealed: &Sealed,
    way: Way,
) -> (String, Result<RawResponse, String>) {
    let client = clients.client(&url);
    let (wire, path, body) = match way {
        Way::Get => {
            // Appended by hand: what is wrong in it is to stay wrong.
            let query = match url.query() {
                Some(own) if !own.is_empty() => format!("{own}&{}", sealed.form),
                _ => sealed.form.clone(),
            };
            url.set_query(None);
            let path = &url[Position::BeforePath..Position::AfterPath];
            (
                format!("GET {url}?{query}"),
                format!("{path}?{query}"),
                None,
            )
        }
        Way::Post | Way::Json => {
            let (kind, body) = match way {
                Way::Json => ("application/json", &sealed.json),
                _ => ("application/x-www-form-urlencoded", &sealed.form),
            };
            let path = url[Position::BeforePath..Position::AfterQuery].to_owned();
            (format!("POST {url} {body}"), path, Some((kind, body)))
        }
    };
    let Some(client) = client else {
        return (wire, Err("no client for this address".to_owned()));
    };
    let sent = match body {
        None => client.get(&path, &HeaderMap::new()).await,
        Some((kind, body)) => {
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            client.post(&path, &headers, body, Repeat::Never).await
        }
    };
    if let Ok(response) = &sent
        && response.status().is_success()
    {
        response.keep_connection();
    }
    (wire, sent.map_err(|fault| fault.to_string()))
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
