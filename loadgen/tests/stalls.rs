//! A generator that stands still: what it missed is its own, whatever the model, and the verdict says so. On the
//! simulated ring, exact.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
#[path = "support/simulated.rs"]
mod simulated;

use std::time::Duration;

use fracas_loadgen::measure::{
    Distribution, Environment, Faults, Grade, NodeReport, RunFacts, Summary, Timeline,
};
use fracas_loadgen::scenario::{Load, Pace, Phase, Plan, Stop};
use simulated::{Answer, Bench};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn plan(connections: u32, load: Load) -> Plan {
    let mut plan = Plan::for_target("http://10.9.9.9/".parse().unwrap());
    plan.connections = connections;
    plan.phases = vec![Phase { load, stop: Stop::After(Duration::from_secs(6)), warm_up: false }];
    plan
}

fn open(rate: &str) -> Load {
    Load::Open(Pace::Constant { rate: rate.parse().unwrap() })
}

fn closed(users: u32) -> Load {
    Load::Closed { users, think_time: Duration::ZERO }
}

/// Runs a plan of six seconds whose generator stands still from 2.3 s on.
fn stopped(plan: &Plan, service: Duration, stop: Duration) -> Timeline {
    let mut bench = Bench::new(31, plan, move |_| Answer::ok().after(service));
    bench.open();
    let start = bench.start();
    let from = start + ms(2_300);
    *bench.stop.borrow_mut() = (!stop.is_zero()).then_some((from, from + stop));
    bench.finish(Duration::from_secs(60))
}

fn summary(plan: &Plan, nodes: &[(&str, Timeline)]) -> Summary {
    let facts = RunFacts {
        plan: plan.clone(),
        started_at_unix_ms: 0,
        ran_for: Duration::from_secs(6),
        ended_early: None,
        cut_after: None,
        faults: Faults::default(),
        environment: Environment::default(),
        reproduce: String::new(),
    };
    let nodes: Vec<_> = nodes
        .iter()
        .map(|(name, timeline)| NodeReport {
            name: (*name).to_owned(),
            timeline: timeline.clone(),
            ..NodeReport::default()
        })
        .collect();
    Summary::new(facts, &nodes)
}

#[test]
fn a_stop_of_a_second_is_the_generators_own_in_every_model() {
    let second = 1_000_000_000_u64;
    for (name, load, connections, service) in [
        ("open", open("1000/s"), 50, ms(1)),
        ("open, ample connections", open("1000/s"), 2_000, ms(1)),
        ("open, one connection", open("200/s"), 1, ms(1)),
        ("open, rare", open("5/s"), 4, ms(1)),
        ("closed", closed(10), 10, ms(1)),
        ("closed, one user", closed(1), 1, ms(5)),
        ("closed, many", closed(200), 200, ms(20)),
        ("closed, more than one wait takes in", closed(400), 400, ms(30)),
    ] {
        let plan = plan(connections, load);
        let timeline = stopped(&plan, service, ms(1_000));
        if name.starts_with("closed") {
            // Not only the longest: all that it held up it answers for.
            let late = |series: Distribution| series.count_above(900_000_000);
            let [responses, own] = [timeline.response(), timeline.own_lag()].map(late);
            assert_eq!((responses, own), (u64::from(connections), u64::from(connections)), "{name}");
        }
        let summary = summary(&plan, &[("local", timeline)]);
        assert_ne!(summary.verdict, Grade::Valid, "{name}: {:?}", summary.reasons);
        let own = summary.own;
        assert!(own.stall_max_ns.abs_diff(second) < second / 50, "{name}: {}", own.stall_max_ns);
        assert_eq!(own.stall_max_second, Some(2), "{name}");
        let reason = summary.reasons.iter().find(|reason| reason.contains("stood still")).unwrap();
        assert!(reason.contains("1.00 s from second 2 on"), "{name}: {reason}");
        // What the longest response has too much is the generator's. Rare requests are hit in the middle of it.
        let longest =
            if name == "open, rare" { 700_000_000..910_000_000 } else { 980_000_000..1_040_000_000 };
        assert!(longest.contains(&summary.response.max), "{name}: {}", summary.response.max);
        let natural = summary.response.max - summary.own_lag.max;
        assert!(natural < second / 50 + service.as_nanos() as u64, "{name}: {natural} is not its own");
        assert!(own.requests_touched >= 1 && own.touched_ratio > 0.0, "{name}");
        // In the summary's seconds it stands where it began.
        let worst = summary.seconds.iter().max_by_key(|second| second.own_stall_max).unwrap();
        assert_eq!((worst.second, worst.own_stall_max), (2, own.stall_max_ns), "{name}");
    }
}

#[test]
fn what_piled_up_is_own_for_as_long_as_it_was_not_seen() {
    // A thousand requests pile up over 20 connections and are then sent 20 at a time; each was due 0 to 1 s before.
    let plan = plan(20, open("1000/s"));
    let timeline = stopped(&plan, ms(1), ms(1_000));
    let own = timeline.own_lag();
    let (touched, half) = (own.count_above(1_000_000), own.count_above(500_000_000));
    assert!((995..=1_020).contains(&touched), "{touched}");
    assert!((495..=520).contains(&half), "{half}");
    let summary = summary(&plan, &[("local", timeline)]);
    assert_eq!(summary.verdict, Grade::Invalid, "{:?}", summary.reasons);
}

