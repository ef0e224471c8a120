//! The command line: one file a command, exit codes as in the README.

mod print;

mod keys;

mod sandbox;

mod run;

mod check;

mod healthcheck;

mod pasted;

mod envelope;

mod explain;

mod probe;

mod inbox;

mod demo;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::print::note;
use crate::config::settings::Settings;
use crate::config::{MerchantRules, Problems, Snapshot};
use crate::server;
use crate::server::StartError;

/// Signs, verifies and keeps the messages between a legacy app and its payment platform.
#[derive(Parser)]
#[command(name = "countersign", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the sidecar
    Run(run::RunCommand),
    /// Check both files: every problem, or what would be in force
    Check(check::CheckCommand),
    /// Ask the running sidecar whether it is ready: exit code 0 or 1, for containers
    Healthcheck(Config),
    /// Sign a message: JSON in, `req=…&sign=…` out
    Sign(envelope::SignCommand),
    /// Verify an envelope: `resp=…&sign=…` in, plain JSON out; exit code 1 where it does not hold
    Verify(envelope::VerifyCommand),
    /// Decode an envelope or a base64 text without verifying it
    Decode(envelope::DecodeCommand),
    /// Find out why a sign does not fit its text
    Explain(explain::ExplainCommand),
    /// Ask the platform a harmless query: does it know our key?
    Probe(probe::ProbeCommand),
    /// List events, show one, offer one to the app again, or discard one
    Inbox(inbox::InboxCommand),
    /// Run a stand-in platform, for development, or try an app through a running sidecar
    Sandbox(sandbox::SandboxCommand),
    /// Show a whole payment on this machine: a stand-in platform, the sidecar and a small shop
    Demo(demo::DemoCommand),
}

/// The place of the settings.
#[derive(Args)]
struct Config {
    /// The settings file
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "conf/countersign.toml",
        env = "COUNTERSIGN_CONFIG"
    )]
    config: PathBuf,
    /// A setting that overrides the environment and the file, such as `platform.url=https://pay.example.com`
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

impl Config {
    fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings::load(&self.config, &self.set, &environment)?)
    }

    /// Both files. Where the merchants file is, only right settings can say.
    fn load(&self) -> Result<(Settings, Snapshot), Failure> {
        let asked = RefCell::new(BTreeSet::from(["COUNTERSIGN_CONFIG".to_owned()]));
        let environment = |name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            environment(name)
        };
        let mut settings = Settings::load(&self.config, &self.set, &environment)?;
        let rules = MerchantRules::of(&settings);
        let snapshot = Snapshot::load_for(rules, &settings.merchants, &environment)?;
        settings.warnings.extend(unknown_variables(&asked.borrow()));
        Ok((settings, snapshot))
    }
}

/// Warnings of variables with our prefix that no setting and no `key_env` asked for.
fn unknown_variables(asked: &BTreeSet<String>) -> Vec<String> {
    let names = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    let names = names.filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> = names
        .filter(|name| name.starts_with("COUNTERSIGN_") && !asked.contains(name))
        .collect();
    unknown.sort();
    let known: Vec<_> = asked.iter().map(String::as_str).collect();
    let warning = |name: &String| {
        let near = known
            .iter()
            .map(|known| (strsim::levenshtein(name, known), known))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        match near {
            Some((_, known)) => {
                format!("{name}: no setting has this variable, did you mean {known}?")
            }
            None => format!("{name}: no setting has this variable"),
        }
    };
    unknown.iter().map(warning).collect()
}

/// A command that did not end well.
enum Failure {
    /// A negative result: an invalid signature, a failed probe. Exit code 1.
    No(String),
    /// The arguments or the input make no sense. Exit code 2.
    Usage(String),
    /// Something that another try may find mended: a store that is locked, an address in use. Exit code 75 (EX_TEMPFAIL).
    Later(String),
    /// A configuration that needs an edit or a decision. Exit code 78 (EX_CONFIG).
    Config(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(message)
            | Self::Usage(message)
            | Self::Later(message)
            | Self::Config(message) => f.write_str(message),
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Config(problems.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error.may_pass {
            true => Self::Later(error.to_string()),
            false => Self::Config(error.to_string()),
        }
    }
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    // Before anything else: a SIGHUP may come as soon as the process is there.
    if std::env::args_os().any(|argument| argument == "run") {
        server::catch_early_signals();
    }
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Healthcheck(config) => healthcheck::healthcheck(&config),
        Command::Sign(sign) => envelope::sign(&sign),
        Command::Verify(verify) => envelope::verify(&verify),
        Command::Decode(decode) => envelope::decode(&decode),
        Command::Explain(args) => explain::explain(&args),
        Command::Probe(probe) => probe::probe(&probe),
        Command::Inbox(inbox) => inbox::inbox(&inbox),
        Command::Sandbox(sandbox) => sandbox::sandbox(&sandbox),
        Command::Demo(demo) => demo::demo(&demo),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note!("{failure}");
            ExitCode::from(match failure {
                Failure::No(_) => 1,
                Failure::Usage(_) => 2,
                Failure::Later(_) => 75,
                Failure::Config(_) => 78,
            })
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

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
