//! Replies to callbacks: accepted, or rejected alike whatever the reason.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use maud::html;

use crate::protocol::subject::Subject;
use crate::telemetry::outcome::{CallbackKind, CallbackOutcome};
use crate::web::reply::{Forms, NOTICE, Page, text};

// The platform's own first interval (document §3.3.1).
/// Seconds after which the platform or a browser may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

/// A callback that was accepted.
pub(super) struct CallbackReply {
    pub(super) response: Response<Bytes>,
    pub(super) outcome: CallbackOutcome,
    pub(super) subject: Subject,
    /// The fingerprint of the old key that the platform signed with.
    pub(super) old_key: Option<String>,
}

/// A callback that was rejected, and the order that it claimed to be about.
pub(super) struct CallbackRejection {
    pub(super) outcome: CallbackOutcome,
    pub(super) subject: Subject,
    /// The field that could not be read; empty where that is not the reason.
    pub(super) field: &'static str,
    /// The error that is at fault; empty where the callback is.
    pub(super) error: Box<str>,
    /// A page for a customer whose callback was verified.
    pub(super) page: Option<Box<Response<Bytes>>>,
}

impl CallbackRejection {
    /// Rejects a callback about an order.
    pub(super) fn about(outcome: CallbackOutcome, subject: &Subject) -> Self {
        Self {
            outcome,
            subject: subject.clone(),
            field: "",
            error: Box::default(),
            page: None,
        }
    }

    /// Names the field that could not be read.
    pub(super) fn at(self, field: &'static str) -> Self {
        Self { field, ..self }
    }

    /// Names the error of the store or of the app.
    pub(super) fn because(self, error: &impl ToString) -> Self {
        Self {
            error: error.to_string().into(),
            ..self
        }
    }

    /// Replies with status 503 where the sidecar, its store or the app is at fault, so that the sender tries again. All
    /// other rejections look alike: a stranger learns nothing about keys, merchants or orders.
    pub(super) fn response(&mut self, kind: CallbackKind) -> Response<Bytes> {
        let (status, words) = match self.outcome {
            CallbackOutcome::NotStored
            | CallbackOutcome::NotDelivered
            | CallbackOutcome::Overloaded
            | CallbackOutcome::AppUnreachable => (StatusCode::SERVICE_UNAVAILABLE, "later\n"),
            // One status and one text for all: a difference between "no such merchant" and "wrong signature" would list
            // the merchants.
            _ => (StatusCode::BAD_REQUEST, "refused\n"),
        };
        let mut response = match (self.page.take().map(|page| *page), kind) {
            (Some(page), _) => page,
            (None, CallbackKind::Front) => no_page(status),
            (None, CallbackKind::Back | CallbackKind::None) => text(status, words),
        };
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<CallbackOutcome> for CallbackRejection {
    fn from(outcome: CallbackOutcome) -> Self {
        Self::about(outcome, &Subject::default())
    }
}

/// The page of a customer whose callback is rejected; it gives no reason.
fn no_page(status: StatusCode) -> Response<Bytes> {
    let page = Page {
        language: "zh",
        title: "请回到商户页面 · Please go back to the shop",
        style: &NOTICE,
        forms: Forms::Own,
        script: None,
        head: html! {},
        body: html! {
            main {
                p { "无法显示此页面。请回到商户页面查看您的订单。" }
                p lang="en" { "This page cannot be shown. Please look at your order in the shop." }
            }
        },
    };
    page.reply(status)
}
