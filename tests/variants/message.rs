//! Messages of the platform before anybody varied them, and what they say.

use super::rng::Rng;

/// The way that a message takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A notification, posted (§3.3).
    Back,
    /// A notification in a browser's address (§3.2).
    Front,
    /// The response to a query (§3.4).
    Query,
}

/// Meaning of a message, whatever its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) merid: String,
    pub(crate) orderid: String,
    pub(crate) queryid: String,
    /// Empty where there is none.
    pub(crate) resultcode: String,
    pub(crate) amount: u64,
    /// The code of a failed query, which says nothing else.
    pub(crate) failure: Option<String>,
}

/// The value of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A string, by its content.
    Text(String),
    /// Anything else, as it is written.
    Raw(String),
}

pub(crate) fn text(content: &str) -> Value {
    Value::Text(content.to_owned())
}

pub(crate) fn raw(written: &str) -> Value {
    Value::Raw(written.to_owned())
}

/// A message: its way, its meaning, and its members as the document writes them.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) route: Route,
    pub(crate) meaning: Meaning,
    pub(crate) members: Vec<(String, Value)>,
}

impl Message {
    /// Makes up a message of this merchant. The number keeps its order and its payment apart from all others.
    pub(crate) fn any(route: Route, merid: &str, number: u64, rng: &mut Rng) -> Self {
        let orderid = match rng.below(3) {
            0 => format!("{}", 20_170_301_000_000_u64 + number),
            1 => format!("ORD{number:09}x"),
            _ => format!("{number:016}"),
        };
        let queryid = match rng.below(4) {
            // Beyond 2^53, where a number that went through floating point is another one.
            0 => format!("{}", 9_007_199_254_740_993_u64 + number),
            1 => format!("1{number:024}"),
            2 => format!("0{number}"),
            _ => format!("Q-{number}"),
        };
        let amount = match rng.below(4) {
            0 => 1,
            1 => 9_223_372_036_854_775_807,
            2 => 9_007_199_254_740_993,
            _ => 100 * (1 + rng.next() % 1_000_000),
        };
        let codes = ["0000", "0000", "1001", "1002", "1003", "1004", ""];
        let resultcode = rng.pick(&codes);
        let messages = ["", "交易成功", "ok", "a \"quoted\" \\ text/with\ttabs"];
        let mut members = vec![
            ("resultcode", text(resultcode)),
            ("resultmsg", text(rng.pick(&messages))),
            ("queryid", text(&queryid)),
            ("txnamt", raw(&amount.to_string())),
            ("merid", text(merid)),
            ("orderid", text(&orderid)),
        ];
        if route != Route::Front {
            let times = ["2017-03-01 12:00:05", ""];
            members.push(("paytime", text(rng.pick(&times))));
        }
        if route == Route::Query {
            let head = [("respcode", text("00")), ("respmsg", text("成功"))];
            members.splice(0..0, head);
        }
        let meaning = Meaning {
            merid: merid.to_owned(),
            orderid,
            queryid,
            resultcode: resultcode.to_owned(),
            amount,
            failure: None,
        };
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Self {
            route,
            meaning,
            members: members.collect(),
        }
    }

    /// Turns the response to a query into that of a failed one, whose other members are blank (§3.4.4).
    pub(crate) fn failed(mut self, rng: &mut Rng) -> Self {
        let codes = ["25", "01", "99", "XX"];
        let code = rng.pick(&codes);
        for (name, value) in &mut self.members {
            *value = match name.as_str() {
                "respcode" => text(code),
                "respmsg" => text("订单不存在"),
                "txnamt" => raw("0"),
                _ => text(""),
            };
        }
        self.meaning.failure = Some(code.to_owned());
        self
    }
}
