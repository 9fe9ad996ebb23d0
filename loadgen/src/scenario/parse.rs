//! A run file becomes a [`Plan`]. A mistake names file, line, column and key, and suggests the nearest key.

mod file;
mod in_words;
mod manual;
mod mistake;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use fracas_dataplane::units::{UnitError, parse_bytes_up_to, parse_duration};
use serde::{Deserialize, Deserializer, de};
use serde_saphyr::{Location, Spanned};

pub use mistake::ParseError;

use file::{FaultEntry, PhaseEntry, RunFile};
use mistake::from_yaml;

use super::idle::check_idle;
use super::{Fault, LatePolicy, Load, OnNodeLoss, Pace, Phase, Plan, Rate, Reuse, Slo, Step, Stop, Target};

/// Connections of an open model that says none: enough to keep a rate while some requests are slow.
const OPEN_CONNECTIONS_DEFAULT: u32 = 100;

/// The longest run file, in bytes: what a gRPC message carries, and more than [`Plan::validate`] lets a person need.
pub const RUN_FILE_BYTES_MAX: usize = 4 << 20;

/// Reads a run file, or the plan in a `run.json`, which is one. `file` only names it in errors.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(file: &str, text: &str) -> Result<Plan, ParseError> {
    let yaml = yaml_of_json(text);
    let text = yaml.as_deref().unwrap_or(text);
    if text.len() > RUN_FILE_BYTES_MAX {
        let size = text.len() >> 20;
        let problem =
            format!("{size} MiB are too long for a run file; at most {} MiB", RUN_FILE_BYTES_MAX >> 20);
        return Err(ParseError::new(file, 1, 1, &problem));
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: RunFile =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| from_yaml(file, text, &e))?;
    let mut places = Places { file, known: HashMap::new() };
    let plan = build(raw, &mut places)?;
    let is_given = |key: &str| places.known.contains_key(key);
    let checked = plan.validate().and_then(|()| check_idle(&plan, is_given));
    checked.map_err(|e| places.error_at(places.nearest(&e.key), &e.key, &e.problem))?;
    Ok(plan)
}

/// Reads the size of an echo message.
///
/// # Errors
/// As of [`parse_bytes_up_to`]; what 32 bits do not count is too large.
pub fn parse_payload(text: &str) -> Result<u32, UnitError> {
    let most = u32::MAX;
    let bytes = parse_bytes_up_to(text, u64::from(most))?;
    u32::try_from(bytes).map_err(|_| UnitError::BytesLarge(text.to_owned(), u64::from(most)))
}

/// JSON as YAML that means the same, of a `run.json` the plan in it; `None` for what is no JSON.
fn yaml_of_json(text: &str) -> Option<String> {
    let json = text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok()).flatten();
    let mut json: serde_json::Value = json?;
    let plan = json.as_object_mut()?.remove("plan").filter(serde_json::Value::is_object);
    let plan = plan.and_then(|plan| serde_json::to_string_pretty(&plan).ok());
    let mut yaml = String::with_capacity(text.len());
    for c in plan.as_deref().unwrap_or(text).chars() {
        match c {
            // YAML 1.2 §5.1, §5.4: not printable, or the end of a line. In JSON they only stand within a string.
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                yaml.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => yaml.push(c),
        }
    }
    Some(yaml)
}

/// A plan that travels, and the one in a `run.json`, is a run file.
impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plan, D::Error> {
        let raw = RunFile::deserialize(deserializer)?;
        let mut places = Places { file: "plan", known: HashMap::new() };
        build(raw, &mut places).map_err(|error| de::Error::custom(error.problem))
    }
}

/// Where each value stood, by its key.
struct Places<'a> {
    file: &'a str,
    known: HashMap<String, Location>,
}

