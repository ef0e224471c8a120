//! The README's session with the demo: each of its commands, typed at a running demo, is answered as it stands there.

use crate::demo::Demo;
use crate::harness::{is_installed, skip};
use std::process::Command;

/// A command and what the README says of its output, line by line.
struct Exchange {
    command: String,
    answer: Vec<String>,
}

/// What is typed in the README's session, in its order.
fn session() -> Vec<Exchange> {
    let readme = include_str!("../../README.md");
    let (_, session) = readme.split_once("\n## A session with the demo\n").unwrap();
    let (session, _) = session.split_once("\n## ").unwrap();
    let mut exchanges: Vec<Exchange> = Vec::new();
    for block in session.split("\n```console\n").skip(1) {
        let (block, _) = block.split_once("\n```").unwrap();
        for line in block.lines() {
            match (line.strip_prefix("$ "), exchanges.last_mut()) {
                (Some(command), _) => exchanges.push(Exchange {
                    command: command.to_owned(),
                    answer: Vec::new(),
                }),
                (None, Some(exchange)) => exchange.answer.push(line.trim_start().to_owned()),
                (None, None) => panic!("an answer before any command: {line}"),
            }
        }
    }
    exchanges
}

/// The parts of a line that are the same each day, in their order: request ids and times are not, nor what is left out.
fn lasting(line: &str) -> Vec<String> {
    let mut line = line.to_owned();
    for (before, after) in [
        ("\"request_id\":\"", "\""),
        ("\"paytime\":\"", "\""),
        ("x-request-id: ", "\n"),
    ] {
        if let Some(at) = line.find(before) {
            let from = at + before.len();
            let to = line[from..]
                .find(after)
                .map_or(line.len(), |end| from + end);
            line.replace_range(from..to, "…");
        }
    }
    line.split('…').map(str::to_owned).collect()
}

#[test]
fn the_readme_s_session_is_what_the_demo_says() {
    if !is_installed("curl") {
        return skip(
            "the_readme_s_session_is_what_the_demo_says",
            "curl is not installed",
        );
    }
    let demo = Demo::start();
    let [app, callbacks, ops] = &demo.countersign;
    let addresses = [
        ("http://127.0.0.1:8000", demo.shop.trim_end_matches('/')),
        ("http://127.0.0.1:8080", app),
        ("http://127.0.0.1:8081", callbacks),
        ("http://127.0.0.1:8090", demo.platform.trim_end_matches('/')),
        ("http://127.0.0.1:9900", ops),
    ];
    let here = |text: &str| {
        let mut text = text.to_owned();
        for (documented, actual) in addresses {
            text = text.replace(documented, actual);
        }
        text
    };
    let exchanges = session();
    assert!(exchanges.len() >= 5, "{} commands", exchanges.len());
    for Exchange { command, answer } in exchanges {
        let typed = Command::new("sh").args(["-c", &here(&command)]).output();
        let said = String::from_utf8(typed.unwrap().stdout).unwrap();
        let mut rest = said.as_str();
        for part in answer.iter().flat_map(|line| lasting(&here(line))) {
            let found = rest.find(&part);
            let at = found.unwrap_or_else(|| panic!("{command}: no {part:?} in {rest:?}"));
            rest = &rest[at + part.len()..];
        }
        assert_eq!(answer.is_empty(), said.is_empty(), "{command}: {said}");
    }
}
