//! The overview: results that need attention, and plots of the last hours.

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};

use super::labels;
use super::merchants::reload_note;
use super::page::Visit;
use super::plots::{Meaning, PlotFigures, PlotLine, PlotRange};
use crate::admin::context::AdminContext;
use crate::inbox::event::EventState;
use crate::inbox::minutes::{MINUTE, MinuteFigures, MinuteRange};
use crate::inbox::store::{Counts, StoreError};
use crate::time;

/// Renders the overview.
pub async fn overview(
    admin: &AdminContext,
    visit: &Visit<'_>,
) -> Result<Response<Bytes>, StoreError> {
    let counts = admin.store.counts().await?;
    let (at, last) = admin.watch.last();
    let content = html! {
        (reload_note(visit, at, &last))
        div #tiles data-live { (tiles(visit, &counts)) }
        div #plots data-live { (plots(admin, visit).await?) }
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
            li { a href="/orders?state=open" { strong { (counts.open_orders) } (visit.say("尚无结果的订单", "Orders without a result")) } }
        }
    }
}

/// Renders the plots of a range, with links to the others.
async fn plots(admin: &AdminContext, visit: &Visit<'_>) -> Result<Markup, StoreError> {
    let named = visit.parameter("range").unwrap_or_default();
    let range = PlotRange::parse(&named).unwrap_or(PlotRange::SixHours);
    let within = range.until(time::now());
    let minutes = admin.store.minutes(within).await?;
    let last = MinuteRange {
        from: within.until - MINUTE,
        step: 1,
        ..within
    };
    let latest = admin.store.minutes(last).await?;
    let figures = PlotFigures {
        range,
        within,
        minutes: &minutes,
        latest: latest.last(),
    };
    Ok(html! {
        div.title {
            h2 { (visit.say("每分钟", "Minute by minute")) }
            nav.ranges aria-label=(visit.say("时间范围", "Range")) {
                @for other in PlotRange::ALL {
                    a href={ "/?range=" (other.name()) } aria-current=[(other == range).then_some("true")] { (other.label(visit)) } " "
                }
            }
        }
        (figures_of(visit, &figures))
        p.soft {
            @if minutes.is_empty() {
                (visit.say(
                    "曲线从启动后的第一个整分钟开始。",
                    "The plots begin with the first whole minute after the start.",
                ))
            } @else {
                (visit.say("图例为最近一个整分钟的数值，时间为 UTC。", "The legends have the values of the last whole minute; times are UTC. "))
                @if within.step > 1 {
                    (visit.say("每点为 ", "A point is the mean of ")) (within.step)
                    (visit.say(" 分钟的平均值，p99 取最高。", " minutes, and the highest p99."))
                }
            }
        }
    })
}

fn figures_of(visit: &Visit<'_>, figures: &PlotFigures<'_>) -> Markup {
    let line = |meaning, (chinese, english), value| PlotLine {
        meaning,
        label: visit.say(chinese, english),
        value,
    };
    let (all, rejected) = (("全部", "all"), ("被拒", "rejected"));
    let number = |value: f64| match value {
        0.0 => "0".to_owned(),
        0.0..10.0 if value.fract() != 0.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    html! {
        div.plots {
            (figures.plot(visit, visit.say("每分钟调用", "Calls a minute"), &[
                line(Meaning::Calls, all, |it| each(it, it.calls)),
                line(Meaning::Rejected, rejected, |it| each(it, it.calls_rejected)),
            ], number))
            (figures.plot(visit, visit.say("每分钟通知", "Callbacks a minute"), &[
                line(Meaning::Callbacks, all, |it| each(it, it.callbacks)),
                line(Meaning::Rejected, rejected, |it| each(it, it.callbacks_rejected)),
            ], number))
            (figures.plot(visit, visit.say("调用耗时", "Duration of calls"), &[
                line(Meaning::Median, ("p50", "p50"), |it| it.median),
                line(Meaning::Slowest, ("p99", "p99"), |it| it.p99),
            ], milliseconds))
            (figures.plot(visit, visit.say("被拒比例", "Share rejected"), &[
                line(Meaning::Calls, ("调用", "calls"), |it| share(it.calls_rejected, it.calls)),
                line(Meaning::Callbacks, ("通知", "callbacks"), |it| share(it.callbacks_rejected, it.callbacks)),
            ], |percent| format!("{}\u{a0}%", number(percent))))
        }
    }
}

/// The mean of a minute.
fn each(figures: &MinuteFigures, sum: u64) -> Option<f64> {
    (figures.minutes > 0).then(|| sum as f64 / f64::from(figures.minutes))
}

fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| 100.0 * part as f64 / all as f64)
}

fn milliseconds(seconds: f64) -> String {
    match seconds * 1000.0 {
        0.0 => "0\u{a0}ms".to_owned(),
        millis if millis < 10.0 => format!("{millis:.1}\u{a0}ms"),
        millis if millis < 1000.0 => format!("{millis:.0}\u{a0}ms"),
        _ => format!("{seconds:.1}\u{a0}s"),
    }
}
