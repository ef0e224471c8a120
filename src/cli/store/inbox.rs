//! `countersign inbox`: the kept results, and decisions about them; also while the sidecar runs.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::config::Config;
use crate::cli::failure::Failure;
use crate::cli::print;
use crate::cli::print::{document, painted, say, stamp, when};
use crate::inbox::attempt::AttemptRecord;
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::review::{COMMAND_LINE, DecideOutcome, DecisionKind, DecisionRecord, Operator};
use crate::inbox::store::StoreError;
use crate::time;

/// Events of one listing by default.
const LISTED: u32 = 100;

#[derive(Args)]
pub(in crate::cli) struct InboxCommand {
    #[command(subcommand)]
    command: InboxAction,
}

#[derive(Subcommand)]
enum InboxAction {
    /// List events, newest first: id, state, merchant, order, result, amount, attempts
    #[command(
        after_help = "Examples:\n  countersign inbox list --state parked\n  countersign inbox list --limit 1000 --json"
    )]
    List {
        /// Only these: pending, delivered, parked, disputed or discarded
        #[arg(long, value_parser = state)]
        state: Option<EventState>,
        /// At most so many
        #[arg(long, default_value_t = LISTED)]
        limit: u32,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
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
    /// The event's id
    id: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn inbox(config: &Config, args: &InboxCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        match &args.command {
            InboxAction::List { state, limit, json } => list(config, *state, *limit, *json).await,
            InboxAction::Show(one) => show(config, one).await,
            InboxAction::Replay(one) => decide(config, one, DecisionKind::Replay).await,
            InboxAction::Discard(one) => decide(config, one, DecisionKind::Discard).await,
        }
    })
}

async fn list(
    config: &Config,
    state: Option<EventState>,
    limit: u32,
    json: bool,
) -> Result<(), Failure> {
    let store = config.open_store()?;
    let events = store.events(state, limit).await.map_err(failed)?;
    if json {
        let events: Vec<_> = events.iter().map(self::json).collect();
        document(&json!({ "events": events }));
        return Ok(());
    }
    for event in &events {
        say!("{}", line(event));
    }
    Ok(())
}

/// Writes an event for programs, without its payload.
pub(super) fn json(event: &Event) -> Value {
    json!({
        "id": event.id, "state": event.state.name(), "merid": event.merid, "orderid": event.orderid,
        "queryid": event.queryid, "resultcode": event.resultcode, "txnamt": event.amount,
        "source": event.source.name(), "matched": event.matched,
        "review": event.review.map(|it| it.name()), "field": event.field,
        "waits": event.waits.map(|it| it.name()), "received_at": stamp(event.received_at),
        "next_attempt": (event.state == EventState::Pending).then(|| stamp(event.next_attempt)),
        "attempts": event.attempts, "last_attempt": event.last_attempt,
    })
}

async fn show(config: &Config, one: &One) -> Result<(), Failure> {
    let store = config.open_store()?;
    let event = store.event(&one.id).await.map_err(failed)?;
    let event = event.ok_or_else(|| no_such(&one.id))?;
    let attempts = store.attempts(&one.id).await.map_err(failed)?;
    let decisions = store.decisions(&one.id).await.map_err(failed)?;
    if one.json {
        let mut document = json(&event);
        document["attempts"] = attempts.iter().map(attempt_json).collect();
        document["decisions"] = decisions.iter().map(decision_json).collect();
        print::document(&document);
        return Ok(());
    }
    print_event(&event);
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

fn attempt_json(attempt: &AttemptRecord) -> Value {
    let response = attempt.response.as_ref();
    json!({
        "number": attempt.number, "at": stamp(attempt.at), "milliseconds": attempt.took,
        "outcome": attempt.outcome, "status": response.map(|it| it.status),
        "content_type": response.map(|it| &it.content_type),
        "first_bytes": response.map(|it| String::from_utf8_lossy(&it.first_bytes)),
        "location": response.map(|it| &it.location),
        "explanation": response.map(|it| &it.explanation),
    })
}

fn decision_json(decision: &DecisionRecord) -> Value {
    json!({
        "at": stamp(decision.at), "decision": decision.kind.name(), "before": decision.from.name(),
        "who": decision.operator.who, "from": decision.operator.from,
    })
}

fn print_event(event: &Event) {
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
    say!("kept       {}", when(event.received_at));
    if event.state == EventState::Pending {
        say!("next       {}", when(event.next_attempt));
    }
    if let Some(reason) = event.review {
        let reason = format!("review     {} {}", reason.name(), shown(&event.field));
        say!("{}", reason.trim_end());
    }
    if let Some(reason) = event.waits {
        say!("waits      {}", reason.name());
    }
}

fn of_attempt(attempt: &AttemptRecord) -> String {
    let AttemptRecord { number, took, .. } = attempt;
    let (at, outcome) = (when(attempt.at), shown(&attempt.outcome));
    format!("attempt {number:<3}{at}, {took} ms: {outcome}")
}

fn of_decision(decision: &DecisionRecord) -> String {
    let done = match decision.kind {
        DecisionKind::Replay => "replayed",
        DecisionKind::Release => "released",
        DecisionKind::Discard => "discarded",
    };
    let Operator { who, from } = &decision.operator;
    let (at, before) = (when(decision.at), decision.from.name());
    let (who, from) = (shown(who), shown(from));
    format!("{done:<11}{at}: {done} by {who} ({from}); it was {before}")
}

async fn decide(config: &Config, one: &One, kind: DecisionKind) -> Result<(), Failure> {
    let store = config.open_store()?;
    let operator = Operator {
        // For the record only: anyone can set the variable.
        who: std::env::var("USER")
            .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw())),
        from: COMMAND_LINE.to_owned(),
    };
    let decided = store.decide(&one.id, kind, &operator, time::now()).await;
    match decided.map_err(failed)? {
        DecideOutcome::Done { .. } if one.json => {
            document(&json!({ "id": one.id, "state": kind.state().name() }));
            Ok(())
        }
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
    let state = painted(event.state.name(), 9);
    format!("{id}  {state}  {merid}  {orderid}  {resultcode:<4}  {amount}  {attempts}  {last}")
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
