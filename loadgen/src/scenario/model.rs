//! The validated plan that a runner takes. Times and rates are exact; figures are totals over all nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fracas_dataplane::proxy::THREADS_MAX;
use serde::{Deserialize, Serialize};

use super::{Slo, Target};
use crate::arrival::Steps;
use fracas_dataplane::units::{Rate, exact_duration_text};

/// Everything a run needs. Travels as JSON with the keys of a run file (`written.rs`, `parse.rs`);
/// [`Plan::validate`] is called wherever one comes in.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// For people; heads the report.
    pub name: String,
    /// Where the load goes.
    pub target: Target,
    /// HTTP method.
    pub method: String,
    /// HTTP headers in order, beside Host, Content-Length and Connection, which are made.
    pub headers: Vec<(String, String)>,
    /// HTTP body.
    pub body: BytesOrText,
    /// Bytes of one echo message on a `tcp://` target.
    pub payload_bytes: u32,
    /// False opens a connection per request, and counts the connect into the request.
    pub keep_alive: bool,
    /// Connections in total.
    pub connections: u32,
    /// Worker threads on each node; 0 = one per core.
    pub threads: u32,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// How long a reply may take from when its request is due; then it counts as a timeout, sent or not.
    pub response_timeout: Duration,
    /// What to send when; in sequence.
    pub phases: Vec<Phase>,
    /// How long to wait at the end for what is in flight; the rest is censored.
    pub drain: Duration,
    /// Local addresses to connect from, in turn; empty = the kernel's choice.
    pub source_addresses: Vec<IpAddr>,
    /// Connects are paced to this, so that a storm of SYNs is not part of the run. A request that waits for it is the
    /// generator's own delay. A connection per request is not paced.
    pub connect_rate: Rate,
    /// How long a virtual user pauses whose connect has failed, or whose connection ended before its first reply.
    pub retry_pause: Duration,
    /// Which of the free connections takes the next request.
    pub reuse: Reuse,
    /// What happens to a request that cannot be sent when it is due.
    pub late: LatePolicy,
    /// Wake early and spin to the due time; costs a core per thread.
    pub precise: bool,
    /// Every draw of the run comes from it.
    pub seed: u64,
    /// What must hold for the run to pass.
    pub slo: Vec<Slo>,
    /// Faults on proxies, on the run's time axis.
    pub faults: Vec<Fault>,
    /// How many generator nodes share the load.
    pub nodes: u32,
    /// What the loss of a node means.
    pub on_node_loss: OnNodeLoss,
}

/// Bytes that are shown as text when they are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BytesOrText {
    /// UTF-8.
    Text(String),
    /// Anything else, as a list of numbers in JSON.
    Bytes(Vec<u8>),
}

impl BytesOrText {
    /// The bytes, whatever they were written as.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            BytesOrText::Text(text) => text.as_bytes(),
            BytesOrText::Bytes(bytes) => bytes,
        }
    }
}

impl Default for BytesOrText {
    fn default() -> BytesOrText {
        BytesOrText::Text(String::new())
    }
}

impl From<Vec<u8>> for BytesOrText {
    fn from(bytes: Vec<u8>) -> BytesOrText {
        String::from_utf8(bytes).map_or_else(|e| BytesOrText::Bytes(e.into_bytes()), BytesOrText::Text)
    }
}

/// A stretch of the run with one kind of load.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// What is sent.
    pub load: Load,
    /// When it ends.
    pub stop: Stop,
    /// Counted, but not in the percentiles.
    pub warm_up: bool,
}

/// Who decides when a request is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// Open model: arrivals come at their own rate, whatever the replies do.
    Open(Pace),
    /// Closed model: each user sends when its last reply came, after thinking.
    Closed {
        /// Virtual users in total, each with its own connection.
        users: u32,
        /// Pause between a reply and the next request.
        think_time: Duration,
    },
}

