//! Faults and dialects in groups, each with a sentence for the page.

use super::dialect::Dialect;
use super::fault::SandboxFault;
use crate::web::language::Language;

/// A group of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultGroup {
    /// A signature or an amount that must be rejected.
    Forgeries,
    /// Notifications that come otherwise than expected.
    Notifications,
    /// Responses that fail.
    Responses,
    /// Values in other words.
    Values,
    /// The envelope in another form.
    Envelope,
    /// The HTTP message in another form.
    Transport,
}

impl FaultGroup {
    /// Every group, in the page's order.
    pub const ALL: [Self; 6] = [
        Self::Forgeries,
        Self::Notifications,
        Self::Responses,
        Self::Values,
        Self::Envelope,
        Self::Transport,
    ];

    /// Returns the heading.
    pub fn title(self, language: Language) -> &'static str {
        match self {
            Self::Forgeries => language.say("必须被拒绝或核实", "Must be rejected or reviewed"),
            Self::Notifications => language.say("后台通知", "Notifications"),
            Self::Responses => language.say("应答故障", "Responses that fail"),
            Self::Values => language.say("方言：字段的写法", "Dialects: values"),
            Self::Envelope => language.say("方言：报文的写法", "Dialects: the envelope"),
            Self::Transport => language.say("方言：传输的写法", "Dialects: the HTTP message"),
        }
    }

    /// Explains the group.
    pub fn about(self, language: Language) -> &'static str {
        match self {
            Self::Forgeries => language.say("商户系统不得入账。", "The app must not book these."),
            Self::Notifications => language.say(
                "结果仍须恰好入账一次。",
                "The result must be booked all the same, and once.",
            ),
            Self::Responses => language.say(
                "应用应得知请求是否已发出。",
                "The app has to learn whether its request went out.",
            ),
            Self::Values | Self::Envelope | Self::Transport => language.say(
                "含义不变，必须照常收下。",
                "The meaning stays the same: it must be accepted as usual.",
            ),
        }
    }

    /// Lists the faults of the group.
    pub fn faults(self) -> impl Iterator<Item = SandboxFault> {
        SandboxFault::all().filter(move |fault| group(*fault) == self)
    }
}

fn group(fault: SandboxFault) -> FaultGroup {
    use Dialect as D;
    use SandboxFault as F;
    match fault {
        F::WrongSign | F::WrongAmount | F::OtherKey | F::EmptySign => FaultGroup::Forgeries,
        F::Doubled | F::Reordered | F::Delayed | F::Never => FaultGroup::Notifications,
        F::SlowAnswers | F::CutAnswers | F::Status500 => FaultGroup::Responses,
        F::Dialect(dialect) => match dialect {
            D::Integers
            | D::OtherScalars
            | D::QuotedAmount
            | D::AmountWithZeros
            | D::Nulls
            | D::LeftOut
            | D::NoRespcode => FaultGroup::Values,
            D::RawPlus
            | D::LineBreaks
            | D::Unpadded
            | D::UpperCaseSign
            | D::JsonEnvelope
            | D::NullSign => FaultGroup::Envelope,
            D::ByteOrderMark
            | D::Whitespace
            | D::Nul
            | D::ContentEncoding
            | D::Gzip
            | D::Deflate
            | D::Multipart
            | D::InUrl
            | D::InUrlAndBody => FaultGroup::Transport,
        },
    }
}

/// Explains a fault in a few words.
pub fn about(fault: SandboxFault, language: Language) -> &'static str {
    let (chinese, english) = match fault {
        SandboxFault::WrongSign => ("签名错误", "an invalid signature"),
        SandboxFault::WrongAmount => ("签名正确，金额多一分", "rightly signed, over one cent more"),
        SandboxFault::OtherKey => ("用别的商户的密钥签名", "signed with another merchant's key"),
        SandboxFault::EmptySign => ("签名为空 (§2.2)", "an empty signature (§2.2)"),
        SandboxFault::Doubled => ("每次通知同时发两遍", "each one is sent twice"),
        SandboxFault::Reordered => (
            "最终结果之后又来“处理中”",
            "“processing” comes after the final result",
        ),
        SandboxFault::Delayed => ("首次通知晚 30 秒", "the first comes 30 s late"),
        SandboxFault::Never => ("不发通知", "none comes at all"),
        SandboxFault::SlowAnswers => ("5 秒后才应答", "they take 5 s"),
        SandboxFault::CutAnswers => ("应答中途断开", "they end in the middle"),
        SandboxFault::Status500 => ("状态码 500", "status 500"),
        SandboxFault::Dialect(dialect) => about_dialect(dialect),
    };
    language.say(chinese, english)
}

fn about_dialect(dialect: Dialect) -> (&'static str, &'static str) {
    match dialect {
        Dialect::Integers => ("数字串写成整数", "strings of digits are integers"),
        Dialect::OtherScalars => (
            "paytime、resultmsg 写成数字",
            "paytime and resultmsg are numbers",
        ),
        Dialect::QuotedAmount => ("金额带引号", "the amount is in quotes"),
        Dialect::AmountWithZeros => ("金额写成 1280.00", "the amount is 1280.00"),
        Dialect::Nulls => ("空字段写成 null", "empty members are null"),
        Dialect::LeftOut => ("空字段省略", "empty members are left out"),
        Dialect::NoRespcode => ("成功的应答没有 respcode", "a success has no respcode"),
        Dialect::RawPlus => ("+ 不转义", "+ is not percent-encoded"),
        Dialect::LineBreaks => ("base64 折行", "base64 in lines"),
        Dialect::Unpadded => ("base64 无填充", "base64 without padding"),
        Dialect::UpperCaseSign => ("sign 大写", "sign in upper case"),
        Dialect::JsonEnvelope => ("报文为 JSON", "the envelope is JSON"),
        Dialect::NullSign => ("空签名写成 null 或省略", "an empty sign is null or absent"),
        Dialect::ByteOrderMark => ("前有字节顺序标记", "a byte order mark in front"),
        Dialect::Whitespace => ("前后有空白", "white space around it"),
        Dialect::Nul => ("前后有 NUL", "NULs around it"),
        Dialect::ContentEncoding => (
            "Content-Encoding 写字符集",
            "Content-Encoding names a charset",
        ),
        Dialect::Gzip => ("应答以 gzip 压缩", "responses in gzip"),
        Dialect::Deflate => ("应答以 deflate 压缩", "responses in deflate"),
        Dialect::Multipart => (
            "通知为 multipart/form-data",
            "notifications as multipart/form-data",
        ),
        Dialect::InUrl => ("POST 通知的报文在网址中", "a posted envelope in the URL"),
        Dialect::InUrlAndBody => ("网址和正文中都有", "in the URL and in the body"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_in_one_group_and_explained_in_both_languages() {
        let grouped: Vec<_> = FaultGroup::ALL
            .into_iter()
            .flat_map(FaultGroup::faults)
            .collect();
        assert_eq!(grouped.len(), SandboxFault::all().count());
        for fault in SandboxFault::all() {
            assert_eq!(grouped.iter().filter(|it| **it == fault).count(), 1);
            let [chinese, english] =
                [Language::Chinese, Language::English].map(|language| about(fault, language));
            assert!(!chinese.is_ascii() && english.len() > 5, "{fault:?}");
        }
    }
}
