//! Lists of orders, newest first: what was signed, and what came of it. Read in bounded steps, whatever the ledger holds.

use super::event::EventState;
use crate::protocol::result::ResultCode;
use crate::time::{Millis, shown};

/// Limit of orders that one page lists.
pub const LISTED: u32 = 1_000;
/// Orders that one page looks at, where the filter is by state or by the beginning of the number.
pub(super) const SCANNED: usize = 2_000;
/// Orders of one step; between steps other readers get their turn.
pub(super) const STEP: u32 = 500;

/// The state of an order, by all of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    /// No final result came yet, and the platform is still queried.
    Open,
    /// A result says that the customer paid.
    Paid,
    /// The newest result is a failure.
    Failed,
    /// A result needs review: another amount than was signed, or a contradiction.
    Differs,
    /// No final result came, and the platform is no longer queried.
    Closed,
}

impl OrderState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Paid,
        Self::Failed,
        Self::Differs,
        Self::Closed,
    ];

    /// Returns the name in addresses, exports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Failed => "failed",
            Self::Differs => "differs",
            Self::Closed => "closed",
        }
    }

    /// Finds a state by its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Judges an order by its results, oldest first.
    fn of(is_open: bool, results: &[OrderResult]) -> Self {
        if results.iter().any(|it| it.state == EventState::Disputed) {
            return Self::Differs;
        }
        // What an operator discarded counts for nothing.
        let mut codes = results
            .iter()
            .filter(|it| it.state != EventState::Discarded)
            .map(|it| ResultCode::parse(&it.resultcode));
        let last = codes.clone().next_back().flatten();
        // 1002 is paid, with the settlement pending (§3.2.3).
        if codes.any(|code| matches!(code, Some(ResultCode::Paid | ResultCode::Processing))) {
            Self::Paid
        } else if last == Some(ResultCode::Failed) {
            Self::Failed
        } else if is_open {
            Self::Open
        } else {
            Self::Closed
        }
    }
}

/// A selection of orders.
#[derive(Debug, Clone)]
pub struct OrderFilter {
    /// The merchant; empty for all.
    pub merid: String,
    /// The beginning of the order numbers; empty for all.
    pub prefix: String,
    /// The time from which on they were first signed.
    pub from: Millis,
    /// The time before which they were first signed.
    pub until: Millis,
    /// The state; `None` for all.
    pub state: Option<OrderState>,
}

impl Default for OrderFilter {
    fn default() -> Self {
        Self {
            merid: String::new(),
            prefix: String::new(),
            from: Millis::MIN,
            until: Millis::MAX,
            state: None,
        }
    }
}

impl OrderFilter {
    /// Returns the place before the first order of the list, or of the rest of it.
    pub(super) fn begin(&self, after: Option<OrderPlace>) -> OrderPlace {
        // No order has an empty number, so that this place is before every order that was signed at `until`.
        let first = OrderPlace {
            signed_at: self.until,
            merid: String::new(),
            orderid: String::new(),
        };
        after.filter(|after| *after < first).unwrap_or(first)
    }

    /// Returns true for a row that can be in the list, as far as that can be said without its results.
    pub(super) fn may_have(&self, row: &OrderRow) -> bool {
        let fits = match self.state {
            Some(OrderState::Open) => row.is_open,
            Some(OrderState::Closed) => !row.is_open,
            _ => true,
        };
        fits && row.orderid.starts_with(&self.prefix)
    }

    /// Returns true where a list reads no order that it does not show.
    pub(super) fn is_plain(&self) -> bool {
        self.prefix.is_empty() && self.state.is_none()
    }
}

/// A place in a list of orders, from which the next page goes on. Its text form is for addresses and the command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderPlace {
    pub(super) signed_at: Millis,
    pub(super) merid: String,
    pub(super) orderid: String,
}

impl OrderPlace {
    /// Reads a place as it is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ',');
        Some(Self {
            signed_at: parts.next()?.parse().ok()?,
            merid: parts.next()?.to_owned(),
            orderid: parts.next()?.to_owned(),
        })
    }
}

impl std::fmt::Display for OrderPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{},{}", self.signed_at, self.merid, self.orderid)
    }
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    /// The merchant.
    pub merid: String,
    /// The merchant's order number.
    pub orderid: String,
    /// In cents.
    pub amount: u64,
    /// `Bank`, `WeiXin`, `AliPay` or `Arbi`.
    pub action: String,
    /// The time of its first signature.
    pub signed_at: Millis,
    /// The platform is still queried about it.
    pub is_open: bool,
}

impl OrderRow {
    pub(super) fn place(&self) -> OrderPlace {
        OrderPlace {
            signed_at: self.signed_at,
            merid: self.merid.clone(),
            orderid: self.orderid.clone(),
        }
    }
}

/// The part of a result that lists show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderResult {
    /// Four digits, or empty.
    pub resultcode: String,
    /// In cents.
    pub amount: u64,
    /// The state of its event.
    pub state: EventState,
}

