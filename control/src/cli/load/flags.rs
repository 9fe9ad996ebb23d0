//! The flags of `fracas load`, and the plan they make.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fracas_dataplane::units;
use fracas_loadgen::scenario::{
    self, LatePolicy, Load, Pace, Phase, Plan, Rate, Reuse, Slo, Stop, Target, check_idle,
};

use crate::cli::access::AccessArgs;
use crate::cli::exit::UsageError;
use crate::cli::{files, numbers};

/// Flags of `fracas load`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fracas load :8080 -c 100 -d 30s                closed model: 100 users, as fast as replies come
  fracas load :8080 -c 100 -r 5000/s -d 30s      open model: 5,000 a second, whatever comes
  fracas load run.yml --out results --slo 'p99<50ms'    a run file; exit code 99 if it is missed
  fracas load results/run.json --out again       the same once more
  fracas load tcp://:7000 -c 10 -n 100000 --payload 64    raw TCP echo")]
pub struct Args {
    /// http://HOST:PORT/PATH or HOST:PORT, tcp://HOST:PORT (echo), a run file (.yml), or a run.json to run again
    #[arg(value_name = "URL|FILE", required_unless_present = "example")]
    target: Option<String>,
    /// Connections [default: 1]; in the closed model, one for each user
    #[arg(long, short, allow_negative_numbers = true, value_parser = numbers::connections)]
    connections: Option<u32>,
    /// Requests due a second, such as 20k/s: the open model. Without it, the closed one
    #[arg(long, short, value_name = "RATE", allow_hyphen_values = true)]
    rate: Option<Rate>,
    /// Draw the gaps between requests from an exponential distribution
    #[arg(long, requires = "rate")]
    poisson: bool,
    /// How long to measure [default: 10s]
    #[arg(long, short, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration, conflicts_with = "requests")]
    duration: Option<Duration>,
    /// How many requests to measure
    #[arg(long, short = 'n', value_name = "COUNT", allow_negative_numbers = true, value_parser = numbers::requests)]
    requests: Option<u64>,
    /// Load before the measured part, and beside its --duration: counted, but in no percentile
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    warm_up: Option<Duration>,
    /// Worker threads, each with its ring [default: 1]
    #[arg(long, short, allow_negative_numbers = true, value_parser = numbers::threads)]
    threads: Option<u32>,
    /// A header, as NAME: VALUE; may be repeated
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// HTTP method [default: GET, or POST with a body]
    #[arg(long, short = 'X')]
    method: Option<String>,
    /// Body of every request
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    body: Option<String>,
    /// File with the body of every request
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// Bytes of one echo message on a tcp:// target [default: 64]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = scenario::parse_payload)]
    payload: Option<u32>,
    /// Open a connection for each request; its connect counts into the request
    #[arg(long)]
    no_keep_alive: bool,
    /// How long a connect may take [default: 5s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    connect_timeout: Option<Duration>,
    /// How long a reply may take from when its request is due, sent or not [default: 30s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    timeout: Option<Duration>,
    /// Drop a request that could not be sent for this long, and count it, instead of sending it late
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    drop_after: Option<Duration>,
    /// Address to connect from; may be repeated, 28,000 connections each
    #[arg(long = "source-address", value_name = "IP", value_parser = source_address)]
    source_addresses: Vec<IpAddr>,
    /// Connects a second, at most; what a request waits for it is the generator's own part [default: 10k/s]
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    connect_rate: Option<Rate>,
    /// Closed model: how long a user pauses after a connection that failed before its first reply [default: 100ms]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    retry_pause: Option<Duration>,
    /// Which free connection is used next: rotate takes each in turn, hot the last used [default: rotate]
    #[arg(long, value_name = "ORDER", value_parser = reuse)]
    reuse: Option<Reuse>,
    /// Meet every due time within a microsecond by spinning, at the cost of a core per thread
    #[arg(long)]
    precise: bool,
    /// What every random draw comes from [default: 0]
    #[arg(long, allow_negative_numbers = true, value_parser = numbers::seed)]
    seed: Option<u64>,
    /// What must hold, such as 'p99<50ms', 'errors<0.1%', 'rate>19k/s'; may be repeated. Else exit code 99
    #[arg(long, value_name = "SLO")]
    slo: Vec<Slo>,
    /// Directory for run.json, latency.hlog, *.hgrm, events.jsonl and report.html
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Print run.json instead of the summary
    #[arg(long)]
    pub(super) json: bool,
    /// API of a proxy: its faults are drawn into the report, and the run file's faults are flipped there
    #[arg(long, value_name = "HOST:PORT", value_parser = crate::cli::address::remote)]
    pub(super) via: Option<String>,
    #[command(flatten)]
    pub(super) access: AccessArgs,
    /// Name of the run, for its report
    #[arg(long)]
    name: Option<String>,
    /// Write over what is in the directory of --out
    #[arg(long)]
    pub(super) force: bool,
    /// Print a run file with every key, to start from
    #[arg(long, exclusive = true)]
    pub(super) example: bool,
}

