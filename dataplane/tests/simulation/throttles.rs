//! Throttles charge before they release: by no instant have more bytes passed than the rate allows.

use super::*;
use fracas_dataplane::behavior::max_slice;

fn throttle(rate: u64, options: &[(&str, &str)]) -> Rule {
    let rate = format!("{rate}B/s");
    one("throttle", "throttle", &[&[("rate", rate.as_str())], options].concat())
}

/// Writes `bytes` in random segments, some of them a little later than the others.
fn write_in_pieces(world: &mut World, peer: &Peer, mut bytes: usize) {
    while bytes > 0 {
        let count = 1 + world.rng.below(bytes.min(3000) as u64) as usize;
        peer.write(&vec![1; count]);
        bytes -= count;
        if world.rng.below(4) == 0 {
            world.run_up_to(Duration::from_micros(300));
        }
    }
}

#[test]
fn simulation_of_a_throttle_takes_the_time_of_the_bytes_whatever_their_segments() {
    for (rate, bytes, seconds) in [(1000, 1000, 1), (100, 1300, 13), (1_000_000, 3_000_000, 3), (7, 7, 1)] {
        for segment in [1, 100, 1460, usize::MAX] {
            // A byte at a time is slow to simulate.
            if bytes / segment.min(bytes) > 10_000 {
                continue;
            }
            let mut world = plain_world(vec![throttle(rate, &[])]);
            let (client, server) = world.pair();
            vec![1; bytes].chunks(segment.min(bytes)).for_each(|bytes| client.write(bytes));
            world.run(Duration::from_secs(seconds) - Duration::from_millis(1));
            let early = server.received_bytes();
            assert!(early < bytes, "all {bytes} bytes came early at {rate} B/s");
            assert!(
                early + 2 * max_slice(rate) + 1 >= bytes,
                "{early} of {bytes} bytes at {rate} B/s: no even flow"
            );
            world.run(Duration::from_millis(50));
            assert_eq!(server.received_bytes(), bytes, "{rate} B/s in segments of {segment}");
            client.close();
            server.close();
            world.assert_empty();
        }
    }
}

#[test]
fn simulation_of_a_throttle_is_never_ahead_of_its_rate_in_either_direction_alone_or_shared() {
    for seed in seeds(40) {
        let rate = [100, 1000, 20_000, 100_000][seed as usize % 4];
        let is_shared = seed % 3 == 0;
        let per = if is_shared { "proxy" } else { "connection" };
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        world.set_rules(vec![throttle(rate, &[("per", per)])]);
        let pairs: Vec<(Peer, Peer)> = (0..2)
            .map(|_| {
                let client = world.network.dial(world.proxy);
                (client, world.next_served())
            })
            .collect();
        let began = world.network.now();
        let bytes = 10 * rate as usize;
        for (client, server) in &pairs {
            write_in_pieces(&mut world, client, bytes);
            write_in_pieces(&mut world, server, bytes);
        }
        let mut last = 0;
        for _ in 0..200 {
            world.run_up_to(Duration::from_millis(100));
            let passed = (world.network.now() - began).as_micros() as u64;
            // Both may have begun together: rounded up once.
            let allowed = (rate * passed).div_ceil(1_000_000) as usize;
            let received: Vec<usize> = [
                |pair: &(Peer, Peer)| pair.0.received_bytes(),
                |pair: &(Peer, Peer)| pair.1.received_bytes(),
            ]
            .into_iter()
            .flat_map(|of| {
                let each: Vec<usize> = pairs.iter().map(of).collect();
                if is_shared { vec![each.iter().sum()] } else { each }
            })
            .collect();
            for received in &received {
                assert!(
                    *received <= allowed,
                    "{received} bytes after {passed} µs at {rate} B/s {per} (seed {seed})"
                );
            }
            last = received.into_iter().min().unwrap_or(0);
        }
        let passed = (world.network.now() - began).as_micros() as u64;
        let allowed = (rate * passed / 1_000_000) as usize;
        let slack = allowed / 5 + 4 * max_slice(rate) + 2;
        assert!(
            last + slack >= allowed.min(bytes),
            "{last} of {allowed} bytes at {rate} B/s {per} (seed {seed})"
        );
        pairs.iter().flat_map(|(client, server)| [client, server]).for_each(Peer::reset);
        world.assert_empty();
    }
}

#[test]
fn simulation_of_changes_of_other_rules_neither_charges_twice_nor_gives_for_nothing() {
    let mut world = plain_world(vec![throttle(1000, &[])]);
    let (client, server) = world.pair();
    client.write(&[1; 5000]);
    for step in 0..100 {
        world.run(Duration::from_millis(20));
        let other = one("delay", "delay", &[("time", "0"), ("side", "reply")]);
        world.set_rules(if step % 2 == 0 {
            vec![throttle(1000, &[]), other]
        } else {
            vec![throttle(1000, &[])]
        });
    }
    assert!((1900..=2000).contains(&server.received_bytes()), "{}", server.received_bytes());
    client.reset();
    world.assert_empty();
}
