//! What a person sees while the load runs: one screen on a terminal, a line a second elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use fracas_loadgen::measure::{Counts, Distribution, Quantile, Timeline, judge_so_far};
use fracas_loadgen::report::{count, latency, plural};
use fracas_loadgen::runner::{Opened, Progress, RunningLoad};
use fracas_loadgen::scenario::Plan;

/// Of a terminal that does not say how wide it is.
const COLUMNS_DEFAULT: usize = 80;

/// The screen, or the lines.
pub struct Live {
    title: String,
    length: Option<Duration>,
    on_terminal: bool,
    is_quiet: bool,
    /// Lines on the screen and how wide it was then: what was drawn wide wraps when it becomes narrow.
    drawn: Vec<usize>,
    last_second: u64,
    before: Progress,
    /// The last whole second: rate and percentiles.
    second: Vec<String>,
    counts: Counts,
    own_lag: Distribution,
    /// Whether the schedule has been kept so far.
    verdict: String,
    stopping: bool,
}

impl Live {
    /// Nothing is shown when a program reads (`--json`) and nobody watches standard error.
    pub fn new(plan: &Plan, json: bool) -> Live {
        let on_terminal = std::io::stderr().is_terminal();
        let users = format!("{}, seed {}", plural(u64::from(plan.connections), "connection"), plan.seed);
        Live {
            title: format!("{} · {users}", plan.target),
            length: plan.duration(),
            on_terminal,
            is_quiet: json && !on_terminal,
            drawn: Vec::new(),
            last_second: 0,
            before: Progress::default(),
            second: Vec::new(),
            counts: Counts::default(),
            own_lag: Distribution::default(),
            verdict: String::new(),
            stopping: false,
        }
    }

    /// Connections are being opened, which may take a while.
    pub fn connecting(&mut self) {
        self.draw(&[format!("fracas load · {}", self.title), "opening connections …".to_owned()]);
    }

    /// They are open.
    pub fn ready(&mut self, opened: &Opened) {
        self.clear();
        if !self.is_quiet {
            let Opened { open, asked, threads, .. } = opened;
            let connections = match asked {
                0 => "a connection for each request".to_owned(),
                _ if open == asked => "all open".to_owned(),
                _ => format!("{} open", count(*open)),
            };
            say(&format!(
                "fracas load · {}: {connections}, {}",
                self.title,
                plural(*threads as u64, "thread")
            ));
        }
    }

    /// The run goes on; `faults` are those in force, as `PROXY BEHAVIOR`.
    pub fn show(&mut self, running: &RunningLoad, elapsed: Duration, faults: &[String]) {
        if self.is_quiet {
            return;
        }
        let now = running.progress();
        let is_new_second = elapsed.as_secs() > self.last_second;
        if is_new_second {
            self.last_second = elapsed.as_secs();
            let delta = running.take();
            self.counts.merge(&delta.counts());
            self.own_lag.merge(&delta.own_lag());
            let verdict = judge_so_far(&self.counts, &self.own_lag);
            let reason = verdict.reasons.first().map_or(String::new(), |reason| format!(": {reason}"));
            self.verdict = format!("{} so far{reason}", verdict.grade.name());
            self.second = describe_second(&self.before, &now, &delta);
            self.before = now;
        }
        if self.on_terminal {
            let columns = terminal_columns();
            let lines = screen(
                columns,
                &bar(columns, elapsed, self.length, self.stopping),
                &self.second,
                &now,
                faults,
                &self.verdict,
            );
            self.draw(&lines);
        } else if is_new_second {
            let fault =
                if faults.is_empty() { String::new() } else { format!("  fault: {}", faults.join(", ")) };
            say(&format!(
                "{:>4} s  {}  in all: errors {}  timeouts {}  dropped {}{fault}",
                self.last_second,
                self.second.join("  "),
                count(now.error),
                count(now.timeout),
                count(now.dropped)
            ));
        }
    }

