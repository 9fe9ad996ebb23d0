//! Each rule of the twin, in virtual time; then a whole echo server under every fault.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::super::{Errno, Outcome, ReceiveEnd};
use super::*;
use crate::rng::Rng;

const ACCEPT: Token = Token { role: 0, slot: 0, generation: 0 };
const RECEIVE: Token = Token { role: 1, slot: 1, generation: 0 };
const SEND: Token = Token { role: 2, slot: 1, generation: 0 };
const CONNECT: Token = Token { role: 3, slot: 1, generation: 0 };

const LARGE_CREDIT: u32 = u32::MAX;

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// Lets everything happen, giving the ring its turns.
fn settle(ring: &mut SimulatedRing) -> Vec<(Token, Outcome)> {
    let network = ring.network().clone();
    let mut outcomes = Vec::new();
    loop {
        ring.wait_until(Instant::FAR_FUTURE).expect("the twin's wait cannot fail");
        outcomes.extend(std::iter::from_fn(|| ring.next_completion()).map(|done| (done.token, done.outcome)));
        if !network.is_runnable(ring.id()) {
            match network.next_event() {
                Some(at) => network.advance_to(at),
                None => return outcomes,
            }
        }
    }
}

/// A ring connected to a server's peer.
fn connected(network: &Network, settings: &SimulatedSettings) -> (SimulatedRing, Socket, Peer) {
    let server = network.serve(any_port());
    let mut ring = network.ring(settings);
    let socket =
        ring.connect(server.address(), None, &SocketOptions::default(), CONNECT).expect("no fault is on");
    let outcomes = settle(&mut ring);
    assert!(matches!(outcomes[..], [(CONNECT, Outcome::Connected)]), "{outcomes:?}");
    let peer = server.accept().expect("it is in the backlog");
    (ring, socket, peer)
}

fn plain(network: &Network) -> (SimulatedRing, Socket, Peer) {
    connected(network, &SimulatedSettings::default())
}

fn bytes_of(outcomes: &[(Token, Outcome)]) -> Vec<u8> {
    let chunks = outcomes.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::Received { chunk, .. } => Some(&chunk[..]),
        _ => None,
    });
    chunks.flatten().copied().collect()
}

fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| rng.below(256) as u8).collect()
}

fn chunk(bytes: &[u8]) -> std::iter::Once<Chunk> {
    std::iter::once(Chunk::copy_of(bytes))
}

#[test]
fn bytes_arrive_after_the_delay_of_the_link() {
    let network = Network::new(1);
    let delay = Duration::from_millis(30);
    network.set_link(Link { delay, bytes_per_second: None });
    let (mut ring, socket, peer) = plain(&network);
    assert_eq!(network.now(), Network::START + 2 * delay, "a handshake takes a round trip");
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    ring.wait_until(Instant::FAR_FUTURE).expect("no wait fails");
    peer.write(b"hello");
    network.advance_to(Network::START + 3 * delay - Duration::from_nanos(1));
    assert!(!network.is_runnable(ring.id()));
    network.advance_to(Network::START + 3 * delay);
    assert!(network.is_runnable(ring.id()));
    ring.send(socket, SEND, chunk(b"world"));
    let outcomes = settle(&mut ring);
    assert_eq!(bytes_of(&outcomes), b"hello");
    assert!(matches!(outcomes[1], (SEND, Outcome::Sent)), "{outcomes:?}");
    assert_eq!(network.now(), Network::START + 4 * delay);
    assert_eq!(peer.read(), b"world");
}

#[test]
fn bandwidth_spreads_bytes_over_time() {
    let network = Network::new(1);
    network.set_link(Link { delay: Duration::ZERO, bytes_per_second: Some(1_000_000) });
    let (mut ring, socket, peer) = plain(&network);
    let start = network.now();
    ring.send(socket, SEND, chunk(&random_bytes(1, 500_000)));
    settle(&mut ring);
    assert_eq!(network.now() - start, Duration::from_millis(500));
    assert_eq!(peer.read(), random_bytes(1, 500_000));
}

