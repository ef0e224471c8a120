//! The docs as text: both READMEs are equals, short, and every link leads somewhere. What their blocks do is tried by
//! `blackbox/documented.rs`.

#![allow(
    clippy::unwrap_used,
    reason = "a document that cannot be read fails the test"
)]

#[path = "docs/markdown.rs"]
mod markdown;

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use markdown::{Block, anchors, links, pages_in, parts, read, rows, spans, target};

const ENGLISH: &str = "README.md";
const CHINESE: &str = "README.zh-CN.md";
const MAX_LINES: usize = 200;

/// Every page that a reader may be sent to.
fn pages() -> Vec<String> {
    let folders = ["", "conf", "src", "tests", "benches", ".github"];
    folders.into_iter().flat_map(pages_in).collect()
}

/// A block without comments, which are in the reader's language.
fn without_comments(block: &Block) -> Block {
    // A comment begins after two spaces or more; one `#` or `//` alone may be a part of a command.
    let without = |line: &String| {
        let comment = ["  #", "  //"].iter().filter_map(|mark| line.find(mark));
        let end = comment.min().unwrap_or(line.len());
        line[..end].trim_end().to_owned()
    };
    Block {
        language: block.language.clone(),
        lines: block.lines.iter().map(without).collect(),
    }
}

#[test]
fn both_readmes_are_short() {
    for readme in [ENGLISH, CHINESE] {
        let lines = read(readme).lines().count();
        assert!(lines <= MAX_LINES, "{readme}: {lines} lines");
    }
}

#[test]
fn both_readmes_have_the_same_examples() {
    let [english, chinese] = [ENGLISH, CHINESE].map(|readme| {
        let (blocks, _) = parts(&read(readme));
        blocks.iter().map(without_comments).collect::<Vec<_>>()
    });
    assert!(english.len() >= 7, "{} blocks", english.len());
    for (english, chinese) in english.iter().zip(&chinese) {
        assert_eq!(english, chinese);
    }
    assert_eq!(english.len(), chinese.len());
}

#[test]
fn both_readmes_lead_to_the_same_pages() {
    let [english, chinese] = [ENGLISH, CHINESE].map(|readme| {
        let links: BTreeSet<_> = links(&read(readme)).into_iter().collect();
        assert!(links.len() >= 20, "{readme}: {links:?}");
        links
    });
    let own = BTreeSet::from([CHINESE.to_owned()]);
    let missing: Vec<_> = english
        .difference(&chinese)
        .filter(|link| !own.contains(*link))
        .collect();
    assert!(missing.is_empty(), "{CHINESE} lacks {missing:?}");
    let more: Vec<_> = chinese
        .difference(&english)
        .filter(|link| *link != ENGLISH)
        .collect();
    assert!(more.is_empty(), "{ENGLISH} lacks {more:?}");
}

#[test]
fn both_readmes_give_each_sent_its_row() {
    for readme in [ENGLISH, CHINESE] {
        let text = read(readme);
        let firsts = rows(&text).map(|row| row[0].to_owned());
        let after = firsts.skip_while(|first| first != "`sent`").skip(1);
        let values: Vec<_> = after.take(3).collect();
        assert_eq!(values, ["`no`", "`unknown`", "`yes`"], "{readme}");
    }
}

