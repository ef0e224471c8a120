//! README.md and README.zh-CN.md tell their readers in two ways; what is typed and what is answered is the same in both.

#![allow(
    clippy::unwrap_used,
    reason = "a document that cannot be read fails the test"
)]

use std::fs;
use std::path::Path;

const ENGLISH: &str = "README.md";
const CHINESE: &str = "README.zh-CN.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(readme: &str) -> String {
    fs::read_to_string(root().join(readme)).unwrap()
}

/// A fenced block: the word behind its fence, and its lines without comments, which speak the reader's language.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut parts = text.split("\n```");
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        let (language, lines) = block.split_once('\n').unwrap_or((block, ""));
        found.push(Block {
            language: language.to_owned(),
            lines: lines.lines().map(without_comment).collect(),
        });
    }
    found
}

/// A comment stands behind two spaces or more; one `#` or `//` alone may be a part of a command.
fn without_comment(line: &str) -> String {
    let comment = ["  #", "  //"].iter().filter_map(|mark| line.find(mark));
    line[..comment.min().unwrap_or(line.len())]
        .trim_end()
        .to_owned()
}

fn typed(text: &str) -> Vec<Block> {
    let mut blocks = blocks(text);
    blocks.retain(|block| ["sh", "console"].contains(&block.language.as_str()));
    blocks
}

/// The cells of each row of all tables.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| row.split(" | ").map(str::trim).collect())
}

/// Code, status and `sent` of each refusal.
fn codes(text: &str) -> Vec<[&str; 3]> {
    let rows = rows(text).filter_map(|row| row.first_chunk::<3>().copied());
    rows.filter(|[code, status, _]| code.starts_with('`') && status.starts_with(['4', '5']))
        .collect()
}

#[test]
fn both_have_their_readers_type_the_same() {
    let [english, chinese] = [ENGLISH, CHINESE].map(|readme| typed(&read(readme)));
    assert!(english.len() >= 10, "{} blocks", english.len());
    let commands = english.iter().flat_map(|block| &block.lines);
    let commands = commands.filter(|line| line.contains("curl ") || line.contains("countersign "));
    assert!(commands.count() >= 10);
    for (english, chinese) in english.iter().zip(&chinese) {
        assert_eq!(english, chinese);
    }
    assert_eq!(english.len(), chinese.len());
}

#[test]
fn both_list_the_same_commands_and_options() {
    let [english, chinese] = [ENGLISH, CHINESE].map(|readme| {
        let all = blocks(&read(readme));
        let lists = all.into_iter().filter(|block| block.language.is_empty());
        let lines = lists.flat_map(|block| block.lines);
        // The explanation behind is in the reader's language.
        let words = |line: String| {
            let command = line.split("  ").next().unwrap_or_default().to_owned();
            let options = line
                .split([' ', ':', '：'])
                .filter(|it| it.starts_with(['-', '[']));
            let options: Vec<_> = options.map(str::to_owned).collect();
            (command, options)
        };
        lines.map(words).collect::<Vec<_>>()
    });
    assert!(english.len() >= 10, "{english:?}");
    assert_eq!(english, chinese);
}

#[test]
fn both_name_the_same_codes() {
    let [english, chinese] = [ENGLISH, CHINESE].map(read);
    assert!(codes(&english).len() >= 15, "{:?}", codes(&english));
    assert_eq!(codes(&english), codes(&chinese));
}

#[test]
fn both_name_the_same_faults() {
    let faults = |text: &str| -> Vec<String> {
        let rows = rows(text).map(|row| row[0].to_owned());
        let rows = rows.skip_while(|first| !first.starts_with("`wrong-sign`"));
        rows.take_while(|first| first.starts_with('`')).collect()
    };
    let [english, chinese] = [ENGLISH, CHINESE].map(|readme| faults(&read(readme)));
    assert!(english.len() >= 5, "{english:?}");
    assert_eq!(english, chinese);
}

#[test]
fn an_example_in_the_chinese_one_is_one_of_the_english_one() {
    let [english, chinese] = [ENGLISH, CHINESE].map(|readme| blocks(&read(readme)));
    let mut others = 0;
    for block in chinese {
        if !["", "sh", "console"].contains(&block.language.as_str()) {
            assert!(english.contains(&block), "{block:?}");
            others += 1;
        }
    }
    assert!(others >= 3, "{others} examples");
}

#[test]
fn each_leads_to_the_other_and_to_files_that_are_there() {
    for (readme, other) in [(ENGLISH, CHINESE), (CHINESE, ENGLISH)] {
        let text = read(readme);
        let top: Vec<_> = text.lines().take(5).collect();
        assert!(top.join("\n").contains(&format!("]({other})")), "{readme}");
        let links = text.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split([')', '#']).next());
        let mut count = 0;
        for link in links.filter(|link| !link.contains("://")) {
            assert!(root().join(link).exists(), "{readme}: {link}");
            count += 1;
        }
        assert!(count >= 5, "{readme}: {count} links");
    }
}
