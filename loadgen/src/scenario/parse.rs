//! A run file becomes a [`Plan`]. A mistake names file, line, column and key, and suggests the nearest key.

mod mistake;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_saphyr::{Location, Spanned};

pub use mistake::ParseError;

use mistake::from_yaml;

use super::units::{parse_duration, parse_size};
use super::{Fault, LatePolicy, Load, OnNodeLoss, Pace, Phase, Plan, Rate, Slo, Step, Stop, Target};

/// Connections of an open model that says none: enough to keep a rate while some requests are slow.
const OPEN_CONNECTIONS_DEFAULT: u32 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunFile {
    name: Option<String>,
    nodes: Option<Spanned<u32>>,
    target: Spanned<String>,
    method: Option<Spanned<String>>,
    headers: Option<Spanned<Headers>>,
    body: Option<Spanned<String>>,
    payload: Option<Spanned<String>>,
    keep_alive: Option<bool>,
    connections: Option<Spanned<u32>>,
    threads: Option<Spanned<u32>>,
    connect_timeout: Option<Spanned<String>>,
    response_timeout: Option<Spanned<String>>,
    warm_up: Option<Spanned<String>>,
    phases: Spanned<Vec<Spanned<PhaseEntry>>>,
    drain: Option<Spanned<String>>,
    source_addresses: Option<Vec<Spanned<String>>>,
    connect_rate: Option<Spanned<String>>,
    drop_after: Option<Spanned<String>>,
    precise: Option<Spanned<bool>>,
    seed: Option<u64>,
    slo: Option<Vec<Spanned<String>>>,
    faults: Option<Vec<Spanned<FaultEntry>>>,
    on_node_loss: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseEntry {
    rate: Option<Spanned<String>>,
    arrivals: Option<Spanned<String>>,
    ramp: Option<RampEntry>,
    steps: Option<Vec<StepEntry>>,
    users: Option<Spanned<u32>>,
    think_time: Option<Spanned<String>>,
    #[serde(rename = "for")]
    over: Option<Spanned<String>>,
    requests: Option<Spanned<u64>>,
    warm_up: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RampEntry {
    from: Spanned<String>,
    to: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepEntry {
    rate: Spanned<String>,
    #[serde(rename = "for")]
    over: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultEntry {
    proxy: Spanned<String>,
    behavior: Spanned<String>,
    options: Option<BTreeMap<String, BTreeMap<String, String>>>,
    at: Option<Spanned<String>>,
    #[serde(rename = "for")]
    over: Spanned<String>,
}

/// Header fields in the order of the file.
struct Headers(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Headers, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Headers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("header names and values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut all = Vec::new();
                while let Some(header) = map.next_entry()? {
                    all.push(header);
                }
                Ok(Headers(all))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A run file with every key, commented: `fracas load --example`.
pub const EXAMPLE: &str = include_str!("../../scenarios/example.yml");

/// Reads a run file, or the `plan` of a `run.json`, alone or within it. `file` only names it in errors.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(file: &str, text: &str) -> Result<Plan, ParseError> {
    if let Some(plan) = plan_of_json(text) {
        return plan.map_err(|problem| ParseError { file: file.to_owned(), line: 1, column: 1, problem });
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: RunFile =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| from_yaml(file, text, &e))?;
    let mut places = Places { file, known: HashMap::new() };
    if let Some((key, place, why)) = idle_key(&raw) {
        return Err(places.error_at(place, key, &format!("{why}; leave it out")));
    }
    let plan = build(raw, &mut places)?;
    plan.validate().map_err(|e| places.error_at(places.nearest(&e.key), &e.key, &e.problem))?;
    Ok(plan)
}

/// The plan in JSON that a run has left; `None` for anything else, such as a run file in JSON, which is YAML too.
fn plan_of_json(text: &str) -> Option<Result<Plan, String>> {
    let mut value: serde_json::Value =
        text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok()).flatten()?;
    if value.get("plan").is_some_and(serde_json::Value::is_object) {
        value = value["plan"].take();
    } else if value.pointer("/phases/0/load").is_none() {
        return None;
    }
    let plan = serde_json::from_value::<Plan>(value).map_err(|error| format!("plan: {error}"));
    Some(plan.and_then(|plan| plan.validate().map(|()| plan).map_err(|error| error.to_string())))
}

/// A key that would do nothing where it stands, and why.
fn idle_key(raw: &RunFile) -> Option<(&'static str, Location, &'static str)> {
    let is_http = !raw.target.value.trim_start().to_ascii_lowercase().starts_with("tcp:");
    let phases = &raw.phases.value;
    let is_open = phases.iter().any(|phase| phase.value.users.is_none());
    let thinks = phases.iter().any(|phase| phase.value.think_time.is_some());
    let place = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.referenced);
    let payload = place(&raw.payload).filter(|_| is_http);
    let echo = "is about HTTP; an echo server gets `payload`";
    let headers = raw.headers.as_ref().map(|value| value.referenced).filter(|_| !is_http);
    let timed = "is about due times, and no phase has a rate";
    let at_last = raw.precise.as_ref().filter(|value| value.value && !is_open && !thinks);
    [
        ("payload", payload, "is about tcp:// targets; an HTTP request has `body`"),
        ("method", place(&raw.method).filter(|_| !is_http), echo),
        ("headers", headers, echo),
        ("body", place(&raw.body).filter(|_| !is_http), echo),
        ("drop_after", place(&raw.drop_after).filter(|_| !is_open), timed),
        ("precise", at_last.map(|value| value.referenced), timed),
    ]
    .into_iter()
    .find_map(|(key, place, why)| Some((key, place?, why)))
}

/// Where each value stood, by its key.
struct Places<'a> {
    file: &'a str,
    known: HashMap<String, Location>,
}

impl Places<'_> {
    fn error_at(&self, place: Location, key: &str, problem: &str) -> ParseError {
        ParseError {
            file: self.file.to_owned(),
            line: place.line().max(1),
            column: place.column().max(1),
            problem: format!("{key}: {problem}"),
        }
    }

    /// The place of `key`, or of the value that holds it.
    fn nearest(&self, key: &str) -> Location {
        let mut key = key;
        loop {
            match (self.known.get(key), key.rfind(['.', '['])) {
                (Some(place), _) => return *place,
                (None, Some(end)) => key = &key[..end],
                (None, None) => return Location::UNKNOWN,
            }
        }
    }

    fn take<T>(&mut self, key: &str, value: Spanned<T>) -> T {
        self.known.insert(key.to_owned(), value.referenced);
        value.value
    }

    fn convert<T, E: fmt::Display>(
        &mut self,
        key: &str,
        value: Spanned<String>,
        convert: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ParseError> {
        let place = value.referenced;
        let text = self.take(key, value);
        convert(&text).map_err(|e| self.error_at(place, key, &e.to_string()))
    }

    /// Like `convert`, into a field that has a default.
    fn set<T, E: fmt::Display>(
        &mut self,
        field: &mut T,
        key: &str,
        value: Option<Spanned<String>>,
        convert: impl Fn(&str) -> Result<T, E>,
    ) -> Result<(), ParseError> {
        if let Some(value) = value {
            *field = self.convert(key, value, convert)?;
        }
        Ok(())
    }
}

fn build(raw: RunFile, places: &mut Places<'_>) -> Result<Plan, ParseError> {
    let mut plan = Plan::for_target(places.convert("target", raw.target, Target::from_str)?);
    let warm_up = raw.warm_up.map(|value| places.convert("warm_up", value, parse_duration)).transpose()?;
    plan.phases = build_phases(raw.phases, warm_up, places)?;
    let number = |field: &mut u32, key: &str, value: Option<Spanned<u32>>, places: &mut Places<'_>| {
        if let Some(value) = value {
            *field = places.take(key, value);
        }
    };
    number(&mut plan.nodes, "nodes", raw.nodes, places);
    number(&mut plan.threads, "threads", raw.threads, places);
    plan.connections = default_connections(&plan);
    number(&mut plan.connections, "connections", raw.connections, places);
    if let Some(value) = raw.method {
        plan.method = places.take("method", value);
    }
    if let Some(value) = raw.headers {
        plan.headers = places.take("headers", value).0;
    }
    plan.body = raw.body.map(|body| body.value).unwrap_or_default().into_bytes().into();
    plan.name = raw.name.unwrap_or(plan.name);
    plan.keep_alive = raw.keep_alive.unwrap_or(plan.keep_alive);
    plan.precise = raw.precise.map_or(plan.precise, |precise| precise.value);
    plan.seed = raw.seed.unwrap_or(plan.seed);
    places.set(&mut plan.payload_bytes, "payload", raw.payload, |text| {
        let bytes = parse_size(text).map_err(|e| e.to_string())?;
        u32::try_from(bytes).map_err(|_| "must be below 4GiB".to_owned())
    })?;
    places.set(&mut plan.connect_timeout, "connect_timeout", raw.connect_timeout, parse_duration)?;
    places.set(&mut plan.response_timeout, "response_timeout", raw.response_timeout, parse_duration)?;
    places.set(&mut plan.drain, "drain", raw.drain, parse_duration)?;
    places.set(&mut plan.connect_rate, "connect_rate", raw.connect_rate, Rate::from_str)?;
    places.set(&mut plan.late, "drop_after", raw.drop_after, |text| {
        parse_duration(text).map(LatePolicy::DropAfter)
    })?;
    places.set(&mut plan.on_node_loss, "on_node_loss", raw.on_node_loss, |text| match text {
        "invalid" => Ok(OnNodeLoss::Invalid),
        "continue" => Ok(OnNodeLoss::Continue),
        other => Err(format!("`{other}` is neither `invalid` nor `continue`")),
    })?;
    for (index, address) in raw.source_addresses.into_iter().flatten().enumerate() {
        let key = format!("source_addresses[{index}]");
        plan.source_addresses.push(places.convert(&key, address, |text| {
            text.parse::<IpAddr>().map_err(|_| format!("`{text}` is not an IP address"))
        })?);
    }
    for (index, objective) in raw.slo.into_iter().flatten().enumerate() {
        plan.slo.push(places.convert(&format!("slo[{index}]"), objective, Slo::from_str)?);
    }
    for (index, fault) in raw.faults.into_iter().flatten().enumerate() {
        let key = format!("faults[{index}]");
        let fault = places.take(&key, fault);
        plan.faults.push(build_fault(&key, fault, places)?);
    }
    Ok(plan)
}

fn default_connections(plan: &Plan) -> u32 {
    let users = plan.phases.iter().map(|phase| match phase.load {
        Load::Closed { users, .. } => users,
        Load::Open(_) => OPEN_CONNECTIONS_DEFAULT,
    });
    users.max().unwrap_or(1).max(plan.nodes)
}

fn build_fault(key: &str, fault: FaultEntry, places: &mut Places<'_>) -> Result<Fault, ParseError> {
    let at = fault.at.map(|at| places.convert(&format!("{key}.at"), at, parse_duration)).transpose()?;
    Ok(Fault {
        proxy: places.take(&format!("{key}.proxy"), fault.proxy),
        behavior: places.take(&format!("{key}.behavior"), fault.behavior),
        options: fault.options.unwrap_or_default(),
        at: at.unwrap_or_default(),
        over: places.convert(&format!("{key}.for"), fault.over, parse_duration)?,
    })
}

fn build_phases(
    raw: Spanned<Vec<Spanned<PhaseEntry>>>,
    warm_up: Option<Duration>,
    places: &mut Places<'_>,
) -> Result<Vec<Phase>, ParseError> {
    let entries = places.take("phases", raw);
    let mut phases = Vec::with_capacity(entries.len() + 1);
    for (index, entry) in entries.into_iter().enumerate() {
        let key = format!("phases[{index}]");
        let place = entry.referenced;
        let entry = places.take(&key, entry);
        phases.push(build_phase(&key, place, entry, places)?);
    }
    if let (Some(over), Some(first)) = (warm_up.filter(|over| !over.is_zero()), phases.first()) {
        // The warm-up runs like the first phase at its first rate, and shifts the keys below by one.
        let load = match &first.load {
            Load::Open(pace) => match pace.first_rate() {
                Some(rate) => Load::Open(Pace::Constant { rate }),
                None => first.load.clone(),
            },
            closed => closed.clone(),
        };
        phases.insert(0, Phase { load, stop: Stop::After(over), warm_up: true });
        places.known = std::mem::take(&mut places.known).into_iter().map(shift_phase).collect();
    }
    Ok(phases)
}

/// `phases[2].rate` → `phases[3].rate`: a warm-up phase now stands before it.
fn shift_phase((key, place): (String, Location)) -> (String, Location) {
    let shifted = key.strip_prefix("phases[").and_then(|rest| {
        let (index, rest) = rest.split_once(']')?;
        Some(format!("phases[{}]{rest}", index.parse::<usize>().ok()? + 1))
    });
    (shifted.unwrap_or(key), place)
}

fn build_phase(
    key: &str,
    place: Location,
    entry: PhaseEntry,
    places: &mut Places<'_>,
) -> Result<Phase, ParseError> {
    let wrong = |places: &Places<'_>, problem: &str| places.error_at(place, key, problem);
    let has_arrivals = entry.arrivals.is_some();
    let poisson = match entry.arrivals {
        None => false,
        Some(value) => places.convert(&format!("{key}.arrivals"), value, |text| match text {
            "constant" => Ok(false),
            "poisson" => Ok(true),
            other => Err(format!("`{other}` is neither `constant` nor `poisson`")),
        })?,
    };
    let over = entry.over.map(|v| places.convert(&format!("{key}.for"), v, parse_duration)).transpose()?;
    let requests = entry.requests.map(|v| places.take(&format!("{key}.requests"), v));
    let think_time = entry
        .think_time
        .map(|v| places.convert(&format!("{key}.think_time"), v, parse_duration))
        .transpose()?;
    if think_time.is_some() && entry.users.is_none() {
        return Err(wrong(places, "think_time belongs to users; an open model does not wait for replies"));
    }
    if has_arrivals && entry.rate.is_none() {
        return Err(wrong(places, "arrivals belong to `rate`"));
    }
    let mut steps_total = None;
    let load = match (entry.rate, entry.ramp, entry.steps, entry.users) {
        (Some(rate), None, None, None) => {
            let rate = places.convert(&format!("{key}.rate"), rate, Rate::from_str)?;
            Load::Open(if poisson { Pace::Poisson { rate } } else { Pace::Constant { rate } })
        }
        (None, Some(ramp), None, None) => Load::Open(Pace::Ramp {
            from: places.convert(&format!("{key}.ramp.from"), ramp.from, Rate::from_str)?,
            to: places.convert(&format!("{key}.ramp.to"), ramp.to, Rate::from_str)?,
        }),
        (None, None, Some(entries), None) => {
            let mut steps = Vec::with_capacity(entries.len());
            for (number, step) in entries.into_iter().enumerate() {
                let key = format!("{key}.steps[{number}]");
                let rate = places.convert(&format!("{key}.rate"), step.rate, Rate::from_str)?;
                let over = places.convert(&format!("{key}.for"), step.over, parse_duration)?;
                steps.push(Step { rate, over });
            }
            steps_total = steps.iter().try_fold(Duration::ZERO, |sum, step| sum.checked_add(step.over));
            Load::Open(Pace::Steps(steps))
        }
        (None, None, None, Some(users)) => Load::Closed {
            users: places.take(&format!("{key}.users"), users),
            think_time: think_time.unwrap_or_default(),
        },
        (None, None, None, None) => {
            return Err(wrong(places, "says no load; give it `rate`, `ramp`, `steps` or `users`"));
        }
        _ => return Err(wrong(places, "has more than one of `rate`, `ramp`, `steps` and `users`; keep one")),
    };
    let stop = match (over.or(steps_total), requests) {
        (Some(over), None) => Stop::After(over),
        (None, Some(count)) => Stop::Requests(count),
        (None, None) => return Err(wrong(places, "never ends; give it `for` or `requests`")),
        (Some(_), Some(_)) => return Err(wrong(places, "has both `for` and `requests`; keep one")),
    };
    Ok(Phase { load, stop, warm_up: entry.warm_up.unwrap_or(false) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHECKOUT: &str = r#"name: checkout
nodes: 3                                  # default 1
target: http://10.0.3.7:8080/
connections: 300
phases:
  - {rate: 3000/s, for: 30s}              # open model; {users: 100, for: 30s} is the closed one
faults:                                   # on proxies that joined, or that --via names
  - {proxy: redis, behavior: "20:delay", options: {delay: {time: 200ms}}, at: 10s, for: 5s}
slo: ["p99<50ms", "errors<0.1%"]
on_node_loss: invalid                     # or: continue
"#;

    fn refusal(text: &str) -> String {
        parse("run.yml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_run_file_of_the_manual_is_read() {
        let plan = parse("run.yml", CHECKOUT).unwrap();
        assert_eq!((plan.name.as_str(), plan.nodes, plan.connections), ("checkout", 3, 300));
        assert_eq!(plan.duration(), Some(Duration::from_secs(30)));
        assert_eq!(plan.faults[0].options["delay"]["time"], "200ms");
        assert_eq!(
            (plan.faults[0].at, plan.faults[0].over),
            (Duration::from_secs(10), Duration::from_secs(5))
        );
        assert_eq!(plan.slo.len(), 2);
        assert_eq!(plan.on_node_loss, OnNodeLoss::Invalid);
    }

    #[test]
    fn every_key_reaches_the_plan() {
        let plan = parse(
            "run.yml",
            "target: http://h:7\nmethod: POST\nheaders: {X-B: '1', X-A: two}\nbody: hi\nkeep_alive: false\n\
             connections: 7\nthreads: 2\nconnect_timeout: 1s\nresponse_timeout: 2s\nwarm_up: 5s\ndrain: 0\n\
             source_addresses: [127.0.0.2, '::1']\nconnect_rate: 100/s\ndrop_after: 5ms\nprecise: true\nseed: 42\n\
             on_node_loss: continue\nphases:\n- {rate: 10/s, arrivals: poisson, for: 1s}\n- {ramp: {from: 1/s, to: 2k/s}, for: 2s}\n\
             - {steps: [{rate: 1/s, for: 1s}, {rate: 2/s, for: 3s}]}\n- {users: 4, think_time: 10ms, requests: 100}\n",
        )
        .unwrap();
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        let loads: Vec<_> = plan.phases.iter().map(|p| (p.load.clone(), p.stop, p.warm_up)).collect();
        let secs = |s| Stop::After(Duration::from_secs(s));
        assert_eq!(loads[0], (Load::Open(Pace::Constant { rate: rate("10/s") }), secs(5), true));
        assert_eq!(loads[1], (Load::Open(Pace::Poisson { rate: rate("10/s") }), secs(1), false));
        assert_eq!(loads[2].0, Load::Open(Pace::Ramp { from: rate("1/s"), to: rate("2k/s") }));
        assert_eq!(loads[3].1, secs(4));
        assert_eq!(loads[4].0, Load::Closed { users: 4, think_time: Duration::from_millis(10) });
        assert_eq!(loads[4].1, Stop::Requests(100));
        assert_eq!(plan.headers, [("X-B".into(), "1".into()), ("X-A".into(), "two".into())]);
        assert_eq!((plan.keep_alive, plan.precise, plan.seed), (false, true, 42));
        let echo = parse("r", "target: tcp://h:7\npayload: 1KiB\nphases: [{users: 1, for: 1s}]").unwrap();
        assert_eq!(echo.payload_bytes, 1024);
        assert_eq!(plan.late, LatePolicy::DropAfter(Duration::from_millis(5)));
        assert_eq!((plan.drain, plan.body.as_bytes()), (Duration::ZERO, &b"hi"[..]));
        assert_eq!((plan.connections, plan.threads, plan.source_addresses.len()), (7, 2, 2));
        assert_eq!(plan.on_node_loss, OnNodeLoss::Continue);
    }

    #[test]
    fn closed_users_bring_their_connections() {
        let plan = parse("r", "target: http://h/\nphases: [{users: 40, for: 1s}]").unwrap();
        assert_eq!(plan.connections, 40);
        assert_eq!(parse("r", "target: http://h/\nphases: [{rate: 1/s, for: 1s}]").unwrap().connections, 100);
    }

    #[test]
    fn a_number_without_a_unit_is_a_rate_in_seconds() {
        let plan = parse("r", "target: localhost:80\nphases: [{rate: 500, for: 1s}]").unwrap();
        let rate = "500/s".parse().unwrap();
        assert_eq!(plan.phases[0].load, Load::Open(Pace::Constant { rate }));
    }

    #[test]
    fn the_example_has_every_key_and_every_key_is_in_the_manual() {
        let plan = parse("example.yml", EXAMPLE).unwrap();
        assert_eq!((plan.phases.len(), plan.faults.len(), plan.slo.len()), (7, 1, 4));
        let manual = include_str!("../../README.md");
        let source = include_str!("parse.rs");
        let structs = ["RunFile", "PhaseEntry", "RampEntry", "StepEntry", "FaultEntry"];
        for name in structs {
            let (_, fields) = source.split_once(&format!("struct {name} {{")).unwrap();
            let (fields, _) = fields.split_once("\n}").unwrap();
            for field in fields.lines().filter_map(|line| line.trim().split_once(": ")) {
                let key = if field.0 == "over" { "for" } else { field.0 };
                assert!(EXAMPLE.contains(&format!("{key}:")), "{name}.{key} is not in the example");
                assert!(manual.contains(&format!("`{key}`")), "{name}.{key} is not in the manual");
            }
        }
        let commented = EXAMPLE.lines().map(|line| {
            line.strip_prefix("# drop_after").map_or(line.to_owned(), |rest| format!("drop_after{rest}"))
        });
        let commented: String =
            commented.map(|line| line.replace("# source_addresses", "source_addresses") + "\n").collect();
        assert_eq!(
            parse("example.yml", &commented).unwrap().source_addresses.len(),
            2,
            "what is commented out is right, too"
        );
    }

    #[test]
    fn a_plan_in_json_comes_back_as_it_was() {
        let plan = parse("run.yml", EXAMPLE).unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(parse("plan.json", &json).unwrap(), plan);
        assert_eq!(parse("run.json", &format!("{{\"format\": 1, \"plan\": {json}}}")).unwrap(), plan);
        // JSON is YAML: a run file may be written in it.
        let file = r#"{"target": "http://h/", "phases": [{"rate": "5/s", "for": "1s"}]}"#;
        assert_eq!(parse("run.json", file).unwrap().phases.len(), 1);
        let bad = json.replace("\"connections\":100", "\"connections\":0");
        let refusal = parse("plan.json", &bad).unwrap_err().to_string();
        assert_eq!(refusal, "plan.json:1:1: connections: must be at least 1");
    }

    #[test]
    fn a_key_that_does_nothing_where_it_stands_is_refused() {
        for (text, expected) in [
            (
                "target: http://h/\npayload: 1KiB\nphases: [{rate: 1/s, for: 1s}]",
                "r:2:10: payload: is about tcp://",
            ),
            (
                "target: tcp://h:1\nmethod: PUT\nphases: [{rate: 1/s, for: 1s}]",
                "r:2:9: method: is about HTTP",
            ),
            (
                "target: tcp://h:1\nheaders: {a: b}\nphases: [{rate: 1/s, for: 1s}]",
                "r:2:10: headers: is about HTTP",
            ),
            ("target: tcp://h:1\nbody: x\nphases: [{rate: 1/s, for: 1s}]", "r:2:7: body: is about HTTP"),
            (
                "target: h:1\ndrop_after: 1s\nphases: [{users: 1, for: 1s}]",
                "r:2:13: drop_after: is about due",
            ),
            ("target: h:1\nprecise: true\nphases: [{users: 1, for: 1s}]", "r:2:10: precise: is about due"),
            ("target: h:1\nphases: [{users: 1, arrivals: constant, for: 1s}]", "arrivals belong to `rate`"),
        ] {
            let refusal = parse("r", text).unwrap_err().to_string();
            assert!(refusal.contains(expected), "{text}\n{refusal}");
        }
    }

    #[test]
    fn a_mistake_names_file_line_and_key() {
        let edit = |from: &str, to: &str| refusal(&CHECKOUT.replacen(from, to, 1));
        for (error, expected) in [
            (
                edit("connections:", "conections:"),
                "run.yml:4:1: unknown key `conections`; did you mean `connections`?",
            ),
            (edit("rate: 3000/s", "rat: 3000/s"), "run.yml:6:6: unknown key `rat`; did you mean `rate`?"),
            (
                edit("3000/s", "fast"),
                "run.yml:6:12: phases[0].rate: `fast` is not a rate; write a number, k or M if you like, and /s (meant without a unit), /min or /h, such as 20k/s",
            ),
            (
                edit("for: 30s", "for: 30"),
                "run.yml:6:25: phases[0].for: `30` is not a duration; write a number and ns, us, ms, s, m or h, such as 150ms",
            ),
            (
                edit("http:", "https:"),
                "run.yml:3:9: target: `https://10.0.3.7:8080/`: https is not built yet; use http:// towards a TLS terminator",
            ),
            (
                edit("300\n", "2\n"),
                "run.yml:4:14: connections: 2 are fewer than the 3 nodes; raise connections or lower nodes",
            ),
            (
                edit("p99<50ms", "p99=50ms"),
                "run.yml:9:7: slo[0]: `p99=50ms` compares nothing; write METRIC<BOUND, such as p99<50ms, errors<0.1% or rate>19k/s",
            ),
            (
                edit("invalid", "ignore"),
                "run.yml:10:15: on_node_loss: `ignore` is neither `invalid` nor `continue`",
            ),
            (
                edit("for: 30s", "requests: 3, for: 3s"),
                "run.yml:6:5: phases[0]: has both `for` and `requests`; keep one",
            ),
            (
                edit("rate: 3000/s, ", ""),
                "run.yml:6:5: phases[0]: says no load; give it `rate`, `ramp`, `steps` or `users`",
            ),
            (edit(", for: 30s", ""), "run.yml:6:5: phases[0]: never ends; give it `for` or `requests`"),
            (edit("target: http://10.0.3.7:8080/\n", ""), "`target` is missing; add it"),
            (edit("nodes: 3 ", "nodes: three "), "run.yml:2:8: nodes: "),
            (edit("nodes: 3", "name: 3"), "`name` stands here twice; keep one"),
        ] {
            assert!(error.contains(expected), "{error}\n{expected}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_is_no_run_file_is_told_what_one_is() {
        for text in ["", "# only a comment\n", "hello", "[1, 2]"] {
            let refusal = refusal(text);
            assert!(refusal.ends_with("`key: value`; it needs `target` and `phases`"), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn a_warm_up_does_not_shift_the_line_of_a_mistake() {
        let text = CHECKOUT.replacen("connections", "warm_up: 5s\nconnections", 1).replacen("30s", "0s", 1);
        assert!(
            refusal(&text).starts_with("run.yml:7:25: phases[1].for: must be above 0"),
            "{}",
            refusal(&text)
        );
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_or_read_without_a_panic(at in any::<prop::sample::Index>(), text in "\\PC{0,6}") {
            let chars: Vec<char> = CHECKOUT.chars().collect();
            let at = at.index(chars.len());
            let damaged: String = chars[..at].iter().copied().chain(text.chars()).chain(chars[at..].iter().skip(2).copied()).collect();
            let _ = parse("run.yml", &damaged);
        }
    }
}
