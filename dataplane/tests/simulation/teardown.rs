//! What it costs to end many connections: so much for each, however many there are.

use super::*;

/// How idle connections come to their end.
#[derive(Clone, Copy, Debug)]
enum Way {
    ClientsClose,
    ClientsReset,
    ServersClose,
    Blackout,
    Reset,
    HangIsLifted,
    SwitchedOff,
    Removed,
    Drained,
    Cut,
    IdleTimeout,
    AddressGone,
}

const WAYS: [Way; 12] = [
    Way::ClientsClose,
    Way::ClientsReset,
    Way::ServersClose,
    Way::Blackout,
    Way::Reset,
    Way::HangIsLifted,
    Way::SwitchedOff,
    Way::Removed,
    Way::Drained,
    Way::Cut,
    Way::IdleTimeout,
    Way::AddressGone,
];

/// The work of ending so many idle connections in this way.
fn work_of_ending(way: Way, count: usize, protocol: Protocol) -> u64 {
    let idle = matches!(way, Way::IdleTimeout).then(|| Duration::from_secs(60));
    let settle = |opening: &mut Opening| opening.patience.idle = idle;
    let mut world = World::opened(1, Faults::NONE, protocol, Vec::new(), settle);
    let clients: Vec<Peer> = (0..count).map(|_| world.network.dial(world.proxy)).collect();
    if protocol == Protocol::Http {
        clients.iter().for_each(|client| client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    world.run(Duration::from_secs(1));
    let servers: Vec<Peer> = std::iter::from_fn(|| world.server.accept()).collect();
    assert_eq!(servers.len(), count);
    if protocol == Protocol::Http {
        servers.iter().for_each(|server| server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        world.run(Duration::from_secs(1));
    }
    if matches!(way, Way::HangIsLifted) {
        world.set_rules(vec![one("hang", "hang", &[])]);
    }
    world.run(Duration::from_secs(1));
    let before = world.network.work(world.ring);
    match way {
        Way::ClientsClose => clients.iter().for_each(Peer::close),
        Way::ClientsReset => clients.iter().for_each(Peer::reset),
        Way::ServersClose => servers.iter().for_each(Peer::close),
        Way::Blackout => world.set_rules(vec![one("blackout", "blackout", &[])]),
        Way::Reset => world.set_rules(vec![one("reset", "reset", &[])]),
        Way::HangIsLifted => world.set_rules(Vec::new()),
        Way::SwitchedOff => world.worker.borrow_mut().0.shut(PROXY, true),
        Way::Removed => world.worker.borrow_mut().0.remove(PROXY),
        Way::Drained => world.worker.borrow_mut().0.drain(),
        Way::Cut => world.worker.borrow_mut().0.cut(Duration::from_millis(250)),
        Way::IdleTimeout => {}
        Way::AddressGone => clients.iter().chain(&servers).for_each(Peer::vanish),
    }
    world.network.wake(world.ring);
    world.run(Duration::from_secs(70));
    clients.iter().chain(&servers).filter(|peer| peer.is_open()).for_each(Peer::close);
    world.run(Duration::from_secs(400));
    assert_eq!(world.worker.borrow_mut().0.snapshot().connections, 0, "{way:?} {protocol:?}");
    world.network.work(world.ring) - before
}

#[test]
fn simulation_of_ending_many_idle_connections_costs_so_much_for_each() {
    for protocol in [Protocol::Tcp, Protocol::Http] {
        for way in WAYS {
            let (few, many) = (work_of_ending(way, 50, protocol), work_of_ending(way, 400, protocol));
            let for_each = many as f64 / 400.0;
            assert!(for_each <= 16.0, "{way:?} {protocol:?}: {for_each} for each of 400");
            assert!(many <= 9 * few, "{way:?} {protocol:?}: {few} for 50, {many} for 400");
        }
    }
}
