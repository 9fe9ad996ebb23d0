//! The ways to an upstream with several addresses, and with none.

use super::*;

fn set_upstream(world: &mut World, addresses: &[&str]) {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    world.worker.borrow_mut().0.set_upstream(PROXY, addresses, Duration::from_secs(2));
}

#[test]
fn simulation_of_a_silent_first_address_moves_on_to_the_next_when_its_time_is_over() {
    for seed in seeds(20) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        let server = world.server.address().to_string();
        world.network.make_unreachable("10.0.0.1".parse().unwrap());
        set_upstream(&mut world, &["10.0.0.1:80", "10.0.0.1:81", &server]);
        let client = world.network.dial(world.proxy);
        client.write(b"hello");
        world.run(Duration::from_millis(3900));
        assert!(world.server.accept().is_none(), "seed {seed}");
        let served = world.next_served();
        world.run(Duration::from_secs(1));
        assert_eq!(served.read(), b"hello", "seed {seed}");
        let counters = world.snapshot().counters;
        assert_eq!((counters.connect_timeouts, counters.connect_failures), (2, 0), "seed {seed}");
        let told = world.all_events();
        assert_eq!(told.iter().filter(|event| event.kind == EventKind::NaturalFailure).count(), 2);
        client.close();
        served.close();
        world.assert_empty();
    }
}

#[test]
fn simulation_of_an_upstream_whose_addresses_are_all_silent_ends_the_client_in_order() {
    let mut world = plain_world(Vec::new());
    world.network.make_unreachable("10.0.0.1".parse().unwrap());
    set_upstream(&mut world, &["10.0.0.1:80", "10.0.0.1:81"]);
    let client = world.network.dial(world.proxy);
    client.write(b"unread");
    world.run(Duration::from_millis(4100));
    assert!(client.state().eof && !client.state().reset);
    let counters = world.snapshot().counters;
    assert_eq!((counters.connect_timeouts, counters.connect_failures), (2, 0));
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_source_address_of_the_other_family_moves_on_to_the_next_address() {
    let mut world =
        plain_world_of(Vec::new(), |opening| opening.source_addresses = vec!["127.0.0.9".parse().unwrap()]);
    let server = world.server.address().to_string();
    set_upstream(&mut world, &["[2001:db8::1]:80", &server]);
    let (client, served) = world.pair();
    assert_eq!(served.peer_address().ip(), "127.0.0.9".parse::<std::net::IpAddr>().unwrap());
    set_upstream(&mut world, &["[2001:db8::1]:80"]);
    let nowhere = world.network.dial(world.proxy);
    world.run(Duration::from_secs(1));
    assert!(nowhere.state().eof && !nowhere.state().reset);
    assert_eq!(world.snapshot().counters.connect_failures, 1);
    [client, served, nowhere].iter().for_each(Peer::close);
    world.assert_empty();
}

#[test]
fn simulation_of_an_upstream_without_an_address_fails_each_connection_and_tells_so() {
    let mut world = plain_world(Vec::new());
    set_upstream(&mut world, &[]);
    let client = world.network.dial(world.proxy);
    world.run(Duration::from_millis(10));
    assert!(client.state().eof && !client.state().reset);
    let told = world.all_events();
    assert_eq!(told[0].detail, Detail::Words("connect: the upstream's name has no address yet"));
    let server = world.server.address().to_string();
    set_upstream(&mut world, &[&server]);
    let (again, served) = world.pair();
    [client, again, served].iter().for_each(Peer::close);
    world.assert_empty();
}
