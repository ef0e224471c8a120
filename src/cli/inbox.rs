//! `countersign inbox`: the kept results, and decisions about them; also while the sidecar runs.

use clap::{Args, Subcommand};

use super::config::Config;
use super::failure::Failure;
use crate::cli::print::say;
use crate::inbox::attempt::AttemptRecord;
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::review::{COMMAND_LINE, DecideOutcome, DecisionKind, DecisionRecord, Operator};
use crate::inbox::store::StoreError;
use crate::time;

/// Events of one listing by default.
const LISTED: u32 = 100;

#[derive(Args)]
pub(super) struct InboxCommand {
    #[command(subcommand)]
    command: InboxAction,
}

#[derive(Subcommand)]
enum InboxAction {
    /// List events, newest first: id, state, merchant, order, result, amount, attempts
    List {
        #[command(flatten)]
        config: Config,
        /// Only these: pending, delivered, parked, disputed or discarded
        #[arg(long, value_parser = state)]
        state: Option<EventState>,
        /// At most so many
        #[arg(long, default_value_t = LISTED)]
        limit: u32,
    },
    /// Show one event with its attempts
    Show(One),
    /// Offer an event to the app again, at once: a parked one, a disputed one that was looked into, or any other
    Replay(One),
    /// Decide that the app is not to hear of an event
    Discard(One),
}

#[derive(Args)]
struct One {
    #[command(flatten)]
    config: Config,
    /// The event's id
    id: String,
}

pub(super) fn inbox(args: &InboxCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        match &args.command {
            InboxAction::List {
                config,
                state,
                limit,
            } => {
                let store = config.open_store()?;
                for event in store.events(*state, *limit).await.map_err(failed)? {
                    say!("{}", line(&event));
                }
                Ok(())
            }
            InboxAction::Show(one) => show(one).await,
            InboxAction::Replay(one) => decide(one, DecisionKind::Replay).await,
            InboxAction::Discard(one) => decide(one, DecisionKind::Discard).await,
        }
    })
}

async fn show(one: &One) -> Result<(), Failure> {
    let store = one.config.open_store()?;
    let event = store.event(&one.id).await.map_err(failed)?;
    let event = event.ok_or_else(|| no_such(&one.id))?;
    say!("event      {}", event.id);
    say!("state      {}", event.state.name());
    say!("merchant   {}", event.merid);
    say!(
        "order      {} ({})",
        shown(&event.orderid),
        if event.matched {
            "matched"
        } else {
            "not in the ledger, or another amount"
        }
    );
    say!(
        "payment    {} {} {} cents",
        shown(&event.queryid),
        shown(&event.resultcode),
        event.amount
    );
    say!("source     {}", event.source.name());
    say!("kept       {} ms since 1970", event.received_at);
    if event.state == EventState::Pending {
        say!("next       {} ms since 1970", event.next_attempt);
    }
    if let Some(reason) = event.review {
        let reason = format!("review     {} {}", reason.name(), shown(&event.field));
        say!("{}", reason.trim_end());
    }
    if let Some(reason) = event.waits {
        say!("waits      {}", reason.name());
    }
    let attempts = store.attempts(&one.id).await.map_err(failed)?;
    let decisions = store.decisions(&one.id).await.map_err(failed)?;
    let mut steps: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt.at, of_attempt(attempt)))
        .collect();
    steps.extend(decisions.iter().map(|it| (it.at, of_decision(it))));
    steps.sort_by_key(|(at, _)| *at);
    for (_, step) in steps {
        say!("{step}");
    }
    Ok(())
}

fn of_attempt(attempt: &AttemptRecord) -> String {
    let AttemptRecord {
        number, at, took, ..
    } = attempt;
    let outcome = shown(&attempt.outcome);
    format!("attempt {number:<3}{at} ms since 1970, {took} ms: {outcome}")
}

fn of_decision(decision: &DecisionRecord) -> String {
    let done = match decision.kind {
        DecisionKind::Replay => "replayed",
        DecisionKind::Release => "released",
        DecisionKind::Discard => "discarded",
    };
    let Operator { who, from } = &decision.operator;
    let (at, before) = (decision.at, decision.from.name());
    let (who, from) = (shown(who), shown(from));
    format!("{done:<11}{at} ms since 1970: {done} by {who} ({from}); it was {before}")
}

async fn decide(one: &One, kind: DecisionKind) -> Result<(), Failure> {
    let store = one.config.open_store()?;
    let operator = Operator {
        // For the record only: anyone can set the variable.
        who: std::env::var("USER")
            .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw())),
        from: COMMAND_LINE.to_owned(),
    };
    let decided = store.decide(&one.id, kind, &operator, time::now()).await;
    match decided.map_err(failed)? {
        DecideOutcome::Done { .. } => {
            say!("{} is {}", one.id, kind.state().name());
            Ok(())
        }
        DecideOutcome::Stays(state) => Err(Failure::No(format!(
            "{} is {} and stays so",
            one.id,
            state.name()
        ))),
        DecideOutcome::NotFound => Err(no_such(&one.id)),
    }
}

fn line(event: &Event) -> String {
    let Event {
        id,
        merid,
        amount,
        attempts,
        ..
    } = event;
    let [orderid, resultcode, last] =
        [&event.orderid, &event.resultcode, &event.last_attempt].map(|text| shown(text));
    let state = event.state.name();
    format!("{id}  {state:<9}  {merid}  {orderid}  {resultcode:<4}  {amount}  {attempts}  {last}")
}

fn state(name: &str) -> Result<EventState, String> {
    EventState::parse(name)
        .ok_or_else(|| "expected pending, delivered, parked, disputed or discarded".to_owned())
}

fn no_such(id: &str) -> Failure {
    Failure::No(format!(
        "{id}: no such event; `countersign inbox list` shows them"
    ))
}

fn failed(error: StoreError) -> Failure {
    Failure::No(error.to_string())
}