impl Args {
    /// What to run.
    ///
    /// # Errors
    /// The first mistake in the flags or in the run file.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let target = self.target.as_deref().unwrap_or_default();
        let file = file_of(target);
        let is_file = file.is_some();
        let mut plan = match file {
            Some(file) => self.plan_of_file(&file)?,
            None => self.plan_of_flags(target)?,
        };
        plan.slo.extend(self.slo.iter().cloned());
        plan.precise |= self.precise;
        plan.seed = self.seed.unwrap_or(plan.seed);
        plan.threads = self.threads.unwrap_or(plan.threads);
        if let Some(name) = &self.name {
            plan.name.clone_from(name);
        }
        let checked = plan.validate().and_then(|()| check_idle(&plan, |key| self.gives(key)));
        checked.map_err(|error| {
            match flag_of(&error.key).filter(|_| !is_file || self.gives(&error.key)) {
                Some(flag) => UsageError::because(format!("{flag}: {}", error.problem)),
                None => UsageError::because(error),
            }
        })?;
        Ok(plan)
    }

    /// Whether a flag gives this key of the run file.
    fn gives(&self, key: &str) -> bool {
        match key {
            "payload" => self.payload.is_some(),
            "method" => self.method.is_some(),
            "headers" => !self.headers.is_empty(),
            "body" => self.body.is_some() || self.body_file.is_some(),
            "drop_after" => self.drop_after.is_some(),
            "retry_pause" => self.retry_pause.is_some(),
            "reuse" => self.reuse.is_some(),
            "precise" => self.precise,
            "threads" => self.threads.is_some(),
            _ => false,
        }
    }

    fn plan_of_file(&self, file: &Path) -> anyhow::Result<Plan> {
        let given = [
            ("--connections", self.connections.is_some()),
            ("--rate", self.rate.is_some()),
            ("--duration", self.duration.is_some()),
            ("--requests", self.requests.is_some()),
            ("--warm-up", self.warm_up.is_some()),
            ("--header", !self.headers.is_empty()),
            ("--method", self.method.is_some()),
            ("--body", self.body.is_some() || self.body_file.is_some()),
            ("--payload", self.payload.is_some()),
            ("--no-keep-alive", self.no_keep_alive),
            ("--connect-timeout", self.connect_timeout.is_some()),
            ("--timeout", self.timeout.is_some()),
            ("--drop-after", self.drop_after.is_some()),
            ("--source-address", !self.source_addresses.is_empty()),
            ("--connect-rate", self.connect_rate.is_some()),
            ("--retry-pause", self.retry_pause.is_some()),
            ("--reuse", self.reuse.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, is_given)| *is_given) {
            return Err(UsageError::because(format!("{flag} is said in the run file; change it there")));
        }
        let name = file.display().to_string();
        scenario::parse(&name, &files::run_file(file)?).map_err(UsageError::because)
    }

    fn plan_of_flags(&self, target: &str) -> anyhow::Result<Plan> {
        let target: Target = target.parse().map_err(UsageError::because)?;
        let mut plan = Plan::for_target(target);
        plan.name = plan.target.to_string();
        plan.connections = self.connections.unwrap_or(plan.connections);
        let load = match self.rate {
            Some(rate) if self.poisson => Load::Open(Pace::Poisson { rate }),
            Some(rate) => Load::Open(Pace::Constant { rate }),
            None => Load::Closed { users: plan.connections, think_time: Duration::ZERO },
        };
        let stop = match (self.requests, self.duration) {
            (Some(count), _) => Stop::Requests(count),
            (None, duration) => Stop::After(duration.unwrap_or(Duration::from_secs(10))),
        };
        plan.phases = vec![Phase { load: load.clone(), stop, warm_up: false }];
        if let Some(warm_up) = self.warm_up.filter(|time| !time.is_zero()) {
            plan.phases.insert(0, Phase { load, stop: Stop::After(warm_up), warm_up: true });
        }
        plan.headers.clone_from(&self.headers);
        let body = match (&self.body, &self.body_file) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(file)) => Some(
                files::body(file).map_err(|error| UsageError::because(format!("--body-file: {error}")))?,
            ),
            (None, None) => None,
        };
        let default_method = if body.is_some() { "POST" } else { "GET" };
        plan.method = self.method.clone().unwrap_or_else(|| default_method.to_owned());
        plan.body = body.unwrap_or_default().into();
        plan.payload_bytes = self.payload.unwrap_or(plan.payload_bytes);
        plan.keep_alive = !self.no_keep_alive;
        plan.connect_timeout = self.connect_timeout.unwrap_or(plan.connect_timeout);
        plan.response_timeout = self.timeout.unwrap_or(plan.response_timeout);
        plan.late = self.drop_after.map_or(plan.late, LatePolicy::DropAfter);
        plan.source_addresses.clone_from(&self.source_addresses);
        plan.connect_rate = self.connect_rate.unwrap_or(plan.connect_rate);
        plan.retry_pause = self.retry_pause.unwrap_or(plan.retry_pause);
        plan.reuse = self.reuse.unwrap_or(plan.reuse);
        Ok(plan)
    }
}

