//! Load generators: how each is told the same load, and what it says it did.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::peer::fracas;
use crate::process::version_line;

/// A generator of HTTP/1.1 load in the closed model, keep-alive, one thread.
pub trait Generator {
    /// Its name in every row and table.
    fn name(&self) -> &'static str;

    /// What exactly is measured, or why it cannot be.
    fn version(&self) -> Result<String, String>;

    /// The command that keeps `connections` busy for `time`.
    fn command(&self, target: SocketAddr, connections: usize, time: Duration) -> Command;

    /// How many requests were answered, from what it printed.
    fn requests(&self, stdout: &str) -> anyhow::Result<u64>;
}

/// Every generator of the load bench.
pub fn all(fracas: &Path) -> Vec<Box<dyn Generator>> {
    vec![Box::new(Wrk), Box::new(Ab), Box::new(H2load), Box::new(FracasLoad { binary: fracas.to_owned() })]
}

struct Wrk;

impl Generator for Wrk {
    fn name(&self) -> &'static str {
        "wrk"
    }

    fn version(&self) -> Result<String, String> {
        version_line("wrk", "--version")
    }

    fn command(&self, target: SocketAddr, connections: usize, time: Duration) -> Command {
        let mut command = Command::new("wrk");
        command.args([
            "-t1",
            "-c",
            &connections.to_string(),
            "-d",
            &format!("{}s", time.as_secs()),
            &url(target),
        ]);
        command
    }

    fn requests(&self, stdout: &str) -> anyhow::Result<u64> {
        number_before(stdout, " requests in ")
    }
}

struct Ab;

impl Generator for Ab {
    fn name(&self) -> &'static str {
        "ab"
    }

    fn version(&self) -> Result<String, String> {
        version_line("ab", "-V")
    }

    fn command(&self, target: SocketAddr, connections: usize, time: Duration) -> Command {
        let mut command = Command::new("ab");
        // -t sets the count to 50,000, so the higher count must follow it.
        command.args(["-k", "-q", "-c", &connections.to_string(), "-t", &time.as_secs().to_string()]);
        command.args(["-n", "3000000", &url(target)]);
        command
    }

    fn requests(&self, stdout: &str) -> anyhow::Result<u64> {
        let line = stdout.lines().find_map(|line| line.strip_prefix("Complete requests:"));
        line.context("ab printed no count of complete requests")?
            .trim()
            .parse()
            .context("ab's count is no number")
    }
}

struct H2load;

impl Generator for H2load {
    fn name(&self) -> &'static str {
        "h2load"
    }

    fn version(&self) -> Result<String, String> {
        version_line("h2load", "--version")
    }

    fn command(&self, target: SocketAddr, connections: usize, time: Duration) -> Command {
        let mut command = Command::new("h2load");
        command.args([
            "--h1",
            "-t1",
            "-c",
            &connections.to_string(),
            "-D",
            &time.as_secs().to_string(),
            &url(target),
        ]);
        command
    }

    fn requests(&self, stdout: &str) -> anyhow::Result<u64> {
        number_before(stdout, " succeeded")
    }
}

/// `fracas load`, in the closed model here; [`FracasLoad::open_model`] is the other.
pub struct FracasLoad {
    /// The binary.
    pub binary: PathBuf,
}

impl FracasLoad {
    /// The command that sends `rate_per_second` over 64 connections, waking early and spinning if `is_precise`.
    pub fn open_model(
        &self,
        target: SocketAddr,
        rate_per_second: u32,
        time: Duration,
        is_precise: bool,
    ) -> Command {
        let mut command = self.command(target, 64, time);
        command.args(["-r", &format!("{rate_per_second}/s")]);
        if is_precise {
            command.arg("--precise");
        }
        command
    }
}

impl Generator for FracasLoad {
    fn name(&self) -> &'static str {
        "fracas"
    }

    fn version(&self) -> Result<String, String> {
        fracas::version(&self.binary)
    }

    fn command(&self, target: SocketAddr, connections: usize, time: Duration) -> Command {
        let mut command = Command::new(&self.binary);
        let time = format!("{}s", time.as_secs());
        command.args([
            "load",
            &url(target),
            "-c",
            &connections.to_string(),
            "-d",
            &time,
            "-t",
            "1",
            "--json",
        ]);
        command
    }

    fn requests(&self, stdout: &str) -> anyhow::Result<u64> {
        let run: Value = serde_json::from_str(stdout).context("fracas load --json printed no JSON")?;
        run["counts"]["ok"].as_u64().context("run.json has no counts.ok")
    }
}

fn url(target: SocketAddr) -> String {
    format!("http://{target}/fixed")
}

/// The whole number that stands right before `marker`.
fn number_before(text: &str, marker: &str) -> anyhow::Result<u64> {
    let before = text.split_once(marker).with_context(|| format!("nothing like {marker:?} was printed"))?.0;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("no number stands before {marker:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_requests_is_found_in_each_tools_words() {
        let wrk = "Running 1s test\n  104332 requests in 1.10s, 12.84MB read\nRequests/sec:  94848.12\n";
        assert_eq!(Wrk.requests(wrk).unwrap(), 104_332);
        let ab = "Concurrency Level:      64\nComplete requests:      51234\nFailed requests:        0\n";
        assert_eq!(Ab.requests(ab).unwrap(), 51_234);
        let h2load =
            "requests: 90007 total, 90071 started, 90007 done, 90005 succeeded, 2 failed, 0 errored\n";
        assert_eq!(H2load.requests(h2load).unwrap(), 90_005);
        let fracas = FracasLoad { binary: "fracas".into() };
        assert_eq!(fracas.requests(r#"{"verdict":"valid","counts":{"ok":7}}"#).unwrap(), 7);
    }

    #[test]
    fn output_without_a_count_is_an_error() {
        for generator in all(Path::new("fracas")) {
            assert!(generator.requests("connection refused").is_err(), "{}", generator.name());
        }
    }
}
