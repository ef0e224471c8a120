//! `countersign orders`: the orders that were signed, and what came of them; also while the sidecar runs.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::cli::config::Config;
use crate::cli::failure::Failure;
use crate::cli::print::{document, painted, say, stamp, when};
use crate::inbox::event::{Event, shown};
use crate::inbox::listing::{LISTED, ListedOrder, OrderFilter, OrderPlace, OrderState, csv_line};
use crate::inbox::order::{SignedOrder, TryRecord};
use crate::inbox::store::StoreError;
use crate::time;
use crate::time::Millis;

/// Orders of one listing by default.
const SHOWN: u32 = 100;
/// Results of one order that are shown.
const RESULTS: u32 = 1_000;
const DAY: Millis = 24 * 60 * 60 * 1000;

#[derive(Args)]
pub(in crate::cli) struct OrdersCommand {
    #[command(subcommand)]
    command: OrdersAction,
}

#[derive(Subcommand)]
enum OrdersAction {
    /// List orders, newest first: time, merchant, order, action, signed cents, state, newest result and its cents
    #[command(
        after_help = "Examples:\n  countersign orders list --state differs\n  \
        countersign orders list --day 2026-11-25 --merid 100000000000001 --json"
    )]
    List {
        #[command(flatten)]
        filter: FilterOptions,
        /// At most so many, up to 1,000
        #[arg(long, default_value_t = SHOWN)]
        limit: u32,
        /// Go on after this place: the last line of the listing before
        #[arg(long, value_name = "PLACE", value_parser = place)]
        after: Option<OrderPlace>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show one order: what was signed, each try, each result
    #[command(after_help = "Example:\n  countersign orders show ORD20170301")]
    Show {
        /// The merchant's order number
        orderid: String,
        /// The merchant; every configured one is looked at where left out
        #[arg(long)]
        merid: Option<String>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Export every order of the filter, or what was signed and paid by day and merchant
    #[command(
        after_help = "Examples:\n  countersign orders export --from 2026-11-01 --to 2026-11-30 > november.csv\n  \
        countersign orders export --by-day --format json"
    )]
    Export {
        #[command(flatten)]
        filter: FilterOptions,
        /// The format
        #[arg(long, value_enum, default_value = "csv")]
        format: ExportFormat,
        /// Add up by day (UTC) and merchant: what was signed, paid and differs
        #[arg(long)]
        by_day: bool,
    },
}

#[derive(Args)]
struct FilterOptions {
    /// Only this merchant's
    #[arg(long)]
    merid: Option<String>,
    /// Only orders in this state: open, paid, failed, differs or closed
    #[arg(long, value_parser = state)]
    state: Option<OrderState>,
    /// Only orders that were first signed on this day (UTC)
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day, conflicts_with_all = ["from", "to"])]
    day: Option<Millis>,
    /// From this day on (UTC)
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    from: Option<Millis>,
    /// Up to this day and with it (UTC)
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    to: Option<Millis>,
    /// Only orders whose number begins so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExportFormat {
    Csv,
    Json,
}

impl FilterOptions {
    fn filter(&self) -> OrderFilter {
        let all = OrderFilter::default();
        OrderFilter {
            merid: self.merid.clone().unwrap_or_default(),
            prefix: self.prefix.clone().unwrap_or_default(),
            from: self.from.or(self.day).unwrap_or(all.from),
            until: self.to.or(self.day).map_or(all.until, |day| day + DAY),
            state: self.state,
        }
    }
}

pub(in crate::cli) fn orders(config: &Config, args: &OrdersCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::No(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        match &args.command {
            OrdersAction::List {
                filter,
                limit,
                after,
                json,
            } => list(config, &filter.filter(), *limit, after.clone(), *json).await,
            OrdersAction::Show {
                orderid,
                merid,
                json,
            } => show(config, orderid, merid.as_deref(), *json).await,
            OrdersAction::Export {
                filter,
                format,
                by_day: true,
            } => add_up(config, &filter.filter(), *format).await,
            OrdersAction::Export { filter, format, .. } => {
                export(config, &filter.filter(), *format).await
            }
        }
    })
}

