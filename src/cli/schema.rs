//! `countersign schema`: JSON Schemas of both files, for editors.

use clap::{Args, ValueEnum};

use super::failure::Failure;
use crate::cli::print::say;

/// The schema of the settings.
pub(super) const SETTINGS: &str = include_str!("../../conf/schema/settings.json");
/// The schema of the merchants file.
pub(super) const MERCHANTS: &str = include_str!("../../conf/schema/merchants.json");

#[derive(Args)]
#[command(
    after_help = "Example:\n  countersign schema settings > settings.schema.json\n\n\
    An editor finds it by a first line such as `#:schema settings.schema.json`."
)]
pub(super) struct SchemaCommand {
    /// The file
    #[arg(value_enum)]
    file: SchemaFile,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SchemaFile {
    Settings,
    Merchants,
}

/// Prints the schema of a file.
pub(super) fn schema(args: &SchemaCommand) -> Result<(), Failure> {
    let text = match args.file {
        SchemaFile::Settings => SETTINGS,
        SchemaFile::Merchants => MERCHANTS,
    };
    say!("{}", text.trim_end());
    Ok(())
}