#[test]
fn a_send_ends_when_the_peer_has_made_room_for_its_last_byte() {
    let network = Network::new(1);
    network.set_socket_buffers(1000, 3000);
    let (mut ring, socket, peer) = plain(&network);
    peer.stop_reading();
    let bytes = random_bytes(2, 10_000);
    let chunks: Vec<Chunk> = bytes.chunks(300).map(Chunk::copy_of).collect();
    ring.send(socket, SEND, chunks.into_iter());
    assert!(settle(&mut ring).is_empty(), "4,000 of 10,000 fit");
    assert_eq!(peer.state().unread_bytes, 3000);
    peer.read_some(5999);
    assert_eq!(peer.received_bytes(), 3000, "no more had come");
    assert!(settle(&mut ring).is_empty());
    peer.read_some(2999);
    assert!(settle(&mut ring).is_empty(), "5,999 were read, 4,000 fit, and one byte is left");
    peer.read_some(1);
    assert!(matches!(settle(&mut ring)[..], [(SEND, Outcome::Sent)]));
    peer.start_reading();
    settle(&mut ring);
    assert_eq!(peer.read(), bytes);
}

#[test]
fn a_peer_writes_any_number_of_bytes_through_a_buffer_of_one() {
    let network = Network::new(1);
    network.set_socket_buffers(1, 1_000_000);
    let (mut ring, socket, peer) = plain(&network);
    peer.write(&[7; 200_000]);
    network.advance_to(network.now() + Duration::from_secs(1));
    assert_eq!(peer.state().unsent_bytes, 0);
    let _ = (settle(&mut ring), socket);
}

#[test]
fn fin_follows_the_last_byte_and_the_other_direction_goes_on() {
    let network = Network::new(1);
    network.set_socket_buffers(500, 500);
    let (mut ring, socket, peer) = plain(&network);
    peer.stop_reading();
    ring.send(socket, SEND, chunk(&[7; 900]));
    assert!(matches!(settle(&mut ring)[..], [(SEND, Outcome::Sent)]));
    ring.shutdown_write(socket);
    settle(&mut ring);
    assert!(!peer.state().eof, "400 bytes are still on this side");
    peer.start_reading();
    settle(&mut ring);
    assert_eq!((peer.read().len(), peer.state().eof), (900, true));
    peer.write(b"still here");
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    assert_eq!(bytes_of(&settle(&mut ring)), b"still here");
    peer.close();
    assert!(matches!(settle(&mut ring)[..], [(RECEIVE, Outcome::ReceiveEnded(ReceiveEnd::Eof))]));
    ring.close(socket);
    settle(&mut ring);
    assert!(!peer.state().reset);
    network.assert_quiescent();
}

#[test]
fn a_reset_by_the_peer_ends_both_directions_and_drops_unread_bytes() {
    for (keeps, expected) in [(0.0, &b""[..]), (1.0, b"unread")] {
        let network = Network::new(1);
        network.set_faults(Faults { reset_keeps_unread: keeps, ..Faults::NONE });
        network.set_socket_buffers(10, 10);
        let (mut ring, socket, peer) = plain(&network);
        peer.stop_reading();
        peer.write(b"unread");
        ring.send(socket, SEND, chunk(&[1; 100]));
        assert!(settle(&mut ring).is_empty());
        peer.reset();
        let outcomes = settle(&mut ring);
        assert!(
            matches!(outcomes[..], [(SEND, Outcome::SendFailed(Errno(libc::ECONNRESET)))]),
            "{outcomes:?}"
        );
        ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
        let outcomes = settle(&mut ring);
        assert_eq!(bytes_of(&outcomes), expected);
        // The send took the error: what is left is an end, as on Linux.
        assert!(matches!(outcomes.last(), Some((RECEIVE, Outcome::ReceiveEnded(ReceiveEnd::Eof)))));
        ring.send(socket, SEND, chunk(b"x"));
        assert!(matches!(settle(&mut ring)[..], [(SEND, Outcome::SendFailed(Errno(libc::EPIPE)))]));
        assert!(ring.peer_address(socket).is_err());
        ring.close(socket);
        drop(outcomes);
        network.assert_quiescent();
    }
}