async fn list(
    config: &Config,
    filter: &OrderFilter,
    limit: u32,
    mut after: Option<OrderPlace>,
    json: bool,
) -> Result<(), Failure> {
    let store = config.open_store()?;
    let mut orders = Vec::new();
    let limit = limit.clamp(1, LISTED) as usize;
    // A page can end before it is full.
    loop {
        let more = u32::try_from(limit - orders.len()).unwrap_or(LISTED);
        let page = store.orders(filter, after, more).await.map_err(failed)?;
        orders.extend(page.orders);
        after = page.next;
        if after.is_none() || orders.len() >= limit {
            break;
        }
    }
    if json {
        let orders: Vec<_> = orders.iter().map(ListedOrder::json).collect();
        document(&json!({ "orders": orders, "next": after.map(|it| it.to_string()) }));
        return Ok(());
    }
    for order in &orders {
        say!("{}", line(order));
    }
    if let Some(place) = after {
        say!("more: --after {place}");
    }
    Ok(())
}

fn line(order: &ListedOrder) -> String {
    let row = &order.row;
    let result = match &order.result {
        Some(result) => format!("{} {}", shown(&result.resultcode), result.amount),
        None => "-".to_owned(),
    };
    format!(
        "{}  {}  {}  {:<6}  {}  {}  {result}",
        when(row.signed_at),
        row.merid,
        shown(&row.orderid),
        shown(&row.action),
        row.amount,
        painted(order.state.name(), 7),
    )
}

