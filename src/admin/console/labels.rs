//! What the console says about codes, in both languages. A code itself is never translated: it is what stands in the
//! log, the metrics and the README.

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

/// What a state means for whoever looks at a list of such events.
pub fn about_state(language: Language, state: EventState) -> &'static str {
    match state {
        EventState::Pending => language.say("正在向应用投递，直到应用收下。", "Offered to the app until it takes them."),
        EventState::Delivered => language.say("应用已收下。", "The app took them."),
        EventState::Parked => language.say(
            "已停止重试，或商户没有 back 地址：请处理后重放。",
            "No longer offered by themselves, or nobody to offer them to: put the cause right, then replay.",
        ),
        EventState::Disputed => language.say(
            "金额与签名时不同，或同一笔支付有两种说法：请先向平台核实。",
            "Another amount than was signed, or two stories for one payment: ask the platform before you decide.",
        ),
        EventState::Discarded => language.say("人工决定不告知应用。", "A person decided that the app is not to hear of them."),
    }
}

/// Where an event came from.
pub fn source(language: Language, source: Source) -> &'static str {
    match source {
        Source::Notification => language.say("平台通知", "notification"),
        Source::Query => language.say("查询得知", "query"),
    }
}

/// What a call's `sent` means.
pub fn sent(language: Language, sent: &str) -> &'static str {
    match sent {
        "no" => language.say("未发出", "nothing left this machine"),
        "yes" => language.say("平台已应答", "the platform answered"),
        "unknown" => language.say("可能已到达平台", "it may have arrived"),
        _ => "",
    }
}

/// What is behind the outcome of a call, a callback or a question; empty where the code says it all.
pub fn why(language: Language, code: &str) -> &'static str {
    match code {
        // Callbacks.
        "malformed" => language.say("不是可读的信封", "no envelope that can be read"),
        "unsigned" => language.say("没有签名", "the sign is empty"),
        "bad-signature" => language.say(
            "签名与该商户的密钥不符",
            "the sign fits none of the merchant's keys",
        ),
        "incomplete" => language.say("缺少必需的字段", "mandatory fields are missing"),
        "foreign-order" => language.say("订单属于另一商户", "the order is another merchant's"),
        "disputed" => language.say(
            "金额不同或说法矛盾，等待人工处理",
            "another amount, or a second story: held for a person",
        ),
        "no-front" => language.say("商户没有 front 地址", "the merchant has no front"),
        "app-unreachable" => language.say("应用的页面无法访问", "the app's page cannot be reached"),
        "not-stored" => language.say(
            "存储无法写入，平台会重试",
            "the store took nothing; the platform tries again",
        ),
        "not-delivered" => language.say(
            "应用尚未收下，平台会重试",
            "the app did not take it yet; the platform tries again",
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
        "platform-timeout" => language.say("平台未及时应答", "no whole answer in time"),
        "platform-cut-off" => {
            language.say("应答中途断开", "the connection ended inside the answer")
        }
        "platform-error" => language.say(
            "平台返回错误状态",
            "the platform answered with an error status",
        ),
        "unsigned-answer" => language.say(
            "平台不认识该商户",
            "the platform does not know the merchant",
        ),
        "malformed-answer" => language.say("应答不是有效信封", "the answer is no valid envelope"),
        "foreign-answer" => language.say("应答属于另一订单", "the answer is about another order"),
        // Questions.
        "found" => language.say("得到通知未带来的结果", "a result that no callback brought"),
        "known" => language.say("结果已知", "the result was known"),
        "not-paid" => language.say("平台称尚未支付", "not paid, the platform says"),
        "no-result" => language.say("平台没有此订单的结果", "the platform has no result"),
        "no-answer" => language.say("没有可信的应答", "no answer that can be believed"),
        _ => "",
    }
}

/// Cents as yuan.
pub fn yuan(cents: u64) -> String {
    format!("¥ {}.{:02}", cents / 100, cents % 100)
}
