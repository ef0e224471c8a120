//! Parts of pages that our script brings to life: regions that are kept fresh, local times, buttons that copy. Without the
//! script a page shows the same in UTC, and is loaded again by a link.

use ::time::UtcOffset;
use maud::{Markup, html};

use super::language::Language;
use crate::time::{self, Millis};

/// The script. It replaces the elements with `data-live` by those of the same page, loaded again, every `data-every`
/// seconds of `main`. Rows that are to stay under the pointer have a `data-key`.
pub const SCRIPT: &str = include_str!("live.js");

/// Renders the state of the refresh, with a button that pauses it; both are hidden until the script runs.
pub fn status(language: Language) -> Markup {
    html! {
        p.live {
            span #live-status hidden
                data-on=(language.say("自动更新", "Live,"))
                data-paused=(language.say("已暂停于", "Paused at"))
                data-lost=(language.say("连接中断，上次更新", "No connection since"))
                data-out=(language.say("已退出登录，请重新打开本页；上次更新", "Signed out: load this page again. Last update")) {}
            " "
            button #live-switch.small type="button" hidden
                data-on=(language.say("暂停", "Pause")) data-off=(language.say("继续", "Resume")) { (language.say("暂停", "Pause")) }
        }
    }
}

/// Renders a button that copies the text; hidden until the script runs.
pub fn copy(language: Language, text: &str) -> Markup {
    let label = language.say("复制", "Copy");
    html! { button.copy type="button" hidden data-copy=(text) title=(label) aria-label={ (label) " " (text) } {} }
}

/// Formats a time as ISO 8601 in UTC, with milliseconds.
pub fn stamp(at: Millis) -> String {
    let seconds = time::shown(at, UtcOffset::UTC).replace(' ', "T");
    format!("{seconds}.{:03}Z", at.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_has_its_milliseconds_before_1970_too() {
        // `date -u -d @1488340805.007 +%FT%T.%3NZ`, and the same for the other.
        assert_eq!(stamp(1_488_340_805_007), "2017-03-01T04:00:05.007Z");
        assert_eq!(stamp(-1), "1969-12-31T23:59:59.999Z");
    }
}