async fn export(
    config: &Config,
    filter: &OrderFilter,
    format: ExportFormat,
) -> Result<(), Failure> {
    let store = config.open_store()?;
    let (mut after, mut is_first) = (None, true);
    match format {
        ExportFormat::Csv => say!("{}", csv_line(ListedOrder::COLUMNS).trim_end_matches('\n')),
        ExportFormat::Json => say!("["),
    }
    loop {
        let page = store.orders(filter, after, LISTED).await.map_err(failed)?;
        for order in &page.orders {
            match format {
                // RFC 4180 ends lines with CRLF, and `say` adds the LF.
                ExportFormat::Csv => say!("{}", order.csv().trim_end_matches('\n')),
                ExportFormat::Json => say!("{}{}", if is_first { " " } else { "," }, order.json()),
            }
            is_first = false;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if matches!(format, ExportFormat::Json) {
        say!("]");
    }
    Ok(())
}

/// The orders of one day and merchant.
#[derive(Default)]
struct Sums {
    orders: u64,
    signed: u64,
    paid_orders: u64,
    paid: u64,
    differing: u64,
    open: u64,
}

impl Sums {
    const COLUMNS: [&'static str; 9] = [
        "day",
        "merid",
        "orders",
        "signed_txnamt",
        "paid_orders",
        "paid_txnamt",
        "not_paid_txnamt",
        "differing_orders",
        "open_orders",
    ];

    fn add(&mut self, order: &ListedOrder) {
        self.orders += 1;
        self.signed = self.signed.saturating_add(order.row.amount);
        match order.state {
            OrderState::Paid => {
                self.paid_orders += 1;
                self.paid = self.paid.saturating_add(order.row.amount);
            }
            OrderState::Differs => self.differing += 1,
            OrderState::Open => self.open += 1,
            OrderState::Failed | OrderState::Closed => {}
        }
    }

    fn numbers(&self) -> [u64; 7] {
        [
            self.orders,
            self.signed,
            self.paid_orders,
            self.paid,
            self.signed - self.paid,
            self.differing,
            self.open,
        ]
    }
}

async fn add_up(
    config: &Config,
    filter: &OrderFilter,
    format: ExportFormat,
) -> Result<(), Failure> {
    let store = config.open_store()?;
    let mut sums = BTreeMap::<(String, String), Sums>::new();
    let mut after = None;
    loop {
        let page = store.orders(filter, after, LISTED).await.map_err(failed)?;
        for order in &page.orders {
            let day = stamp(order.row.signed_at).chars().take(10).collect();
            let key = (day, order.row.merid.clone());
            sums.entry(key).or_default().add(order);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    match format {
        ExportFormat::Csv => {
            say!("{}", csv_line(Sums::COLUMNS).trim_end_matches('\n'));
            for ((day, merid), sums) in &sums {
                let [a, b, c, d, e, f, g] = sums.numbers().map(|number| number.to_string());
                let line = csv_line([day, merid, &a, &b, &c, &d, &e, &f, &g]);
                say!("{}", line.trim_end_matches('\n'));
            }
        }
        ExportFormat::Json => {
            let rows: Vec<_> = sums
                .iter()
                .map(|(key, sums)| sums_json(key, sums))
                .collect();
            document(&Value::Array(rows));
        }
    }
    Ok(())
}

fn sums_json((day, merid): &(String, String), sums: &Sums) -> Value {
    let mut row = serde_json::Map::new();
    row.insert("day".to_owned(), day.as_str().into());
    row.insert("merid".to_owned(), merid.as_str().into());
    let names = Sums::COLUMNS.into_iter().skip(2);
    row.extend(
        names
            .zip(sums.numbers())
            .map(|(name, number)| (name.to_owned(), number.into())),
    );
    Value::Object(row)
}

async fn show(
    config: &Config,
    orderid: &str,
    merid: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let merids: Vec<_> = match merid {
        Some(merid) => vec![merid.to_owned()],
        None => {
            let (_, snapshot) = config.load()?;
            snapshot.iter().map(|it| it.merid.to_string()).collect()
        }
    };
    let store = config.open_store()?;
    let mut found = Vec::new();
    for merid in merids {
        if let Some(order) = store.signed(&merid, orderid).await.map_err(failed)? {
            let tries = store.tries(&merid, orderid).await.map_err(failed)?;
            let events = store.events_of(&merid, orderid, RESULTS).await;
            found.push((merid, order, tries, events.map_err(failed)?));
        }
    }
    if found.is_empty() {
        return Err(Failure::No(format!(
            "{orderid}: no such order in the ledger; `countersign orders list` shows them"
        )));
    }
    if json {
        let orders: Vec<_> = found
            .iter()
            .map(|(merid, order, tries, events)| order_json((merid, orderid), order, tries, events))
            .collect();
        document(&json!({ "orders": orders }));
        return Ok(());
    }
    for (merid, order, tries, events) in &found {
        print((merid, orderid), order, tries, events);
    }
    Ok(())
}

fn print(
    (merid, orderid): (&str, &str),
    order: &SignedOrder,
    tries: &[TryRecord],
    events: &[Event],
) {
    say!("order      {}", shown(orderid));
    say!("merchant   {merid}");
    say!(
        "signed     {} cents, {}, {}",
        order.amount,
        order.action,
        when(order.signed_at)
    );
    match order.next_look {
        Some(at) => say!("query      next {}", when(at)),
        None => say!("query      none: the order is closed"),
    }
    for one in tries {
        let queryid = one.queryid.as_deref().map_or_else(String::new, |queryid| {
            format!(", payment {}", shown(queryid))
        });
        say!(
            "try {:<7}{}: {}, sent {}{queryid}",
            one.number,
            when(one.at),
            one.kind.name(),
            one.state.name()
        );
    }
    for event in events {
        say!(
            "result     {}: {} {} cents, {} ({})",
            when(event.received_at),
            shown(&event.resultcode),
            event.amount,
            event.state.name(),
            event.id
        );
    }
}

fn order_json(
    (merid, orderid): (&str, &str),
    order: &SignedOrder,
    tries: &[TryRecord],
    events: &[Event],
) -> Value {
    let tries: Vec<_> = tries
        .iter()
        .map(|one| {
            json!({
                "number": one.number, "kind": one.kind.name(), "at": stamp(one.at), "sent": one.state.name(),
                "queryid": one.queryid, "backurl": one.backurl,
            })
        })
        .collect();
    let results: Vec<_> = events.iter().map(super::inbox::json).collect();
    json!({
        "merid": merid, "orderid": orderid, "txnamt": order.amount, "action": order.action,
        "signed_at": stamp(order.signed_at), "next_query": order.next_look.map(stamp),
        "tries": tries, "results": results,
    })
}

fn state(name: &str) -> Result<OrderState, String> {
    OrderState::parse(name)
        .ok_or_else(|| "expected open, paid, failed, differs or closed".to_owned())
}

fn day(text: &str) -> Result<Millis, String> {
    time::first_of_day(text).ok_or_else(|| "expected a day such as 2026-11-25".to_owned())
}

fn place(text: &str) -> Result<OrderPlace, String> {
    OrderPlace::parse(text).ok_or_else(|| "expected the place that a listing ended with".to_owned())
}

fn failed(error: StoreError) -> Failure {
    Failure::No(error.to_string())
}