    /// It was interrupted and drains, or was interrupted again and ends.
    pub fn stopping(&mut self, interrupts: u32) {
        self.stopping = true;
        if !self.on_terminal && !self.is_quiet {
            match interrupts {
                1 => say("interrupted: waiting for what is in flight; once more to end at once"),
                _ => say("interrupted again: ending"),
            }
        }
    }

    /// It has ended.
    pub fn done(&mut self) {
        self.clear();
    }

    fn draw(&mut self, lines: &[String]) {
        if !self.on_terminal {
            return;
        }
        let columns = terminal_columns();
        let mut text = self.home(columns);
        for line in lines {
            text.push_str(&cut(line, columns));
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.iter().map(|line| line.chars().count().min(columns)).collect();
        write(&text);
    }

    fn clear(&mut self) {
        if self.on_terminal && !self.drawn.is_empty() {
            write(&format!("{}\x1b[J", self.home(terminal_columns())));
            self.drawn.clear();
        }
    }

    /// Back to where the last screen began: a line that was drawn on a wider terminal takes several rows now.
    fn home(&self, columns: usize) -> String {
        let rows: usize = self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum();
        if rows == 0 { String::new() } else { format!("\x1b[{rows}A\r") }
    }
}

/// A line on standard error. A terminal that is gone, after SIGHUP, shows nothing more, and the run goes on.
fn say(line: &str) {
    write(&format!("{line}\n"));
}

fn write(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// How wide the terminal of an output is, if it is one; what is no terminal has no width.
pub fn columns_of(output: &impl std::os::fd::AsFd) -> usize {
    terminal_size::terminal_size_of(output)
        .map_or(usize::MAX, |(terminal_size::Width(columns), _)| columns.into())
}

/// How wide the terminal is now; it may be drawn wider and narrower while the load runs.
fn terminal_columns() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stderr());
    size.map_or(COLUMNS_DEFAULT, |(terminal_size::Width(columns), _)| usize::from(columns)).max(20)
}

/// No line is wider than the terminal: it would wrap, and the screen scroll.
fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns - 1).chain(['…']).collect()
}

/// The lines of the screen: the last second, then what has happened since the start, then the faults in force.
fn screen(
    columns: usize,
    bar: &str,
    second: &[String],
    now: &Progress,
    faults: &[String],
    verdict: &str,
) -> Vec<String> {
    let mut lines = vec![bar.to_owned()];
    lines.extend(wrap(columns, "last second", second));
    let totals = [
        format!("sent {}", count(now.sent)),
        format!("ok {}", count(now.ok)),
        format!("errors {}", count(now.error)),
        format!("timeouts {}", count(now.timeout)),
        format!("dropped {}", count(now.dropped)),
    ];
    lines.extend(wrap(columns, "since start", &totals));
    let present =
        [format!("waiting {}", count(now.waiting)), format!("connections {}", count(now.connections))];
    lines.extend(wrap(columns, "now", &present));
    if !faults.is_empty() {
        lines.extend(wrap(columns, "fault", faults));
    }
    if !verdict.is_empty() {
        lines.push(verdict.to_owned());
    }
    lines
}

/// Parts behind a label, on as many lines as they need.
fn wrap(columns: usize, label: &str, parts: &[String]) -> Vec<String> {
    const INDENT: usize = 13;
    let mut lines = vec![format!("{label:<INDENT$}")];
    for part in parts {
        let line = lines.last_mut().expect("it begins with one");
        let used = line.chars().count();
        if used > INDENT && used + 2 + part.chars().count() > columns {
            lines.push(format!("{:INDENT$}{part}", ""));
        } else {
            line.push_str(if used > INDENT { "  " } else { "" });
            line.push_str(part);
        }
    }
    lines
}