#[test]
fn a_reset_from_here_ends_what_is_in_flight_and_reaches_the_peer() {
    let network = Network::new(1);
    network.set_socket_buffers(10, 10);
    let (mut ring, socket, peer) = plain(&network);
    peer.stop_reading();
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    ring.send(socket, SEND, chunk(&[1; 100]));
    assert!(settle(&mut ring).is_empty());
    ring.reset(socket);
    let outcomes = settle(&mut ring);
    let [(RECEIVE, Outcome::ReceiveEnded(ReceiveEnd::Failed(_))), (SEND, Outcome::SendFailed(_))] =
        outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert!(peer.state().reset && !peer.state().eof);
    assert_eq!(peer.state().unread_bytes, 0);
    ring.close(socket);
    network.assert_quiescent();
}

#[test]
fn a_connect_is_refused_or_never_answered() {
    let network = Network::new(1);
    let server = network.serve(any_port());
    server.stop();
    let mut ring = network.ring(&SimulatedSettings::default());
    let options = SocketOptions::default();
    let refused = ring.connect(server.address(), None, &options, CONNECT).expect("no fault is on");
    let outcomes = settle(&mut ring);
    assert!(
        matches!(outcomes[..], [(CONNECT, Outcome::ConnectFailed(Errno(libc::ECONNREFUSED)))]),
        "{outcomes:?}"
    );
    ring.close(refused);
    let dialed = network.dial(server.address());
    settle(&mut ring);
    assert_eq!(dialed.state().connect_error, Some(Errno(libc::ECONNREFUSED)));

    let nowhere: SocketAddr = "192.0.2.1:80".parse().expect("an address");
    network.make_unreachable(nowhere.ip());
    let waiting = ring.connect(nowhere, None, &options, CONNECT).expect("no fault is on");
    assert!(settle(&mut ring).is_empty());
    ring.cancel_all(waiting);
    let outcomes = settle(&mut ring);
    assert!(
        matches!(outcomes[..], [(CONNECT, Outcome::ConnectFailed(Errno(libc::ECANCELED)))]),
        "{outcomes:?}"
    );
    ring.close(waiting);
    network.assert_quiescent();
}

#[test]
fn a_full_backlog_drops_the_syn_which_comes_again() {
    let network = Network::new(1);
    let server = network.serve(any_port());
    server.set_backlog(1);
    let (first, second) = (network.dial(server.address()), network.dial(server.address()));
    network.advance_to(Network::START + Duration::from_millis(900));
    assert!(first.state().connected && !second.state().connected);
    assert!(server.accept().is_some() && server.accept().is_none());
    network.advance_to(Network::START + Duration::from_millis(1100));
    assert!(second.state().connected && server.accept().is_some());
}

#[test]
fn a_listener_accepts_from_its_backlog_and_beside_others() {
    let network = Network::new(3);
    let settings = SimulatedSettings::default();
    let (mut one, mut two) = (network.ring(&settings), network.ring(&settings));
    let (first, address) = one.listen(any_port(), &SocketOptions::default()).expect("listens");
    let (second, _) = two.listen(address, &SocketOptions::default()).expect("listens beside");
    let peers: Vec<Peer> = (0..40).map(|_| network.dial(address)).collect();
    settle(&mut one);
    one.accept(first, ACCEPT);
    two.accept(second, ACCEPT);
    let mut accepted = [0, 0];
    for (count, ring) in accepted.iter_mut().zip([&mut one, &mut two]) {
        for (_, outcome) in settle(ring) {
            let Outcome::Accepted(socket) = outcome else { panic!("{outcome:?}") };
            let from = ring.peer_address(socket).expect("connected");
            assert!(peers.iter().any(|peer| peer.local_address() == from));
            ring.close(socket);
            *count += 1;
        }
    }
    assert_eq!(accepted[0] + accepted[1], 40);
    assert!(accepted.iter().all(|count| *count > 5), "{accepted:?}");
    one.cancel_all(first);
    assert!(matches!(settle(&mut one)[..], [(ACCEPT, Outcome::AcceptEnded(Errno(libc::ECANCELED)))]));
    one.close(first);
    assert_eq!((network.open_sockets(one.id()), network.open_sockets(two.id())), (0, 1));
}

