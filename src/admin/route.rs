//! The paths of the admin listener and the methods that each accepts.

use super::console::decision;
use crate::inbox::review::DecisionKind;
use crate::web::description;

/// A page or an endpoint of the admin listener, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminPage<'p> {
    Live,
    Ready,
    Metrics,
    Version,
    Description,
    Reload,
    Login,
    Logout,
    Overview,
    Orders,
    Order,
    Events,
    Decide(&'p str, DecisionKind),
    DecideAll(DecisionKind),
    Rejections,
    Merchants,
}

impl<'p> AdminPage<'p> {
    /// Finds the page at a path.
    pub fn of(path: &'p str) -> Option<Self> {
        Some(match path {
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/version" => Self::Version,
            description::PATH => Self::Description,
            "/-/reload" => Self::Reload,
            "/login" => Self::Login,
            "/logout" => Self::Logout,
            "/" => Self::Overview,
            "/orders" => Self::Orders,
            "/order" => Self::Order,
            "/events" => Self::Events,
            "/refusals" => Self::Rejections,
            "/merchants" => Self::Merchants,
            _ => {
                let (id, kind) = path.strip_prefix("/events/")?.split_once('/')?;
                let kind = decision::parse(kind)?;
                match id {
                    "all" => Self::DecideAll(kind),
                    _ => Self::Decide(id, kind),
                }
            }
        })
    }

    /// Lists the methods that the page accepts, as in `Allow`.
    pub fn methods(self) -> &'static str {
        match self {
            Self::Reload => "POST",
            Self::Login
            | Self::Logout
            | Self::Decide(..)
            | Self::DecideAll(_)
            | Self::Merchants => "GET, HEAD, POST",
            _ => "GET, HEAD",
        }
    }
}
