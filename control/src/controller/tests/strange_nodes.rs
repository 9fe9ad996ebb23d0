//! Nodes that are broken or mean harm, in virtual time: what they say stays theirs, and stays small.

use fracas_loadgen::measure::{COUNTED_MAX, Counts, Failure, Interval, Own, Timeline};

use super::*;
use crate::session::Delta;

fn told(id: &str, sequence: u64, second: u32) -> FromNode {
    let mut timeline = Timeline::default();
    timeline.add(&Interval { second, ..Interval::default() });
    let attempt = attempt(id);
    FromNode::Delta(Delta { attempt, sequence, timeline, connections_open: 1, cpu_ratio_max: 0.0 })
}

#[test]
fn a_node_that_tells_of_seconds_to_come_is_out_of_the_run() {
    for second in [10, u32::MAX] {
        let mut world = World::with_agents(&["a", "b"]);
        let id = world.submit(PLAN);
        world.get_running(&id);
        world.say("b", told(&id, 1, second));
        assert_eq!(world.sent("b", cancelled), ["it told of seconds that have not come"]);
        (1..=2).for_each(|sequence| assert!(world.say("a", delta(&id, sequence, 5))));
        world.finish("a", &id, 2);
        world.pass(Duration::from_secs(3), &["a", "b"]);
        world.write_reports();
        let run = world.run(&id);
        assert_eq!(run.state, RunState::Invalid);
        assert!(run.reasons.iter().any(|reason| reason.contains("seconds that have not come")), "{run:?}");
        assert_eq!(run.counts.planned, 200, "of the other node");
    }
}

/// A piece of results that counts so many requests in its first second, and took so many nanoseconds and bytes.
fn counted(id: &str, sequence: u64, requests: u64, amount: u64) -> FromNode {
    let counts = Counts { planned: requests / 3, sent: requests / 3, ok: requests / 3, ..Counts::default() };
    let own = Own { run_delay_ns: amount, users_paused_ns: amount, ..Own::default() };
    let mut timeline = Timeline::default();
    timeline.add(&Interval { counts, own, sent_bytes: amount, ..Interval::default() });
    FromNode::Delta(Delta {
        attempt: attempt(id),
        sequence,
        timeline,
        connections_open: 1 << 48,
        cpu_ratio_max: 0.0,
    })
}

#[test]
fn a_node_that_counts_more_than_any_run_has_is_out_of_the_run() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.get_running(&id);
    // Each of them could be, and so many of them that the sum does not fit a count.
    (1..=8).for_each(|sequence| assert!(world.say("b", counted(&id, sequence, COUNTED_MAX / 8, 0))));
    assert_eq!(world.sent("b", cancelled), [] as [&str; 0]);
    world.say("b", counted(&id, 9, COUNTED_MAX / 8, 0));
    assert_eq!(world.sent("b", cancelled), ["it told of more requests than any run has"]);
    (1..=2).for_each(|sequence| assert!(world.say("a", delta(&id, sequence, 5))));
    world.finish("a", &id, 2);
    world.pass(Duration::from_secs(3), &["a", "b"]);
    world.write_reports();
    let run = world.run(&id);
    assert_eq!(run.state, RunState::Invalid);
    assert!(run.reasons.iter().any(|reason| reason.contains("more requests than any run has")), "{run:?}");
}

#[test]
fn times_and_bytes_that_are_more_than_can_be_counted_are_the_most_that_can_be() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.get_running(&id);
    for node in ["a", "b"] {
        (1..=3).for_each(|sequence| assert!(world.say(node, counted(&id, sequence, 300, u64::MAX / 2))));
        world.finish(node, &id, 3);
    }
    world.pass(Duration::from_secs(3), &["a", "b"]);
    world.write_reports();
    let run = world.run(&id);
    let summary = &run.result.unwrap().summary;
    assert_eq!(run.counts.planned, 600);
    let (sent_bytes, paused_ns) = (summary.sent_bytes, summary.own.users_paused_ns);
    assert_eq!((sent_bytes, paused_ns, summary.own.run_delay_ns), (u64::MAX, u64::MAX, u64::MAX));
}