#[test]
fn closing_with_unread_bytes_resets_and_bytes_to_the_closed_are_reset() {
    let network = Network::new(1);
    let (mut ring, socket, peer) = plain(&network);
    peer.write(b"nobody reads this");
    settle(&mut ring);
    ring.close(socket);
    settle(&mut ring);
    assert!(peer.state().reset);

    let (mut ring, socket, peer) = plain(&network);
    peer.close();
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    assert!(matches!(settle(&mut ring)[..], [(RECEIVE, Outcome::ReceiveEnded(ReceiveEnd::Eof))]));
    ring.send(socket, SEND, chunk(b"too late"));
    assert!(matches!(settle(&mut ring)[..], [(SEND, Outcome::Sent)]), "the kernel took it");
    ring.send(socket, SEND, chunk(b"even later"));
    assert!(matches!(settle(&mut ring)[..], [(SEND, Outcome::SendFailed(Errno(libc::EPIPE)))]));
}

#[test]
fn a_receive_ends_with_its_credit_where_credit_is_counted() {
    for (counts_credit, expected) in [(true, 4096), (false, 6000)] {
        let network = Network::new(1);
        let settings = SimulatedSettings { counts_credit, ..SimulatedSettings::default() };
        let (mut ring, socket, peer) = connected(&network, &settings);
        assert_eq!(ring.counts_credit(), counts_credit);
        ring.receive(socket, RECEIVE, BufferSize::Small, 3000);
        peer.write(&[5; 6000]);
        let outcomes = settle(&mut ring);
        assert_eq!(bytes_of(&outcomes).len(), expected, "whole buffers of 2,048");
        let Some((_, Outcome::Received { armed, .. })) = outcomes.last() else { panic!("{outcomes:?}") };
        assert_eq!(*armed, !counts_credit);
        if counts_credit {
            ring.receive(socket, RECEIVE, BufferSize::Large, 1);
            assert_eq!(bytes_of(&settle(&mut ring)).len(), 6000 - 4096);
        }
    }
}

#[test]
fn an_empty_pool_ends_the_receive_until_a_buffer_comes_back() {
    let network = Network::new(1);
    let small = PoolSettings { buffer_bytes: 10, buffers: 2, published: 2 };
    let settings = SimulatedSettings { small, ..SimulatedSettings::default() };
    let (mut ring, socket, peer) = connected(&network, &settings);
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    peer.write(&random_bytes(4, 25));
    let mut outcomes = settle(&mut ring);
    assert!(matches!(outcomes.pop(), Some((RECEIVE, Outcome::ReceiveEnded(ReceiveEnd::NoBuffers)))));
    assert!(!ring.has_buffers(BufferSize::Small) && ring.has_buffers(BufferSize::Large));
    assert_eq!(bytes_of(&outcomes), random_bytes(4, 25)[..20]);
    // A send holds its buffers until its completion is taken out.
    peer.stop_reading();
    let chunks: Vec<Chunk> = outcomes
        .into_iter()
        .map(|(_, outcome)| match outcome {
            Outcome::Received { chunk, .. } => chunk,
            _ => panic!("{outcome:?}"),
        })
        .collect();
    ring.send(socket, SEND, chunks.into_iter());
    ring.wait_until(Instant::FAR_FUTURE).expect("no wait fails");
    assert!(!ring.has_buffers(BufferSize::Small));
    assert!(matches!(settle(&mut ring)[..], [(SEND, Outcome::Sent)]));
    assert!(ring.has_buffers(BufferSize::Small));
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    assert_eq!(bytes_of(&settle(&mut ring)), random_bytes(4, 25)[20..]);
}