impl Places<'_> {
    fn error_at(&self, place: Location, key: &str, problem: &str) -> ParseError {
        ParseError::new(self.file, place.line(), place.column(), &format!("{key}: {problem}"))
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
    if let Some(value) = raw.body {
        plan.body = places.take("body", value).0;
    }
    plan.name = raw.name.unwrap_or(plan.name);
    plan.keep_alive = raw.keep_alive.unwrap_or(plan.keep_alive);
    if let Some(value) = raw.precise {
        plan.precise = places.take("precise", value);
    }
    plan.seed = raw.seed.unwrap_or(plan.seed);
    places.set(&mut plan.payload_bytes, "payload", raw.payload, parse_payload)?;
    places.set(&mut plan.connect_timeout, "connect_timeout", raw.connect_timeout, parse_duration)?;
    places.set(&mut plan.response_timeout, "response_timeout", raw.response_timeout, parse_duration)?;
    places.set(&mut plan.drain, "drain", raw.drain, parse_duration)?;
    places.set(&mut plan.connect_rate, "connect_rate", raw.connect_rate, Rate::from_str)?;
    places.set(&mut plan.retry_pause, "retry_pause", raw.retry_pause, parse_duration)?;
    places.set(&mut plan.reuse, "reuse", raw.reuse, |text| match text {
        "rotate" => Ok(Reuse::Rotate),
        "hot" => Ok(Reuse::Hot),
        other => Err(format!("`{other}` is neither `rotate` nor `hot`")),
    })?;
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
        return Err(wrong(places, "arrivals belongs to rate; only a rate can be `constant` or `poisson`"));
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
            "target: http://h\nmethod: POST\nheaders: {X-B: '1', X-A: two}\nbody: hi\nkeep_alive: false\n\
             connections: 7\nthreads: 2\nconnect_timeout: 1s\nresponse_timeout: 2s\nwarm_up: 5s\ndrain: 0\n\
             source_addresses: [127.0.0.2, '::1']\nconnect_rate: 100/s\ndrop_after: 5ms\nprecise: true\nseed: 42\nreuse: hot\nretry_pause: 2s\n\
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
        assert_eq!(plan.late, LatePolicy::DropAfter(Duration::from_millis(5)));
        assert_eq!((plan.drain, plan.body.as_bytes()), (Duration::ZERO, &b"hi"[..]));
        assert_eq!((plan.connections, plan.threads, plan.source_addresses.len()), (7, 2, 2));
        assert_eq!(plan.on_node_loss, OnNodeLoss::Continue);
        assert_eq!((plan.reuse, plan.retry_pause), (Reuse::Hot, Duration::from_secs(2)));
        let echo = parse("r", "target: tcp://h:7\npayload: 1KiB\nphases: [{rate: 500, for: 1s}]").unwrap();
        assert_eq!(echo.payload_bytes, 1024);
        // A bare rate is per second, also where YAML reads a number.
        assert_eq!(echo.phases[0].load, Load::Open(Pace::Constant { rate: rate("500/s") }));
    }

    #[test]
    fn the_plan_within_a_run_json_is_a_run_file() {
        let plan = parse("run.yml", CHECKOUT).unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(parse("run.json", &format!("{{\"format\": 1, \"plan\": {json}}}")).unwrap(), plan);
        // JSON is YAML: a run file may be written in it.
        let file = r#"{"target": "http://h/", "phases": [{"rate": "5/s", "for": "1s"}]}"#;
        assert_eq!(parse("run.json", file).unwrap().phases.len(), 1);
        let bad = json.replace("\"connections\":300", "\"connections\":0");
        let refusal = parse("plan.json", &bad).unwrap_err().to_string();
        assert!(refusal.contains("connections: must be at least 1"), "{refusal}");
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_before_it_is_read() {
        let text =
            format!("target: http://h/\nphases: [{{rate: 1/s, for: 1s}}]\nbody: {}", "x".repeat(10 << 20));
        assert!(refusal(&text).contains("10 MiB are too long for a run file; at most 4 MiB"));
    }

    #[test]
    fn closed_users_bring_their_connections() {
        let plan = parse("r", "target: http://h/\nphases: [{users: 40, for: 1s}]").unwrap();
        assert_eq!(plan.connections, 40);
        assert_eq!(parse("r", "target: http://h/\nphases: [{rate: 1/s, for: 1s}]").unwrap().connections, 100);
    }

    #[test]
    fn a_mistake_names_file_line_and_key() {
        let edit = |from: &str, to: &str| refusal(&CHECKOUT.replacen(from, to, 1));
        for (error, expected) in [
            (
                edit("name: checkout", "name: ''"),
                "run.yml:1:1: name: must not be empty; leave it out, and the run has its target's",
            ),
            (
                edit("name: checkout", &format!("name: {}", "n".repeat(257))),
                "run.yml:1:1: name: longer than 256 bytes; it stands in lists",
            ),
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
                "run.yml:6:25: phases[0].for: `30` is not a duration; did you mean 30s?",
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
    fn a_value_of_the_wrong_shape_and_a_key_of_another_tool_are_told_what_to_write() {
        let list = "a list belongs here: begin each of its entries with `- `, or write […]";
        let value = "a single value belongs here, in quotes if it has a `:` or other signs of YAML";
        let keys = "keys and values belong here: lines `key: value`, or {key: value}";
        let phases = "phases: [{rate: 1/s, for: 1s}]";
        for (rest, expected) in [
            ("phases:\n  rate: 1/s\n  for: 1s".to_owned(), format!("run.yml:3:3: rate: {list}")),
            ("phases: 3".to_owned(), format!("run.yml:2:9: phases: {list}")),
            (format!("{phases}\nslo: p99<50ms"), format!("run.yml:3:6: slo: {list}")),
            (format!("{phases}\nslo: [{{p99: 50ms}}]"), format!("run.yml:3:7: slo: {value}")),
            (format!("{phases}\nname: [a]"), format!("run.yml:3:7: name: {value}")),
            ("phases: [5]".to_owned(), format!("run.yml:2:10: phases: {keys}")),
            (format!("{phases}\nthresholds: []"), "run.yml:3:1: unknown key `thresholds`; what must hold is `slo`: slo: [\"p99<50ms\"]".to_owned()),
            ("phases: [{vus: 5, for: 1s}]".to_owned(), "run.yml:2:11: unknown key `vus`; users of the closed model are `users` in a phase: phases: [{users: 100, for: 30s}]".to_owned()),
            ("phases: [{rate: 5, duration: 1s}]".to_owned(), "run.yml:2:20: unknown key `duration`; how long something lasts is `for`, in a phase or a fault".to_owned()),
            (format!("{phases}\nxyzzy: 1"), "run.yml:3:1: unknown key `xyzzy`; known are name, nodes, ".to_owned()),
        ] {
            let error = refusal(&format!("target: http://h/\n{rest}\n"));
            assert!(error.starts_with(&expected), "{error}\n{expected}");
        }
    }

    #[test]
    fn a_tab_is_told_from_a_wrong_key() {
        let refusal = refusal("target: http://h/\nphases:\n\t- {rate: 1/s, for: 1s}\n");
        assert_eq!(refusal, "run.yml:3:2: a tab stands where the line is indented; use spaces");
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