fn describe_second(before: &Progress, now: &Progress, delta: &Timeline) -> Vec<String> {
    let (response, lag) = (delta.response(), delta.lag());
    let mut parts = vec![format!("{:>7} ok/s", count(now.ok.saturating_sub(before.ok)))];
    if response.count() == 0 {
        let why = if delta.warm_up().planned > 0 { "warm-up: not measured" } else { "nothing ended" };
        parts.push(why.to_owned());
        return parts;
    }
    parts.push(format!("response p50 {:>7}", latency(response.quantile(Quantile::P50))));
    parts.push(format!("p99 {:>7}", latency(response.quantile(Quantile::P99))));
    parts.push(format!("max {:>7}", latency(response.max())));
    parts.push(format!("lag p99 {:>7}", latency(lag.quantile(Quantile::P99))));
    parts
}

fn bar(columns: usize, elapsed: Duration, length: Option<Duration>, stopping: bool) -> String {
    let word = if stopping { "draining; Ctrl-C ends at once" } else { "" };
    let Some(length) = length else { return format!("{:.1} s  {word}", elapsed.as_secs_f64()) };
    let share = (elapsed.as_secs_f64() / length.as_secs_f64().max(1e-9)).clamp(0.0, 1.0);
    let word = if !stopping && share >= 1.0 { "draining" } else { word };
    let time = format!("{:.1} of {:.1} s  {word}", elapsed.as_secs_f64(), length.as_secs_f64());
    let width = columns.saturating_sub(time.chars().count() + 3).min(40);
    let full = (share * width as f64) as usize;
    format!("[{}{}] {time}", "█".repeat(full), "·".repeat(width - full)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> Progress {
        Progress {
            planned: 123_456_789,
            sent: 123_456_789,
            ok: 120_000_000,
            error: 3_000_000,
            timeout: 456_789,
            dropped: 1_000_000,
            waiting: 99_999,
            connections: 100_000,
        }
    }

    #[test]
    fn the_screen_fits_terminals_of_every_width() {
        let delta = {
            let mut timeline = Timeline::default();
            let mut interval = fracas_loadgen::measure::Interval::default();
            interval.response[0] = [1_234_567, 987_654_321].into_iter().collect();
            timeline.add(&interval);
            timeline
        };
        let second = describe_second(&Progress::default(), &busy(), &delta);
        let faults = ["shop 20:delay".to_owned(), "redis hang".to_owned(), "db 5:error".to_owned()];
        for columns in [40, 60, 80, 200] {
            for stopping in [false, true] {
                let bar = bar(columns, Duration::from_secs(5), Some(Duration::from_secs(3600)), stopping);
                let lines = screen(columns, &bar, &second, &busy(), &faults, "valid so far");
                if columns >= 60 {
                    let widest = lines.iter().map(|line| line.chars().count()).max();
                    assert!(widest <= Some(columns), "{columns}: {lines:#?}");
                }
                assert!(lines.iter().all(|line| cut(line, columns).chars().count() <= columns));
                let text = lines.join("\n");
                for part in
                    ["last second", "since start", "errors 3,000,000", "fault", "redis hang", "valid so"]
                {
                    assert!(text.contains(part), "{columns}: {part}\n{text}");
                }
            }
        }
    }

    #[test]
    fn a_narrower_terminal_is_cleared_of_what_wrapped() {
        let plan = Plan::for_target("http://127.0.0.1:1/".parse().unwrap());
        let mut live = Live::new(&plan, true);
        live.drawn = vec![80, 10, 0];
        assert_eq!(live.home(80), "\x1b[3A\r");
        assert_eq!(live.home(30), "\x1b[5A\r", "80 columns are three rows of 30");
        live.drawn.clear();
        assert_eq!(live.home(80), "");
    }

    #[test]
    fn the_bar_never_overflows() {
        for elapsed in [0, 5, 10, 1000] {
            for columns in [20, 60, 80] {
                let line = bar(columns, Duration::from_secs(elapsed), Some(Duration::from_secs(10)), false);
                assert!(line.chars().count() <= columns.max(30), "{line}");
            }
        }
    }

    #[test]
    fn a_long_line_is_cut_with_a_sign() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
    }
}