#[test]
fn each_readme_leads_to_the_other_at_its_top() {
    for (readme, other) in [(ENGLISH, CHINESE), (CHINESE, ENGLISH)] {
        let text = read(readme);
        let top: Vec<_> = text.lines().take(5).collect();
        assert!(top.join("\n").contains(&format!("]({other})")), "{readme}");
    }
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut count = 0;
    let mut broken = Vec::new();
    for page in pages() {
        for link in links(&read(&page)) {
            let Some((file, anchor)) = target(&page, &link) else {
                continue;
            };
            count += 1;
            let is_right = file.exists()
                && anchor.is_none_or(|anchor| {
                    let text = fs::read_to_string(&file).unwrap_or_default();
                    anchors(&text).contains(&anchor)
                });
            if !is_right {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(count > 80, "{count} links");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_index_has_every_page_and_the_readme_leads_to_them() {
    let index = links(&read("conf/README.md"));
    let readme = links(&read(ENGLISH));
    let pages = pages_in("conf");
    assert!(pages.len() > 6, "{pages:?}");
    for page in pages.iter().filter(|page| *page != "conf/README.md") {
        let name = page.trim_start_matches("conf/").to_owned();
        assert!(index.contains(&name), "conf/README.md lacks {name}");
        assert!(readme.contains(page), "README.md lacks {page}");
    }
}

#[test]
fn each_page_says_first_what_it_is_for() {
    for page in pages_in("conf") {
        let text = read(&page);
        let mut paragraphs = text.split("\n\n");
        assert!(paragraphs.next().unwrap().starts_with("# "), "{page}");
        let first = paragraphs.next().unwrap();
        let is_prose = first.starts_with(|c: char| c.is_ascii_uppercase());
        assert!(is_prose && first.len() > 60, "{page}: {first}");
    }
}

/// Returns the first column of the table below a heading's row.
fn first_column(text: &str, head: &str) -> Vec<String> {
    let firsts = rows(text).map(|row| row.join(" | "));
    let after = firsts.skip_while(|row| !row.starts_with(head)).skip(1);
    let rows = after.take_while(|row| row.starts_with('`'));
    rows.map(|row| row.split(" | ").next().unwrap().to_owned())
        .collect()
}

/// The properties of a schema below its sections, each with its default; `tls.cert` for one two sections deep.
fn properties(schema: &Value, prefix: &str) -> Vec<(String, Option<Value>)> {
    let all = schema["properties"].as_object().unwrap();
    let nested = all.iter().flat_map(|(name, property)| {
        let name = format!("{prefix}{name}");
        match property["properties"].is_object() {
            true => properties(property, &format!("{name}.")),
            false => vec![(name, property.get("default").cloned())],
        }
    });
    nested.collect()
}

fn schema(name: &str) -> Value {
    serde_json::from_str(&read(&format!("conf/schema/{name}.json"))).unwrap()
}

#[test]
fn every_setting_is_in_the_table_with_its_default() {
    let page = read("conf/configuration.md");
    let table: Vec<_> = rows(&page).filter(|row| row.len() == 3).collect();
    let settings = properties(&schema("settings"), "");
    assert!(settings.len() > 30, "{settings:?}");
    for (setting, default) in &settings {
        let named = format!("`{setting}`");
        let row = table.iter().find(|row| row[0].contains(&named));
        let row = row.unwrap_or_else(|| panic!("{setting} has no row"));
        if let Some(default) = default {
            let shown: Value = serde_json::from_str(row[1].trim_matches('`')).unwrap();
            assert_eq!(&shown, default, "{setting}");
        }
    }
    // The neighbour: a row that names no setting.
    let documented = first_column(&page, "setting | default");
    let documented: BTreeSet<_> = documented.iter().flat_map(|cell| spans(cell)).collect();
    let settings: BTreeSet<_> = settings.into_iter().map(|it| it.0).collect();
    assert_eq!(documented, settings);
}

#[test]
fn every_field_of_a_merchant_is_in_the_table() {
    let page = read("conf/configuration.md");
    let documented = first_column(&page, "field | meaning");
    let documented: BTreeSet<_> = documented.iter().flat_map(|cell| spans(cell)).collect();
    let merchant = &schema("merchants")["properties"]["merchant"]["items"];
    let fields = properties(merchant, "");
    let fields: BTreeSet<_> = fields.into_iter().map(|it| it.0).collect();
    assert!(fields.len() > 10, "{fields:?}");
    assert_eq!(documented, fields);
}

#[test]
fn every_setting_that_a_sentence_names_is_one() {
    let table = first_column(&read("conf/configuration.md"), "setting | default");
    let settings: BTreeSet<_> = table.iter().flat_map(|cell| spans(cell)).collect();
    let sections: BTreeSet<_> = settings
        .iter()
        .filter_map(|name| name.split_once('.').map(|(section, _)| section.to_owned()))
        .collect();
    let mut count = 0;
    for page in pages().iter().filter(|page| *page != "CHANGELOG.md") {
        for span in spans(&read(page)) {
            let name = span.split([' ', '=']).next().unwrap();
            let Some((section, key)) = name.split_once('.') else {
                continue;
            };
            // `log.rs` is a file, and `callbacks.tls` stands for both of its keys.
            let is_name = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
            if !sections.contains(section) || !key.chars().all(is_name) || key == "rs" {
                continue;
            }
            count += 1;
            let is_one = settings.contains(name) || name == "callbacks.tls";
            assert!(is_one, "{page}: {name} is no setting");
        }
    }
    assert!(count > 30, "{count} names");
}