#[test]
fn a_full_completion_queue_ends_a_receive_and_is_counted() {
    let network = Network::new(1);
    let small = PoolSettings { buffer_bytes: 10, buffers: 16, published: 16 };
    let settings = SimulatedSettings { small, cq_entries: 2, ..SimulatedSettings::default() };
    let (mut ring, socket, peer) = connected(&network, &settings);
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    peer.write(&[3; 50]);
    let outcomes = settle(&mut ring);
    assert_eq!((bytes_of(&outcomes).len(), ring.overflows()), (30, 1));
    assert!(matches!(outcomes[2], (RECEIVE, Outcome::Received { armed: false, .. })), "{outcomes:?}");
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    assert_eq!(bytes_of(&settle(&mut ring)).len(), 20);
}

#[test]
fn a_cancelled_receive_ends_once_and_leaves_the_bytes() {
    let network = Network::new(1);
    let (mut ring, socket, peer) = plain(&network);
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    assert!(settle(&mut ring).is_empty());
    ring.cancel_receive(RECEIVE);
    ring.cancel_receive(RECEIVE);
    assert!(matches!(settle(&mut ring)[..], [(RECEIVE, Outcome::ReceiveEnded(ReceiveEnd::Stopped))]));
    peer.write(b"later");
    ring.cancel_receive(RECEIVE);
    assert!(settle(&mut ring).is_empty());
    ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
    assert_eq!(bytes_of(&settle(&mut ring)), b"later");
}

#[test]
fn a_late_cancel_lets_success_come_first() {
    let mut seen = [0, 0];
    for seed in seeds(50) {
        let network = Network::new(seed);
        let (mut ring, socket, peer) = plain(&network);
        network.set_faults(Faults { late_cancel: 0.5, ..Faults::NONE });
        ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
        assert!(settle(&mut ring).is_empty());
        peer.write(b"raced");
        ring.cancel_receive(RECEIVE);
        let outcomes = settle(&mut ring);
        assert!(matches!(outcomes.last(), Some((RECEIVE, Outcome::ReceiveEnded(ReceiveEnd::Stopped)))));
        seen[outcomes.len() - 1] += 1;
        ring.close(socket);
    }
    assert!(seeds(50).count() < 50 || seen.iter().all(|count| *count > 5), "{seen:?}");
}

#[test]
fn a_waker_wakes_the_next_turn_once() {
    let network = Network::new(1);
    let mut ring = network.ring(&SimulatedSettings::default());
    network.wake(ring.id());
    network.wake(ring.id());
    assert!(network.is_runnable(ring.id()));
    assert!(matches!(settle(&mut ring)[..], [(_, Outcome::Woken)]));
}

#[test]
fn a_dropped_ring_leaves_its_peers_an_end() {
    let network = Network::new(1);
    let (ring, _, peer) = plain(&network);
    drop(ring);
    network.advance_to(network.now() + Duration::from_secs(1));
    assert!(peer.state().eof);
    network.assert_quiescent();
}

#[test]
#[should_panic(expected = "a second receive in flight on socket 1 (seed 77)")]
fn a_second_receive_is_a_bug() {
    let network = Network::new(77);
    let (mut ring, socket, _peer) = plain(&network);
    ring.receive(socket, RECEIVE, BufferSize::Small, 1);
    ring.receive(socket, CONNECT, BufferSize::Small, 1);
}

