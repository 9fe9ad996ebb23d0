//! One session of one command: where its results go and what they say about themselves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::machine::{Machine, today};
use crate::rows::{self, Row};
use crate::{Common, peer, summary};

/// Collects rows and remarks, and writes the run directory at the end.
pub struct Session {
    command: &'static str,
    machine: Machine,
    directory: PathBuf,
    /// The cells that are measured, when it is a part of them; what else the directory says of the command stays.
    part: Vec<String>,
    remarks: Vec<String>,
    rows: Vec<Row>,
}

impl Session {
    /// Opens a session of `command`; without `out` it goes to `bench/runs/<date>-<machine>`.
    pub fn new(command: &'static str, out: Option<PathBuf>) -> Session {
        let machine = Machine::read();
        let directory =
            out.unwrap_or_else(|| Path::new("bench/runs").join(format!("{}-{}", today(), machine.slug())));
        Session { command, machine, directory, part: Vec::new(), remarks: Vec::new(), rows: Vec::new() }
    }

    /// Measures these cells only, if any.
    pub fn of_cells(mut self, cells: &[String]) -> Session {
        self.part = cells.to_vec();
        self
    }

    /// Notes something that a reader of the figures must know, and says it now.
    pub fn remark(&mut self, remark: impl Into<String>) {
        let remark = remark.into();
        eprintln!("{}: {remark}", self.command);
        self.remarks.push(remark);
    }

    /// The fracas binary to measure; says which version it is.
    ///
    /// # Errors
    /// There is none.
    pub fn fracas(&mut self, args: &Common) -> anyhow::Result<PathBuf> {
        let binary = args.fracas();
        let version = peer::fracas::version(&binary).map_err(|missing| anyhow::anyhow!(missing))?;
        self.remark(format!("fracas: {version}"));
        Ok(binary)
    }

    /// Adds one figure.
    pub fn add(&mut self, cell: &str, subject: &str, run: u32, metric: &str, value: f64) {
        let [command, cell, subject, metric] = [self.command, cell, subject, metric].map(str::to_owned);
        self.rows.push(Row { command, cell, subject, run, metric, value });
    }

    /// Writes README.md, raw.csv and summary.md, and prints the tables.
    pub fn finish(self) -> anyhow::Result<()> {
        let Session { command, machine, directory, part, remarks, rows } = self;
        let cannot_write = || format!("cannot write to {}; name another --out", directory.display());
        fs::create_dir_all(&directory).with_context(cannot_write)?;
        println!("{}", summary::markdown(&rows));
        let all = rows::replace(&directory.join("raw.csv"), command, &part, rows)?;
        fs::write(directory.join("summary.md"), summary::markdown(&all)).with_context(cannot_write)?;
        let readme = directory.join("README.md");
        let before = fs::read_to_string(&readme).unwrap_or_else(|_| INTRODUCTION.to_owned());
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let mut section = format!(
            "`cargo run --release -p fracas-bench -- {}`\n\n{}",
            arguments.join(" "),
            machine.markdown()
        );
        for remark in remarks {
            section.push_str(&format!("- {remark}\n"));
        }
        fs::write(&readme, with_section(&before, &heading(command, &part), &section))
            .with_context(cannot_write)?;
        eprintln!("{command}: wrote {}", directory.display());
        Ok(())
    }
}

const INTRODUCTION: &str = "# A bench session

`raw.csv` has every run, `summary.md` is computed from it: medians with min–max, ratios run by
run, targets. The measured process runs alone on core 0; the driver, the echo server and load generators on core 1.
Subjects take turns, in a new process each time; processor time is the process's own, from the scheduler's
nanosecond counters or, for generators, from wait4(2).
";

/// A part has a section of its own: it was another session, with remarks of its own.
fn heading(command: &str, part: &[String]) -> String {
    if part.is_empty() { command.to_owned() } else { format!("{command}: {}", part.join(", ")) }
}

/// Puts `section` under its heading, in place of an earlier one.
fn with_section(document: &str, name: &str, section: &str) -> String {
    let heading = format!("## {name}\n");
    let mut parts: Vec<String> =
        document.split_inclusive('\n').fold(vec![String::new()], |mut parts, line| {
            if line.starts_with("## ") {
                parts.push(String::new());
            }
            parts.last_mut().expect("there is always a part").push_str(line);
            parts
        });
    parts.retain(|part| !part.starts_with(&heading));
    let mut document = parts.concat().trim_end().to_owned();
    document.push_str(&format!("\n\n{heading}\n{section}"));
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_replaces_its_earlier_self_only() {
        let first = with_section("# T\n\nintro\n", "proxy", "a\n");
        let second = with_section(&first, "load", "b\n");
        assert_eq!(with_section(&second, "proxy", "c\n"), "# T\n\nintro\n\n## load\n\nb\n\n## proxy\n\nc\n");
    }
}