#[test]
fn results_of_another_attempt_or_before_the_start_are_not_heard() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.say("a", told(&id, 1, 0));
    world.finish("a", &id, 0);
    assert_eq!(world.state(&id), RunState::Preparing);
    world.get_running(&id);
    let FromNode::Delta(mut other) = delta(&id, 1, 5) else { unreachable!() };
    other.attempt.number = 2;
    world.say("a", FromNode::Delta(other));
    let finished = Finished { attempt: Attempt { run: id.clone(), number: 7 }, ..Finished::default() };
    world.say("a", FromNode::Finished(Box::new(finished)));
    world.deliver_all(&id);
    world.write_reports();
    let run = world.run(&id);
    assert_eq!((run.state, run.counts.planned), (RunState::Passed, 400), "{:?}", run.reasons);
}

#[test]
fn a_session_whose_place_another_takes_is_ended() {
    let mut world = World::with_agents(&["a"]);
    let first = world.sessions["a"].0;
    for _ in 0..1_000 {
        world.join("a", "1", Role::Agent, None).unwrap();
    }
    assert_eq!((world.ended.len(), world.ended[0]), (1_000, first));
}

#[test]
fn windows_from_another_time_make_no_long_report() {
    let mut world = World::with_agents(&["a", "b"]);
    world.join_cache();
    let fault = "faults:\n  - {proxy: cache, behavior: \"20:delay\", at: 0s, for: 1s}\n";
    let id = world.submit(&format!("{PLAN}{fault}"));
    world.ready("a", &id);
    world.ready("b", &id);
    let order =
        |message: &ToNode| if let ToNode::ApplyFault(order) = message { Some(order.clone()) } else { None };
    let order = world.sent("p", order).remove(0);
    world.say("p", FromNode::FaultAccepted { fault: order.fault.clone(), result: Ok(()) });
    world.pass(Duration::from_millis(1_500), &["a", "b", "p"]);
    let never = Instant::from_nanos(u64::MAX);
    for (started_at, ended_at) in
        [(never, None), (never, Some(never)), (Instant::ZERO, None), (never, Some(never))]
    {
        world.say(
            "p",
            FromNode::FaultWindow(WindowSeen {
                fault: order.fault.clone(),
                started_at,
                ended_at,
                injected: 1 << 48,
                failures: [1 << 48; Failure::COUNT],
                listen: Some("127.0.0.1:1".parse().unwrap()),
                proxy: String::new(),
                behavior: String::new(),
            }),
        );
    }
    world.deliver_all(&id);
    world.pass(Duration::from_secs(3), &["a", "b", "p"]);
    world.write_reports();
    let run = world.run(&id);
    let windows = &run.result.unwrap().summary.faults;
    assert!(windows.iter().all(|window| window.end_ns < 10_000_000_000), "{windows:?}");
}

#[test]
fn names_of_proxies_without_end_hold_up_nobody() {
    let mut world = World::with_agents(&["a", "b"]);
    world.join_cache();
    for node in ["q", "r", "s"] {
        world.join(node, "1", Role::Proxy, None).unwrap();
        world.say(node, FromNode::Proxies((0..60_000).map(|number| format!("{node}{number}")).collect()));
    }
    let fault = "faults:\n  - {proxy: cache, behavior: \"20:delay\", at: 0s, for: 1s}\n";
    let id = world.submit(&format!("{PLAN}{fault}"));
    assert_eq!(world.state(&id), RunState::Preparing);
    world.pass(Duration::from_secs(2), &["a", "b", "p", "q", "r", "s"]);
}

#[test]
fn a_round_trip_that_cannot_be_delays_no_start() {
    let mut world = World::with_agents(&["a", "b"]);
    let lie = Exchange {
        controller_sent: Instant::ZERO,
        node_received: Instant::from_nanos(5),
        node_sent: Instant::from_nanos(5),
        controller_received: world.now,
    };
    world.join("c", "1", Role::Agent, None).unwrap();
    (0..100).for_each(|_| assert!(world.say("c", FromNode::Pong(lie))));
    let id = world.submit(&PLAN.replace("nodes: 2", "nodes: 3"));
    ["a", "b", "c"].iter().for_each(|name| world.ready(name, &id));
    world.pass(Duration::from_millis(1_500), &["a", "b", "c"]);
    assert_eq!(world.state(&id), RunState::Running);
}
