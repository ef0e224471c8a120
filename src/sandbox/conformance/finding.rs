//! The findings of a conformance run: the lines of its table, and the same as JUnit XML.

use std::fmt;
use std::time::Duration;

use maud::{PreEscaped, html};

/// The reason for which a case did not hold.
#[derive(Debug)]
pub enum Doubt {
    /// The case was seen to fail.
    Broken(String),
    /// The case could not be tried, or its end could not be observed.
    Unseen(String),
}

impl Doubt {
    /// Names the part of a case that it is about.
    pub fn in_case(self, part: &str) -> Self {
        match self {
            Self::Broken(seen) => Self::Broken(format!("{part}: {seen}")),
            Self::Unseen(seen) => Self::Unseen(format!("{part}: {seen}")),
        }
    }
}

/// The observation in a case that holds, or the reason against it.
pub type CaseOutcome = Result<String, Doubt>;

/// One case and its outcome.
pub struct Finding {
    /// The case, in a word or two.
    pub case: &'static str,
    /// The observation.
    pub outcome: CaseOutcome,
    /// The duration.
    pub took: Duration,
}

impl Finding {
    /// Returns true where the case was seen to fail.
    pub fn is_broken(&self) -> bool {
        matches!(self.outcome, Err(Doubt::Broken(_)))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verdict, seen) = match &self.outcome {
            Ok(seen) => ("held", seen),
            Err(Doubt::Broken(seen)) => ("NOT HELD", seen),
            Err(Doubt::Unseen(seen)) => ("not seen", seen),
        };
        write!(f, "{verdict:<9} {:<19} {seen}", self.case)
    }
}

/// Formats `findings` as the JUnit XML that build servers read. Cases that were not observed are skipped there.
pub fn junit(findings: &[Finding]) -> String {
    let suite = "countersign sandbox conformance";
    let broken = findings.iter().filter(|one| one.is_broken()).count();
    let unseen = |one: &&Finding| matches!(one.outcome, Err(Doubt::Unseen(_)));
    let skipped = findings.iter().filter(unseen).count();
    let took: Duration = findings.iter().map(|one| one.took).sum();
    let time = |took: Duration| format!("{:.3}", took.as_secs_f64());
    let xml = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"))
        testsuites {
            testsuite name=(suite) tests=(findings.len()) failures=(broken) errors="0" skipped=(skipped) time=(time(took)) {
                @for Finding { case, outcome, took } in findings {
                    testcase classname=(suite) name=(case) time=(time(*took)) {
                        @match outcome {
                            Ok(seen) => { system-out { (seen) } }
                            Err(Doubt::Broken(seen)) => { failure message=(seen) {} }
                            Err(Doubt::Unseen(seen)) => { skipped message=(seen) {} }
                        }
                    }
                }
            }
        }
    };
    xml.into_string()
}
