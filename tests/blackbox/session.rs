//! The session with the demo, from the README and the sandbox's page: each command, typed at a running demo, prints what
//! is shown.

use crate::demo::Demo;
use crate::documented::{Class, Exchange, exchanges, of};
use crate::harness::{is_installed, skip};
use std::process::Command;

/// The parts of a line that are the same each day, in their order: request ids and times are not, nor what is left out.
pub(crate) fn lasting(line: &str) -> Vec<String> {
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
fn the_documented_session_is_what_the_demo_prints() {
    if !is_installed("curl") {
        return skip(
            "the_documented_session_is_what_the_demo_prints",
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
    let blocks = of(Class::Session);
    let typed: Vec<_> = blocks
        .iter()
        .flat_map(|(_, block)| exchanges(block))
        .collect();
    assert!(typed.len() >= 5, "{} commands", typed.len());
    for Exchange { command, output } in typed {
        let typed = Command::new("sh").args(["-c", &here(&command)]).output();
        let said = String::from_utf8(typed.unwrap().stdout).unwrap();
        let mut rest = said.as_str();
        for part in output
            .iter()
            .flat_map(|line| lasting(&here(line.trim_start())))
        {
            let found = rest.find(&part);
            let at = found.unwrap_or_else(|| panic!("{command}: no {part:?} in {rest:?}"));
            rest = &rest[at + part.len()..];
        }
        assert_eq!(output.is_empty(), said.is_empty(), "{command}: {said}");
    }
}
