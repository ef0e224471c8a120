//! The commands that the docs show: the real binary parses each of them, so that none outlives its option.

use super::markdown::{pages_in, parts, read, rows, spans};
use super::{Class, of, the};
use crate::harness::{command, run_with_input};
use std::collections::BTreeSet;
use std::process::Command;

/// Splits a line of shell into commands, and these into words, as far as the docs need it: quotes, comments, `&&`, `|`, `;`. A
/// file that output goes to counts as a command.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote) = (None::<String>, None::<char>);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '&' | '|' | ';' | '<' | '>' | '\n') => {
                commands.last_mut().unwrap().extend(word.take());
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    commands.last_mut().unwrap().extend(word);
    commands.retain(|words| !words.is_empty());
    commands
}

/// The arguments of each command of ours in a line of shell, those within `sh -c '…'` and after `xargs` too.
fn ours(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for words in commands(line) {
        let is_ours = |word: &String| word == "countersign" || word == "/usr/bin/countersign";
        let first = words
            .iter()
            .position(|word| !word.contains('=') || word.starts_with('-'))
            .unwrap_or(0);
        match words[first].as_str() {
            _ if is_ours(&words[first]) => found.push(words[first + 1..].to_vec()),
            "xargs" => {
                let at = words.iter().position(is_ours);
                found.extend(at.map(|at| words[at + 1..].to_vec()));
            }
            "cargo" if words[first..].starts_with(&["cargo".into(), "run".into()]) => {
                let at = words.iter().position(|word| word == "--").unwrap();
                found.push(words[at + 1..].to_vec());
            }
            "sh" | "/bin/sh" => found.extend(ours(words.last().unwrap())),
            _ => {}
        }
    }
    found
}

/// Has the binary parse the arguments: the request for help comes last, after all of them were looked at.
#[track_caller]
fn parses(place: &str, arguments: &[String]) {
    let output = command().args(arguments).arg("--help").output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{place}: {arguments:?}: {complaint}"
    );
}

#[test]
fn shell_is_split_as_a_shell_does() {
    let split = |line| {
        commands(line)
            .iter()
            .map(|it| it.join("|"))
            .collect::<Vec<_>>()
    };
    assert_eq!(split("a 'b c' --d=\"e f\"   # g"), ["a|b c|--d=e f"]);
    assert_eq!(split("a && b | c; d &"), ["a", "b", "c", "d"]);
    assert_eq!(split("a >b"), ["a", "b"]);
    assert_eq!(split("# a"), [""; 0]);
    let arguments = |line| ours(line).iter().map(|it| it.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        arguments("A=b countersign c | xargs -rn1 countersign d"),
        ["c", "d"]
    );
    assert_eq!(
        arguments("/bin/sh -c '/usr/bin/countersign run --upgrade &'"),
        ["run --upgrade"]
    );
    assert_eq!(
        arguments("cargo run -- demo && install countersign /usr"),
        ["demo"]
    );
}

#[test]
fn the_binary_parses_every_command_of_the_blocks() {
    let mut count = 0;
    for (page, block) in of(Class::Commands) {
        let before = count;
        for arguments in block.lines.iter().flat_map(|line| ours(line)) {
            parses(&page, &arguments);
            count += 1;
        }
        assert!(count > before, "{page}: no command of ours: {block:?}");
    }
    assert!(count > 20, "{count} commands");
    for (page, block) in of(Class::System) {
        let ours: Vec<_> = block.lines.iter().flat_map(|line| ours(line)).collect();
        assert!(ours.is_empty(), "{page}: {ours:?} are nobody's to parse");
    }
}

