//! Explanations of codes and states in both languages. A code itself is never translated: log, metrics and docs use it
//! as it is.

use crate::inbox::event::{EventState, ReviewReason, Source, WaitReason};
use crate::inbox::listing::OrderState;
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

/// The name of an order's state.
pub fn order_state(language: Language, state: OrderState) -> &'static str {
    match state {
        OrderState::Open => language.say("等待结果", "Open"),
        OrderState::Paid => language.say("已支付", "Paid"),
        OrderState::Failed => language.say("支付失败", "Failed"),
        OrderState::Differs => language.say("与签名不符", "Differs"),
        OrderState::Closed => language.say("无结果", "No result"),
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

/// Explains an empty list of events in this state.
pub fn no_events(language: Language, state: EventState) -> &'static str {
    match state {
        EventState::Pending => language.say(
            "没有待投递的结果：应用已收下全部结果。",
            "Nothing waits: the app has accepted every result that came.",
        ),
        EventState::Delivered => language.say(
            "还没有投递过结果。平台的通知验签通过后，会出现在这里。",
            "Nothing was delivered yet. A result appears here once the platform's callback was verified and the app accepted it.",
        ),
        EventState::Parked => language.say(
            "没有搁置的结果。应用在 inbox.retry_for 之内始终不收下的结果会停在这里，等待重放。",
            "Nothing is parked. A result that the app does not accept within inbox.retry_for ends up here, for a replay.",
        ),
        EventState::Disputed => language.say(
            "没有需要人工核实的结果。",
            "Nothing needs manual review.",
        ),
        EventState::Discarded => language.say(
            "没有丢弃的结果。",
            "Nothing was discarded.",
        ),
    }
}

/// Explains a reason for review.
pub fn review(language: Language, reason: ReviewReason) -> &'static str {
    match reason {
        ReviewReason::Malformed => {
            language.say("验签通过，但不是严格的 JSON", "signed, but not strict JSON")
        }
        ReviewReason::Unreadable => language.say(
            "验签通过，但字段缺失或无法读取",
            "signed, but a field is missing or unreadable",
        ),
        ReviewReason::OtherAmount => {
            language.say("金额与签名时不同", "another amount than was signed")
        }
        ReviewReason::OtherResult => language.say(
            "同一笔支付的另一种说法",
            "contradicts an earlier result of the payment",
        ),
        ReviewReason::FailedAfterPaid => language.say(
            "已付款之后又称失败",
            "a failure after the payment was reported as paid",
        ),
        ReviewReason::Contradicted => language.say(
            "查询平台得到相反的结果",
            "the platform contradicts it when queried",
        ),
    }
}

/// Explains why a pending event waits.
pub fn waits(language: Language, reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::NoBack => language.say("商户没有 back 地址", "the merchant has no back"),
        WaitReason::NoMerchant => language.say(
            "商户文件中没有此商户",
            "the merchant is not in the merchants file",
        ),
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

/// Cents as yuan.
pub fn yuan(cents: u64) -> String {
    format!("¥ {}.{:02}", cents / 100, cents % 100)
}
