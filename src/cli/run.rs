//! `countersign run`

use super::{Config, Failure};
use crate::server;

pub(super) fn run(config: &Config) -> Result<(), Failure> {
    let (settings, snapshot) = config.load()?;
    server::run(&settings, snapshot).map_err(|error| Failure::Config(error.to_string()))
}
