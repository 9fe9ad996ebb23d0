//! The search for a capacity against a server of four workers that take 10 ms each: 400 a second, whatever the settings.
//! On the simulated ring.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
#[path = "support/simulated.rs"]
mod simulated;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::simulated::Network;
use fracas_loadgen::capacity::{Finding, Next, Search};
use fracas_loadgen::measure::{Environment, Faults, NodeReport, RunFacts, Summary};
use fracas_loadgen::scenario::{Load, Pace, Phase, Plan, Rate, Stop};
use simulated::{Answer, Bench};

const WORKERS: usize = 4;
const WORK: Duration = Duration::from_millis(10);

struct Settings {
    connections: u32,
    warm_up: Duration,
    probe: Duration,
    slo: &'static str,
}

/// One probe at `rate`, `jitter` being how much a worker's time differs from one request to the next.
fn probe(rate: u64, settings: &Settings, jitter: Duration) -> Summary {
    let mut plan = Plan::for_target("http://10.9.9.9/".parse().unwrap());
    plan.connections = settings.connections;
    plan.response_timeout = Duration::from_secs(5);
    plan.slo = vec![settings.slo.parse().unwrap()];
    let load = Load::Open(Pace::Constant { rate: Rate::per_second(rate).unwrap() });
    let phase = |over, warm_up| Phase { load: load.clone(), stop: Stop::After(over), warm_up };
    plan.phases = vec![phase(settings.probe, false)];
    if !settings.warm_up.is_zero() {
        plan.phases.insert(0, phase(settings.warm_up, true));
    }
    let free_at = RefCell::new([Instant::ZERO; WORKERS]);
    let network: Rc<RefCell<Option<Network>>> = Rc::default();
    let clock = Rc::clone(&network);
    let turn = Cell::new(0_u32);
    let mut bench = Bench::new(rate, &plan, move |_| {
        let now = clock.borrow().as_ref().unwrap().now();
        let mut free_at = free_at.borrow_mut();
        let first = free_at.iter_mut().min().unwrap();
        turn.set(turn.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let draw = f64::from(turn.get() >> 8) / f64::from(1 << 24);
        *first = (*first).max(now) + WORK - jitter / 2 + jitter.mul_f64(draw);
        Answer::ok().after(first.since(now))
    });
    *network.borrow_mut() = Some(bench.network.clone());
    bench.open();
    let start = bench.start();
    let timeline = bench.finish(Duration::from_secs(120));
    let facts = RunFacts {
        plan,
        started_at_unix_ms: 0,
        ran_for: bench.worker.borrow().ended_at().unwrap().since(start),
        ended_early: None,
        cut_after: None,
        faults: Faults::default(),
        environment: Environment::default(),
        reproduce: String::new(),
    };
    Summary::new(facts, &[NodeReport { timeline, ..NodeReport::default() }])
}

#[test]
fn a_server_that_can_do_four_hundred_is_found_to() {
    let ms = Duration::from_millis;
    for (connections, warm_up, length, slo, jitter) in [
        (100, 1_000, 4_000, "p99<50ms", 0),
        (100, 500, 2_000, "p99<500ms", 0),
        (100, 500, 1_000, "p99<400ms", 2),
        (400, 0, 2_100, "p99<1s", 4),
        (1_000, 500, 3_000, "errors<1%", 1),
        (5, 1_000, 2_000, "p50<1s", 2),
    ] {
        let settings = Settings { connections, warm_up: ms(warm_up), probe: ms(length), slo };
        let mut search = Search::new(300, 1_000_000, 0.01);
        let mut probes = Vec::new();
        let answer = loop {
            match search.next() {
                Next::Done(answer) => break answer,
                Next::Probe(rate) => {
                    let summary = probe(rate, &settings, ms(jitter));
                    let finding = Finding::of(&summary);
                    let Summary { answered_ratio, growth_ratio, .. } = summary;
                    probes.push((rate, finding, answered_ratio, growth_ratio, summary.response.p99 / 1_000));
                    search.on_probe(finding);
                }
            }
        };
        let kept = answer.kept.unwrap();
        assert!(
            (392..=408).contains(&kept),
            "{kept}/s with {connections} connections, {length} ms after {warm_up} ms, {slo}: {probes:?}"
        );
    }
}
