//! The live merchants with the fingerprints of their keys, and the outcome of the last reload.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};
use url::{Position, Url};

use super::page::Visit;
use crate::admin::context::AdminContext;
use crate::admin::health;
use crate::config::{Merchant, ReloadOutcome, SigningKey};
use crate::inbox::store::{KeySwitch, OldKey, StoreError};
use crate::platform::switches::signing_key;
use crate::time::Millis;
use crate::web::reply::see_other;

/// Merchants of one page.
const LISTED: usize = 200;

pub async fn merchants(
    admin: &AdminContext,
    visit: &Visit<'_>,
) -> Result<Response<Bytes>, StoreError> {
    let seen = admin.store.old_keys().await?;
    let switches = admin.store.key_switches().await?;
    let snapshot = admin.watch.snapshot();
    let (at, last) = admin.watch.last();
    let wanted = visit.parameter("merid").unwrap_or_default();
    let listed: Vec<_> = snapshot
        .iter()
        .filter(|merchant| merchant.merid.contains(wanted.trim()))
        .take(LISTED)
        .collect();
    let content = html! {
        (reload_note(visit, at, &last))
        section {
            h2 { (visit.say("上次加载", "The last reload")) }
            (reload(visit, at, &last))
            @if !snapshot.warnings().is_empty() {
                details {
                    summary { (visit.say("关于密钥的警告：", "Warnings about keys: ")) (snapshot.warnings().len()) }
                    ul { @for warning in snapshot.warnings().iter().take(LISTED) { li { (warning) } } }
                }
            }
            form method="post" action="/merchants" {
                (visit.form_token())
                button { (visit.say("立即重新加载", "Reload now")) }
            }
        }
        section {
            h2 { (visit.say("生效的商户：", "In force: ")) (snapshot.len()) }
            @if snapshot.len() > 10 {
                form.search action="/merchants" {
                    input name="merid" value=(wanted) maxlength="64" aria-label=(visit.say("按商户号筛选", "Only merids with")) placeholder="merid";
                    button { (visit.say("筛选", "Filter")) }
                }
            }
            table {
                caption {
                    (visit.say(
                        "密钥仅以指纹显示；countersign check 显示相同的指纹。",
                        "Keys by their fingerprints, the same that countersign check shows.",
                    ))
                    @if listed.len() < snapshot.len() { " " (visit.say("显示 ", "Shown: ")) (listed.len()) }
                }
                thead { tr { @for label in labels(visit) { th scope="col" { (label) } } } }
                tbody {
                    @for merchant in listed { (row(visit, merchant, &seen, &switches)) }
                }
            }
        }
    };
    Ok(visit.page(StatusCode::OK, visit.say("商户", "Merchants"), &content))
}

/// Reloads, then redirects to the page that shows the outcome.
pub async fn reload_by_hand(admin: &AdminContext) -> Response<Bytes> {
    health::reload(admin).await;
    see_other("/merchants")
}

fn labels(visit: &Visit<'_>) -> [&'static str; 5] {
    visit.say(
        ["merid", "密钥", "旧密钥", "back", "front"],
        ["merid", "Key", "Old keys", "back", "front"],
    )
}

/// Renders the key that signs, and what is known of a rotation to `next_key`.
fn keys(visit: &Visit<'_>, merchant: &Merchant, switches: &[KeySwitch]) -> Markup {
    let Some(next_key) = &merchant.next_key else {
        return html! { code { (merchant.key.fingerprint()) } };
    };
    let switch = switches.iter().find(|it| it.merid == merchant.merid);
    let signing = switch.and_then(|switch| Some((signing_key(switch, merchant)?, switch.at)));
    let (key, since) = signing.map_or((SigningKey::Key, None), |(key, at)| (key, Some(at)));
    let signs = html! {
        " " span.good { (visit.say("正在签名", "signs")) }
        @if let Some(at) = since { " " (visit.say("自 ", "since ")) (visit.when(at)) }
    };
    html! {
        div {
            div { code { (merchant.key.fingerprint()) } @if key == SigningKey::Key { (signs) } }
            div {
                code { (next_key.fingerprint()) } " next_key"
                @if key == SigningKey::NextKey {
                    (signs)
                    div { span.warn { (visit.say("请在文件中把它改为 key", "make it key in the file")) } }
                }
            }
        }
    }
}

fn row(visit: &Visit<'_>, merchant: &Merchant, seen: &[OldKey], switches: &[KeySwitch]) -> Markup {
    let [merid, key, old_keys, back, front] = labels(visit);
    html! {
        tr {
            th scope="row" data-label=(merid) { span.number { (merchant.merid) } }
            td data-label=(key) { (keys(visit, merchant, switches)) }
            td data-label=(old_keys) {
                div {
                    @if merchant.old_keys.is_empty() { span.soft { "–" } }
                    @for fingerprint in merchant.old_keys.iter().map(|key| key.fingerprint()) {
                        @let last = seen.iter().find(|old| old.merid == merchant.merid && old.fingerprint == fingerprint);
                        div {
                            code { (fingerprint) } " "
                            @match last {
                                Some(old) => { span.warn { (visit.say("最近使用 ", "last seen ")) (visit.when(old.seen_at)) } }
                                None => { span.soft { (visit.say("未见使用", "not seen in use")) } }
                            }
                        }
                    }
                }
            }
            td data-label=(back) { (address(merchant.back.as_ref())) }
            td data-label=(front) { (address(merchant.front.as_ref())) }
        }
    }
}

/// Renders a URL without its query, which may hold a secret of the app.
fn address(url: Option<&Url>) -> Markup {
    html! {
        @match url {
            Some(url) => { code { (&url[..Position::AfterPath]) } }
            None => { span.soft { "–" } }
        }
    }
}

fn reload(visit: &Visit<'_>, at: SystemTime, last: &ReloadOutcome) -> Markup {
    html! {
        p {
            @match last {
                ReloadOutcome::Applied { merchants, added, removed, changed, digest, .. } => {
                    strong.good { (visit.say("已生效", "In force")) } " · "
                    (visit.say("商户 ", "merchants ")) (merchants) " · "
                    (visit.say("新增 ", "added ")) (added) ", " (visit.say("移除 ", "removed ")) (removed) ", "
                    (visit.say("变更 ", "changed ")) (changed)
                    " · sha-256 " code { (digest) }
                }
                ReloadOutcome::Unchanged { merchants } => {
                    strong.good { (visit.say("无变化", "Unchanged")) } " · " (visit.say("商户 ", "merchants ")) (merchants)
                }
                ReloadOutcome::Refused(problems) => {
                    strong.bad { (visit.say("被拒绝", "Rejected")) } " · " (visit.say("问题 ", "problems ")) (problems.0.len())
                }
            }
            " · " (visit.when(millis(at)))
        }
    }
}

/// Explains a rejected edit; empty after a good one.
pub fn reload_note(visit: &Visit<'_>, at: SystemTime, last: &ReloadOutcome) -> Markup {
    let ReloadOutcome::Refused(problems) = last else {
        return html! {};
    };
    html! {
        div.note.bad role="alert" {
            strong {
                (visit.say(
                    "商户文件被拒绝，上一份仍然生效。",
                    "The merchants file was rejected. The last good merchants stay live.",
                ))
            }
            " " (visit.when(millis(at)))
            ul { @for problem in problems.0.iter().take(20) { li { code { (problem) } } } }
        }
    }
}

fn millis(at: SystemTime) -> Millis {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