#[test]
fn the_binary_parses_every_command_of_the_sentences() {
    let folders = ["", "conf", "src", "tests", "benches", ".github"];
    let mut count = 0;
    let pages = folders.into_iter().flat_map(pages_in);
    // The changelog is history: it names what once was.
    for page in pages.filter(|page| page != "CHANGELOG.md") {
        for span in spans(&read(&page)) {
            if !span.starts_with("countersign ") && !span.starts_with("cargo run -- ") {
                continue;
            }
            for arguments in ours(&span) {
                parses(&page, &arguments);
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count} commands");
}

#[test]
fn a_command_with_an_unknown_option_or_value_does_not_parse() {
    for line in [
        "countersign run --upgrad",
        "countersign inbox list --state nowhere",
        "countersign inbx list",
    ] {
        let output = command().args(&ours(line)[0]).arg("--help").output();
        assert!(!output.unwrap().status.success(), "{line}");
    }
}

#[test]
fn every_block_of_shell_has_the_syntax_of_one() {
    for class in [
        Class::Commands,
        Class::TourSetup,
        Class::System,
        Class::Backup,
    ] {
        for (page, block) in of(class) {
            let output = run_with_input(Command::new("bash").arg("-n"), block.text());
            assert!(output.status.success(), "{page}: {output:?}");
        }
    }
}

fn help(arguments: &[&str]) -> String {
    let output = command().args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands below one, as its help lists them.
fn below(arguments: &[&str]) -> BTreeSet<String> {
    let help = help(arguments);
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return BTreeSet::new();
    };
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.trim_start().split(' ').next());
    names
        .filter(|name| *name != "help" && !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The long options of a text.
fn options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let options = words.filter(|word| word.starts_with("--") && word.len() > 3);
    options.map(str::to_owned).collect()
}

#[test]
fn the_list_of_commands_has_every_command_and_no_option_that_is_none() {
    let listed: Vec<_> = the(Class::Synopsis).lines;
    let names: BTreeSet<_> = listed
        .iter()
        .map(|line| line.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(names, below(&[]));
    for line in &listed {
        let name = line.split(' ').nth(1).unwrap();
        let known = options(&help(&[name]));
        let more: Vec<_> = options(line).difference(&known).cloned().collect();
        assert!(more.is_empty(), "{name}: {more:?}");
        for below in below(&[name]) {
            let is_named = line.contains(&below) || read("conf/sandbox.md").contains(&below);
            assert!(is_named, "{name} {below} is not in the list");
        }
    }
}

#[test]
fn every_option_is_on_some_page() {
    let pages: String = pages_in("conf").iter().map(|page| read(page)).collect();
    let (blocks, _) = parts(&pages);
    let code = blocks.iter().map(|it| it.text()).chain(spans(&pages));
    let documented: BTreeSet<_> = code.flat_map(|code| options(&code)).collect();
    let mut missing = Vec::new();
    let mut count = 0;
    let mut look = |arguments: &[&str]| {
        for option in options(&help(arguments)) {
            count += 1;
            if !documented.contains(&option) && option != "--help" && option != "--version" {
                missing.push(format!("{arguments:?} {option}"));
            }
        }
    };
    for name in below(&[]) {
        look(&[&name]);
        for below in below(&[&name]) {
            look(&[&name, &below]);
        }
    }
    assert!(count > 40, "{count} options");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_fault_of_the_sandbox_is_in_its_table_and_no_other() {
    let output = command().args(["sandbox", "--fault", "none"]).output();
    let complaint = String::from_utf8(output.unwrap().stderr).unwrap();
    let (_, known) = complaint.split_once("expected one of ").unwrap();
    let known = known.lines().next().unwrap().split(", ");
    let known: BTreeSet<_> = known.map(str::to_owned).collect();
    let page = read("conf/sandbox.md");
    let cells = rows(&page).map(|row| row[0].to_owned());
    let table = cells.skip_while(|first| first != "fault").skip(1);
    let table = table.take_while(|first| first.starts_with('`'));
    let documented: BTreeSet<_> = table.flat_map(|cell| spans(&cell)).collect();
    assert!(known.len() > 20, "{known:?}");
    assert_eq!(known, documented);
}
