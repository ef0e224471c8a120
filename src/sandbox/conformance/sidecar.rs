//! A running sidecar from outside: its replies to callbacks, whether it signs, and its metrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::{Position, Url};

use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::client::{Client, Repeat};
use crate::protocol::json::Object;
use crate::sandbox::fault::Sealed;
use crate::sandbox::notify;
use crate::sandbox::notify::Way;

/// Pieces of a slow callback, and the pause after each: longer than any buffer waits, far below what a sidecar allows.
const PIECES: usize = 8;
const PAUSE: Duration = Duration::from_millis(150);
/// Limit for a reply to a callback; the sidecar's own limit is 3 s.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Limit of bytes of a reply to a callback.
const MAX_ANSWER: u64 = 64 * 1024;

/// The addresses of a sidecar.
pub struct SidecarAddresses {
    /// Its `…/notify/back`.
    pub back: Url,
    /// Its `…/notify/front`, where that is tested.
    pub front: Option<Url>,
    /// Its listener for the app.
    pub app: Url,
    /// Its admin listener.
    pub admin: Url,
}

/// The reply to a callback.
pub(super) struct Said {
    pub(super) status: StatusCode,
    /// Status 200 and `0000`, nothing else.
    pub(super) acknowledges: bool,
}

impl Said {
    fn new(status: StatusCode, body: &[u8]) -> Self {
        Self {
            status,
            acknowledges: status == StatusCode::OK && body == b"0000",
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.acknowledges {
            true => f.write_str("0000"),
            false => write!(f, "status {}", self.status.as_u16()),
        }
    }
}

/// The counters of a sidecar, and the number of results in its store.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    pub(super) delivered: u64,
    pub(super) pending: u64,
    pub(super) parked: u64,
    pub(super) disputed: u64,
    /// Customers who saw the app's page, since the sidecar started.
    pub(super) shown: u64,
}

impl Figures {
    /// Results that were kept for the app.
    pub(super) fn kept(&self) -> u64 {
        self.delivered + self.pending + self.parked
    }

    fn read(metrics: &str) -> Option<Self> {
        let figure = |name: String| {
            let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&name));
            values.next()?.trim_start().parse().ok()
        };
        let events = |state| figure(format!("countersign_events{{state=\"{state}\"}}"));
        let accepted = r#"countersign_callbacks_total{kind="front",outcome="accepted"}"#;
        Some(Self {
            delivered: events("delivered")?,
            pending: events("pending")?,
            parked: events("parked")?,
            disputed: events("disputed")?,
            // The series does not exist before the first.
            shown: figure(accepted.to_owned()).unwrap_or_default(),
        })
    }
}

/// A sidecar and the way to it.
pub(super) struct Sidecar {
    pub(super) at: SidecarAddresses,
    pub(super) clients: ClientsByOrigin,
}

impl Sidecar {
    /// Sends it a result, once.
    pub(super) async fn tell(&self, sealed: &Sealed, way: Way) -> Result<Said, String> {
        self.callback(self.at.back.clone(), sealed, way).await
    }

    /// Opens `front` as a customer would, where its address is known.
    pub(super) async fn bring_back(&self, front: &Url, sealed: &Sealed) -> Result<Said, String> {
        self.callback(front.clone(), sealed, Way::Get).await
    }

    async fn callback(&self, url: Url, sealed: &Sealed, way: Way) -> Result<Said, String> {
        let (_, answer) = notify::send(&self.clients, url, sealed, way).await;
        answer.map(|answer| Said::new(answer.status(), answer.body()))
    }

    /// Posts a result piece by piece, on a connection of its own without TLS.
    pub(super) async fn tell_slowly(&self, sealed: &Sealed) -> Result<Said, String> {
        let exchanged = tokio::time::timeout(MAX_WAIT, self.exchange_slowly(&sealed.form)).await;
        let answer = exchanged
            .map_err(|_| format!("no whole answer within {MAX_WAIT:?}"))?
            .map_err(|error| error.to_string())?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).unwrap_or_default();
        let status = StatusCode::from_bytes(status.as_bytes());
        let status = status.map_err(|_| "the answer is not HTTP".to_owned())?;
        Ok(Said::new(status, body.as_bytes()))
    }

    async fn exchange_slowly(&self, form: &str) -> std::io::Result<Vec<u8>> {
        let url = &self.at.back;
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
            &url[Position::BeforePath..Position::AfterQuery],
            &url[Position::BeforeHost..Position::AfterPort],
            form.len(),
        );
        for piece in request.as_bytes().chunks(request.len().div_ceil(PIECES)) {
            stream.write_all(piece).await?;
            tokio::time::sleep(PAUSE).await;
        }
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(answer)
    }

    /// Has it sign an order, so that its ledger knows the order. Nothing is sent to the platform.
    pub(super) async fn sign(&self, submit: String) -> Result<(), String> {
        let app = self.client(&self.at.app)?;
        let signed = app
            .post("/apis/icashier", &HeaderMap::new(), &submit, Repeat::Never)
            .await;
        let signed = signed.map_err(|fault| fault.to_string())?;
        let object = Object::parse(signed.body()).ok();
        let member = |name| object.as_ref()?.string(name)?.ok();
        match (member("url"), member("detail")) {
            (Some(_), _) => Ok(()),
            (None, Some(detail)) => Err(detail.into_owned()),
            (None, None) => Err(format!("status {}", signed.status().as_u16())),
        }
    }

    /// Reads its counters.
    pub(super) async fn figures(&self) -> Result<Figures, String> {
        let admin = self.client(&self.at.admin)?;
        let metrics = admin.get("/metrics", &HeaderMap::new()).await;
        let metrics = metrics.map_err(|fault| fault.to_string())?;
        let figures = Figures::read(&String::from_utf8_lossy(metrics.body()));
        figures.ok_or_else(|| "no metrics of a sidecar there".to_owned())
    }

    fn client(&self, url: &Url) -> Result<Arc<Client>, String> {
        let client = self.clients.client(url);
        client.ok_or_else(|| "no client for this address".to_owned())
    }
}
