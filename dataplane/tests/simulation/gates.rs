//! Gates: what cuts bytes, and what ends a connection after so many, alone and together with rates and delays.

use super::*;

fn slice(options: &[(&str, &str)]) -> Rule {
    one("slice", "slice", options)
}

fn limit(bytes: &str, options: &[(&str, &str)]) -> Rule {
    one("limit", "limit", &[&[("bytes", bytes)], options].concat())
}

fn injected(world: &World, rule: &str) -> u64 {
    let snapshot = world.snapshot();
    snapshot.rules.iter().find(|stats| &*stats.name == rule).map_or(0, |stats| stats.injected)
}

#[test]
fn simulation_of_a_slice_sends_one_segment_a_gap_in_each_direction_it_is_about() {
    let mut world = plain_world(vec![slice(&[("size", "10"), ("gap", "100ms"), ("side", "request")])]);
    let (client, server) = world.pair();
    client.write(&[1; 35]);
    server.write(&[2; 500]);
    for expected in [10, 20, 30, 35, 35] {
        world.run(Duration::from_millis(50));
        assert_eq!(server.received_bytes(), expected);
        world.run(Duration::from_millis(50));
    }
    assert_eq!(client.received_bytes(), 500, "the other direction is not cut");
    assert_eq!(injected(&world, "slice"), 1, "told once for each connection");
    client.close();
    server.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_slice_that_cuts_nothing_is_not_told() {
    let mut world = plain_world(vec![slice(&[("size", "100")])]);
    let (client, server) = world.pair();
    client.write(&[1; 100]);
    world.run(Duration::from_millis(10));
    assert_eq!((server.received_bytes(), injected(&world, "slice")), (100, 0));
    client.close();
    server.close();
    world.assert_empty();
}

#[test]
fn simulation_of_slices_and_rates_together_keeps_both() {
    let rules = vec![
        one("throttle", "throttle", &[("rate", "1000B/s")]),
        slice(&[("size", "7"), ("variation", "6"), ("gap", "1ms")]),
        one("delay", "delay", &[("time", "20ms")]),
    ];
    for seed in seeds(30) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, rules.clone());
        let client = world.network.dial(world.proxy);
        let server = world.next_served();
        let began = world.network.now();
        client.write(&[1; 2000]);
        for _ in 0..40 {
            world.run_up_to(Duration::from_millis(100));
            let passed = (world.network.now() - began).as_millis() as usize;
            assert!(
                server.received_bytes() <= passed,
                "{} after {passed} ms (seed {seed})",
                server.received_bytes()
            );
        }
        world.run(Duration::from_secs(10));
        assert!(server.received_bytes() == 2000 || client.state().reset, "seed {seed}");
        client.reset();
        server.reset();
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_limit_passes_exactly_its_bytes_and_ends_both_sides_as_asked() {
    for segment in [1, 7, 100, 1000] {
        for (bytes, then, sent) in
            [(0, "fin", 1), (1, "fin", 500), (99, "rst", 500), (100, "fin", 100), (500, "fin", 499)]
        {
            let mut world =
                plain_world(vec![limit(&bytes.to_string(), &[("then", then), ("side", "request")])]);
            let (client, server) = world.pair();
            vec![1; sent].chunks(segment).for_each(|bytes| client.write(bytes));
            world.run(Duration::from_millis(20));
            let case = format!("limit {bytes} then {then}, {sent} bytes in segments of {segment}");
            let ends = sent >= bytes;
            assert_eq!(server.received_bytes(), sent.min(bytes), "{case}");
            assert_eq!(server.state().reset, ends && then == "rst", "{case}");
            assert_eq!(server.state().eof, ends && then == "fin", "{case}");
            assert_eq!(client.state().eof || client.state().reset, ends, "{case}");
            assert_eq!(injected(&world, "limit"), u64::from(ends), "{case}");
            client.close();
            server.close();
            world.assert_empty();
        }
    }
}

#[test]
fn simulation_of_a_limit_that_has_to_wait_for_a_rate_ends_when_its_bytes_are_through() {
    let mut world = plain_world(vec![
        limit("100", &[("side", "reply")]),
        one("throttle", "throttle", &[("rate", "1000B/s")]),
    ]);
    let (client, server) = world.pair();
    server.write(&[1; 5000]);
    world.run(Duration::from_millis(90));
    assert!(client.received_bytes() < 100 && !client.state().eof);
    world.run(Duration::from_millis(20));
    assert_eq!(client.received_bytes(), 100);
    assert!(client.state().eof, "the rest is not waited for");
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_change_keeps_the_count_of_a_limit_and_calls_off_what_its_rule_has_planned() {
    let other = || one("delay", "delay", &[("time", "0"), ("side", "reply")]);
    let mut world = plain_world(vec![limit("100", &[])]);
    let (client, server) = world.pair();
    client.write(&[1; 60]);
    world.run(Duration::from_millis(10));
    world.set_rules(vec![other(), limit("100", &[])]);
    client.write(&[1; 60]);
    world.run(Duration::from_millis(10));
    assert_eq!((server.received_bytes(), server.state().eof), (100, true), "a change elsewhere");

    let (client, server) = world.pair();
    client.write(&[1; 60]);
    world.run(Duration::from_millis(10));
    world.set_rules(vec![other()]);
    client.write(&[1; 60]);
    world.run(Duration::from_millis(10));
    assert_eq!((server.received_bytes(), server.state().eof), (120, false), "lifted");
    world.set_rules(vec![limit("100", &[])]);
    client.write(&[1; 120]);
    world.run(Duration::from_millis(10));
    assert_eq!((server.received_bytes(), server.state().eof), (220, true), "it counts from when it came");
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_reset_that_waits_goes_with_its_rule_and_a_new_one_sets_its_own_time() {
    let reset = |name: &str, after: &str| one(name, "reset", &[("after", after)]);
    for (first, second) in [("10s", "1s"), ("5000B", "1s"), ("10s", "10B"), ("5000B", "10B")] {
        let mut world = plain_world(vec![reset("first", first)]);
        let (client, server) = world.pair();
        world.run(Duration::from_millis(10));
        world.set_rules(vec![reset("second", second)]);
        client.write(&[1; 10]);
        world.run(Duration::from_secs(2));
        assert!(client.state().reset && server.state().reset, "{first}, then {second}");
        assert_eq!((injected(&world, "first"), injected(&world, "second")), (0, 1));
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_limit_on_messages_counts_their_bytes() {
    let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut world = plain_http_world(vec![limit(&(request.len() * 2).to_string(), &[("side", "request")])]);
    let client = world.network.dial(world.proxy);
    client.write(request);
    let server = world.next_served();
    world.run(Duration::from_millis(10));
    assert_eq!(server.received_bytes(), request.len());
    server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    world.run(Duration::from_millis(10));
    assert!(!client.state().eof);
    client.write(request);
    world.run(Duration::from_millis(10));
    assert_eq!(server.received_bytes(), request.len() * 2);
    assert!(client.state().eof && server.state().eof);
    client.close();
    server.close();
    world.assert_empty();
}
