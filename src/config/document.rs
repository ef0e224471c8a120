//! A TOML text that reports every problem with its line and key path, and never quotes a value.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problem::Problem;

/// Past this size a broken text is reported by its first error alone: each error costs memory, and noise of 64 MiB
/// would make millions.
const MAX_RECOVERY: usize = 4 << 20;

/// Bytes that are no letter or digit; each may be a token, which costs the parser some 50 bytes, and a table costs more.
/// 10,000 merchants have 0.6 million. A file of 64 MiB that passed would take gigabytes.
const MAX_MARKS: usize = 4 << 20;

/// Collects problems while the tables of one file are read.
pub(super) struct Document<'t> {
    file: PathBuf,
    text: &'t str,
    starts: OnceCell<Vec<u32>>,
    torn: BTreeSet<usize>,
    problems: Vec<Problem>,
}

impl<'t> Document<'t> {
    /// Keeps what could be read beside the syntax errors, so that the rest of the file is checked too.
    pub(super) fn parse(file: &Path, text: &'t str) -> (Self, DeTable<'t>) {
        let mut document = Self {
            file: file.to_owned(),
            text,
            starts: OnceCell::new(),
            torn: BTreeSet::new(),
            problems: Vec::new(),
        };
        let marks = text.bytes().filter(|b| !b.is_ascii_alphanumeric()).count();
        if marks > MAX_MARKS {
            let expected = "holds more than some 50,000 merchants, which is too much";
            document.push(None, "", expected.into());
            document.torn.insert(0);
            return (document, DeTable::new());
        }
        let (table, errors) = match DeTable::parse(text) {
            Ok(table) => (table, Vec::new()),
            Err(error) if text.len() > MAX_RECOVERY => {
                (Spanned::new(0..0, DeTable::new()), vec![error])
            }
            Err(_) => DeTable::parse_recoverable(text),
        };
        for error in errors {
            document.syntax_error(&error);
        }
        (document, table.into_inner())
    }

    /// Reports a problem of the value at `at`, unless its line has a syntax error already.
    pub(super) fn problem(&mut self, at: Range<usize>, path: &str, expected: impl Into<String>) {
        let line = self.line(at.start);
        if !self.torn.contains(&line) {
            self.push(Some(line), path, expected.into());
        }
    }

    /// Reports a missing key, unless a syntax error may have hidden it.
    pub(super) fn missing(&mut self, at: Option<Range<usize>>, path: &str, expected: &str) {
        // A key that seems missing may be in the part that could not be read.
        if self.torn.is_empty() {
            let line = at.map(|at| self.line(at.start));
            self.push(line, path, expected.into());
        }
    }

    /// Returns true where the text has syntax errors.
    pub(super) fn is_torn(&self) -> bool {
        !self.torn.is_empty()
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        let starts = self.starts.get_or_init(|| {
            let ends = self.text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
            std::iter::once(0)
                .chain(ends.map(|(i, _)| i as u32 + 1))
                .collect()
        });
        starts.partition_point(|start| *start as usize <= offset)
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Returns the message alone: the error's `Display` shows the source line, which may hold a key.
    fn syntax_error(&mut self, error: &toml::de::Error) {
        let line = error.span().map(|span| self.line(span.start));
        // One mistake often makes several errors; the first on a line is the one that helps.
        if self.torn.insert(line.unwrap_or_default()) {
            self.push(line, "", error.message().into());
        }
    }

    fn push(&mut self, line: Option<usize>, path: &str, expected: String) {
        self.problems.push(Problem {
            file: self.file.clone(),
            line,
            path: path.into(),
            expected,
        });
    }
}

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| "expected a string".into())
}

pub(super) fn whole_number(value: &DeValue<'_>) -> Result<u64, String> {
    value
        .as_integer()
        .and_then(unsigned)
        .ok_or_else(|| "expected a whole number".into())
}

fn unsigned(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Reports an unknown key, with the known one that was probably meant.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(known) => format!("unknown key, did you mean \"{known}\"?"),
        None => format!("unknown key, expected one of {}", known.join(", ")),
    }
}

fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    // Long text is no slip of the pen, and the distance takes time in the square of it.
    if key.len() > 40 {
        return None;
    }
    let key = key.to_lowercase();
    let near = |known: &&&str| strsim::levenshtein(&key, known) <= (known.len() / 3).clamp(1, 2);
    known.iter().find(near).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_near() {
        let known = ["merid", "key", "key_file", "old_keys", "back", "front"];
        assert_eq!(nearest("keyfile", &known), Some("key_file"));
        assert_eq!(nearest("mer_id", &known), Some("merid"));
        assert_eq!(nearest("Key", &known), Some("key"));
        assert_eq!(nearest("old_key", &known), Some("old_keys"));
        assert_eq!(nearest("timeout", &known), None);
    }

    #[test]
    fn lines_count_from_one() {
        let (document, _) = Document::parse(Path::new("f"), "a = 1\nb = 2\n");
        assert_eq!([0, 5, 6].map(|at| document.line(at)), [1, 1, 2]);
    }
}
