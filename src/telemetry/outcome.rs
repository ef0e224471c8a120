//! The outcomes of everything that is counted, each list with its names for metrics and log and its labels for people.
//!
//! The lists are closed, so the number of series is bounded, and every counter can be initialised to 0: a rate does not
//! see a series that begins at 1.

use crate::inbox::activity::ActivityKind;
use crate::web::language::Language;

/// A value of a closed list that labels a metric.
pub trait Listed: Copy + 'static {
    /// All values, in the order of their places.
    const ALL: &'static [Self];

    /// The name in metrics, log, spans and activity.
    fn name(self) -> &'static str;

    /// The index in [`Listed::ALL`].
    fn place(self) -> usize;

    /// The meaning, for a page of the console.
    fn label(self, language: Language) -> &'static str;
}

/// Declares a list: each variant with its name and its labels in Chinese and English.
macro_rules! listed {
    ($(#[$about:meta])* $list:ident { $($variant:ident = $name:literal, $chinese:literal, $english:literal;)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the English label says what a variant means")]
        pub enum $list {
            $($variant),+
        }

        impl Listed for $list {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            fn place(self) -> usize {
                // The place in `ALL`, because both lists have the order of the declaration.
                self as usize
            }

            fn label(self, language: Language) -> &'static str {
                match self {
                    $(Self::$variant => language.say($chinese, $english)),+
                }
            }
        }
    };
}

listed! {
    /// The endpoint that a call was for.
    CallKind {
        Query = "query", "查询", "query";
        Submit = "submit", "提交", "submit";
        Link = "link", "链接", "signed link";
        Extra = "extra", "其他接口", "extra path";
        None = "none", "未知路径", "no endpoint";
    }
}

impl CallKind {
    /// Returns true for endpoints whose message is an order (document §3.1.3).
    pub fn takes_orders(self) -> bool {
        matches!(self, Self::Submit | Self::Link)
    }
}

listed! {
    /// The code of a call that failed, in the sidecar or at the platform.
    Code {
        BadRequest = "bad-request", "不是有效的 HTTP 请求", "no valid HTTP request";
        InvalidJson = "invalid-json", "不是严格的 JSON 对象", "the body is not one strict JSON object";
        DuplicateMember = "duplicate-member", "JSON 键重复", "a key of the JSON object is duplicated";
        BrowserRequest = "browser-request", "请求来自网页", "a web page called";
        NotFound = "not-found", "此路径无内容", "nothing is at this path";
        MethodNotAllowed = "method-not-allowed", "此路径只接受 POST", "this path takes POST";
        RequestTimeout = "request-timeout", "请求未及时传完", "the request was not complete in time";
        OrderConflict = "order-conflict", "同一订单号曾以不同金额或方式签名", "signed before with another amount or action";
        BodyTooLarge = "body-too-large", "请求过大", "the body is larger than app.max_body";
        InvalidField = "invalid-field", "字段不符合平台规则", "a field breaks the platform's rules";
        UnknownMerchant = "unknown-merchant", "商户未配置", "the merchant is not in the merchants file";
        Internal = "internal", "程序内部错误", "a defect in the sidecar";
        Overloaded = "overloaded", "同时请求过多", "too many requests at once";
        Draining = "draining", "正在停止", "the sidecar is shutting down";
        PlatformUnreachable = "platform-unreachable", "无法连接平台", "no connection to the platform";
        PlatformTimeout = "platform-timeout", "平台未及时应答", "no complete response in time";
        PlatformCutOff = "platform-cut-off", "应答中途断开", "the connection ended inside the response";
        BadSignature = "bad-signature", "应答的签名无效", "the response's signature is invalid";
        UnsignedAnswer = "unsigned-answer", "平台不认识该商户", "the platform does not know the merchant";
        PlatformError = "platform-error", "平台返回错误状态", "the platform responded with an error status";
        MalformedAnswer = "malformed-answer", "应答不是有效信封", "the response is no valid envelope";
        ForeignAnswer = "foreign-answer", "应答属于另一订单", "the response is about another order";
    }
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// The call succeeded.
    Ok,
    /// It has not, for this reason.
    Failed(Code),
}

impl Listed for CallOutcome {
    const ALL: &'static [Self] = &{
        let mut all = [Self::Ok; Code::ALL.len() + 1];
        let mut place = 1;
        // `for` is not allowed in a constant.
        while place < all.len() {
            all[place] = Self::Failed(Code::ALL[place - 1]);
            place += 1;
        }
        all
    };

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(code) => code.name(),
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Ok => 0,
            Self::Failed(code) => code.place() + 1,
        }
    }

    fn label(self, language: Language) -> &'static str {
        match self {
            Self::Ok => language.say("已完成", "done"),
            Self::Failed(code) => code.label(language),
        }
    }
}

listed! {
    /// The path that a callback came to.
    CallbackKind {
        Back = "back", "后台通知", "notification";
        Front = "front", "浏览器返回", "browser";
        None = "none", "未知路径", "another path";
    }
}

