//! Problems of a file: the place, the key, and what was expected.

use std::fmt;
use std::path::{Path, PathBuf};

/// Limit of reported problems; more would fill the log without helping.
const MAX_PROBLEMS: usize = 1_000;

/// One reason for which a file is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or `--set`, or the environment variable's name.
    pub file: PathBuf,
    /// Counted from 1; none where the problem has no one place.
    pub line: Option<usize>,
    /// The key's path, entries counted from 1, as in `merchant[2].key`; empty for the file as a whole.
    pub path: String,
    /// The mistake or the expectation: lower case, never a secret.
    pub expected: String,
}

impl Problem {
    /// Builds a problem without a line.
    pub fn new(file: &Path, path: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            path: path.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.expected)
    }
}

/// Every problem of one load, in the file's order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Returns `Ok` where the list is empty; a list past 1,000 is cut, and the last entry says so.
    pub(super) fn none_of(mut found: Vec<Problem>) -> Result<(), Self> {
        let Some(first) = found.first() else {
            return Ok(());
        };
        let file = first.file.clone();
        found.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        if found.len() > MAX_PROBLEMS {
            let more = format!("{} more problems", found.len() - MAX_PROBLEMS);
            found.truncate(MAX_PROBLEMS);
            found.push(Problem::new(&file, "", more));
        }
        Err(Self(found))
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_says_where_which_and_what() {
        let mut problem = Problem::new(
            Path::new("conf/merchants.toml"),
            "merchant[2].key",
            "expected a non-empty string",
        );
        problem.line = Some(12);
        assert_eq!(
            problem.to_string(),
            "conf/merchants.toml:12: merchant[2].key: expected a non-empty string"
        );
    }

    #[test]
    fn endless_problems_are_cut_and_counted() {
        let one = Problem::new(Path::new("f"), "a", "b");
        let Problems(cut) = Problems::none_of(vec![one; 1_500]).unwrap_err();
        assert_eq!(cut.len(), 1_001);
        assert_eq!(cut[1_000].to_string(), "f: 500 more problems");
    }
}
