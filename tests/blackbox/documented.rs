//! Every block of code in the README and the pages of `conf/` belongs to a class, and is run or loaded as its class says.

mod commands;
mod examples;
mod files;
#[path = "../docs/markdown.rs"]
pub(crate) mod markdown;
mod tour;

use markdown::{Block, pages_in, parts, read};

/// What a test does with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Typed at a running demo; its output is compared.
    Session,
    /// What starts a configuration of one's own, an app and the sandbox.
    TourSetup,
    /// Typed after that, in the page's order; its output is compared.
    Tour,
    /// Typed at a running demo; figures and times of the output may differ.
    Conformance,
    /// Typed in an empty folder; its output is compared.
    Exact,
    /// The reply to a reload after a mistake in the merchants file.
    BrokenReload,
    /// A program that makes a call.
    PhpCall,
    /// A program that takes a result.
    PhpBack,
    /// The request that an app receives.
    Delivery,
    /// Settings, complete or a part, which `check` accepts over a minimal file.
    Settings,
    /// The same for the merchants file.
    Merchants,
    /// Shell whose commands of ours the binary can parse.
    Commands,
    /// Shell without a command of ours: its syntax is checked.
    System,
    /// The copy of a running sidecar's store.
    Backup,
    /// A location for nginx in front of the callback listener.
    Nginx,
    /// A drop-in for the unit.
    DropIn,
    /// A scrape job for Prometheus.
    Scrape,
    /// The list of all commands.
    Synopsis,
}

use Class::*;

const README: &str = "README.md";
const CONFIGURATION: &str = "conf/configuration.md";
const OPERATING: &str = "conf/operating.md";
const SANDBOX: &str = "conf/sandbox.md";

/// Each block by its page and the beginning of its first line. A block that is not listed fails a test: a new one gets its
/// class on purpose. README.zh-CN.md has the blocks of README.md, which tests/docs.rs compares.
const BLOCKS: &[(&str, &str, Class)] = &[
    (README, "cargo build --release", System),
    (README, "git clone", Commands),
    (
        "README.md",
        "$ curl -s http://127.0.0.1:8080/api/query",
        Session,
    ),
    (README, "$call = [", PhpCall),
    (README, "POST /pay/back", Delivery),
    (README, "if (!hash_equals", PhpBack),
    (README, "countersign init pay", Commands),
    ("conf/callbacks.md", "countersign inbox list", Commands),
    (CONFIGURATION, "merchants = ", Settings),
    (CONFIGURATION, "[[merchant]]", Merchants),
    (CONFIGURATION, "[end]", Merchants),
    (CONFIGURATION, "$ curl -s -X POST", BrokenReload),
    (CONFIGURATION, "[platform]", Settings),
    ("conf/errors.md", "$ printf k", Exact),
    ("conf/fleet.md", "[inbox]", Settings),
    ("conf/metrics.md", "scrape_configs:", Scrape),
    (OPERATING, "export COUNTERSIGN_CONFIG", System),
    (OPERATING, "cargo build --release", Commands),
    (OPERATING, "cargo install cargo-deb", System),
    (OPERATING, "install -m 0640", Commands),
    (OPERATING, "echo 'd /run", System),
    (OPERATING, "editor /etc", Commands),
    (OPERATING, "countersign inbox list", Commands),
    (OPERATING, "countersign orders list", Commands),
    (OPERATING, "countersign check && apt", Commands),
    (OPERATING, "countersign run --upgrade", Commands),
    (OPERATING, "[Service]", DropIn),
    (OPERATING, "umask 077", Backup),
    (OPERATING, "systemctl stop", System),
    (OPERATING, "location /cashier", Nginx),
    (OPERATING, "[callbacks]", Settings),
    (OPERATING, "countersign init ", Synopsis),
    (SANDBOX, "$ curl -si", Session),
    (SANDBOX, "$ curl -s http://127.0.0.1:8080/apis", Session),
    (SANDBOX, "$ curl -s http://127.0.0.1:8080/api/q", Session),
    (SANDBOX, "$ curl -s http://127.0.0.1:8090", Session),
    (SANDBOX, "countersign init pay", TourSetup),
    (SANDBOX, "$ curl -i -s", Tour),
    (SANDBOX, "$ countersign inbox list", Tour),
    (SANDBOX, "$ echo 'next_key", Tour),
    (SANDBOX, "countersign sandbox --merchants", Commands),
    (SANDBOX, "$ countersign sandbox conform", Conformance),
];

/// The pages whose every block is listed.
fn pages() -> Vec<String> {
    let mut pages = pages_in("conf");
    pages.insert(0, README.to_owned());
    pages
}

/// Returns the entry of a block, by its number among the entries.
fn entry(page: &str, block: &Block) -> Option<usize> {
    let first = block.lines.first()?;
    BLOCKS
        .iter()
        .position(|(on, begins, _)| *on == page && first.starts_with(begins))
}

/// The blocks of a class, each with its page, in the pages' order.
pub(crate) fn of(class: Class) -> Vec<(String, Block)> {
    let mut found = Vec::new();
    for page in pages() {
        for block in parts(&read(&page)).0 {
            if entry(&page, &block).is_some_and(|at| BLOCKS[at].2 == class) {
                found.push((page.clone(), block));
            }
        }
    }
    assert!(!found.is_empty(), "no block is {class:?}");
    found
}

/// The one block of a class.
pub(crate) fn the(class: Class) -> Block {
    let mut blocks = of(class);
    assert_eq!(blocks.len(), 1, "{class:?}");
    blocks.remove(0).1
}

/// A command of a console block, and its output line by line.
pub(crate) struct Exchange {
    pub(crate) command: String,
    pub(crate) output: Vec<String>,
}

/// The commands of a console block, in their order.
pub(crate) fn exchanges(block: &Block) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in &block.lines {
        match (line.strip_prefix("$ "), exchanges.last_mut()) {
            (Some(command), _) => exchanges.push(Exchange {
                command: command.to_owned(),
                output: Vec::new(),
            }),
            (None, Some(exchange)) => exchange.output.push(line.clone()),
            (None, None) => panic!("output before any command: {line}"),
        }
    }
    exchanges
}

#[test]
fn every_block_has_its_class_and_every_class_its_block() {
    let mut found = [0; BLOCKS.len()];
    let mut unknown = Vec::new();
    for page in pages() {
        for block in parts(&read(&page)).0 {
            match entry(&page, &block) {
                Some(at) => found[at] += 1,
                None => unknown.push(format!("{page}: {:?}", block.lines.first())),
            }
        }
    }
    assert!(unknown.is_empty(), "blocks without a class: {unknown:#?}");
    for ((page, begins, _), count) in BLOCKS.iter().zip(found) {
        assert_eq!(count, 1, "{page}: {begins}");
    }
}

#[test]
fn a_block_s_class_fits_its_language() {
    for &(page, begins, class) in BLOCKS {
        let blocks = parts(&read(page)).0;
        let block = blocks.iter().find(|it| it.lines[0].starts_with(begins));
        let language = match class {
            Session | Tour | Conformance | Exact | BrokenReload => "console",
            PhpCall | PhpBack => "php",
            Delivery => "http",
            Settings | Merchants => "toml",
            Commands | TourSetup | System | Backup => "sh",
            Nginx => "nginx",
            DropIn => "ini",
            Scrape => "yaml",
            Synopsis => "",
        };
        assert_eq!(block.unwrap().language, language, "{page}: {begins}");
    }
}
