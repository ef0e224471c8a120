//! The command line: one file a command, exit codes as in the README.

mod keys;

mod sandbox;

mod run;

mod check;

mod envelope;

mod explain;

mod probe;

mod inbox;

mod demo;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::settings::Settings;
use crate::config::{MerchantRules, Problems, Snapshot};

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
    Check(Config),
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

/// Where the settings are.
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
        let settings = self.settings()?;
        let rules = MerchantRules::of(&settings);
        let snapshot = Snapshot::load_for(rules, &settings.merchants, &environment)?;
        Ok((settings, snapshot))
    }
}

/// A command that did not end well.
enum Failure {
    /// The answer is no: a bad sign, a failed probe. Exit code 1.
    No(String),
    /// The arguments or the input make no sense. Exit code 2.
    Usage(String),
    /// Bad configuration. Exit code 78.
    Config(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(message) | Self::Usage(message) | Self::Config(message) => {
                f.write_str(message)
            }
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Config(problems.to_string())
    }
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(config) => check::check(&config),
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
            eprintln!("{failure}");
            ExitCode::from(match failure {
                Failure::No(_) => 1,
                Failure::Usage(_) => 2,
                Failure::Config(_) => 78,
            })
        }
    }
}

/// Waits for Ctrl-C or a supervisor's SIGTERM.
async fn interrupted() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::No(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
