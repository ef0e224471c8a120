//! The command line: one file a command, exit codes as in conf/errors.md.

mod print;

mod failure;

mod config;

mod manual;

mod schema;

mod init;

mod keys;

mod sandbox;

mod run;

mod check;

mod healthcheck;

mod pasted;

mod envelope;

mod explain;

mod probe;

mod store;

mod demo;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::print::note;
use crate::server;
use config::Config;
use failure::Failure;
use store::{clock, inbox, orders};

/// The version, with the commit that it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("COUNTERSIGN_COMMIT"));

/// Signs, verifies and keeps the messages between a legacy app and its payment platform.
#[derive(Parser)]
#[command(name = "countersign", version = VERSION, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a starter configuration
    #[command(
        after_help = "Examples:\n  countersign init pay\n  countersign init /etc/countersign --platform https://pay.example.com --merid 100000000000001"
    )]
    Init(init::InitCommand),
    /// Run the sidecar
    #[command(
        after_help = "Examples:\n  countersign run -c /etc/countersign/countersign.toml\n  countersign run --upgrade"
    )]
    Run(run::RunCommand),
    /// Check both files: every problem, or what would be in force
    #[command(after_help = "Examples:\n  countersign check\n  countersign check --files --json")]
    Check(check::CheckCommand),
    /// Ask the running sidecar whether it is ready: exit code 0 or 1, for containers
    #[command(
        after_help = "Examples:\n  countersign healthcheck -c /etc/countersign/countersign.toml"
    )]
    Healthcheck,
    /// Sign a message: JSON in, `req=…&sign=…` out
    #[command(
        after_help = "Examples:\n  countersign sign '{\"merid\":\"100000000000001\",\"orderid\":\"ORD20170301\"}'"
    )]
    Sign(envelope::SignCommand),
    /// Verify an envelope: `resp=…&sign=…` in, plain JSON out; exit code 1 where it does not hold
    #[command(
        after_help = "Examples:\n  countersign verify 'resp=…&sign=…'\n  tail -1 access.log | countersign verify"
    )]
    Verify(envelope::VerifyCommand),
    /// Decode an envelope or a base64 text without verifying it
    #[command(
        after_help = "Examples:\n  countersign decode 'resp=…&sign=…'\n  echo eyJtZXJpZCI6IjEifQ== | countersign decode"
    )]
    Decode(envelope::DecodeCommand),
    /// Find out why a signature does not match its text
    #[command(
        after_help = "Examples:\n  countersign explain 'resp=…&sign=…'\n  countersign explain --key-file my.key --text eyJtZXJpZCI6IjEifQ== --sign 0123…"
    )]
    Explain(explain::ExplainCommand),
    /// Ask the platform a harmless query: does it know our key?
    #[command(after_help = "Examples:\n  countersign probe --merid 100000000000001")]
    Probe(probe::ProbeCommand),
    /// List events, show one, offer one to the app again, or discard one
    Inbox(inbox::InboxCommand),
    /// List the orders that were signed and what came of them, show one, or export them
    Orders(orders::OrdersCommand),
    /// Accept the time of a clock that has jumped
    Clock(clock::ClockCommand),
    /// Run a stand-in platform, for development, or try an app through a running sidecar
    #[command(
        after_help = "Examples:\n  countersign sandbox --merchants pay/merchants.toml\n  countersign sandbox --fault quoted-amount"
    )]
    Sandbox(sandbox::SandboxCommand),
    /// Show a whole payment on this machine: a stand-in platform, the sidecar and a small shop
    #[command(after_help = "Examples:\n  countersign demo\n  countersign demo --once")]
    Demo(demo::DemoCommand),
    /// Print the JSON Schema of a file, for editors
    Schema(schema::SchemaCommand),
    /// Print the completions of a shell
    #[command(
        after_help = "Examples:\n  countersign completions bash > /etc/bash_completion.d/countersign"
    )]
    Completions(manual::CompletionsCommand),
    /// Print a manual page
    #[command(after_help = "Examples:\n  countersign man | man -l -\n  countersign man inbox list")]
    Man(manual::ManCommand),
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    // Before anything else: a SIGHUP may come as soon as the process is there.
    if std::env::args_os().any(|argument| argument == "run") {
        server::catch_early_signals();
    }
    let Cli { config, command } = Cli::parse();
    let result = match command {
        Command::Init(args) => init::init(&args),
        Command::Run(args) => run::run(&config, &args),
        Command::Check(args) => check::check(&config, &args),
        Command::Healthcheck => healthcheck::healthcheck(&config),
        Command::Sign(sign) => envelope::sign(&config, &sign),
        Command::Verify(verify) => envelope::verify(&config, &verify),
        Command::Decode(decode) => envelope::decode(&decode),
        Command::Explain(args) => explain::explain(&config, &args),
        Command::Probe(probe) => probe::probe(&config, &probe),
        Command::Inbox(inbox) => inbox::inbox(&config, &inbox),
        Command::Orders(orders) => orders::orders(&config, &orders),
        Command::Clock(clock) => clock::clock(&config, &clock),
        Command::Sandbox(sandbox) => sandbox::sandbox(&sandbox),
        Command::Demo(demo) => demo::demo(&demo),
        Command::Schema(args) => schema::schema(&args),
        Command::Completions(args) => manual::completions(&args, Cli::command()),
        Command::Man(args) => manual::man(&args, Cli::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note!("{failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Waits for Ctrl-C, a supervisor's SIGTERM, SIGQUIT, or a terminal that closes.
async fn interrupted() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::No(format!("signals: {error}"));
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::quit(),
        SignalKind::hangup(),
    ];
    let mut signals = Vec::new();
    for kind in kinds {
        signals.push(signal(kind).map_err(failed)?);
    }
    let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    tokio::select! {
        _ = futures_util::future::select_all(any) => Ok(()),
        () = print::until_closed() => Ok(()),
    }
}
