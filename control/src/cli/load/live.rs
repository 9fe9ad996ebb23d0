//! What a person sees while the load runs: one screen on a terminal, a line a second elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use fracas_loadgen::measure::{Counts, Distribution, Timeline, judge_so_far};
use fracas_loadgen::runner::{Opened, Progress, RunningLoad};
use fracas_loadgen::scenario::{Plan, units};

/// The screen, or the lines.
pub struct Live {
    title: String,
    length: Option<Duration>,
    on_terminal: bool,
    is_quiet: bool,
    drawn_lines: usize,
    last_second: u64,
    before: Progress,
    /// The last whole second: percentiles and rate.
    second: String,
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
            drawn_lines: 0,
            last_second: 0,
            before: Progress::default(),
            second: String::new(),
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
                _ => format!("{open} open"),
            };
            eprintln!("fracas load · {}: {connections}, {}", self.title, plural(*threads as u64, "thread"));
        }
    }

    /// The run goes on.
    pub fn show(&mut self, running: &RunningLoad, elapsed: Duration) {
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
            let lines = [
                bar(elapsed, self.length, self.stopping),
                format!(
                    "sent {}   ok {}   errors {}   timeouts {}   dropped {}   waiting {}   connections {}",
                    now.sent, now.ok, now.error, now.timeout, now.dropped, now.waiting, now.connections
                ),
                self.second.clone(),
                self.verdict.clone(),
            ];
            self.draw(&lines);
        } else if is_new_second {
            eprintln!(
                "{:>4} s  {}  errors {}  dropped {}",
                self.last_second,
                self.second,
                now.error + now.timeout,
                now.dropped
            );
        }
    }

    /// It was interrupted and drains, or was interrupted again and ends.
    pub fn stopping(&mut self, interrupts: u32) {
        self.stopping = true;
        if !self.on_terminal && !self.is_quiet {
            match interrupts {
                1 => eprintln!("interrupted: waiting for what is in flight; once more to end at once"),
                _ => eprintln!("interrupted again: ending"),
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
        let mut text = String::new();
        if self.drawn_lines > 0 {
            let _ = write!(text, "\x1b[{}A", self.drawn_lines);
        }
        for line in lines {
            let _ = writeln!(text, "\x1b[2K{line}");
        }
        self.drawn_lines = lines.len();
        // A terminal that is gone shows nothing more.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn clear(&mut self) {
        if self.on_terminal && self.drawn_lines > 0 {
            eprint!("\x1b[{}A\x1b[J", self.drawn_lines);
            self.drawn_lines = 0;
        }
    }
}

fn describe_second(before: &Progress, now: &Progress, delta: &Timeline) -> String {
    let (response, lag) = (delta.response(), delta.lag());
    let replies = now.ok.saturating_sub(before.ok);
    if response.count() == 0 {
        let why = if delta.warm_up().planned > 0 { "warm-up: not measured" } else { "nothing ended" };
        return format!("{replies:>7} ok/s  {why}");
    }
    let time = |nanos| units::format_duration(short(nanos));
    format!(
        "{replies:>7} ok/s  response p50 {:>8}  p99 {:>8}  max {:>8}  lag p99 {:>8}",
        time(response.percentile(50.0)),
        time(response.percentile(99.0)),
        time(response.max()),
        time(lag.percentile(99.0)),
    )
}

fn plural(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Three digits are enough for an eye.
fn short(nanos: u64) -> Duration {
    let digits = nanos.max(1).ilog10();
    let unit = 10u64.pow(digits.saturating_sub(2));
    Duration::from_nanos(nanos / unit * unit)
}

fn bar(elapsed: Duration, length: Option<Duration>, stopping: bool) -> String {
    const WIDTH: usize = 40;
    let Some(length) = length else { return format!("{:.1} s", elapsed.as_secs_f64()) };
    let share = (elapsed.as_secs_f64() / length.as_secs_f64().max(1e-9)).clamp(0.0, 1.0);
    let full = (share * WIDTH as f64) as usize;
    let word = if stopping {
        "interrupted, draining; Ctrl-C ends at once"
    } else if share >= 1.0 {
        "draining"
    } else {
        ""
    };
    format!(
        "[{}{}] {:.1} of {:.1} s  {word}",
        "█".repeat(full),
        "·".repeat(WIDTH - full),
        elapsed.as_secs_f64(),
        length.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_kept() {
        assert_eq!(short(123_456_789), Duration::from_millis(123));
        assert_eq!(short(1_234), Duration::from_nanos(1_230));
        assert_eq!(short(7), Duration::from_nanos(7));
        assert_eq!(short(0), Duration::ZERO);
    }

    #[test]
    fn the_bar_never_overflows() {
        for elapsed in [0, 5, 10, 1000] {
            let line = bar(Duration::from_secs(elapsed), Some(Duration::from_secs(10)), false);
            assert_eq!(line.chars().filter(|c| "█·".contains(*c)).count(), 40, "{line}");
        }
    }
}
