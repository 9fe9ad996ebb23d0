//! Settings that were given and would do nothing: who wrote one expects something of it, so it is refused.

use std::time::Duration;

use super::{Load, Plan, PlanError, Reuse, Target};

/// Why a setting does nothing in a plan; `None` where it does something.
type Idle = fn(&Plan) -> Option<&'static str>;

/// By the key of the run file.
const SETTINGS: [(&str, Idle); 9] = [
    ("payload", |plan| {
        matches!(plan.target, Target::Http { .. })
            .then_some("only tcp:// targets take one; what an http:// target gets is the body")
    }),
    ("method", of_http),
    ("headers", of_http),
    ("body", of_http),
    ("drop_after", |plan| {
        (!is_open(plan)).then_some("only with a rate is a request late; give a rate, or leave it out")
    }),
    ("precise", |plan| {
        (plan.precise && !has_due_times(plan))
            .then_some("without a rate or think time nothing is due; give one, or leave it out")
    }),
    ("reuse", |plan| {
        (plan.reuse == Reuse::Hot && !is_open(plan))
            .then_some("only with a rate there is a choice, as each user has a connection; leave it out")
    }),
    ("retry_pause", |plan| {
        (!has_users(plan))
            .then_some("only users pause; with a rate every request has a time of its own: leave it out")
    }),
    ("threads", |plan| {
        (plan.threads > plan.connections / plan.nodes.max(1))
            .then_some("more threads than connections; lower threads or raise connections")
    }),
];

/// Refuses the first setting that `is_given`, by its key, and does nothing in this valid plan.
///
/// # Errors
/// Its key, and what to do.
pub fn check_idle(plan: &Plan, is_given: impl Fn(&str) -> bool) -> Result<(), PlanError> {
    for (key, idle) in SETTINGS.iter().filter(|(key, _)| is_given(key)) {
        if let Some(problem) = idle(plan) {
            return Err(PlanError { key: (*key).to_owned(), problem: problem.to_owned() });
        }
    }
    Ok(())
}

fn of_http(plan: &Plan) -> Option<&'static str> {
    matches!(plan.target, Target::Tcp { .. })
        .then_some("only http:// targets have one; what a tcp:// target gets is the payload")
}

fn is_open(plan: &Plan) -> bool {
    plan.phases.iter().any(|phase| matches!(phase.load, Load::Open(_)))
}

fn has_users(plan: &Plan) -> bool {
    plan.phases.iter().any(|phase| matches!(phase.load, Load::Closed { .. }))
}

fn has_due_times(plan: &Plan) -> bool {
    plan.phases.iter().any(|phase| match phase.load {
        Load::Open(_) => true,
        Load::Closed { think_time, .. } => think_time > Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use crate::scenario::parse;

    #[test]
    fn a_setting_is_refused_where_it_does_nothing_and_taken_elsewhere() {
        let (open, closed) = ("{rate: 10/s, for: 9s}", "{users: 10, for: 9s}");
        let thinks = "{users: 10, think_time: 1ms, for: 9s}";
        let (http, tcp) = ("http://h/", "tcp://h:7");
        for (setting, idle, busy) in [
            ("payload: 64B", (http, open), (tcp, open)),
            ("method: GET", (tcp, open), (http, open)),
            ("headers: {}", (tcp, open), (http, open)),
            ("body: x", (tcp, open), (http, open)),
            ("drop_after: 1s", (http, closed), (http, open)),
            ("precise: true", (http, closed), (http, thinks)),
            ("reuse: hot", (http, closed), (http, open)),
            ("retry_pause: 1s", (http, open), (http, closed)),
            ("threads: 11", (http, closed), (http, open)),
        ] {
            let key = setting.split(':').next().unwrap();
            let read = |(target, phase): (&str, &str)| {
                parse("f", &format!("target: {target}\n{setting}\nphases: [{phase}]"))
            };
            let refusal = read(idle).expect_err(setting).to_string();
            let start = format!("f:2:{}: {key}: ", key.len() + 3);
            assert!(refusal.starts_with(&start), "{setting}: {refusal}");
            assert!(read(busy).is_ok(), "{setting}: {:?}", read(busy));
        }
    }

    #[test]
    fn what_belongs_to_another_kind_of_phase_is_refused() {
        for (phase, part) in [
            ("{rate: 10/s, think_time: 1s, for: 9s}", "think_time belongs to users"),
            ("{ramp: {from: 1/s, to: 2/s}, think_time: 1s, for: 9s}", "think_time belongs to users"),
            ("{users: 1, arrivals: constant, for: 9s}", "arrivals belongs to rate"),
            ("{users: 1, arrivals: poisson, for: 9s}", "arrivals belongs to rate"),
            ("{ramp: {from: 1/s, to: 2/s}, arrivals: poisson, for: 9s}", "arrivals belongs to rate"),
        ] {
            let refusal = parse("f", &format!("target: http://h/\nphases: [{phase}]")).unwrap_err();
            assert!(refusal.to_string().contains(part), "{phase}: {refusal}");
        }
        let late = "target: http://h/\nphases: [{rate: 1/s, for: 9s}]\nfaults: [{proxy: p, behavior: hang, at: 9s, for: 1s}]";
        let refusal = parse("f", late).unwrap_err().to_string();
        assert!(refusal.starts_with("f:3:41: faults[0].at: the run has ended by then"), "{refusal}");
    }
}