/// An order of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedOrder {
    /// The order as it was signed.
    pub row: OrderRow,
    /// Its state.
    pub state: OrderState,
    /// Its newest result.
    pub result: Option<OrderResult>,
}

impl ListedOrder {
    pub(super) fn new(row: OrderRow, mut results: Vec<OrderResult>) -> Self {
        Self {
            state: OrderState::of(row.is_open, &results),
            result: results.pop(),
            row,
        }
    }

    /// The columns of an export.
    pub const COLUMNS: [&str; 9] = [
        "signed_at",
        "merid",
        "orderid",
        "action",
        "txnamt",
        "state",
        "resultcode",
        "result_txnamt",
        "result_state",
    ];

    /// Returns the values of the columns: times in UTC, amounts in cents as the platform has them.
    pub fn cells(&self) -> [String; 9] {
        let row = &self.row;
        let result = self.result.as_ref();
        let of_result = |value: fn(&OrderResult) -> String| result.map(value).unwrap_or_default();
        [
            format!(
                "{}Z",
                shown(row.signed_at, ::time::UtcOffset::UTC).replace(' ', "T")
            ),
            row.merid.clone(),
            row.orderid.clone(),
            row.action.clone(),
            row.amount.to_string(),
            self.state.name().to_owned(),
            of_result(|result| result.resultcode.clone()),
            of_result(|result| result.amount.to_string()),
            of_result(|result| result.state.name().to_owned()),
        ]
    }

    /// Writes a line of CSV (RFC 4180).
    pub fn csv(&self) -> String {
        csv_line(self.cells().each_ref().map(String::as_str))
    }

    /// Writes a JSON object with the columns as members; amounts are numbers.
    pub fn json(&self) -> serde_json::Value {
        let cells = Self::COLUMNS.into_iter().zip(self.cells());
        let member = |(name, text): (&str, String)| {
            let number = name.ends_with("txnamt").then(|| text.parse::<u64>().ok());
            let value = match number {
                Some(number) => serde_json::Value::from(number),
                None => serde_json::Value::from(text),
            };
            (name.to_owned(), value)
        };
        serde_json::Value::Object(cells.map(member).collect())
    }
}

/// Writes a line of CSV. Texts that a spreadsheet would take for a formula get an apostrophe in front.
pub fn csv_line(cells: [&str; 9]) -> String {
    let cell = |text: &str| {
        let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let text = format!("{}{text}", if is_formula { "'" } else { "" });
        match text.contains([',', '"', '\r', '\n']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        }
    };
    format!("{}\r\n", cells.map(cell).join(","))
}

/// A page of a list of orders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderPage {
    /// The orders, newest first.
    pub orders: Vec<ListedOrder>,
    /// The place from which the next page goes on; `None` at the end. A page can end before it is full, where the filter
    /// left out all that one page looks at.
    pub next: Option<OrderPlace>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(resultcode: &str, state: EventState) -> OrderResult {
        OrderResult {
            resultcode: resultcode.to_owned(),
            amount: 1,
            state,
        }
    }

    #[test]
    fn a_state_follows_from_all_results() {
        use EventState::{Delivered, Discarded, Disputed, Pending};
        for (is_open, results, expected) in [
            (true, &[][..], OrderState::Open),
            (false, &[], OrderState::Closed),
            (true, &[("1003", Delivered)], OrderState::Failed),
            (
                true,
                &[("1003", Delivered), ("0000", Pending)],
                OrderState::Paid,
            ),
            (false, &[("1002", Delivered)], OrderState::Paid),
            (true, &[("1004", Delivered)], OrderState::Open),
            (
                false,
                &[("0000", Delivered), ("1003", Disputed)],
                OrderState::Differs,
            ),
            (false, &[("0000", Discarded)], OrderState::Closed),
            (
                true,
                &[("0000", Discarded), ("1003", Delivered)],
                OrderState::Failed,
            ),
        ] {
            let results: Vec<_> = results
                .iter()
                .map(|(code, state)| result(code, *state))
                .collect();
            assert_eq!(OrderState::of(is_open, &results), expected, "{results:?}");
        }
    }

    #[test]
    fn places_and_states_are_read_as_they_are_written() {
        let place = OrderPlace {
            signed_at: -7,
            merid: "1".to_owned(),
            orderid: "A,B".to_owned(),
        };
        assert_eq!(OrderPlace::parse(&place.to_string()), Some(place));
        for wrong in ["", "1", "1,2", "x,1,2"] {
            assert_eq!(OrderPlace::parse(wrong), None, "{wrong}");
        }
        for state in OrderState::ALL {
            assert_eq!(OrderState::parse(state.name()), Some(state));
        }
    }

    #[test]
    fn csv_is_quoted_and_holds_no_formula() {
        let line = csv_line(["=1+1", "a,b", "say \"x\"", "-", "", "0000", "5", "@x", "\n"]);
        assert_eq!(
            line,
            "'=1+1,\"a,b\",\"say \"\"x\"\"\",'-,,0000,5,'@x,\"\n\"\r\n"
        );
    }
}
