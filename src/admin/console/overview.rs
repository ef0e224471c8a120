//! The overview: results that need attention, and plots of the last hours.

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};

use super::labels;
use super::merchants::reload_note;
use super::page::Visit;
use super::plots::{PlotLine, plot, top};
use crate::admin::context::AdminContext;
use crate::admin::pulse::Minute;
use crate::inbox::event::EventState;
use crate::inbox::store::{Counts, StoreError};
use crate::time;

/// Renders the overview.
pub async fn overview(
    admin: &AdminContext,
    visit: &Visit<'_>,
) -> Result<Response<Bytes>, StoreError> {
    let counts = admin.store.counts().await?;
    let (minutes, begun) = admin.pulse.minutes();
    let (at, last) = admin.watch.last();
    let content = html! {
        (reload_note(visit, at, &last))
        (tiles(visit, &counts))
        (plots(visit, &minutes, &begun))
        p.soft {
            @if visit.parameter("live").is_some() {
                (visit.say("本页每 30 秒刷新。", "This page loads itself again every 30 s.")) " "
                a href="/" { (visit.say("停止", "Stop")) }
            } @else {
                a href="/?live" { (visit.say("每 30 秒自动刷新", "Load this page again every 30 s")) }
            }
        }
    };
    Ok(visit.page(StatusCode::OK, visit.say("概览", "Overview"), &content))
}

fn tiles(visit: &Visit<'_>, counts: &Counts) -> Markup {
    let of = |state| {
        let found = EventState::ALL
            .into_iter()
            .zip(counts.events)
            .find(|(known, _)| *known == state);
        found.map_or(0, |(_, count)| count)
    };
    let oldest = counts
        .oldest_pending
        .map(|at| visit.duration(time::now() - at));
    html! {
        ul.tiles {
            @for (state, tone) in [(EventState::Pending, ""), (EventState::Parked, "warn"), (EventState::Disputed, "bad")] {
                li {
                    a href={ "/events?state=" (state.name()) } {
                        strong class=[(of(state) > 0).then_some(tone)] { (of(state)) }
                        (labels::state(visit.language, state))
                        @if state == EventState::Pending {
                            @if let Some(oldest) = &oldest { span.soft { (visit.say("最久 ", "oldest ")) (oldest) } }
                        }
                    }
                }
            }
            li { a href="/events?state=delivered" { strong { (of(EventState::Delivered)) } (labels::state(visit.language, EventState::Delivered)) } }
            li { div { strong { (counts.open_orders) } (visit.say("尚无结果的订单", "Orders without a result")) } }
        }
    }
}

fn plots(visit: &Visit<'_>, minutes: &[Minute], begun: &Minute) -> Markup {
    let line = |class, value: &dyn Fn(&Minute) -> Option<f64>| PlotLine {
        class,
        values: minutes.iter().map(value).collect(),
    };
    let share = |part: u64, all: u64| (all > 0).then(|| 100.0 * part as f64 / all as f64);
    let calls = |it: &Minute| share(it.calls_rejected, it.calls);
    let callbacks = |it: &Minute| share(it.callbacks_rejected, it.callbacks);
    let newest = minutes.last().unwrap_or(begun);
    let number = |value: f64| format!("{value:.0}");
    let percent = |value: f64| format!("{value:.1}\u{a0}%");
    let [all, refused] = visit.say(["全部", "被拒"], ["all", "refused"]);
    html! {
        h2 { (visit.say("最近六小时", "The last six hours")) }
        div.plots {
            (figure(visit, visit.say("每分钟调用", "Calls a minute"), [
                (all, line("first", &|it| Some(it.calls as f64)), Some(newest.calls as f64)),
                (refused, line("second", &|it| Some(it.calls_rejected as f64)), Some(newest.calls_rejected as f64)),
            ], number))
            (figure(visit, visit.say("每分钟通知", "Callbacks a minute"), [
                (all, line("first", &|it| Some(it.callbacks as f64)), Some(newest.callbacks as f64)),
                (refused, line("second", &|it| Some(it.callbacks_rejected as f64)), Some(newest.callbacks_rejected as f64)),
            ], number))
            (figure(visit, visit.say("调用耗时", "Time of a call"), [
                ("p50", line("first", &|it| it.median), newest.median),
                ("p99", line("second", &|it| it.p99), newest.p99),
            ], |seconds| format!("{:.1}\u{a0}ms", seconds * 1000.0)))
            (figure(visit, visit.say("拒绝比例", "Share refused"), [
                (visit.say("调用", "calls"), line("first", &calls), calls(newest)),
                (visit.say("通知", "callbacks"), line("second", &callbacks), callbacks(newest)),
            ], percent))
        }
        @if minutes.is_empty() {
            p.soft {
                (visit.say(
                    "曲线从启动后的第一分钟开始；数字为当前这一分钟。",
                    "The plots begin a minute after the start; the figures are of the minute that has begun.",
                ))
            }
        }
    }
}

/// Renders one plot of two lines, with the newest and the highest value as text.
fn figure(
    visit: &Visit<'_>,
    title: &str,
    lines: [(&str, PlotLine, Option<f64>); 2],
    unit: impl Fn(f64) -> String,
) -> Markup {
    let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), &unit);
    let [first, second] = [0, 1].map(|i| (lines[i].0.to_owned(), shown(lines[i].2)));
    let lines = lines.map(|(_, line, _)| line);
    let top = top(&lines);
    let label = format!(
        "{title}: {} {}, {} {}; {} {}",
        first.0,
        first.1,
        second.0,
        second.1,
        visit.say("最高", "highest"),
        unit(top)
    );
    html! {
        figure {
            figcaption {
                (title)
                span {
                    span { i.key {} (first.0) " " (first.1) }
                    " "
                    span { i.key.second {} (second.0) " " (second.1) }
                }
            }
            (plot(&label, &lines, top))
            div.axis aria-hidden="true" {
                span { (visit.say("6 小时前", "6 h ago")) }
                @if top > 0.0 { span { (visit.say("最高 ", "highest ")) (unit(top)) } }
                span { (visit.say("现在", "now")) }
            }
        }
    }
}