#[test]
fn short_stops_are_measured_and_do_not_cry_wolf() {
    for (stop, grade) in [(ms(0), Grade::Valid), (ms(3), Grade::Valid), (ms(60), Grade::Suspect)] {
        let plan = plan(4, closed(4));
        let summary = summary(&plan, &[("local", stopped(&plan, ms(1), stop))]);
        assert_eq!(summary.verdict, grade, "{stop:?}: {:?}", summary.reasons);
        let off = summary.own.stall_max_ns.abs_diff(stop.as_nanos() as u64);
        // The heartbeat's millisecond.
        assert!(off <= 1_100_000, "{stop:?}: {}", summary.own.stall_max_ns);
    }
}

#[test]
fn a_node_that_stands_still_is_named() {
    let plan = plan(50, open("1000/s"));
    let well = stopped(&plan, ms(1), ms(0));
    let still = stopped(&plan, ms(1), ms(2_000));
    // Over the wire, as a node's seconds come.
    let still = Timeline::decode(&still.encode()).unwrap();
    let summary = summary(&plan, &[("a", well), ("b", still)]);
    assert_eq!(summary.verdict, Grade::Invalid);
    assert!(
        summary
            .reasons
            .iter()
            .any(|reason| reason.starts_with("node b stood still for 2.00 s from second 2")),
        "{:?}",
        summary.reasons
    );
    assert!(!summary.reasons.iter().any(|reason| reason.contains("node a")), "{:?}", summary.reasons);
    assert!(summary.nodes[0].own.stall_max_ns == 0 && summary.nodes[1].own.stall_max_ns > 1_900_000_000);
}

#[test]
fn a_target_that_stands_still_is_not_the_generator() {
    for load in [open("1000/s"), closed(10)] {
        let plan = plan(10, load);
        let mut bench = Bench::new(32, &plan, |_| Answer::ok().after(ms(1)));
        bench.open();
        let start = bench.start();
        bench.server.borrow_mut().freeze = Some((start + ms(2_300), start + ms(3_300)));
        let summary = summary(&plan, &[("local", bench.finish(Duration::from_secs(60)))]);
        assert_eq!((summary.verdict, summary.own_lag.max), (Grade::Valid, 0), "{:?}", summary.reasons);
        assert!(summary.response.max > 980_000_000);
    }
}

#[test]
fn timeouts_that_a_stop_has_made_are_the_generators_and_those_of_a_silent_target_are_not() {
    let mut plan = plan(50, open("1000/s"));
    plan.response_timeout = ms(300);
    // Due in the first 0.7 s of the stop, and given up when it was over.
    let of_stop = summary(&plan, &[("", stopped(&plan, ms(1), ms(1_000)))]);
    assert_eq!(of_stop.own.timeouts, of_stop.counts.timeout);
    assert!((699..=702).contains(&of_stop.counts.timeout), "{:?}", of_stop.counts);
    assert_eq!(of_stop.verdict, Grade::Invalid);
    let said =
        |reason: &String| reason.contains("are the generator's own: it was late for half of their time");
    assert!(of_stop.reasons.iter().any(said), "{:?}", of_stop.reasons);
    // A target that takes longer than the timeout.
    let of_target = summary(&plan, &[("", stopped(&plan, ms(400), ms(0)))]);
    assert!(of_target.counts.timeout > 5_000, "{:?}", of_target.counts);
    assert_eq!(of_target.own.timeouts, 0);
    assert!(!of_target.reasons.iter().any(said), "{:?}", of_target.reasons);
}

#[test]
fn a_share_of_the_measured_time_is_of_that_time_alone() {
    let mut plan = plan(1, open("100/s"));
    let phase =
        |ms, warm_up| Phase { load: open("100/s"), stop: Stop::After(Duration::from_millis(ms)), warm_up };
    plan.phases = vec![phase(1_500, true), phase(1_000, false)];
    plan.drain = ms(3_000);
    // It answers nothing, so that the drain lasts; the thread waits for a core all the time.
    let mut bench = Bench::new(33, &plan, |_| Answer::ok().after(ms(60_000)));
    bench.open();
    let start = bench.start();
    let worker = std::rc::Rc::clone(&bench.worker);
    while !worker.borrow().is_finished() {
        let limit = bench.network.now() + ms(70);
        bench.simulation.run_while(limit, || !worker.borrow().is_finished());
        // More than can be, as a figure that the kernel writes a little late may say.
        worker.borrow_mut().ran(80_000_000, 10, 1);
    }
    let ended_at = worker.borrow().ended_at().unwrap();
    let timeline = bench.finish(Duration::from_secs(60));
    let waited: u64 = timeline.intervals().map(|interval| interval.own.run_delay_ns).sum();
    assert!(waited > 900_000_000 && waited <= 1_000_000_000, "{waited}");
    assert!(ended_at.since(start) > ms(5_000));
}
