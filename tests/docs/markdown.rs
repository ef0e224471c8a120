//! Markdown as far as the docs use it: fenced blocks, headings, links, tables, code spans.

#![allow(
    dead_code,
    reason = "the test of the text and that of the blocks use different parts"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The word after its fence.
    pub language: String,
    /// Its lines, without the fence's own indentation.
    pub lines: Vec<String>,
}

impl Block {
    /// The lines as one text.
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// The top of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads a page by its path from the top.
pub fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The pages of a folder, by their paths from the top, in order.
pub fn pages_in(folder: &str) -> Vec<String> {
    let entries = root().join(folder).read_dir().unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    pages.sort();
    assert!(!pages.is_empty(), "{folder}");
    pages
}

/// Splits a page into its fenced blocks and the lines around them.
pub fn parts(text: &str) -> (Vec<Block>, Vec<&str>) {
    let (mut blocks, mut prose) = (Vec::new(), Vec::new());
    let mut open: Option<(usize, Block)> = None;
    for line in text.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), None) => {
                let line = line.get(*indent..).unwrap_or_default();
                block.lines.push(line.to_owned());
            }
            (None, Some(language)) => {
                let block = Block {
                    language: language.to_owned(),
                    lines: Vec::new(),
                };
                open = Some((line.len() - line.trim_start().len(), block));
            }
            (None, None) => prose.push(line),
        }
    }
    assert!(open.is_none(), "a block without an end: {open:?}");
    (blocks, prose)
}

/// The code spans of a page, those over two lines joined.
pub fn spans(text: &str) -> Vec<String> {
    let (_, prose) = parts(text);
    let paragraphs = prose.join("\n");
    let paragraphs = paragraphs.split("\n\n");
    let joined = paragraphs.map(|paragraph| paragraph.replace('\n', " "));
    joined
        .flat_map(|line| {
            let inside = line.split('`').skip(1).step_by(2);
            inside.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// The cells of each row of all tables.
pub fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| {
        let row = row.trim_end_matches('|').trim_end();
        row.split(" | ").map(str::trim).collect()
    })
}

/// The targets of a page's links and pictures.
pub fn links(text: &str) -> Vec<String> {
    let (_, prose) = parts(text);
    let prose = prose.join("\n");
    let links = prose.split("](").skip(1);
    links
        .filter_map(|rest| rest.split(')').next().map(str::to_owned))
        .collect()
}

/// The anchors of a page's headings, as GitHub makes them.
pub fn anchors(text: &str) -> Vec<String> {
    let (_, prose) = parts(text);
    let headings = prose.into_iter().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// The file that a link of a page leads to, and its anchor; `None` where it leads elsewhere.
pub fn target(page: &str, link: &str) -> Option<(PathBuf, Option<String>)> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    let page = root().join(page);
    let file = match path {
        "" => page,
        path => page.parent().unwrap().join(path),
    };
    Some((file, anchor))
}
