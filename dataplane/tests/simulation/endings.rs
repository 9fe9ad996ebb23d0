//! How connections end: in order where order is due, by a RST where it is asked for, and always.

use super::*;

impl World {
    /// Descriptors beside the listener's.
    fn descriptors(&self) -> usize {
        self.network.open_sockets(self.ring) - 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    ResetUpstream,
    ResetDownstream,
    Blackout,
}

#[test]
fn simulation_of_a_cut_gives_the_side_that_is_closed_in_order_its_queued_bytes_and_a_fin() {
    for (seed, cut) in seeds(60)
        .flat_map(|seed| [Cut::ResetUpstream, Cut::ResetDownstream, Cut::Blackout].map(|cut| (seed, cut)))
    {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        let client = world.network.dial(world.proxy);
        let server = world.next_served();
        let (asked, answered) = (speech(seed, 0, 1), speech(seed, 1, 1));
        // Neither reads, so that bytes are queued in both directions.
        client.stop_reading();
        server.stop_reading();
        client.write(&asked);
        server.write(&answered);
        world.run_up_to(Duration::from_millis(20));
        // What nobody has read yet when it is cut.
        client.write(b"unread");
        server.write(b"unread");
        world.run_up_to(Duration::from_micros(100));
        let rules = match cut {
            Cut::ResetUpstream => vec![one("reset", "reset", &[("side", "upstream")])],
            Cut::ResetDownstream => vec![one("reset", "reset", &[("side", "downstream")])],
            Cut::Blackout => vec![one("blackout", "blackout", &[])],
        };
        world.set_rules(rules);
        let counters = world.snapshot().counters;
        client.start_reading();
        server.start_reading();
        world.run(Duration::from_secs(1));
        let ends = [
            (&client, [&answered[..], b"unread"].concat(), counters.reply_bytes, cut == Cut::ResetDownstream),
            (&server, [&asked[..], b"unread"].concat(), counters.request_bytes, cut == Cut::ResetUpstream),
        ];
        for (end, said, read, is_reset) in ends {
            let state = end.state();
            assert_eq!((state.eof, state.reset), (!is_reset, is_reset), "{cut:?}: {state:?} (seed {seed})");
            if !is_reset {
                assert!(end.read() == said[..read as usize], "{cut:?} (seed {seed})");
            }
            end.close();
        }
        world.assert_empty();
        assert_eq!(world.snapshot().counters.linger_limit_reached, 0, "seed {seed}");
    }
}

#[test]
fn simulation_of_a_cut_lets_held_bytes_go_when_they_are_due() {
    // Held for less than a side may linger, and for longer.
    for time_ms in [1500, 20_000, 3_000_000] {
        let (time, ms) = (format!("{time_ms}ms"), Duration::from_millis);
        let delay = one("delay", "delay", &[("time", time.as_str()), ("side", "both")]);
        let mut world = plain_world(vec![delay]);
        let (client, server) = world.pair();
        server.write(b"held");
        // What is held for the side that is reset does not count.
        world.run(ms(10));
        client.write(b"lost");
        world.run(ms(10));
        world.set_rules(vec![one("reset", "reset", &[("side", "upstream")])]);
        world.run(ms(time_ms - 100));
        assert!(server.state().reset, "what is reset is reset at once");
        assert_eq!((client.received_bytes(), client.state().eof), (0, false));
        world.run(ms(100));
        assert_eq!((client.read(), client.state().eof), (b"held".to_vec(), true));
        world.run(PATIENCE.linger - ms(100));
        assert_eq!(world.snapshot().counters.linger_limit_reached, 0, "its time has just begun");
        world.run(ms(200));
        assert_eq!((world.snapshot().counters.linger_limit_reached, world.descriptors()), (1, 0));
        client.close();
        world.assert_empty();
    }
}

#[test]
fn simulation_of_bytes_that_a_rule_holds_for_too_long_are_cut_and_counted() {
    let held = [
        one("delay", "delay", &[("time", "2h"), ("side", "both")]),
        one("throttle", "throttle", &[("rate", "1B/s")]),
    ];
    for rule in held {
        let mut world = plain_world(vec![rule.clone()]);
        let (client, server) = world.pair();
        server.write(&[7; 10_000]);
        world.run(Duration::from_secs(1));
        world.set_rules(vec![rule, one("reset", "reset", &[("side", "upstream")])]);
        world.run(HELD_TIME_MAX + PATIENCE.linger - Duration::from_secs(1));
        assert!(!client.state().reset && world.descriptors() == 1);
        world.run(Duration::from_secs(2));
        assert!(client.state().reset, "it does not get all");
        assert_eq!((world.snapshot().counters.linger_limit_reached, world.descriptors()), (1, 0));
        world.assert_empty();
    }
}

#[test]
fn simulation_of_what_a_client_said_before_its_reset_is_held_no_longer_than_the_limit() {
    for (rate, passes) in [("10B/s", true), ("1B/s", false)] {
        let mut world = plain_world(vec![one("throttle", "throttle", &[("rate", rate)])]);
        let (client, server) = world.pair();
        client.write(&[7; 10_000]);
        world.run(Duration::from_secs(1));
        client.reset();
        world.run(HELD_TIME_MAX + PATIENCE.linger - Duration::from_secs(2));
        assert_eq!((server.received_bytes() == 10_000, server.state().reset), (passes, passes), "{rate}");
        world.run(Duration::from_secs(4));
        assert!(server.state().reset);
        let limits = world.snapshot().counters.linger_limit_reached;
        assert_eq!((limits, world.descriptors()), (u64::from(!passes), 0), "{rate}");
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_cut_lets_bytes_go_at_their_rate_and_then_sends_a_fin() {
    for (per, rate) in [("connection", "1kB/s"), ("proxy", "1kB/s"), ("connection", "100B/s")] {
        let throttle = one("throttle", "throttle", &[("rate", rate), ("per", per)]);
        let mut world = plain_world(vec![throttle.clone()]);
        let pairs = [world.pair(), world.pair()];
        for (client, server) in &pairs {
            client.write(&[1; 10_000]);
            server.write(&[2; 10_000]);
        }
        world.run(Duration::from_secs(1));
        world.set_rules(vec![throttle, one("blackout", "blackout", &[])]);
        world.run(Duration::from_secs(120));
        for (client, server) in &pairs {
            for end in [client, server] {
                assert_eq!(end.read().len(), 10_000, "{per} {rate}");
                assert!(end.state().eof && !end.state().reset, "{per} {rate} {:?}", end.state());
                end.close();
            }
        }
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_rate_that_is_lifted_lets_a_side_that_is_let_go_have_the_rest_at_once() {
    let throttle = |rate| one("throttle", "throttle", &[("rate", rate)]);
    let mut world = plain_world(vec![throttle("100B/s")]);
    let (client, server) = world.pair();
    server.write(&[2; 20_000]);
    world.run(Duration::from_secs(1));
    let reset = one("reset", "reset", &[("side", "upstream")]);
    world.set_rules(vec![throttle("100B/s"), reset.clone()]);
    world.run(Duration::from_secs(60));
    assert!((5_900..6_200).contains(&client.received_bytes()), "{}", client.received_bytes());
    world.set_rules(vec![throttle("1kB/s"), reset]);
    world.run(Duration::from_secs(4));
    assert!((9_800..10_200).contains(&client.received_bytes()), "{}", client.received_bytes());
    world.set_rules(Vec::new());
    world.run(Duration::from_millis(10));
    assert_eq!((client.read().len(), client.state().eof), (20_000, true));
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_side_that_does_not_take_what_its_rate_lets_go_is_reset_after_the_limit() {
    let throttle = one("throttle", "throttle", &[("rate", "10kB/s")]);
    let mut world = plain_world(vec![throttle.clone()]);
    world.network.set_socket_buffers(4096, 4096);
    let (client, server) = world.pair();
    client.stop_reading();
    server.write(&[2; 100_000]);
    world.run(Duration::from_millis(100));
    world.set_rules(vec![throttle, one("reset", "reset", &[("side", "upstream")])]);
    // Its buffers are full within a second.
    world.run(PATIENCE.linger - Duration::from_millis(500));
    assert!(!client.state().reset);
    world.run(Duration::from_secs(2));
    assert!(client.state().reset);
    assert_eq!((world.snapshot().counters.linger_limit_reached, world.descriptors()), (1, 0));
    world.assert_empty();
}

#[test]
fn simulation_of_a_worker_that_stops_does_not_wait_for_what_a_rule_holds() {
    for rule in [
        one("delay", "delay", &[("time", "1m"), ("side", "both")]),
        one("throttle", "throttle", &[("rate", "100B/s")]),
    ] {
        for leaves_before in [false, true] {
            let mut world = plain_world(vec![rule.clone()]);
            let (_client, server) = world.pair();
            server.write(&[2; 20_000]);
            world.run(Duration::from_secs(1));
            if leaves_before {
                world.set_rules(vec![rule.clone(), one("blackout", "blackout", &[])]);
                world.run(Duration::from_secs(1));
            }
            world.worker.borrow_mut().0.cut(Duration::from_millis(250));
            world.network.wake(world.ring);
            world.run(Duration::from_millis(300));
            assert_eq!(world.network.open_sockets(world.ring), 0);
        }
    }
}

#[test]
fn simulation_of_a_peer_that_never_reads_is_reset_when_its_time_is_over() {
    let mut world = plain_world(Vec::new());
    let (client, server) = world.pair();
    client.stop_reading();
    server.write(&[1; 100_000]);
    world.run(Duration::from_secs(1));
    world.set_rules(vec![one("blackout", "blackout", &[])]);
    world.run(PATIENCE.linger - Duration::from_millis(1));
    assert!(server.state().eof && world.descriptors() > 0);
    world.run(Duration::from_secs(1));
    assert_eq!(world.descriptors(), 0);
    assert!(client.state().reset, "it does not have all that was due to it");
    let counters = world.snapshot().counters;
    assert_eq!(counters.linger_limit_reached, 2, "one did not read, one did not end");
    let told = world.all_events();
    let told = told.iter().filter(|event| event.detail == Detail::Words("linger_limit_reached"));
    assert_eq!(told.count(), 1, "a limit is told once for each connection");
    world.assert_empty();
}

#[test]
fn simulation_of_a_peer_that_writes_on_is_read_up_to_a_limit() {
    let mut world = plain_world(Vec::new());
    world.network.set_socket_buffers(1 << 20, 1 << 20);
    let (client, _server) = world.pair();
    client.write(&[1; 40 << 20]);
    world.set_rules(vec![one("blackout", "blackout", &[])]);
    world.run(Duration::from_secs(1));
    assert!(client.state().eof && client.state().reset, "{:?}", client.state());
    assert_eq!(world.snapshot().counters.linger_limit_reached, 1);
    let limit = u64::from(fracas_dataplane::proxy::LINGER_BYTES_MAX);
    let read = world.snapshot().counters.request_bytes;
    assert!((limit..limit + (4 << 20)).contains(&read), "{read}");
}

#[test]
fn simulation_of_clients_that_keep_a_closed_connection_lose_it_when_their_time_is_over() {
    let mut world = plain_world(Vec::new());
    let pairs: Vec<(Peer, Peer)> = (0..50).map(|_| world.pair()).collect();
    pairs.iter().for_each(|(client, _)| client.write(b"GET"));
    world.run(Duration::from_secs(1));
    for (_, server) in &pairs {
        server.write(b"200");
        server.close();
    }
    world.run(PATIENCE.linger);
    assert_eq!(world.descriptors(), 100, "they may still speak");
    // One does: what passes is no silence.
    pairs[0].0.write(b"more");
    world.run(Duration::from_secs(2));
    assert_eq!(world.descriptors(), 0, "a server that was closed answers by a RST");
    assert!(pairs[1..].iter().all(|(client, _)| client.state().eof && !client.state().reset));
    assert_eq!(world.snapshot().counters.linger_limit_reached, 49);
    world.assert_empty();
}

#[test]
fn simulation_of_a_client_that_sends_on_after_the_fin_of_its_server_is_not_cut() {
    let mut world = plain_world(Vec::new());
    let (client, server) = world.pair();
    server.write(b"go on");
    server.shutdown_write();
    for _ in 0..20 {
        client.write(b"upload");
        world.run(Duration::from_secs(1));
    }
    assert_eq!(server.read().len(), 120);
    client.close();
    server.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_client_that_half_closed_waits_as_long_as_its_answer_is_on_the_way() {
    let mut world = plain_world(Vec::new());
    let (client, server) = world.pair();
    client.write(b"query");
    client.shutdown_write();
    world.run(PATIENCE.half_close - Duration::from_secs(1));
    for _ in 0..20 {
        server.write(b"row");
        world.run(PATIENCE.half_close - Duration::from_secs(1));
    }
    assert_eq!((client.read().len(), client.state().eof), (60, false));
    world.run(Duration::from_secs(2));
    assert!(client.state().eof && server.state().eof, "nothing more has come for the limit");
    assert_eq!((world.descriptors(), world.snapshot().counters.half_close_limit_reached), (0, 1));
    world.assert_empty();
}

#[test]
fn simulation_of_a_half_closed_client_under_a_hang_stays_open_for_the_limit() {
    let mut world = plain_world(vec![one("hang", "hang", &[])]);
    let client = world.network.dial(world.proxy);
    client.write(b"anybody there?");
    client.shutdown_write();
    world.run(PATIENCE.half_close - Duration::from_secs(1));
    assert!(!client.state().eof && !client.state().reset, "a FIN is no departure");
    world.run(Duration::from_secs(2));
    assert!(client.state().eof && !client.state().reset);
    assert_eq!((world.descriptors(), world.snapshot().counters.half_close_limit_reached), (0, 1));
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_an_upstream_that_ends_under_a_hang_is_let_go_and_its_client_hangs_on() {
    let mut world = plain_world(Vec::new());
    let (client, server) = world.pair();
    client.write(b"before");
    world.run(Duration::from_secs(1));
    world.set_rules(vec![one("hang", "hang", &[])]);
    server.write(b"late");
    server.close();
    world.run(3 * PATIENCE.half_close);
    assert!(!client.state().eof && !client.state().reset && client.received_bytes() == 0);
    assert_eq!(world.descriptors(), 1);
    client.shutdown_write();
    world.run(PATIENCE.half_close - Duration::from_secs(1));
    assert!(!client.state().eof && world.descriptors() == 1);
    world.run(Duration::from_secs(2));
    assert!(client.state().eof && !client.state().reset);
    assert_eq!((world.descriptors(), world.snapshot().counters.half_close_limit_reached), (0, 1));
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_hang_that_is_lifted_ends_half_closed_clients_too() {
    let mut world = plain_world(vec![one("hang", "hang", &[])]);
    let client = world.network.dial(world.proxy);
    client.shutdown_write();
    world.run(Duration::from_secs(1));
    world.set_rules(Vec::new());
    world.run(Duration::from_millis(10));
    assert!(client.state().eof && !client.state().reset);
    assert_eq!(world.descriptors(), 0);
    world.assert_empty();
}

/// Ways in which a client may be gone for good.
fn gone(client: &Peer, way: u64) -> Duration {
    match way {
        0 => client.reset(),
        1 => {
            client.shutdown_write();
            client.reset();
        }
        _ => {
            client.vanish();
            // Half of it again for the probes (tcp(7)).
            return Duration::from_secs(60);
        }
    }
    Duration::ZERO
}

#[test]
fn simulation_of_a_client_that_is_gone_gives_its_descriptors_back_whatever_holds_its_bytes() {
    for seed in seeds(40) {
        for (rules, written) in [
            (vec![one("hang", "hang", &[])], 10),
            (vec![one("throttle", "throttle", &[("rate", "0")])], 10),
            // Its queue is full, so that it is not read.
            (vec![one("throttle", "throttle", &[("rate", "0"), ("queue", "1000")])], 30_000),
            (vec![one("delay", "delay", &[("time", "4s"), ("side", "both")])], 200_000),
        ] {
            let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
            let client = world.network.dial(world.proxy);
            let server = world.next_served();
            world.set_rules(rules);
            client.write(&vec![1; written]);
            server.write(&vec![2; written]);
            world.run(Duration::from_secs(1));
            let found_after = gone(&client, seed % 3);
            // A look each second, the time of a delay, and the time for what is left.
            world.run(found_after + Duration::from_secs(1 + 5) + 2 * PATIENCE.linger);
            assert_eq!(world.descriptors(), 0, "seed {seed}, {:?}", world.rules.rules()[0].kind());
            server.close();
            world.assert_empty();
        }
    }
}

#[test]
fn simulation_of_a_client_that_pipelines_without_reading_and_breaks_off_gives_its_descriptors_back() {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let reply = [&b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"[..], &[b'x'; 2000]].concat();
    for seed in seeds(20) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Http, Vec::new());
        world.network.set_socket_buffers(4000, 20_000);
        let client = world.network.dial(world.proxy);
        client.stop_reading();
        client.write(&REQUEST.repeat(20_000));
        let server = world.next_served();
        let (mut asked, mut answered) = (0, 0);
        // Until replies wait for the client, and requests for the replies before them.
        for _ in 0..200 {
            world.run(Duration::from_millis(10));
            asked += server.read().len();
            let complete = asked / REQUEST.len();
            server.write(&reply.repeat(complete - answered));
            answered = complete;
        }
        assert!(answered < 20_000 && world.descriptors() == 2, "seed {seed}");
        // While a send to it is under way, which is what hears of it: with or without a FIN before.
        gone(&client, seed % 2);
        world.run(Duration::from_secs(3));
        assert_eq!(world.descriptors(), 0, "seed {seed}");
        assert!(server.state().reset, "it answered a client that is gone (seed {seed})");
        assert_eq!(world.snapshot().counters.client_resets, 1, "seed {seed}");
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_client_that_ended_at_a_rate_of_zero_gives_its_descriptors_back_at_the_limit() {
    let mut world = plain_world(vec![one("throttle", "throttle", &[("rate", "0")])]);
    let (client, server) = world.pair();
    client.write(b"stalled");
    client.close();
    world.run(PATIENCE.half_close - Duration::from_secs(1));
    assert_eq!(world.descriptors(), 2);
    world.run(Duration::from_secs(2));
    assert_eq!(world.descriptors(), 0);
    assert!(server.state().reset, "bytes for it were lost");
    world.assert_empty();
}

#[test]
fn simulation_of_a_reply_that_a_slow_client_has_not_read_outlives_the_reset_of_its_server() {
    let mut world = plain_world(Vec::new());
    world.network.set_socket_buffers(4000, 1 << 20);
    world.network.set_faults(Faults { reset_keeps_unread: 1.0, ..Faults::NONE });
    let (client, server) = world.pair();
    client.stop_reading();
    // More than the client's kernel and the proxy hold: its end waits in the proxy's kernel.
    let said: Vec<u8> = (0..1_900_000_u32).map(|byte| byte as u8).collect();
    server.write(&said);
    server.shutdown_write();
    world.run(Duration::from_secs(1));
    assert!(server.state().unsent_bytes == 0 && world.snapshot().counters.reply_bytes < said.len() as u64);
    server.close();
    client.write(b"next");
    for _ in 0..100 {
        world.run(Duration::from_millis(100));
        client.read_some(40_000);
    }
    client.start_reading();
    world.run(Duration::from_secs(1));
    assert!(client.read() == said, "{:?}", client.state());
    assert!(client.state().eof && !client.state().reset);
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_an_idle_timeout_closes_in_order_and_counts_what_passes_only() {
    let patience = Patience { idle: Some(Duration::from_secs(3)), ..PATIENCE };
    let mut world = plain_world_of(Vec::new(), |opening| opening.patience = patience);
    let (client, server) = world.pair();
    for _ in 0..5 {
        client.write(b"ping");
        world.run(Duration::from_secs(2));
    }
    assert_eq!(world.descriptors(), 2);
    world.run(Duration::from_millis(1100));
    for end in [&client, &server] {
        assert!(end.state().eof && !end.state().reset);
        end.close();
    }
    assert_eq!(world.snapshot().counters.idle_timeouts, 1);
    world.assert_empty();
    // A hang passes nothing, whatever its client says.
    world.set_rules(vec![one("hang", "hang", &[])]);
    let client = world.network.dial(world.proxy);
    for _ in 0..4 {
        client.write(b"ping");
        world.run(Duration::from_secs(1));
    }
    assert!(client.state().eof);
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_worker_that_stops_waits_for_nobody_beyond_its_own_limit() {
    for seed in seeds(30) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        let client = world.network.dial(world.proxy);
        client.stop_reading();
        let server = world.next_served();
        server.write(&[1; 100_000]);
        let polite = world.network.dial(world.proxy);
        polite.write(b"unread");
        world.run(Duration::from_secs(1));
        let limit = Duration::from_millis(250);
        world.worker.borrow_mut().0.cut(limit);
        world.network.wake(world.ring);
        world.run(limit / 2);
        assert!(polite.state().eof && !polite.state().reset, "seed {seed}");
        world.run(limit);
        assert!(world.worker.borrow().0.is_empty(), "seed {seed}");
        assert_eq!(world.network.open_sockets(world.ring), 0, "seed {seed}");
        world.network.assert_quiescent();
    }
}

impl World {
    fn drain(&mut self) {
        self.worker.borrow_mut().0.drain();
        self.network.wake(self.ring);
    }
}

#[test]
fn simulation_of_a_drain_closes_what_is_idle_and_lets_the_others_finish() {
    let mut world = plain_world(Vec::new());
    let (idle, idle_server) = world.pair();
    let (busy, busy_server) = world.pair();
    idle.write(b"question");
    busy.write(b"question");
    world.run(Duration::from_millis(10));
    idle_server.write(b"answer");
    world.run(Duration::from_secs(5));
    world.drain();
    world.run(Duration::from_millis(10));
    assert!(
        idle.state().eof && idle_server.state().eof && !idle.state().reset,
        "it was quiet after its answer"
    );
    world.run(Duration::from_millis(300));
    // Two of the other connection; the listener is shut.
    assert_eq!(world.network.open_sockets(world.ring), 2, "who keeps an idle connection holds up no drain");
    assert!(!idle.state().reset && !idle_server.state().reset);
    world.run(Duration::from_secs(60));
    assert!(!busy.state().eof, "its answer may come yet");
    busy_server.write(b"answer");
    world.run(Duration::from_millis(500));
    assert!(!busy.state().eof, "there may be more");
    world.run(Duration::from_millis(700));
    assert_eq!((busy.read(), busy.state().eof, busy_server.state().eof), (b"answer".to_vec(), true, true));
    [&busy, &busy_server].into_iter().for_each(Peer::close);
    world.run(Duration::from_secs(1));
    assert!(world.worker.borrow().0.is_empty());
    world.network.assert_quiescent();
}

#[test]
fn simulation_of_a_drain_lets_held_bytes_go_and_ends_connections_that_never_spoke() {
    let mut world = plain_world(vec![one("delay", "delay", &[("time", "5s"), ("side", "reply")])]);
    let (silent, _silent_server) = world.pair();
    let (client, server) = world.pair();
    client.write(b"question");
    world.run(Duration::from_millis(10));
    server.write(b"held");
    world.drain();
    world.run(Duration::from_secs(2));
    assert!(silent.state().eof && !client.state().eof);
    world.run(Duration::from_millis(3100));
    assert_eq!(client.read(), b"held");
    world.run(Duration::from_millis(1100));
    assert!(client.state().eof && !client.state().reset);
}

#[test]
fn simulation_of_a_drain_closes_a_kept_connection_when_its_exchange_has_ended() {
    let rules = vec![one("delay", "delay", &[("time", "1ms")])];
    let mut world = World::opened(1, Faults::NONE, Protocol::Http, rules, |_| {});
    world.network.set_socket_buffers(4000, 4000);
    world.network.set_link(Link::default());
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let ask = |world: &mut World| {
        let client = world.network.dial(world.proxy);
        client.write(request);
        let server = world.next_served();
        world.run(Duration::from_millis(10));
        (client, server)
    };
    let (kept, kept_server) = ask(&mut world);
    kept_server.write(reply);
    let (busy, busy_server) = ask(&mut world);
    world.drain();
    world.run(Duration::from_millis(1));
    assert!(
        kept.state().eof && kept_server.state().eof && !kept.state().reset,
        "at once, not after a second"
    );
    world.run(Duration::from_secs(60));
    assert!(!busy.state().eof);
    busy_server.write(&reply[..20]);
    world.run(Duration::from_secs(5));
    assert!(!busy.state().eof, "a half of a reply is none");
    busy_server.write(&reply[20..]);
    world.run(Duration::from_millis(200));
    assert_eq!((busy.read(), busy.state().eof), (reply.to_vec(), true));
}

#[test]
fn simulation_of_messages_that_hang_keep_a_half_closed_client_and_let_one_that_is_gone_go() {
    for (seed, breaks_off) in seeds(20).flat_map(|seed| [(seed, false), (seed, true)]) {
        let rules = vec![one("hang", "hang", &[])];
        let mut world = World::new(seed, some_faults(seed), Protocol::Http, rules);
        let client = world.network.dial(world.proxy);
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.shutdown_write();
        world.run(PATIENCE.half_close - Duration::from_secs(1));
        assert!(!client.state().eof && !client.state().reset, "a FIN is no departure (seed {seed})");
        if breaks_off {
            client.reset();
        }
        world.run(Duration::from_secs(3));
        assert_eq!(world.descriptors(), 0, "seed {seed}");
        assert_eq!(client.state().eof, !breaks_off, "seed {seed}");
        let limit = world.snapshot().counters.half_close_limit_reached;
        assert_eq!(limit, u64::from(!breaks_off), "seed {seed}");
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_request_that_is_blacked_out_ends_its_client_in_order_after_the_replies_before() {
    for seed in seeds(40) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Http, Vec::new());
        let client = world.network.dial(world.proxy);
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let server = world.next_served();
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        server.write(reply);
        world.run(Duration::from_secs(1));
        world.set_rules(vec![one("blackout", "blackout", &[])]);
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n");
        client.write(&[1; 30_000]);
        world.run(Duration::from_secs(1));
        assert_eq!(client.read(), reply, "seed {seed}");
        for end in [&client, &server] {
            assert!(end.state().eof && !end.state().reset, "{:?} (seed {seed})", end.state());
            end.close();
        }
        world.assert_empty();
    }
}