/// The run file that a target names, or the `run.json` of a run directory; `None` for a URL.
fn file_of(target: &str) -> Option<PathBuf> {
    let path = Path::new(target);
    let is_file =
        ["yml", "yaml", "json"].iter().any(|end| path.extension().is_some_and(|found| found == *end));
    match target {
        _ if target.contains("://") => None,
        _ if is_file => Some(path.to_owned()),
        _ if path.join("run.json").is_file() => Some(path.join("run.json")),
        // Something of this name is there, and it is no address.
        _ => Some(path.to_owned()).filter(|path| target.parse::<Target>().is_err() && path.exists()),
    }
}

/// The flag that a key of a plan comes from: who wrote no file must not be told of its keys.
fn flag_of(key: &str) -> Option<&'static str> {
    Some(match key {
        "connect_timeout" => "--connect-timeout",
        "response_timeout" => "--timeout",
        "retry_pause" => "--retry-pause",
        "connect_rate" => "--connect-rate",
        "connections" => "--connections",
        "source_addresses" => "--source-address",
        "slo" => "--slo",
        "name" => "--name",
        "reuse" => "--reuse",
        "payload_bytes" | "payload" => "--payload",
        "method" => "--method",
        "headers" => "--header",
        "body" => "--body",
        "drop_after" => "--drop-after",
        "precise" => "--precise",
        "threads" => "--threads",
        _ if key.starts_with("headers[") => "--header",
        // A warm-up of no length makes no phase, so a length that is wrong is the measured part's.
        _ if key.ends_with("].for") => "--duration",
        _ if key.ends_with("].rate") => "--rate",
        _ => return None,
    })
}

fn reuse(text: &str) -> Result<Reuse, String> {
    match text {
        "rotate" => Ok(Reuse::Rotate),
        "hot" => Ok(Reuse::Hot),
        _ => Err("write `rotate` or `hot`".to_owned()),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write it as NAME: VALUE".to_owned()),
    }
}

