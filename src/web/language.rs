//! The two languages of our pages, and which of them a browser asks for.

use http::{HeaderMap, header};

use crate::protocol::result::ResultCode;

/// A page's language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// 简体中文
    Chinese,
    /// English
    English,
}

impl Language {
    /// The one of the two that `Accept-Language` (RFC 9110, section 12.5.4) prefers; `None` where it names neither.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        let accepted = headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok()?;
        let mut best = None;
        for entry in accepted.split(',') {
            // White space may stand around `;` (RFC 9110 §12.4.2).
            let mut parts = entry.split(';').map(str::trim);
            let tag = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| {
                part.strip_prefix(['q', 'Q'])?
                    .trim_start()
                    .strip_prefix('=')
            });
            // A weight that cannot be read counts as 0, which means "not acceptable" (RFC 9110 §12.4.2).
            let weight: f32 = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
            let better = best.is_none_or(|(_, least)| weight > least);
            if let Some(language) = Self::parse(tag).filter(|_| weight > 0.0 && better) {
                best = Some((language, weight));
            }
        }
        best.map(|(language, _)| language)
    }

    /// From a language tag (`zh-CN`, `en`).
    pub fn parse(tag: &str) -> Option<Self> {
        let tag = tag.trim().to_ascii_lowercase();
        match tag.split('-').next()? {
            "zh" => Some(Self::Chinese),
            "en" => Some(Self::English),
            _ => None,
        }
    }

    /// The words for this language.
    pub fn say<T>(self, chinese: T, english: T) -> T {
        match self {
            Self::Chinese => chinese,
            Self::English => english,
        }
    }

    /// The value of `lang`.
    pub fn tag(self) -> &'static str {
        self.say("zh", "en")
    }

    /// In a customer's words.
    pub fn result(self, result: ResultCode) -> &'static str {
        match result {
            ResultCode::Paid => self.say("已支付", "Paid"),
            ResultCode::NotPaid => self.say("未支付", "Not paid"),
            ResultCode::Processing => self.say("处理中", "Processing"),
            ResultCode::Failed => self.say("支付失败", "Payment failed"),
            ResultCode::Investigation => self.say("协查调单", "Under investigation"),
        }
    }

    /// A way to pay, by the document's word for it (§3.1.3).
    pub fn action(self, action: &str) -> &'static str {
        match action {
            "Bank" => self.say("银联", "UnionPay"),
            "WeiXin" => self.say("微信支付", "WeChat Pay"),
            "AliPay" => self.say("支付宝", "Alipay"),
            _ => self.say("任选", "Any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_with_the_most_weight_counts() {
        let accepted = |text: &'static str| {
            let value = http::HeaderValue::from_static(text);
            Language::accepted(&HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, value)]))
        };
        assert_eq!(accepted("zh-CN,zh;q=0.9"), Some(Language::Chinese));
        assert_eq!(accepted("de, en;q=0.7, zh;q=0.8"), Some(Language::Chinese));
        assert_eq!(accepted("en, zh"), Some(Language::English));
        assert_eq!(accepted("zh;q=0, en;q=0.1"), Some(Language::English));
        assert_eq!(accepted("zh; q=0.9, en; q=0.2"), Some(Language::Chinese));
        assert_eq!(accepted("en ;q=0.2 , zh ; Q=0.9"), Some(Language::Chinese));
        assert_eq!(
            accepted("zh;x=1;q=0.1, en; q = 0.5"),
            Some(Language::English)
        );
        assert_eq!(accepted("zh;q=none, en;q=0.1"), Some(Language::English));
        assert_eq!(accepted("zhx, fr"), None);
        assert_eq!(Language::accepted(&HeaderMap::new()), None);
    }
}