listed! {
    /// The outcome of a callback.
    CallbackOutcome {
        Accepted = "accepted", "已接受", "accepted";
        Repeated = "repeated", "同一结果的重复通知", "the same result again";
        NotFound = "not-found", "此路径无内容", "nothing is at this path";
        BadRequest = "bad-request", "不是有效的 HTTP 请求", "no valid HTTP request";
        NotAllowed = "not-allowed", "来源地址不在 allow_from 中", "from an address outside allow_from";
        Malformed = "malformed", "不是可读的信封", "no readable envelope";
        Unsigned = "unsigned", "没有签名", "the signature is empty";
        BadSignature = "bad-signature", "签名与该商户的密钥不符", "the signature is invalid for each of the merchant's keys";
        UnknownMerchant = "unknown-merchant", "商户未配置", "the merchant is not in the merchants file";
        Incomplete = "incomplete", "字段缺失或无法读取", "a field is missing or cannot be read";
        Reflected = "reflected", "是请求或失败的查询应答，不是支付结果", "a request or a failed query's response, not a result";
        ForeignOrder = "foreign-order", "订单属于另一商户", "the order is another merchant's";
        Disputed = "disputed", "无法读取、金额不同或结果矛盾，等待人工处理", "unreadable, another amount or a contradicting result: needs manual review";
        NoFront = "no-front", "商户没有 front 地址", "the merchant has no front";
        AppUnreachable = "app-unreachable", "应用的页面无法访问", "the app's page cannot be reached";
        NotStored = "not-stored", "存储无法写入，平台会重试", "the store took nothing; the platform tries again";
        NotDelivered = "not-delivered", "应用尚未收下，平台会重试", "the app has not taken it yet; the platform tries again";
        Overloaded = "overloaded", "同时请求过多", "too many requests at once";
    }
}

impl CallbackOutcome {
    /// Returns true for every outcome but success.
    pub fn is_rejection(self) -> bool {
        !matches!(self, Self::Accepted | Self::Repeated)
    }

    /// Returns true where the signature was valid: the callback is the platform's, and about the order that it names.
    pub fn is_verified(self) -> bool {
        matches!(
            self,
            Self::Accepted
                | Self::Repeated
                | Self::Incomplete
                | Self::Reflected
                | Self::ForeignOrder
                | Self::Disputed
                | Self::NoFront
                | Self::AppUnreachable
                | Self::NotStored
                | Self::NotDelivered
        )
    }
}

listed! {
    /// The outcome of one attempt to deliver an event.
    DeliveryOutcome {
        Taken = "taken", "应用已收下", "the app took it";
        NotYet = "not-yet", "应用尚未收下，将重试", "the app has not taken it yet; it is retried";
        Parked = "parked", "停止重试", "no longer retried";
        Denied = "denied", "平台查询结果不同", "the platform's response to a query differs";
    }
}

listed! {
    /// The outcome of a query about an open order.
    ReconcileOutcome {
        Found = "found", "得到通知未带来的结果", "a result that no callback brought";
        Known = "known", "结果已知", "the result was known";
        NotPaid = "not-paid", "平台称尚未支付", "not paid, the platform says";
        NoResult = "no-result", "平台没有此订单的结果", "the platform has no result";
        NoAnswer = "no-answer", "没有可信的应答", "no response that can be verified";
        Disputed = "disputed", "金额不同或结果矛盾，等待人工处理", "another amount or a contradicting result: needs manual review";
        NotStored = "not-stored", "存储无法写入", "the store took nothing";
        UnknownMerchant = "unknown-merchant", "商户未配置", "the merchant is not in the merchants file";
    }
}

/// Finds the label of an outcome that an activity entry names; empty for a name that an older version wrote.
pub fn label(kind: ActivityKind, name: &str, language: Language) -> &'static str {
    fn find<T: Listed>(name: &str, language: Language) -> &'static str {
        let found = T::ALL.iter().find(|listed| listed.name() == name);
        found.map_or("", |listed| listed.label(language))
    }
    match kind {
        ActivityKind::Call => find::<CallOutcome>(name, language),
        ActivityKind::Callback => find::<CallbackOutcome>(name, language),
        ActivityKind::Question => find::<ReconcileOutcome>(name, language),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn check<T: Listed>() {
        let names: BTreeSet<_> = T::ALL.iter().map(|listed| listed.name()).collect();
        assert_eq!(names.len(), T::ALL.len(), "{names:?}");
        for (place, listed) in T::ALL.iter().enumerate() {
            assert_eq!(listed.place(), place, "{}", listed.name());
        }
    }

    #[test]
    fn each_value_has_its_own_name_and_stands_in_its_place() {
        check::<CallKind>();
        check::<CallOutcome>();
        check::<CallbackKind>();
        check::<CallbackOutcome>();
        check::<DeliveryOutcome>();
        check::<ReconcileOutcome>();
    }

    #[test]
    fn an_entry_is_labelled_by_its_kind() {
        let english = |kind, name| label(kind, name, Language::English);
        assert_eq!(
            english(ActivityKind::Callback, "unsigned"),
            "the signature is empty"
        );
        assert_eq!(
            english(ActivityKind::Question, "known"),
            "the result was known"
        );
        assert_eq!(english(ActivityKind::Call, "known"), "");
    }
}
