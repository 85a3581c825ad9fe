//! `doctor`: looks at a coordinator or a node and what it rests on, and says for each thing that is not right what to do about it. Owns
//! how findings are ordered and shown; the checks are in a file for each side. Changes nothing.

mod coordinator;
mod machine;
mod node;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CliError, Common, output};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm doctor --data-dir /var/lib/upswarm-coordinator
  upswarm doctor --data-dir /var/lib/upswarm --all

Ends with 0 when nothing is wrong, else with 1.";

/// Check a coordinator or a node and what it rests on; says what to do about what is not right.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The data directory of the coordinator or of the node.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// What is right too.
    #[arg(long)]
    all: bool,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// It keeps something from working, or will soon.
    Wrong,
    /// Somebody should know of it.
    Look,
    /// It cannot be told.
    Unknown,
    Right,
}

/// What one check found.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: &'static str,
    grade: Grade,
    says: String,
    /// What to do; empty where there is nothing to do.
    #[serde(rename = "do")]
    todo: String,
}

/// Findings as they come.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn right(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, Grade::Right, says, "");
    }

    fn wrong(&mut self, check: &'static str, says: impl Into<String>, todo: impl Into<String>) {
        self.add(check, Grade::Wrong, says, todo);
    }

    fn look(&mut self, check: &'static str, says: impl Into<String>, todo: impl Into<String>) {
        self.add(check, Grade::Look, says, todo);
    }

    fn unknown(&mut self, check: &'static str, says: impl Into<String>, todo: impl Into<String>) {
        self.add(check, Grade::Unknown, says, todo);
    }

    /// Right when it holds, else worth a look.
    fn holds(&mut self, check: &'static str, holds: bool, right: &str, (says, todo): (String, &str)) {
        if holds { self.right(check, right) } else { self.look(check, says, todo) }
    }

    fn add(&mut self, check: &'static str, grade: Grade, says: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding { check, grade, says: says.into(), todo: todo.into() });
    }
}

/// What was found.
#[derive(Serialize)]
pub(super) struct Report {
    checks: usize,
    wrong: usize,
    look: usize,
    unknown: usize,
    findings: Vec<Finding>,
}

/// Whether a directory is a coordinator's.
pub(super) fn is_coordinator(dir: &Path) -> bool {
    dir.join("roots").is_dir() && dir.join("admin.token").exists()
}

/// Every check of a directory's side, the worst first.
pub(super) fn report(dir: &Path) -> Result<Report, CliError> {
    let mut findings = Findings::default();
    if is_coordinator(dir) {
        coordinator::check(dir, &mut findings);
    } else if dir.join("node.toml").exists() {
        node::check(dir, &mut findings);
    } else {
        return Err(CliError::Refused(format!(
            "{} is the data directory of neither a coordinator nor a node that you may read; run this as its user, and set one up with \
             upswarm coordinator init or upswarm node join",
            dir.display()
        )));
    }
    let mut all = findings.0;
    all.sort_by_key(|finding| finding.grade);
    let count = |grade| all.iter().filter(|finding| finding.grade == grade).count();
    let (wrong, look, unknown) = (count(Grade::Wrong), count(Grade::Look), count(Grade::Unknown));
    Ok(Report { checks: all.len(), wrong, look, unknown, findings: all })
}

pub(crate) fn run(args: &Args, common: Common) -> Result<(), CliError> {
    let Report { checks, wrong, look, unknown, findings: mut all } = report(&args.data_dir)?;
    all.retain(|finding| args.all || finding.grade != Grade::Right);
    let mut table = output::Table::new(&["", "CHECK", "FOUND", "WHAT TO DO"]);
    for finding in &all {
        let grade = match finding.grade {
            Grade::Wrong => "WRONG",
            Grade::Look => "LOOK",
            Grade::Unknown => "?",
            Grade::Right => "right",
        };
        table.row([grade.to_owned(), finding.check.to_owned(), finding.says.clone(), finding.todo.clone()]);
    }
    let text = text(&all, checks, (wrong, look, unknown));
    common.list(&Report { checks, wrong, look, unknown, findings: all }, &table, || text)?;
    if wrong > 0 {
        return Err(CliError::Failed(anyhow::anyhow!(
            "{}",
            output::count(wrong, "thing is wrong", "things are wrong")
        )));
    }
    Ok(())
}

fn text(all: &[Finding], checks: usize, (wrong, look, unknown): (usize, usize, usize)) -> String {
    let mut lines = Vec::new();
    for finding in all {
        let grade = match finding.grade {
            Grade::Wrong => "WRONG  ",
            Grade::Look => "look   ",
            Grade::Unknown => "?      ",
            Grade::Right => "right  ",
        };
        lines.push(format!("{grade}{}: {}", finding.check, output::one_line(&finding.says)));
        if !finding.todo.is_empty() {
            lines.push(format!("       -> {}", finding.todo));
        }
    }
    lines.push(format!("{checks} checks: {wrong} wrong, {look} to look at, {unknown} that could not be told"));
    lines.join("\n")
}

#[cfg(test)]
mod tests;
