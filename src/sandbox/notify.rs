//! The platform's notifications, exactly on the document's schedule (§3.3.1).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use url::{Position, Url};

use super::Sandbox;
use super::fault::{Fault, Sealed};
use super::order::Order;
use crate::clock;
use crate::http::client::Repeat;
use crate::inbox::event::Millis;
use crate::protocol::message::ResultCode;

/// Seconds before each of the ten calls: at once, three times after 10 s, three times after a minute, then every
/// three minutes.
pub const GAPS: [u64; 10] = [0, 10, 10, 10, 60, 60, 60, 180, 180, 180];
/// How late the first call is with [`Fault::Delayed`].
const DELAY: u64 = 30;

impl Sandbox {
    /// Calls back until the merchant says `0000`, ten times at most.
    pub(super) async fn notify(self: Arc<Self>, queryid: String) {
        let faults = self.faults_of(&queryid);
        if faults.contains(&Fault::Never) {
            return;
        }
        if faults.contains(&Fault::Delayed) {
            self.wait(&queryid, DELAY).await;
        }
        for gap in GAPS {
            self.wait(&queryid, gap).await;
            let Some(order) = self.order(&queryid) else {
                return;
            };
            let said = self.call(&order, order.result).await;
            if faults.contains(&Fault::Doubled) {
                self.call(&order, order.result).await;
            }
            if said.as_deref() == Some("0000") {
                break;
            }
        }
        self.with_order(&queryid, |order| order.next_call = None);
        if faults.contains(&Fault::Reordered)
            && let Some(order) = self.order(&queryid)
        {
            self.call(&order, ResultCode::Processing).await;
        }
    }

    async fn wait(&self, queryid: &str, seconds: u64) {
        let pause = Duration::from_secs(seconds).div_f64(self.speed);
        let millis = Millis::try_from(pause.as_millis()).unwrap_or_default();
        self.with_order(queryid, |order| {
            order.next_call = Some(clock::now() + millis)
        });
        tokio::time::sleep(pause).await;
    }

    /// One notification; what the merchant answered with status 200.
    async fn call(&self, order: &Order, result: ResultCode) -> Option<String> {
        let (plain, sealed) = self.sealed(order, result, false)?;
        let (wire, said) = match self.send(&order.backurl, &sealed, order).await {
            Ok((wire, 200, body)) => (wire, Ok(body)),
            Ok((wire, status, body)) => (wire, Err(format!("{status} {body}"))),
            Err(why) => (sealed.form, Err(why)),
        };
        let answer = said.clone().unwrap_or_else(|why| why);
        self.note(&order.queryid, "notification", plain, wire, answer);
        said.ok()
    }

    async fn send(
        &self,
        backurl: &str,
        sealed: &Sealed,
        order: &Order,
    ) -> Result<(String, u16, String), String> {
        let mut url = Url::parse(backurl).map_err(|error| format!("backurl: {error}"))?;
        let faults = self.faults_of(&order.queryid);
        let client = self
            .clients
            .client(&url)
            .ok_or("backurl: no client for it")?;
        let (wire, response) = if self.post || faults.contains(&Fault::JsonEnvelope) {
            let json = faults.contains(&Fault::JsonEnvelope);
            let (kind, body) = match json {
                true => ("application/json", &sealed.json),
                false => ("application/x-www-form-urlencoded", &sealed.form),
            };
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            let path = &url[Position::BeforePath..Position::AfterQuery];
            let sent = client
                .post(path, &headers, Bytes::from(body.clone()), Repeat::Never)
                .await;
            (format!("POST {url} {body}"), sent)
        } else {
            // Appended by hand: what is wrong in it is to stay wrong.
            let query = match url.query() {
                Some(own) if !own.is_empty() => format!("{own}&{}", sealed.form),
                _ => sealed.form.clone(),
            };
            url.set_query(None);
            let path = format!(
                "{}?{query}",
                &url[Position::BeforePath..Position::AfterPath]
            );
            let sent = client.get(&path, &HeaderMap::new()).await;
            (format!("GET {url}?{query}"), sent)
        };
        let response = response.map_err(|fault| fault.to_string())?;
        let body: String = String::from_utf8_lossy(response.body())
            .chars()
            .take(200)
            .collect();
        Ok((wire, response.status().as_u16(), body))
    }
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
