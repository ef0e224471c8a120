//! Explanations of codes and states in both languages. A code itself is never translated: log, metrics and README use it
//! as it is.

use crate::inbox::event::{EventState, Source};
use crate::web::language::Language;

/// The name of a state.
pub fn state(language: Language, state: EventState) -> &'static str {
    match state {
        EventState::Pending => language.say("待投递", "Undelivered"),
        EventState::Delivered => language.say("已投递", "Delivered"),
        EventState::Parked => language.say("已搁置", "Parked"),
        EventState::Disputed => language.say("有争议", "Disputed"),
        EventState::Discarded => language.say("已丢弃", "Discarded"),
    }
}

/// Explains a state above a list of such events.
pub fn about_state(language: Language, state: EventState) -> &'static str {
    match state {
        EventState::Pending => language.say("正在向应用投递，直到应用收下。", "Delivered to the app again and again until it accepts them."),
        EventState::Delivered => language.say("应用已收下。", "Accepted by the app."),
        EventState::Parked => language.say(
            "已停止重试，或商户没有 back 地址：请处理后重放。",
            "Retries have ended. Fix the cause, then replay.",
        ),
        EventState::Disputed => language.say(
            "金额与签名时不同，或同一笔支付有两种说法：请先向平台核实。",
            "Needs manual review: another amount than was signed, contradicting results, or an unreadable payload. Ask the platform before you decide.",
        ),
        EventState::Discarded => language.say("人工决定不告知应用。", "An operator decided that the app does not get them."),
    }
}

/// The origin of an event.
pub fn source(language: Language, source: Source) -> &'static str {
    match source {
        Source::Notification => language.say("平台通知", "notification"),
        Source::Query => language.say("查询得知", "query"),
    }
}

/// The meaning of a call's `sent`.
pub fn sent(language: Language, sent: &str) -> &'static str {
    match sent {
        "no" => language.say("未发出", "nothing was sent"),
        "yes" => language.say("平台已应答", "the platform responded"),
        "unknown" => language.say("可能已到达平台", "it may have arrived"),
        _ => "",
    }
}

/// Explains the outcome of a call, a callback or a query; empty where the code is enough.
pub fn why(language: Language, code: &str) -> &'static str {
    match code {
        // Callbacks.
        "malformed" => language.say("不是可读的信封", "not a readable envelope"),
        "unsigned" => language.say("没有签名", "the signature is empty"),
        "bad-signature" => language.say(
            "签名与该商户的密钥不符",
            "the signature matches none of the merchant's keys",
        ),
        "incomplete" => language.say("缺少必需的字段", "mandatory fields are missing"),
        "foreign-order" => language.say("订单属于另一商户", "the order is another merchant's"),
        "disputed" => language.say(
            "金额不同或说法矛盾，等待人工处理",
            "another amount, or a contradicting result: needs manual review",
        ),
        "no-front" => language.say("商户没有 front 地址", "the merchant has no front"),
        "app-unreachable" => language.say("应用的页面无法访问", "the app's page cannot be reached"),
        "not-stored" => language.say(
            "存储无法写入，平台会重试",
            "the store failed; the platform tries again",
        ),
        "not-delivered" => language.say(
            "应用尚未收下，平台会重试",
            "not yet accepted by the app; the platform tries again",
        ),
        "not-allowed" => language.say(
            "来源地址不在 allow_from 中",
            "from an address outside allow_from",
        ),
        "repeated" => language.say("同一结果的重复通知", "the same result again"),
        // Calls.
        "order-conflict" => language.say(
            "同一订单号曾以不同金额或方式签名",
            "signed before with another amount or action",
        ),
        "invalid-field" => {
            language.say("字段不符合平台规则", "a field breaks the platform's rules")
        }
        "invalid-json" | "duplicate-member" => language.say(
            "不是严格的 JSON 对象",
            "the body is not one strict JSON object",
        ),
        "unknown-merchant" => {
            language.say("商户未配置", "the merchant is not in the merchants file")
        }
        "overloaded" => language.say("同时请求过多", "too many at once"),
        "draining" => language.say("正在停止", "shutting down"),
        "platform-unreachable" => language.say("无法连接平台", "no connection to the platform"),
        "platform-timeout" => language.say("平台未及时应答", "no complete response in time"),
        "platform-cut-off" => {
            language.say("应答中途断开", "the connection ended within the response")
        }
        "platform-error" => language.say(
            "平台返回错误状态",
            "the platform responded with an error status",
        ),
        "unsigned-answer" => language.say(
            "平台不认识该商户",
            "the platform does not know the merchant",
        ),
        "malformed-answer" => {
            language.say("应答不是有效信封", "the response is not a valid envelope")
        }
        "foreign-answer" => language.say("应答属于另一订单", "the response is about another order"),
        // Questions.
        "found" => language.say("得到通知未带来的结果", "a result without a callback"),
        "known" => language.say("结果已知", "the result was known"),
        "not-paid" => language.say("平台称尚未支付", "not paid according to the platform"),
        "no-result" => language.say("平台没有此订单的结果", "the platform has no result"),
        "no-answer" => language.say("没有可信的应答", "no response that can be verified"),
        _ => "",
    }
}

/// Cents as yuan.
pub fn yuan(cents: u64) -> String {
    format!("¥ {}.{:02}", cents / 100, cents % 100)
}