/// The rate of an open phase; totals over all nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Pace {
    /// Evenly spaced.
    Constant {
        /// Arrivals.
        rate: Rate,
    },
    /// Exponential gaps.
    Poisson {
        /// Mean arrivals.
        rate: Rate,
    },
    /// A straight line from one rate to another over the phase.
    Ramp {
        /// At its start.
        from: Rate,
        /// At its end.
        to: Rate,
    },
    /// Constant rates in a row.
    Steps(Vec<Step>),
}

impl Pace {
    /// The rate at the start of the phase, at which a warm-up runs.
    pub fn first_rate(&self) -> Option<Rate> {
        match self {
            Pace::Constant { rate } | Pace::Poisson { rate } => Some(*rate),
            Pace::Ramp { from, .. } => Some(*from),
            Pace::Steps(steps) => steps.first().map(|step| step.rate),
        }
    }
}

/// One stair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Arrivals.
    pub rate: Rate,
    /// For how long.
    pub over: Duration,
}

/// When a phase ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After a time.
    After(Duration),
    /// After a number of requests in total.
    Requests(u64),
}

/// Which of the free connections takes the next request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// The one that has been free longest: all connections are used in turn.
    #[default]
    Rotate,
    /// The one that was used last: few connections are used, and their memory is warm.
    Hot,
}

/// What happens to a request that no connection can take when it is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LatePolicy {
    /// It waits, is sent late and charged from its due time.
    #[default]
    Queue,
    /// It is dropped and counted once it is later than this.
    DropAfter(Duration),
}

/// What the loss of a node means for the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNodeLoss {
    /// The verdict is invalid.
    #[default]
    Invalid,
    /// The verdict is suspect, and the gap is named.
    Continue,
}

/// A fault window on a proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Name of a proxy that joined.
    pub proxy: String,
    /// Mix as in `20:delay,5:error`; checked by the proxy that gets it.
    pub behavior: String,
    /// Behavior → option → value, all text as on the command line.
    pub options: BTreeMap<String, BTreeMap<String, String>>,
    /// When it begins, from the start of the run.
    pub at: Duration,
    /// How long it lasts.
    pub over: Duration,
}

/// Why a plan cannot run. `key` is the path of the offending value, as in `phases[0].rate`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct PlanError {
    /// Where.
    pub key: String,
    /// What, and what to do.
    pub problem: String,
}

/// Short beside an outage, long beside a connect: ten attempts a second by each user.
fn retry_pause() -> Duration {
    Duration::from_millis(100)
}

/// Above this a due time would no longer be a whole nanosecond apart from the next.
pub const RATE_PER_SECOND_MAX: f64 = 1e9;
/// More phases than this is a generated file gone wrong; arrivals carry the number in 16 bits.
const PHASES_MAX: usize = 10_000;
/// Bytes of the name of a run.
const NAME_BYTES_MAX: usize = 256;
/// Headers, and what they may have together: servers take no more, and each request carries them.
const HEADERS_MAX: usize = 256;
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// `Host` with the longest name of a target and its port.
const HOST_BYTES: usize = 4 + 253 + 6;
/// Addresses to connect from: each gives some 28,000 ports, and each worker goes through them.
const SOURCE_ADDRESSES_MAX: usize = 1_024;
/// Faults of one run, and objectives: each is a line of the report.
const FAULTS_MAX: usize = 1_000;
const SLO_MAX: usize = 100;
/// Bytes of the method, which stands in each request.
const METHOD_BYTES_MAX: usize = 64;

