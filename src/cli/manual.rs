//! `countersign completions` and `countersign man`: both are made from the definition of the command line.

use std::io::{ErrorKind, Write, stdout};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::failure::Failure;

#[derive(Args)]
pub(super) struct CompletionsCommand {
    /// The shell that will read them
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManCommand {
    /// A command, as in `man inbox` or `man sandbox conformance`; without one, the page of the whole program
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Prints the completions of a shell.
pub(super) fn completions(args: &CompletionsCommand, mut program: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "countersign", &mut script);
    print(&script)
}

/// Prints a manual page, for `man -l -` or a folder of the manual path.
pub(super) fn man(args: &ManCommand, mut program: Command) -> Result<(), Failure> {
    // Only a built program has its commands' full names, such as `countersign-inbox-list`.
    program.build();
    let mut command = &program;
    for name in &args.command {
        let found = command.find_subcommand(name);
        let missing = || Failure::Usage(format!("{} has no command {name:?}", command.get_name()));
        command = found.ok_or_else(missing)?;
    }
    let mut text = Vec::new();
    let rendered = Man::new(command.clone()).render(&mut text);
    rendered.expect("a buffer in memory takes every write");
    print(&text)
}

fn print(text: &[u8]) -> Result<(), Failure> {
    match stdout().write_all(text) {
        // The reader has seen enough, as with `| head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::No(format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}