#[test]
#[should_panic(expected = "a second send in flight")]
fn a_second_send_is_a_bug() {
    let network = Network::new(1);
    let (mut ring, socket, _peer) = plain(&network);
    ring.send(socket, SEND, chunk(b"a"));
    ring.send(socket, SEND, chunk(b"b"));
}

#[test]
#[should_panic(expected = "closed too early")]
fn closing_with_a_receive_in_flight_is_a_bug() {
    let network = Network::new(1);
    let (mut ring, socket, _peer) = plain(&network);
    ring.receive(socket, RECEIVE, BufferSize::Small, 1);
    settle(&mut ring);
    ring.close(socket);
}

#[test]
#[should_panic(expected = "before its send ended")]
fn fin_in_the_middle_of_a_send_is_a_bug() {
    let network = Network::new(1);
    let (mut ring, socket, _peer) = plain(&network);
    ring.send(socket, SEND, chunk(b"a"));
    ring.shutdown_write(socket);
}

#[test]
#[should_panic(expected = "after it was closed")]
fn use_after_close_is_a_bug() {
    let network = Network::new(1);
    let (mut ring, socket, _peer) = plain(&network);
    ring.close(socket);
    ring.receive(socket, RECEIVE, BufferSize::Small, 1);
}

#[test]
#[should_panic(expected = "ring 0 leaked small buffers")]
fn a_leaked_buffer_is_found() {
    let network = Network::new(1);
    let (mut ring, socket, peer) = plain(&network);
    ring.receive(socket, RECEIVE, BufferSize::Small, 1);
    peer.write(b"kept");
    let _kept = settle(&mut ring);
    ring.close(socket);
    network.assert_quiescent();
}

/// Sends back what it receives, and closes after the FIN: the smallest correct user of a ring.
struct Echo {
    ring: SimulatedRing,
    listener: Socket,
    pause_until: Instant,
    connections: Vec<Option<Echoed>>,
    turns: u64,
}

struct Echoed {
    socket: Socket,
    queue: VecDeque<Chunk>,
    receiving: bool,
    sending: bool,
    eof: bool,
    failed: bool,
}

impl Echo {
    fn new(mut ring: SimulatedRing) -> (Echo, SocketAddr) {
        let (listener, address) = ring.listen(any_port(), &SocketOptions::default()).expect("listens");
        ring.accept(listener, ACCEPT);
        let echo =
            Echo { ring, listener, pause_until: Instant::FAR_FUTURE, connections: Vec::new(), turns: 0 };
        (echo, address)
    }

    fn go_on(&mut self, slot: usize) {
        let token = |role| Token { role, slot: slot as u32, generation: 0 };
        let Some(connection) = &mut self.connections[slot] else { return };
        let queued: usize = connection.queue.iter().map(|chunk| chunk.len()).sum();
        let ends = connection.eof || connection.failed;
        if queued > 8192 && connection.receiving && !self.ring.counts_credit() {
            self.ring.cancel_receive(token(1));
        }
        if !ends && !connection.receiving && queued < 4096 && self.ring.has_buffers(BufferSize::Small) {
            connection.receiving = true;
            self.ring.receive(connection.socket, token(1), BufferSize::Small, 5000);
        }
        if !connection.failed && !connection.sending && !connection.queue.is_empty() {
            connection.sending = true;
            let count = connection.queue.len().min(SEND_CHUNKS_MAX);
            self.ring.send(connection.socket, token(2), connection.queue.drain(..count));
        }
        if connection.failed {
            connection.queue.clear();
        }
        if ends && !connection.receiving && !connection.sending && connection.queue.is_empty() {
            self.ring.close(connection.socket);
            self.connections[slot] = None;
        }
    }