fn source_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "write an IP address of this machine, such as 127.0.0.2".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn plan(words: &str) -> Result<Plan, String> {
        let words = std::iter::once("load").chain(words.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.args.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn a_rate_makes_an_open_model_and_its_absence_a_closed_one() {
        let open = plan("http://127.0.0.1:1/ -c 7 -r 20k/s -d 5s --warm-up 1s").expect("legal");
        assert_eq!(plan(":1 -c 7 -r 20k -d 5s --warm-up 1s").expect("legal").phases, open.phases);
        assert_eq!(open.phases.len(), 2);
        assert!(open.phases[0].warm_up && !open.phases[1].warm_up);
        assert!(matches!(open.phases[1].load, Load::Open(Pace::Constant { .. })));
        let closed = plan("tcp://127.0.0.1:1 -c 7 -n 100").expect("legal");
        assert_eq!(closed.phases[0].load, Load::Closed { users: 7, think_time: Duration::ZERO });
        assert_eq!(closed.phases[0].stop, Stop::Requests(100));
    }

    #[test]
    fn a_body_makes_a_post() {
        assert_eq!(plan("http://127.0.0.1:1/ --body x").expect("legal").method, "POST");
        assert_eq!(plan("http://127.0.0.1:1/ --body x -X PUT").expect("legal").method, "PUT");
    }

    #[test]
    fn a_mistake_names_its_flag() {
        for (words, flag) in [
            ("-d 0s", "--duration: must be above 0"),
            ("--timeout 0s", "--timeout: must be above 0"),
            ("--retry-pause 0s", "--retry-pause: must be above 0"),
            ("--reuse cold", "write `rotate` or `hot`"),
            ("--connect-timeout 0s", "--connect-timeout: must be above 0"),
            ("--payload 5B", "--payload: only tcp:// targets"),
            ("--drop-after 1s", "--drop-after: only with a rate"),
            ("-t 2", "--threads: more threads than connections"),
            ("--reuse hot", "--reuse: only with a rate"),
            ("-r 5 --retry-pause 1s", "--retry-pause: only users"),
            ("--precise", "--precise: without a rate"),
            ("-r 2000M/s", "--rate: 2000000000/s is too high; give at most 1000M/s"),
            ("--connect-rate 2000M/s", "--connect-rate: 2000000000/s is too high; give at most 1000M/s"),
            ("-r 99999999999999999999999/s", "give a rate from 1/5124095h to 1000M/s"),
            ("-d 99999999999h", "is too long; give at most 5124095h"),
            ("--timeout 99999999999h", "is too long; give at most 5124095h"),
            ("--warm-up 0.1ns", "is finer than a nanosecond"),
            ("--slo p99<99999999999h", "is too long; give at most 5124095h"),
            ("--slo rate>99999999999999999999999/s", "give a rate from 1/5124095h to 1000M/s"),
            ("--seed -1", "write a whole number from 0 to 18446744073709551615"),
            ("--seed x", "write a whole number from 0 to 18446744073709551615"),
            ("-n -1", "write a whole number from 1 to 18446744073709551615"),
            ("-c -1", "write a whole number from 1 to 4294967295"),
            ("-t 5000", "write a whole number from 1 to 1024"),
            ("--source-address x", "write an IP address"),
            ("-X (", "--method: `(` is not"),
            ("-H connection:close", "--header: `connection` is made"),
            ("--body-file no/such/file", "--body-file: cannot read no/such/file"),
            ("-r -5/s", "`-5/s` is not a rate"),
            ("-d -1s", "`-1s` is not a duration"),
            ("--warm-up -1s", "`-1s` is not a duration"),
        ] {
            let error = plan(&format!("http://127.0.0.1:1/ {words}")).expect_err(words);
            assert!(error.contains(flag), "{words}: {error}");
        }
        for (words, flag) in [
            ("--payload 0B", "--payload: must be at least 1"),
            ("--payload 4GiB", "is too large; give at most 4294967295B"),
            ("--payload -5", "`-5` is not a size"),
            ("-H a:b", "--header: only http://"),
            ("-X PUT", "--method: only http://"),
            ("--body x", "--body: only http://"),
            ("--body-file /dev/null", "--body: only http://"),
        ] {
            let error = plan(&format!("tcp://127.0.0.1:1 {words}")).expect_err(words);
            assert!(error.contains(flag), "{words}: {error}");
        }
    }

    #[test]
    fn a_run_json_runs_again_with_the_same_plan() {
        let first =
            plan("localhost:1 -c 7 -r 20k -d 5s --warm-up 1s -H a:b --slo p99<5ms --seed 9").expect("legal");
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, value: serde_json::Value| {
            std::fs::write(directory.path().join(name), value.to_string()).expect("written");
        };
        write("run.json", serde_json::json!({"format": 1, "plan": first, "name": first.name}));
        write("plan.json", serde_json::json!(first));
        let directory = directory.path().display();
        for again in
            [format!("{directory}"), format!("{directory}/run.json"), format!("{directory}/plan.json")]
        {
            assert_eq!(plan(&again).expect("legal"), first, "{again}");
        }
        let other = plan(&format!("{directory}/run.json --slo errors<1% --name again")).expect("legal");
        assert_eq!((other.slo.len(), other.name.as_str()), (2, "again"));
        let refused = plan(&format!("{directory}/run.json -c 9")).expect_err("said in the file");
        assert!(refused.contains("--connections is said in the run file"), "{refused}");
    }

    #[test]
    fn the_example_is_a_run_file_that_runs() {
        let file = tempfile::NamedTempFile::with_suffix(".yml").expect("a file");
        std::fs::write(file.path(), scenario::EXAMPLE).expect("written");
        let plan = plan(&file.path().display().to_string()).expect("legal");
        assert!(!plan.faults.is_empty() && plan.phases.len() > 1);
    }

    #[test]
    fn mistakes_are_refused() {
        for words in [
            "ftp://127.0.0.1/",
            "http://127.0.0.1:1/ -c 0",
            "http://127.0.0.1:1/ -r 5q",
            "http://127.0.0.1:1/ -d 5",
            "http://127.0.0.1:1/ -d 5s -n 5",
            "http://127.0.0.1:1/ -H nonsense",
            "http://127.0.0.1:1/ --slo p99<50",
            "http://127.0.0.1:1/ --poisson",
            "no-such-file.yml",
        ] {
            assert!(plan(words).is_err(), "{words}");
        }
    }
}
