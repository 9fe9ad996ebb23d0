//! Raw measurements: one row per figure of one run, kept as CSV; everything else is computed from them.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

const HEADER: &str = "command,cell,subject,run,metric,value";

/// One figure of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which part of the bench: `proxy`, `load`, `soak`.
    pub command: String,
    /// The load: `echo-64B-1000`.
    pub cell: String,
    /// The peer or generator.
    pub subject: String,
    /// Counted from 1.
    pub run: u32,
    /// What, with its unit last: `cpu_us_per_round_trip`.
    pub metric: String,
    /// How much.
    pub value: f64,
}

/// Which figure is meant, over all runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// As in [`Row`].
    pub command: &'a str,
    /// As in [`Row`].
    pub cell: &'a str,
    /// As in [`Row`].
    pub subject: &'a str,
    /// As in [`Row`].
    pub metric: &'a str,
}

/// The middle and the spread of a figure over its runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle value; of an even number, the mean of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// The spread of one figure, or `None` if it was not measured.
pub fn spread(rows: &[Row], key: Key<'_>) -> Option<Spread> {
    spread_of(values(rows, key).map(|(_, value)| value).collect())
}

/// The spread of one figure over another, each run by itself: what slows the machine for a while slows both, and
/// the ratio stays. `None` if no run measured both.
pub fn ratio(rows: &[Row], own: Key<'_>, other: Key<'_>) -> Option<Spread> {
    let other: Vec<(u32, f64)> = values(rows, other).filter(|(_, value)| *value > 0.0).collect();
    let of_run = |(run, value): (u32, f64)| {
        let (_, other) = other.iter().find(|(its, _)| *its == run)?;
        Some(value / other)
    };
    spread_of(values(rows, own).filter_map(of_run).collect())
}

/// A figure's values with the runs that they are of.
fn values(rows: &[Row], key: Key<'_>) -> impl Iterator<Item = (u32, f64)> {
    let is_meant = move |row: &&Row| {
        (row.command.as_str(), row.cell.as_str(), row.subject.as_str(), row.metric.as_str())
            == (key.command, key.cell, key.subject, key.metric)
    };
    rows.iter().filter(is_meant).map(|row| (row.run, row.value))
}

fn spread_of(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some(Spread { median, min, max })
}

/// The smallest of the sorted values that at least `percent` of them do not pass; always one that was measured.
///
/// # Panics
/// There is no value.
pub fn nearest_rank<T: Copy>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

/// Replaces the rows of `command` in `file`, or of these cells of it if any are named, by `rows`; returns all that the
/// file then holds.
pub fn replace(file: &Path, command: &str, cells: &[String], rows: Vec<Row>) -> anyhow::Result<Vec<Row>> {
    let mut all = match fs::read_to_string(file) {
        Ok(text) => {
            parse(&text).with_context(|| format!("{} is not ours; name another --out", file.display()))?
        }
        Err(_) => Vec::new(),
    };
    all.retain(|row| row.command != command || !cells.is_empty() && !cells.contains(&row.cell));
    all.extend(rows);
    fs::write(file, print(&all))?;
    Ok(all)
}

fn print(rows: &[Row]) -> String {
    let mut text = format!("{HEADER}\n");
    for row in rows {
        let Row { command, cell, subject, run, metric, value } = row;
        text.push_str(&format!("{command},{cell},{subject},{run},{metric},{value}\n"));
    }
    text
}

fn parse(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut lines = text.lines();
    ensure!(lines.next() == Some(HEADER), "the first line is not {HEADER:?}");
    lines
        .enumerate()
        .map(|(index, line)| parse_row(line).with_context(|| format!("line {}", index + 2)))
        .collect()
}

fn parse_row(line: &str) -> anyhow::Result<Row> {
    let fields: Vec<&str> = line.split(',').collect();
    let [command, cell, subject, run, metric, value] = fields[..] else {
        anyhow::bail!("{} columns where 6 belong", fields.len())
    };
    Ok(Row {
        command: command.to_owned(),
        cell: cell.to_owned(),
        subject: subject.to_owned(),
        run: run.parse()?,
        metric: metric.to_owned(),
        value: value.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(run: u32, value: f64) -> Row {
        Row {
            command: "proxy".into(),
            cell: "echo-64B-1".into(),
            subject: "floor".into(),
            run,
            metric: "cpu_us".into(),
            value,
        }
    }

    const KEY: Key<'_> = Key { command: "proxy", cell: "echo-64B-1", subject: "floor", metric: "cpu_us" };

    #[test]
    fn the_median_is_the_middle_of_odd_and_the_mean_of_even_counts() {
        let odd = [row(1, 9.0), row(2, 1.0), row(3, 2.0)];
        assert_eq!(spread(&odd, KEY), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread(&odd[..2], KEY), Some(Spread { median: 5.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread(&[], KEY), None);
    }

    #[test]
    fn a_ratio_is_taken_run_by_run() {
        let of = |subject: &str, run, value| Row { subject: subject.into(), ..row(run, value) };
        // The machine is four times slower in the second run, and in the third only one of them ran.
        let rows =
            [of("floor", 1, 10.0), of("x", 1, 11.0), of("x", 2, 48.0), of("floor", 2, 40.0), of("x", 3, 1.0)];
        let found = ratio(&rows, Key { subject: "x", ..KEY }, KEY).unwrap();
        assert!((found.min - 1.1).abs() < 1e-9 && (found.max - 1.2).abs() < 1e-9, "{found:?}");
        assert_eq!(ratio(&rows, KEY, Key { subject: "y", ..KEY }), None);
    }

    #[test]
    fn the_nearest_rank_is_a_value_that_was_measured() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!([nearest_rank(&values, 50), nearest_rank(&values, 99)], [100, 198]);
        assert_eq!(nearest_rank(&[7], 99), 7);
    }

    #[test]
    fn rows_survive_the_file_and_a_second_session_replaces_only_its_command() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("raw.csv");
        let load = Row { command: "load".into(), ..row(1, 0.1 + 0.2) };
        replace(&file, "proxy", &[], vec![row(1, 1.0)]).unwrap();
        replace(&file, "load", &[], vec![load.clone()]).unwrap();
        let all = replace(&file, "proxy", &[], vec![row(1, 2.0)]).unwrap();
        assert_eq!(all, [load.clone(), row(1, 2.0)]);
        let burst = |value| Row { cell: "burst".into(), ..row(1, value) };
        replace(&file, "proxy", &["burst".into()], vec![burst(3.0)]).unwrap();
        let all = replace(&file, "proxy", &["burst".into()], vec![burst(4.0)]).unwrap();
        assert_eq!(all, [load, row(1, 2.0), burst(4.0)], "the command's other cells stay");
        assert_eq!(parse(&fs::read_to_string(&file).unwrap()).unwrap(), all);
    }

    #[test]
    fn a_foreign_file_is_refused_with_its_line() {
        assert!(parse("a,b\n").is_err());
        let error = parse(&format!("{HEADER}\nproxy,c,s,1,m,2\nproxy,c\n")).unwrap_err();
        assert_eq!(error.to_string(), "line 3");
    }
}