    fn on_completion(&mut self, Completion { token, outcome }: Completion) {
        let slot = token.slot as usize;
        match outcome {
            Outcome::Accepted(socket) => {
                let queue = VecDeque::new();
                let (receiving, sending, eof, failed) = (false, false, false, false);
                self.connections.push(Some(Echoed { socket, queue, receiving, sending, eof, failed }));
                return self.go_on(self.connections.len() - 1);
            }
            Outcome::AcceptEnded(Errno(libc::EMFILE)) => {
                self.pause_until = self.ring.now() + Duration::from_millis(1);
                return;
            }
            Outcome::AcceptEnded(_) => return self.ring.accept(self.listener, ACCEPT),
            _ => {}
        }
        let connection = self.connections[slot].as_mut().expect("nothing completes after the close");
        match outcome {
            Outcome::Received { chunk, armed } => {
                connection.queue.push_back(chunk);
                connection.receiving = armed;
            }
            Outcome::ReceiveEnded(end) => {
                connection.receiving = false;
                connection.eof |= end == ReceiveEnd::Eof;
                connection.failed |= matches!(end, ReceiveEnd::Failed(_));
            }
            Outcome::Sent => connection.sending = false,
            Outcome::SendFailed(_) => (connection.sending, connection.failed) = (false, true),
            other => panic!("{other:?}"),
        }
        // A failed send leaves a receive that ends by itself, as the connection is dead.
        self.go_on(slot);
    }
}

impl Actor for Echo {
    fn turn(&mut self) -> io::Result<()> {
        self.turns += 1;
        let deadline = self.next_due();
        self.ring.wait_until(deadline)?;
        let now = self.ring.now();
        while let Some(completion) = self.ring.next_completion() {
            self.on_completion(completion);
        }
        if self.pause_until <= now {
            self.pause_until = Instant::FAR_FUTURE;
            self.ring.accept(self.listener, ACCEPT);
        }
        // Buffers may have come back.
        (0..self.connections.len()).for_each(|slot| self.go_on(slot));
        Ok(())
    }

    fn next_due(&mut self) -> Instant {
        self.pause_until
    }
}

/// Runs peers against an echo server; returns what happened, to compare runs.
fn echo_run(seed: u64, fault_probability: f64) -> (Instant, u64) {
    let network = Network::new(seed);
    network.set_faults(Faults::unnoticed(fault_probability));
    let mut rng = Rng::stream(seed, &[100]);
    network.set_socket_buffers(1 + rng.below(9000) as usize, 1 + rng.below(9000) as usize);
    let small = PoolSettings { buffer_bytes: 1 + rng.below(3000) as u32, buffers: 8, published: 8 };
    let settings = SimulatedSettings {
        small,
        cq_entries: 1 + rng.below(20) as u32,
        counts_credit: rng.below(2) == 0,
        ..Default::default()
    };
    let (echo, address) = Echo::new(network.ring(&settings));
    let ring = echo.ring.id();
    let echo = Rc::new(RefCell::new(echo));
    let mut simulation = Simulation::new(&network);
    simulation.add(ring, Rc::clone(&echo));

    let mut peers: Vec<(Peer, Vec<u8>, Vec<u8>)> = Vec::new();
    for ordinal in 0..5 {
        let bytes = random_bytes(seed + ordinal, rng.below(30_000) as usize);
        peers.push((network.dial(address), bytes.clone(), bytes));
    }
    // Write in pieces at random moments, some reading slowly, until each has sent its FIN.
    while peers.iter().any(|(_, left, _)| !left.is_empty()) {
        for (peer, left, _) in &mut peers {
            let count = left.len().min(rng.below(4000) as usize);
            let piece: Vec<u8> = left.drain(..count).collect();
            peer.write(&piece);
            if rng.below(4) == 0 { peer.stop_reading() } else { peer.start_reading() }
        }
        simulation.run_until(network.now() + rng.duration_up_to(Duration::from_micros(300)));
    }
    for (peer, ..) in &peers {
        peer.start_reading();
        peer.shutdown_write();
    }
    let done = || peers.iter().all(|(peer, ..)| peer.state().eof);
    let ended = simulation.run_while(network.now() + Duration::from_secs(3600), || !done());
    assert!(
        ended,
        "not all were echoed: {:?} (seed {seed})",
        peers.iter().map(|p| p.0.state()).collect::<Vec<_>>()
    );
    for (peer, _, bytes) in &peers {
        assert!(peer.read() == *bytes, "bytes changed on the way (seed {seed})");
        assert!(!peer.state().reset, "seed {seed}");
        peer.close();
    }
    simulation.run_until(network.now() + Duration::from_secs(1));
    network.assert_quiescent();
    let turns = echo.borrow().turns;
    (network.now(), turns)
}