impl Plan {
    /// A plan with every default, written once, here: one connection, one thread, a closed loop for 10 s.
    pub fn for_target(target: Target) -> Plan {
        Plan {
            name: "load".to_owned(),
            target,
            method: "GET".to_owned(),
            headers: Vec::new(),
            body: BytesOrText::default(),
            payload_bytes: 64,
            keep_alive: true,
            connections: 1,
            threads: 1,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
            phases: vec![Phase {
                load: Load::Closed { users: 1, think_time: Duration::ZERO },
                stop: Stop::After(Duration::from_secs(10)),
                warm_up: false,
            }],
            drain: Duration::from_secs(5),
            source_addresses: Vec::new(),
            connect_rate: Rate::per_second(10_000).expect("10,000 is above zero"),
            retry_pause: retry_pause(),
            reuse: Reuse::Rotate,
            late: LatePolicy::Queue,
            precise: false,
            seed: 0,
            slo: Vec::new(),
            faults: Vec::new(),
            nodes: 1,
            on_node_loss: OnNodeLoss::Invalid,
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first offending value by key, with what to do.
    pub fn validate(&self) -> Result<(), PlanError> {
        ensure(!self.name.trim().is_empty(), "name", || {
            "must not be empty; leave it out, and the run has its target's".into()
        })?;
        ensure(self.name.len() <= NAME_BYTES_MAX, "name", || {
            format!("longer than {NAME_BYTES_MAX} bytes; it stands in lists")
        })?;
        ensure(!self.name.contains(char::is_control), "name", || {
            "has a control character, such as a line break; it stands in lists".into()
        })?;
        let bytes = |(name, value): &(String, String)| name.len() + value.len();
        // A node that is given an address in place of the target's name adds the name as a header: it has room beside.
        let host = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let beside = host.map_or(0, |host| bytes(host).min(HOST_BYTES));
        for (key, what, count, most) in [
            ("headers", "headers", self.headers.len() - usize::from(host.is_some()), HEADERS_MAX),
            ("source_addresses", "addresses", self.source_addresses.len(), SOURCE_ADDRESSES_MAX),
            ("faults", "faults", self.faults.len(), FAULTS_MAX),
            ("slo", "objectives", self.slo.len(), SLO_MAX),
        ] {
            ensure(count <= most, key, || format!("{count} {what} are too many; give at most {most}"))?;
        }
        let header_bytes = self.headers.iter().map(bytes).sum::<usize>() - beside;
        ensure(header_bytes <= HEADER_BYTES_MAX, "headers", || {
            format!("have {header_bytes} bytes; give at most {HEADER_BYTES_MAX} in names and values")
        })?;
        ensure(self.method.len() <= METHOD_BYTES_MAX, "method", || {
            format!("longer than {METHOD_BYTES_MAX} bytes; write one word such as GET")
        })?;
        ensure(self.connections > 0, "connections", || "must be at least 1".into())?;
        ensure(self.nodes > 0, "nodes", || "must be at least 1".into())?;
        ensure(self.connections >= self.nodes, "connections", || {
            format!(
                "{} are fewer than the {} nodes; raise connections or lower nodes",
                self.connections, self.nodes
            )
        })?;
        ensure(self.threads as usize <= THREADS_MAX, "threads", || {
            format!(
                "{} are too many; give at most {THREADS_MAX}: each is a ring of its own, and more than cores gain nothing",
                self.threads
            )
        })?;
        ensure(!self.connect_timeout.is_zero(), "connect_timeout", || "must be above 0".into())?;
        ensure(!self.response_timeout.is_zero(), "response_timeout", || "must be above 0".into())?;
        check_rate("connect_rate", self.connect_rate)?;
        ensure(!self.retry_pause.is_zero(), "retry_pause", || {
            "must be above 0, or users would connect without end to a target that is not there".into()
        })?;
        ensure(self.payload_bytes > 0, "payload_bytes", || "must be at least 1".into())?;
        ensure(is_token(&self.method), "method", || {
            format!("`{}` is not an HTTP method; write one word such as GET", self.method.escape_debug())
        })?;
        for (index, (name, value)) in self.headers.iter().enumerate() {
            check_header(&format!("headers[{index}]"), name, value)?;
        }
        ensure(!self.phases.is_empty(), "phases", || "must have at least one phase".into())?;
        ensure(self.phases.len() <= PHASES_MAX, "phases", || {
            format!("{} phases are too many; give at most {PHASES_MAX}", self.phases.len())
        })?;
        for (index, phase) in self.phases.iter().enumerate() {
            self.validate_phase(index, phase)?;
        }
        ensure(self.phases.iter().any(|phase| !phase.warm_up), "phases", || {
            "every phase is warm-up, nothing would be measured; add a phase without it".into()
        })?;
        for (index, fault) in self.faults.iter().enumerate() {
            ensure(!fault.proxy.is_empty(), &format!("faults[{index}].proxy"), || {
                "must name a proxy".into()
            })?;
            ensure(!fault.over.is_zero(), &format!("faults[{index}].for"), || "must be above 0".into())?;
            ensure(
                self.duration().is_none_or(|ends| fault.at < ends),
                &format!("faults[{index}].at"),
                || {
                    let ends = self.duration().map(exact_duration_text).unwrap_or_default();
                    format!("the run has ended by then; let the fault begin before {ends}")
                },
            )?;
        }
        Ok(())
    }

    fn validate_phase(&self, index: usize, phase: &Phase) -> Result<(), PlanError> {
        let key = |name: &str| format!("phases[{index}].{name}");
        let open_end = match (&phase.load, phase.stop) {
            (_, Stop::After(over)) => {
                ensure(!over.is_zero(), &key("for"), || "must be above 0".into())?;
                false
            }
            (load, Stop::Requests(count)) => {
                ensure(count > 0, &key("requests"), || "must be at least 1".into())?;
                !matches!(load, Load::Open(Pace::Constant { .. }))
            }
        };
        if open_end && index + 1 < self.phases.len() {
            return Err(PlanError {
                key: key("requests"),
                problem: "only the last phase, or one at a constant rate, can stop by count; use `for`"
                    .into(),
            });
        }
        match &phase.load {
            Load::Closed { users, .. } => {
                ensure(*users > 0, &key("users"), || "must be at least 1".into())?;
                ensure(*users <= self.connections, &key("users"), || {
                    format!(
                        "{users} users need as many connections; raise connections from {}",
                        self.connections
                    )
                })
            }
            Load::Open(Pace::Constant { rate } | Pace::Poisson { rate }) => check_rate(&key("rate"), *rate),
            Load::Open(Pace::Ramp { from, to }) => {
                check_rate(&key("ramp.from"), *from)?;
                check_rate(&key("ramp.to"), *to)?;
                ensure(matches!(phase.stop, Stop::After(_)), &key("for"), || "a ramp needs a duration".into())
            }
            Load::Open(Pace::Steps(steps)) => {
                let total: Option<Duration> =
                    steps.iter().try_fold(Duration::ZERO, |sum, step| sum.checked_add(step.over));
                ensure(!steps.is_empty(), &key("steps"), || "must have at least one step".into())?;
                for (number, step) in steps.iter().enumerate() {
                    check_rate(&key(&format!("steps[{number}].rate")), step.rate)?;
                    ensure(!step.over.is_zero(), &key(&format!("steps[{number}].for")), || {
                        "must be above 0".into()
                    })?;
                }
                let pairs: Vec<_> = steps.iter().map(|step| (step.rate, step.over)).collect();
                Steps::new(&pairs).map_err(|e| PlanError { key: key("steps"), problem: e.to_string() })?;
                ensure(phase.stop == Stop::After(total.unwrap_or(Duration::MAX)), &key("for"), || {
                    "differs from the sum of the steps; leave it out".into()
                })
            }
        }
    }

    /// The length of the run if it is known beforehand, warm-up included, drain not.
    pub fn duration(&self) -> Option<Duration> {
        crate::arrival::Schedule::new(self, crate::arrival::Shard::WHOLE).end()
    }
}

fn ensure(holds: bool, key: &str, problem: impl FnOnce() -> String) -> Result<(), PlanError> {
    if holds { Ok(()) } else { Err(PlanError { key: key.to_owned(), problem: problem() }) }
}

fn check_rate(key: &str, rate: Rate) -> Result<(), PlanError> {
    ensure(rate.as_f64() <= RATE_PER_SECOND_MAX, key, || format!("{rate} is too high; give at most 1000M/s"))
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn check_header(key: &str, name: &str, value: &str) -> Result<(), PlanError> {
    ensure(is_token(name), key, || format!("`{}` is not a header name", name.escape_debug()))?;
    ensure(!value.bytes().any(|b| b == b'\r' || b == b'\n' || b == 0), key, || {
        format!("the value of `{name}` holds a line break")
    })?;
    let made = ["content-length", "transfer-encoding", "connection"];
    ensure(!made.iter().any(|header| name.eq_ignore_ascii_case(header)), key, || {
        format!("`{name}` is made from the body and from keep_alive; leave it out")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::for_target("http://127.0.0.1:8080/".parse().unwrap())
    }

    fn refusal(change: impl FnOnce(&mut Plan)) -> String {
        let mut plan = plan();
        change(&mut plan);
        plan.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(plan().validate(), Ok(()));
        assert_eq!(plan().duration(), Some(Duration::from_secs(10)));
    }

    #[test]
    fn every_refusal_names_the_key() {
        assert!(refusal(|p| p.connections = 0).starts_with("connections:"));
        for (count, fits) in [(256, true), (257, false), (40_000, false)] {
            let mut plan = plan();
            plan.headers = vec![("a".into(), "b".into()); count];
            assert_eq!(plan.validate().is_ok(), fits, "{count} headers");
            plan.headers.insert(0, ("Host".into(), "shop.test".into()));
            assert_eq!(plan.validate().is_ok(), fits, "{count} headers beside the host");
        }
        assert_eq!(
            refusal(|p| p.source_addresses = vec!["127.0.0.2".parse().unwrap(); 90_000]),
            "source_addresses: 90000 addresses are too many; give at most 1024"
        );
        assert!(
            refusal(|p| p.headers.push(("a".into(), "x".repeat(64 * 1024)))).starts_with("headers: have")
        );
        assert!(refusal(|p| p.method = "X".repeat(65)).starts_with("method: longer"));
        assert!(refusal(|p| p.name = "\u{1b}[2J".into()).starts_with("name: has a control"));
        assert!(refusal(|p| p.nodes = 2).starts_with("connections: 1 are fewer than the 2 nodes"));
        assert!(refusal(|p| p.method = "GE T".into()).starts_with("method:"));
        assert!(refusal(|p| p.headers.push(("a b".into(), "x".into()))).starts_with("headers[0]:"));
        assert!(refusal(|p| p.headers.push(("a".into(), "x\r\ny".into()))).contains("line break"));
        assert!(refusal(|p| p.headers.push(("Content-length".into(), "3".into()))).contains("is made from"));
        assert!(refusal(|p| p.phases.clear()).starts_with("phases:"));
        assert!(refusal(|p| p.phases[0].warm_up = true).contains("nothing would be measured"));
        assert!(refusal(|p| p.phases[0].stop = Stop::Requests(0)).starts_with("phases[0].requests:"));
        assert!(refusal(|p| p.connections = 0).starts_with("connections:"));
        let users = Load::Closed { users: 9, think_time: Duration::ZERO };
        assert!(refusal(|p| p.phases[0].load = users).starts_with("phases[0].users: 9 users need"));
    }

    #[test]
    fn a_phase_with_an_open_end_must_be_the_last() {
        let refusal = refusal(|p| {
            p.phases[0].stop = Stop::Requests(5);
            p.phases.push(p.phases[0].clone());
        });
        assert!(refusal.starts_with("phases[0].requests:"), "{refusal}");
    }
}
