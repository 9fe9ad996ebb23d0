//! The flags of `fracas load`, and the plan they make.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fracas_loadgen::scenario::{self, LatePolicy, Load, Pace, Phase, Plan, Rate, Slo, Stop, Target, units};

use crate::cli::access::AccessArgs;
use crate::cli::exit::UsageError;

/// Flags of `fracas load`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fracas load http://127.0.0.1:8080/ -c 100 -d 30s                 closed model: 100 users, as fast as replies come
  fracas load http://127.0.0.1:8080/ -c 100 -r 5000/s -d 30s       open model: 5,000 requests a second, whatever comes
  fracas load checkout.yml --out results --slo 'p99<50ms'          a run file; exit code 99 if the SLO fails
  fracas load tcp://127.0.0.1:7000 -c 10 -n 100000 --payload 64    raw TCP echo")]
pub struct Args {
    /// http://HOST:PORT/PATH, tcp://HOST:PORT (echo), or a run file (.yml)
    #[arg(value_name = "URL|FILE.yml")]
    target: String,
    /// Connections [default: 1]; in the closed model, one for each user
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..))]
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
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Load before the measured part: counted, but in no percentile
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    warm_up: Option<Duration>,
    /// Worker threads, each with its ring [default: 1]
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=1024))]
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
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    payload: Option<u64>,
    /// Open a connection for each request; its connect counts into the request
    #[arg(long)]
    no_keep_alive: bool,
    /// How long a connect may take [default: 5s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    connect_timeout: Option<Duration>,
    /// How long a reply may take [default: 30s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    timeout: Option<Duration>,
    /// Drop a request that could not be sent for this long, and count it, instead of sending it late
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
    drop_after: Option<Duration>,
    /// Address to connect from; may be repeated, 28,000 connections each
    #[arg(long = "source-address", value_name = "IP")]
    source_addresses: Vec<IpAddr>,
    /// Connects a second before the run [default: 10k/s]
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    connect_rate: Option<Rate>,
    /// Meet every due time within a microsecond by spinning, at the cost of a core per thread
    #[arg(long)]
    precise: bool,
    /// What every random draw comes from [default: 0]
    #[arg(long)]
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
}

impl Args {
    /// What to run.
    ///
    /// # Errors
    /// The first mistake in the flags or in the run file.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let is_file =
            !self.target.contains("://") && (self.target.ends_with(".yml") || self.target.ends_with(".yaml"));
        let mut plan =
            if is_file { self.plan_of_file(Path::new(&self.target))? } else { self.plan_of_flags()? };
        plan.slo.extend(self.slo.iter().cloned());
        plan.precise |= self.precise;
        plan.seed = self.seed.unwrap_or(plan.seed);
        plan.threads = self.threads.unwrap_or(plan.threads);
        if let Some(name) = &self.name {
            plan.name.clone_from(name);
        }
        plan.validate().map_err(|error| match flag_of(&error.key).filter(|_| !is_file) {
            Some(flag) => UsageError::because(format!("{flag}: {}", error.problem)),
            None => UsageError::because(error),
        })?;
        Ok(plan)
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
        ];
        if let Some((flag, _)) = given.iter().find(|(_, is_given)| *is_given) {
            return Err(UsageError::because(format!("{flag} is said in the run file; change it there")));
        }
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|error| UsageError::because(format!("cannot read {name}: {error}")))?;
        scenario::parse(&name, &text).map_err(UsageError::because)
    }

    fn plan_of_flags(&self) -> anyhow::Result<Plan> {
        let target: Target = self.target.parse().map_err(UsageError::because)?;
        let mut plan = Plan::for_target(target);
        plan.name = self.target.clone();
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
            (None, Some(file)) => Some(std::fs::read(file).map_err(|error| {
                let file = file.display();
                UsageError::because(format!("--body-file: cannot read {file}: {error}"))
            })?),
            (None, None) => None,
        };
        let default_method = if body.is_some() { "POST" } else { "GET" };
        plan.method = self.method.clone().unwrap_or_else(|| default_method.to_owned());
        plan.body = body.unwrap_or_default().into();
        if let Some(bytes) = self.payload {
            plan.payload_bytes =
                u32::try_from(bytes).map_err(|_| UsageError::because("--payload: at most 4GiB"))?;
        }
        plan.keep_alive = !self.no_keep_alive;
        plan.connect_timeout = self.connect_timeout.unwrap_or(plan.connect_timeout);
        plan.response_timeout = self.timeout.unwrap_or(plan.response_timeout);
        plan.late = self.drop_after.map_or(plan.late, LatePolicy::DropAfter);
        plan.source_addresses.clone_from(&self.source_addresses);
        plan.connect_rate = self.connect_rate.unwrap_or(plan.connect_rate);
        Ok(plan)
    }
}

/// The flag that a key of a plan comes from: who wrote no file must not be told of its keys.
fn flag_of(key: &str) -> Option<&'static str> {
    Some(match key {
        "connect_timeout" => "--connect-timeout",
        "response_timeout" => "--timeout",
        "payload_bytes" => "--payload",
        "method" => "--method",
        _ if key.starts_with("headers[") => "--header",
        // A warm-up of no length makes no phase, so a length that is wrong is the measured part's.
        _ if key.ends_with("].for") => "--duration",
        _ if key.ends_with("].rate") => "--rate",
        _ => return None,
    })
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write it as NAME: VALUE".to_owned()),
    }
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
            ("--connect-timeout 0s", "--connect-timeout: must be above 0"),
            ("--payload 0B", "--payload: must be at least 1"),
            ("-r 2000M/s", "--rate: must not be above 1000M/s"),
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
    }

    #[test]
    fn mistakes_are_refused() {
        for words in [
            "ftp://127.0.0.1/",
            "http://127.0.0.1:1/ -c 0",
            "http://127.0.0.1:1/ -r 5",
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