#[test]
fn simulation_of_an_echo_server_returns_every_byte_under_every_fault() {
    for seed in seeds(100) {
        echo_run(seed, [0.0, 0.05, 0.3, 0.7][seed as usize % 4]);
    }
}

#[test]
fn the_same_seed_replays_the_same_run() {
    assert_eq!(echo_run(42, 0.2), echo_run(42, 0.2));
    assert_ne!(echo_run(42, 0.2), echo_run(43, 0.2));
}

struct Spinner(SimulatedRing);

impl Actor for Spinner {
    fn turn(&mut self) -> io::Result<()> {
        self.0.wait_until(Instant::ZERO)
    }
    fn next_due(&mut self) -> Instant {
        Instant::ZERO
    }
}

#[test]
#[should_panic(expected = "somebody spins")]
fn a_loop_that_never_waits_is_found() {
    let network = Network::new(1);
    let ring = network.ring(&SimulatedSettings::default());
    let mut simulation = Simulation::new(&network);
    simulation.add(ring.id(), Spinner(ring));
    simulation.run_until(Network::START + Duration::from_secs(1));
}

#[test]
fn a_close_with_unread_bytes_is_a_reset_and_a_close_after_a_drain_is_a_fin() {
    for drains in [false, true] {
        let network = Network::new(1);
        let (mut ring, socket, peer) = plain(&network);
        peer.write(b"nobody reads this");
        settle(&mut ring);
        if drains {
            ring.shutdown_write(socket);
            ring.receive(socket, RECEIVE, BufferSize::Small, LARGE_CREDIT);
            assert_eq!(bytes_of(&settle(&mut ring)), b"nobody reads this");
            peer.shutdown_write();
            settle(&mut ring);
        }
        ring.close(socket);
        settle(&mut ring);
        let state = peer.state();
        assert_eq!((state.eof, state.reset), (drains, !drains));
    }
}

#[test]
fn a_socket_that_nobody_reads_tells_when_asked_that_its_peer_is_gone() {
    let network = Network::new(1);
    let (mut ring, socket, peer) = plain(&network);
    peer.write(b"unread");
    peer.shutdown_write();
    settle(&mut ring);
    assert_eq!(ring.failure(socket), None, "a FIN is no failure");
    peer.reset();
    settle(&mut ring);
    assert_eq!(ring.failure(socket), Some(Errno(libc::EPIPE)), "its FIN came first");
    assert_eq!(ring.failure(socket), None, "it is told once");
    ring.close(socket);
}

#[test]
fn a_peer_that_vanished_is_found_by_keepalive_and_only_by_it() {
    for keepalive in [None, Some(Duration::from_secs(60))] {
        let network = Network::new(1);
        let server = network.serve(any_port());
        let mut ring = network.ring(&SimulatedSettings::default());
        let options = SocketOptions { keepalive, ..SocketOptions::default() };
        let socket = ring.connect(server.address(), None, &options, CONNECT).expect("no fault is on");
        settle(&mut ring);
        let peer = server.accept().expect("it is in the backlog");
        peer.vanish();
        network.advance_to(network.now() + Duration::from_secs(119));
        assert_eq!(ring.failure(socket), None);
        network.advance_to(network.now() + Duration::from_secs(1));
        assert_eq!(ring.failure(socket), keepalive.map(|_| Errno(libc::ETIMEDOUT)));
        ring.close(socket);
    }
}
