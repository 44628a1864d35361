//! What one comparison came to, and how it is printed.

use std::collections::BTreeMap;

/// How many differences of one file are printed in full.
const DETAILS_MAX: usize = 10;

/// The result of one case, trace or step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Baton did what Kafka did.
    Agreed,
    /// Baton did something else on purpose; the rule says what and why.
    Explained(&'static str),
    /// Baton did something else.
    Unexplained(String),
    /// Not asked for.
    Skipped,
}

/// The counts of one file. `skipped` is outside of the sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileReport {
    pub file: String,
    pub agreed: usize,
    pub explained: usize,
    pub unexplained: usize,
    pub skipped: usize,
    /// Rule → how often it explained a difference.
    pub rules: BTreeMap<&'static str, usize>,
    /// The first unexplained differences, each with the id of its case.
    pub details: Vec<String>,
}
impl FileReport {
    pub fn new(file: impl Into<String>) -> Self { Self { file: file.into(), ..Self::default() } }

    /// Counts the verdict on the case `id`.
    pub fn add(&mut self, id: &str, verdict: Verdict) {
        match verdict {
            Verdict::Agreed => self.agreed += 1,
            Verdict::Skipped => self.skipped += 1,
            Verdict::Explained(rule) => {
                self.explained += 1;
                *self.rules.entry(rule).or_default() += 1;
            }
            Verdict::Unexplained(why) => {
                self.unexplained += 1;
                if self.details.len() < DETAILS_MAX {
                    self.details.push(format!("{id}: {why}"));
                }
            }
        }
    }
}

impl FileReport {
    /// Counts one trace whose differences all were predicted by these rules.
    pub fn explain<'a>(&mut self, rules: impl IntoIterator<Item = &'a &'static str>) {
        self.explained += 1;
        for rule in rules {
            *self.rules.entry(rule).or_default() += 1;
        }
    }
}

/// One line per file, the rules used, the first differences, and the sum as the last line.
pub fn render(reports: &[FileReport]) -> String {
    let mut out = format!("{:<36} {:>8} {:>10} {:>12} {:>8}\n", "file", "agreed", "explained", "unexplained", "skipped");
    for r in reports {
        out += &format!("{:<36} {:>8} {:>10} {:>12} {:>8}\n", r.file, r.agreed, r.explained, r.unexplained, r.skipped);
        for (rule, times) in &r.rules {
            out += &format!("    explained {times} times: {rule}\n");
        }
        for d in &r.details {
            out += &format!("    UNEXPLAINED {d}\n");
        }
        if r.unexplained > r.details.len() {
            out += &format!("    … and {} more\n", r.unexplained - r.details.len());
        }
    }
    let sum = |f: fn(&FileReport) -> usize| reports.iter().map(f).sum::<usize>();
    out += &format!("{} agreed, {} explained, {} unexplained\n", sum(|r| r.agreed), sum(|r| r.explained), sum(|r| r.unexplained));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_sum_and_skipped_cases_are_outside_of_it() {
        let mut a = FileReport::new("a.jsonl");
        a.add("1", Verdict::Agreed);
        a.add("2", Verdict::Explained("some-rule"));
        a.add("3", Verdict::Skipped);
        let mut b = FileReport::new("b.jsonl");
        b.add("4", Verdict::Agreed);
        b.add("5", Verdict::Unexplained("m1 has t:0".into()));
        let text = render(&[a, b]);
        assert!(text.ends_with("\n2 agreed, 1 explained, 1 unexplained\n"), "{text}");
        assert!(text.contains("UNEXPLAINED 5: m1 has t:0") && text.contains("explained 1 times: some-rule"), "{text}");
    }
}
