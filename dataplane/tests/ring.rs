//! The kernel's ring, event by event: every ordinary event is provoked on real sockets, with everything that
//! this kernel can do and with each of it switched off, as an older kernel would have it.
//!
//! The simulated ring has the same events in `src/ring/simulated/tests.rs`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{
    BufferSize, Chunk, Completion, Errno, Features, KernelRing, Outcome, PoolSettings, ReceiveEnd, Ring,
    RingSettings, Socket, SocketOptions, Token, Upcoming,
};
use fracas_dataplane::rng::Rng;
use rand::Rng as _;
use support::in_a_process_of_its_own;

const A: Token = Token { role: 1, slot: 1, generation: 1 };
const B: Token = Token { role: 2, slot: 2, generation: 1 };
/// More than any test receives.
const ENDLESS: u32 = u32::MAX;

/// Runs a test on the kernel as it is, and without each thing that an older one lacks.
fn on_every_kernel(test: impl Fn(Features)) {
    let found = Features::probe().expect("tests need io_uring");
    type Has = fn(&mut Features) -> &mut bool;
    let without: [(&str, Has); 5] = [
        ("defer-taskrun", |features| &mut features.defer_taskrun),
        ("no-sqarray", |features| &mut features.no_sqarray),
        ("receive-credit", |features| &mut features.receive_credit),
        ("absolute-deadline", |features| &mut features.absolute_deadline),
        ("registered-ring", |features| &mut features.registered_ring),
    ];
    eprintln!("with all of {found}");
    test(found);
    let mut oldest = found;
    for (name, has) in without {
        let mut features = found;
        *has(&mut oldest) = false;
        if std::mem::replace(has(&mut features), false) {
            eprintln!("without {name}");
            test(features);
        }
    }
    eprintln!("without any");
    test(oldest);
}

fn ring(settings: &RingSettings, features: Features) -> KernelRing {
    KernelRing::new(settings, features).expect("tests need io_uring")
}

fn plain(features: Features) -> KernelRing {
    ring(&RingSettings::default(), features)
}

/// What comes next. A test that would wait for ever fails instead.
fn next(ring: &mut KernelRing) -> Completion {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        assert!(Instant::now() < limit, "nothing came");
        ring.wait_until(limit).unwrap();
    }
}

/// Nothing else is under way: a wake is the next thing to come.
fn assert_quiet(ring: &mut KernelRing) {
    ring.waker().wake();
    let completion = next(ring);
    assert!(matches!(completion.outcome, Outcome::Woken), "{completion:?}");
}

/// A connected pair: the ring's end, whose send buffer is `buffer_bytes`, and the test's, whose receive
/// buffer is that.
fn pair_with(ring: &mut KernelRing, buffer_bytes: Option<usize>) -> (Socket, TcpStream) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let ours = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Some(bytes) = buffer_bytes {
        listener.set_recv_buffer_size(bytes).unwrap();
        ours.set_send_buffer_size(bytes).unwrap();
    }
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    ours.connect(&listener.local_addr().unwrap()).unwrap();
    ours.set_tcp_nodelay(true).unwrap();
    let peer = TcpStream::from(OwnedFd::from(listener.accept().unwrap().0));
    peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    peer.set_nodelay(true).unwrap();
    (ring.adopt(ours.into()), peer)
}

fn pair(ring: &mut KernelRing) -> (Socket, TcpStream) {
    pair_with(ring, None)
}

fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    Rng::new(seed).fill_bytes(&mut bytes);
    bytes
}

fn one(bytes: &[u8]) -> std::iter::Once<Chunk> {
    std::iter::once(Chunk::copy_of(bytes))
}

/// Receives until `count` bytes are there; arms again whenever the receive has ended.
fn gather(ring: &mut KernelRing, socket: Socket, token: Token, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let mut is_armed = true;
    while got.len() < count {
        if !is_armed {
            ring.receive(socket, token, BufferSize::Small, ENDLESS);
        }
        is_armed = match next(ring) {
            Completion { token: of, outcome: Outcome::Received { chunk, armed } } => {
                assert_eq!(of, token);
                got.extend_from_slice(&chunk);
                armed
            }
            Completion {
                outcome: Outcome::ReceiveEnded(ReceiveEnd::NoBuffers | ReceiveEnd::Stopped),
                ..
            } => false,
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(got.len(), count);
    got
}

fn resets(stream: &mut TcpStream) -> bool {
    let mut rest = vec![0; 65_536];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return false,
            Ok(_) => {}
            // The kernel tears down a ring that this thread has dropped.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn bytes_and_fins_go_both_ways() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listener, address) = ring.listen(loopback, &SocketOptions::default()).unwrap();
        ring.accept(listener, A);
        let ours = ring.connect(address, None, &SocketOptions::default(), B).unwrap();
        let (mut accepted, mut connected) = (None, false);
        while accepted.is_none() || !connected {
            match next(&mut ring) {
                Completion { token: A, outcome: Outcome::Accepted(socket) } => accepted = Some(socket),
                Completion { token: B, outcome: Outcome::Connected } => connected = true,
                other => panic!("{other:?}"),
            }
        }
        let theirs = accepted.unwrap();
        assert_eq!(ring.peer_address(theirs).unwrap(), ring.local_address(ours).unwrap());
        let (there, back) = (Token { slot: 10, ..A }, Token { slot: 11, ..A });
        ring.receive(theirs, there, BufferSize::Small, ENDLESS);
        ring.send(ours, B, one(b"request"));
        assert!(matches!(next(&mut ring).outcome, Outcome::Sent));
        assert_eq!(gather(&mut ring, theirs, there, 7), b"request");
        ring.shutdown_write(ours);
        let end = next(&mut ring);
        assert!(matches!(end.outcome, Outcome::ReceiveEnded(ReceiveEnd::Eof)), "{end:?}");
        // The other direction goes on.
        ring.receive(ours, back, BufferSize::Large, ENDLESS);
        ring.send(theirs, B, [Chunk::from_static(b"re"), Chunk::from_static(b"ply")].into_iter());
        assert!(matches!(next(&mut ring).outcome, Outcome::Sent));
        assert_eq!(gather(&mut ring, ours, back, 5), b"reply");
        ring.shutdown_write(theirs);
        let end = next(&mut ring);
        assert!(matches!(end.outcome, Outcome::ReceiveEnded(ReceiveEnd::Eof)), "{end:?}");
        assert_quiet(&mut ring);
        ring.close(ours);
        ring.close(theirs);
    });
}

#[test]
fn one_buffer_carries_everything_when_it_is_given_back() {
    on_every_kernel(|features| {
        let one_buffer = PoolSettings { buffer_bytes: 1000, buffers: 1, published: 1 };
        let mut ring = ring(&RingSettings { small: one_buffer, ..RingSettings::default() }, features);
        let (socket, mut peer) = pair(&mut ring);
        let said = random_bytes(1, 20_500);
        peer.write_all(&said).unwrap();
        ring.receive(socket, A, BufferSize::Small, ENDLESS);
        let (mut got, mut shortages) = (Vec::new(), 0);
        while got.len() < said.len() {
            let Outcome::Received { chunk, mut armed } = next(&mut ring).outcome else { panic!() };
            // As long as it is held, there is no other.
            if armed && got.len() + chunk.len() < said.len() {
                assert!(matches!(next(&mut ring).outcome, Outcome::ReceiveEnded(ReceiveEnd::NoBuffers)));
                shortages += 1;
                armed = false;
            }
            assert!(!ring.has_buffers(BufferSize::Small));
            got.extend_from_slice(&chunk);
            drop(chunk);
            assert!(ring.has_buffers(BufferSize::Small));
            if !armed {
                ring.receive(socket, A, BufferSize::Small, ENDLESS);
            }
        }
        assert!(got == said);
        assert!(shortages > 0);
        // The other pool is not touched by this.
        assert!(ring.has_buffers(BufferSize::Large));
    });
}

#[test]
fn a_send_completes_once_with_all_its_bytes_however_few_the_socket_takes() {
    on_every_kernel(|features| {
        for chunks in [1, 64] {
            let mut ring = plain(features);
            let (socket, mut peer) = pair_with(&mut ring, Some(4096));
            let said = random_bytes(2, 640_000);
            let pieces: Vec<Chunk> = said.chunks(said.len() / chunks).map(Chunk::copy_of).collect();
            ring.send(socket, A, pieces.into_iter());
            // The peer does not read yet, so it cannot be complete.
            assert_quiet(&mut ring);
            let length = said.len();
            let reader = std::thread::spawn(move || {
                let mut got = vec![0; length];
                peer.read_exact(&mut got).unwrap();
                (got, peer)
            });
            let completion = next(&mut ring);
            assert!(matches!(completion, Completion { token: A, outcome: Outcome::Sent }), "{completion:?}");
            let (got, _peer) = reader.join().unwrap();
            assert!(got == said);
            assert_quiet(&mut ring);
        }
    });
}

#[test]
fn a_send_to_a_peer_that_breaks_off_in_the_middle_fails_once() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let (socket, peer) = pair_with(&mut ring, Some(4096));
        ring.send(socket, A, [Chunk::from(vec![1; 300_000]), Chunk::from(vec![2; 300_000])].into_iter());
        assert_quiet(&mut ring);
        // Bytes that were not read make it a RST.
        drop(peer);
        let completion = next(&mut ring);
        assert!(
            matches!(completion, Completion { token: A, outcome: Outcome::SendFailed(_) }),
            "{completion:?}"
        );
        assert_quiet(&mut ring);
    });
}

#[test]
fn a_receive_ends_with_its_credit_and_the_rest_stays_in_the_socket() {
    let features = Features::probe().unwrap();
    if !features.receive_credit {
        eprintln!("skipped: this kernel counts no credit");
        return;
    }
    let small = PoolSettings { buffer_bytes: 4096, buffers: 64, published: 64 };
    let mut ring = ring(&RingSettings { small, ..RingSettings::default() }, features);
    assert!(ring.counts_credit());
    let (socket, mut peer) = pair(&mut ring);
    let said = random_bytes(3, 100_000);
    peer.write_all(&said).unwrap();
    let mut got = Vec::new();
    for credit in [1usize, 4096, 10_000, 50_000] {
        let before = got.len();
        ring.receive(socket, A, BufferSize::Small, credit as u32);
        loop {
            let Outcome::Received { chunk, armed } = next(&mut ring).outcome else { panic!() };
            got.extend_from_slice(&chunk);
            if !armed {
                break;
            }
        }
        let came = got.len() - before;
        assert!((credit..credit + 4096).contains(&came), "{came} bytes came for a credit of {credit}");
        assert_quiet(&mut ring);
    }
    ring.receive(socket, A, BufferSize::Small, ENDLESS);
    got.extend(gather(&mut ring, socket, A, said.len() - got.len()));
    assert!(got == said);
}

#[test]
fn a_credit_that_is_not_spent_keeps_the_receive_armed() {
    on_every_kernel(|features| {
        for credit in [100_000, i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX] {
            let mut ring = plain(features);
            let (socket, mut peer) = pair(&mut ring);
            ring.receive(socket, A, BufferSize::Small, credit);
            for _ in 0..10 {
                peer.write_all(&[1; 1000]).unwrap();
                let outcome = next(&mut ring).outcome;
                assert!(matches!(outcome, Outcome::Received { armed: true, .. }), "{credit}: {outcome:?}");
            }
        }
    });
}

#[test]
fn where_no_credit_is_counted_a_cancel_stops_the_reading_and_loses_nothing() {
    on_every_kernel(|mut features| {
        features.receive_credit = false;
        let small = PoolSettings { buffer_bytes: 2048, buffers: 8, published: 8 };
        let mut ring = ring(&RingSettings { small, ..RingSettings::default() }, features);
        assert!(!ring.counts_credit());
        let (socket, mut peer) = pair(&mut ring);
        let said = random_bytes(4, 400_000);
        let writer = {
            let said = said.clone();
            std::thread::spawn(move || {
                said.chunks(3000).for_each(|bytes| peer.write_all(bytes).unwrap());
                peer
            })
        };
        let (mut got, mut cancels) = (Vec::new(), 0);
        while got.len() < said.len() {
            // More than the credit comes, for nobody counts it.
            ring.receive(socket, A, BufferSize::Small, 1);
            let begin = got.len();
            let mut is_armed = true;
            let mut is_cancelled = false;
            while is_armed {
                if got.len() - begin > 10_000 && !is_cancelled {
                    ring.cancel_receive(A);
                    is_cancelled = true;
                    cancels += 1;
                }
                if got.len() == said.len() && !is_cancelled {
                    break;
                }
                is_armed = match next(&mut ring).outcome {
                    Outcome::Received { chunk, armed } => {
                        got.extend_from_slice(&chunk);
                        armed
                    }
                    Outcome::ReceiveEnded(ReceiveEnd::Stopped | ReceiveEnd::NoBuffers) => false,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(got == said);
        assert!(cancels > 0);
        writer.join().unwrap();
    });
}

#[test]
fn a_cancel_that_comes_too_late_harms_nobody() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let (socket, peer) = pair(&mut ring);
        // There is nothing to cancel yet.
        ring.cancel_receive(A);
        ring.cancel_all(socket);
        assert_quiet(&mut ring);
        ring.receive(socket, A, BufferSize::Small, ENDLESS);
        peer.shutdown(Shutdown::Write).unwrap();
        // Its end and the cancel cross: the end is told once.
        ring.wait_until(Instant::now() + Duration::from_secs(30)).unwrap();
        ring.cancel_receive(A);
        ring.cancel_all(socket);
        let end = next(&mut ring);
        assert!(matches!(end, Completion { token: A, outcome: Outcome::ReceiveEnded(_) }), "{end:?}");
        assert_quiet(&mut ring);
        ring.send(socket, B, one(b"x"));
        assert!(matches!(next(&mut ring).outcome, Outcome::Sent));
    });
}

#[test]
fn a_cancelled_receive_can_be_armed_again_at_once() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let (socket, mut peer) = pair(&mut ring);
        for _ in 0..50 {
            ring.receive(socket, A, BufferSize::Small, ENDLESS);
            ring.cancel_receive(A);
            let end = next(&mut ring);
            assert!(matches!(end.outcome, Outcome::ReceiveEnded(ReceiveEnd::Stopped)), "{end:?}");
        }
        ring.receive(socket, A, BufferSize::Small, ENDLESS);
        peer.write_all(b"still here").unwrap();
        assert_eq!(gather(&mut ring, socket, A, 10), b"still here");
    });
}

#[test]
fn cancelling_everything_ends_a_send_of_which_a_part_has_gone() {
    on_every_kernel(|features| {
        for chunks in [1, 3] {
            let mut ring = plain(features);
            let (socket, mut peer) = pair_with(&mut ring, Some(4096));
            ring.receive(socket, A, BufferSize::Small, ENDLESS);
            ring.send(socket, B, (0..chunks).map(|_| Chunk::from(vec![7; 300_000])));
            assert_quiet(&mut ring);
            ring.cancel_all(socket);
            let (mut receive, mut send) = (0, 0);
            while receive + send < 2 {
                match next(&mut ring) {
                    Completion { token: A, outcome: Outcome::ReceiveEnded(ReceiveEnd::Stopped) } => {
                        receive += 1
                    }
                    Completion { token: B, outcome: Outcome::SendFailed(_) } => send += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((receive, send), (1, 1));
            assert_quiet(&mut ring);
            // What had gone arrives, then a FIN: nothing holds the socket any more.
            ring.close(socket);
            ring.wait_until(Instant::ZERO).unwrap();
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            assert!(!got.is_empty() && got.len() < 300_000, "{}", got.len());
        }
    });
}

#[test]
fn cancelling_everything_ends_an_accept_and_a_connect() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listener, _) = ring.listen(loopback, &SocketOptions::default()).unwrap();
        ring.accept(listener, A);
        // A full backlog leaves the SYN without an answer.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&loopback.into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _in_the_backlog = TcpStream::connect(address).unwrap();
        let waiting = ring.connect(address, None, &SocketOptions::default(), B).unwrap();
        assert_quiet(&mut ring);
        ring.cancel_all(listener);
        let end = next(&mut ring);
        assert!(
            matches!(end, Completion { token: A, outcome: Outcome::AcceptEnded(Errno(libc::ECANCELED)) }),
            "{end:?}"
        );
        ring.cancel_all(waiting);
        let end = next(&mut ring);
        assert!(
            matches!(end, Completion { token: B, outcome: Outcome::ConnectFailed(Errno(libc::ECANCELED)) }),
            "{end:?}"
        );
        assert_quiet(&mut ring);
        ring.close(listener);
        ring.close(waiting);
    });
}

#[test]
fn a_full_completion_queue_loses_nothing_and_is_counted() {
    on_every_kernel(|features| {
        let settings = RingSettings { sq_entries: 2, cq_entries: 4, ..RingSettings::default() };
        let mut ring = ring(&settings, features);
        let mut pairs: Vec<_> = (0..64).map(|_| pair(&mut ring)).collect();
        // Buffers are offered in a turn, and so small a queue is submitted before it.
        ring.wait_until(Instant::ZERO).unwrap();
        let token = |place: usize| Token { slot: place as u32, ..A };
        for (place, (socket, _)) in pairs.iter().enumerate() {
            ring.receive(*socket, token(place), BufferSize::Small, ENDLESS);
        }
        assert_quiet(&mut ring);
        assert_eq!(ring.overflows(), 0);
        let (mut got, mut lost_more) = (vec![Vec::new(); pairs.len()], 0);
        for round in 0..20u8 {
            for (place, (_, peer)) in pairs.iter_mut().enumerate() {
                peer.write_all(&[place as u8, round]).unwrap();
            }
            while got.iter().any(|bytes: &Vec<u8>| bytes.len() < 2 * (usize::from(round) + 1)) {
                let Completion { token: of, outcome } = next(&mut ring);
                let armed = match outcome {
                    Outcome::Received { chunk, armed } => {
                        got[of.slot as usize].extend_from_slice(&chunk);
                        armed
                    }
                    Outcome::ReceiveEnded(ReceiveEnd::Stopped | ReceiveEnd::NoBuffers) => false,
                    other => panic!("{other:?}"),
                };
                if !armed {
                    lost_more += 1;
                    ring.receive(pairs[of.slot as usize].0, of, BufferSize::Small, ENDLESS);
                }
            }
        }
        for (place, got) in got.iter().enumerate() {
            let expected: Vec<u8> = (0..20).flat_map(|round| [place as u8, round]).collect();
            assert_eq!(*got, expected);
        }
        assert!(ring.overflows() > 0, "64 completions do not fit into 4 places");
        // A multishot that finds no place ends although nothing is wrong.
        assert!(lost_more > 0);
    });
}

#[test]
fn a_full_submission_queue_loses_nothing_and_keeps_the_order() {
    on_every_kernel(|features| {
        let mut ring = ring(&RingSettings { sq_entries: 2, ..RingSettings::default() }, features);
        let mut pairs: Vec<_> = (0..100).map(|_| pair(&mut ring)).collect();
        // Each send is queued before its cancel and its close: the other way round, nothing would arrive.
        for (place, (socket, _)) in pairs.iter().enumerate() {
            ring.send(*socket, Token { slot: place as u32, ..A }, one(&[place as u8; 10]));
            ring.cancel_all(*socket);
            ring.close(*socket);
        }
        for place in 0..pairs.len() {
            let completion = next(&mut ring);
            assert_eq!(completion.token.slot as usize, place);
            assert!(matches!(completion.outcome, Outcome::Sent), "{completion:?}");
        }
        assert_quiet(&mut ring);
        for (place, (_, peer)) in pairs.iter_mut().enumerate() {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            assert_eq!(got, [place as u8; 10]);
        }
    });
}

#[test]
fn a_reset_reaches_the_peer_as_a_rst_and_ends_what_is_in_flight() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let (socket, mut peer) = pair_with(&mut ring, Some(4096));
        ring.receive(socket, A, BufferSize::Small, ENDLESS);
        ring.send(socket, B, one(&[7; 300_000]));
        assert_quiet(&mut ring);
        ring.reset(socket);
        assert!(resets(&mut peer), "a FIN is no RST");
        let (mut receive, mut send) = (0, 0);
        while receive + send < 2 {
            match next(&mut ring) {
                Completion { token: A, outcome: Outcome::ReceiveEnded(_) } => receive += 1,
                Completion { token: B, outcome: Outcome::SendFailed(_) } => send += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((receive, send), (1, 1));
        assert_quiet(&mut ring);
        ring.close(socket);
    });
}

#[test]
fn a_reset_by_the_peer_is_told_as_a_failure_and_a_fin_as_an_end() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let (socket, peer) = pair(&mut ring);
        ring.receive(socket, A, BufferSize::Small, ENDLESS);
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let end = next(&mut ring);
        let failed = ReceiveEnd::Failed(Errno(libc::ECONNRESET));
        assert!(matches!(end.outcome, Outcome::ReceiveEnded(end) if end == failed), "{end:?}");
        let (socket, peer) = pair(&mut ring);
        ring.receive(socket, B, BufferSize::Small, ENDLESS);
        drop(peer);
        let end = next(&mut ring);
        assert!(matches!(end.outcome, Outcome::ReceiveEnded(ReceiveEnd::Eof)), "{end:?}");
    });
}

#[test]
fn a_refused_connect_says_why() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = ring.connect(nobody, None, &SocketOptions::default(), A).unwrap();
        let end = next(&mut ring);
        assert!(matches!(end.outcome, Outcome::ConnectFailed(Errno(libc::ECONNREFUSED))), "{end:?}");
        ring.close(socket);
        // From an address of the caller's choice.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let source = "127.0.0.9".parse().unwrap();
        let address = listener.local_addr().unwrap();
        ring.connect(address, Some(source), &SocketOptions::default(), B).unwrap();
        assert!(matches!(next(&mut ring).outcome, Outcome::Connected));
        assert_eq!(listener.accept().unwrap().1.ip(), source);
    });
}

#[test]
fn many_wakes_before_a_turn_count_as_one_and_none_is_lost() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        for _ in 0..20 {
            let waker = ring.waker();
            std::thread::spawn(move || (0..1000).for_each(|_| waker.wake())).join().unwrap();
            assert!(matches!(next(&mut ring).outcome, Outcome::Woken));
            ring.wait_until(Instant::ZERO).unwrap();
            // Where completions are not deferred to the turn, the first may be told apart from the rest.
            if let Some(completion) = ring.next_completion() {
                assert!(!features.defer_taskrun && matches!(completion.outcome, Outcome::Woken));
                ring.wait_until(Instant::ZERO).unwrap();
                assert!(ring.next_completion().is_none());
            }
        }
        // A wait that has begun ends, too.
        let waker = ring.waker();
        let (ask, asked) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || asked.iter().for_each(|()| waker.wake()));
        for _ in 0..100 {
            ask.send(()).unwrap();
            assert!(matches!(next(&mut ring).outcome, Outcome::Woken));
        }
        drop(ask);
        thread.join().unwrap();
    });
}

#[test]
fn a_wait_ends_at_its_deadline_and_at_once_when_that_has_passed() {
    on_every_kernel(|features| {
        for spin in [None, Some(Duration::from_micros(300))] {
            let mut ring = ring(&RingSettings { spin, ..RingSettings::default() }, features);
            for deadline in [Instant::ZERO, Instant::now() - Duration::from_secs(1), Instant::now()] {
                ring.wait_until(deadline).unwrap();
                assert!(ring.next_completion().is_none());
            }
            let deadline = ring.now() + Duration::from_millis(2);
            while ring.now() < deadline {
                ring.wait_until(deadline).unwrap();
                assert!(ring.next_completion().is_none());
            }
        }
    });
}

#[test]
fn a_late_word_about_an_earlier_tenant_carries_its_generation() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let (before, _peer) = pair(&mut ring);
        let (after, mut peer) = pair(&mut ring);
        let next_tenant = Token { generation: A.generation + 1, ..A };
        ring.receive(before, A, BufferSize::Small, ENDLESS);
        ring.receive(after, next_tenant, BufferSize::Small, ENDLESS);
        // Two cancels for the earlier one: neither may touch the later.
        ring.cancel_receive(A);
        ring.cancel_all(before);
        let end = next(&mut ring);
        assert!(
            matches!(end, Completion { token: A, outcome: Outcome::ReceiveEnded(ReceiveEnd::Stopped) }),
            "{end:?}"
        );
        ring.close(before);
        peer.write_all(b"to the later").unwrap();
        assert_eq!(gather(&mut ring, after, next_tenant, 12), b"to the later");
        // The same at the wrap-around of the generation.
        let (last, mut peer) = pair(&mut ring);
        let last_tenant = Token { generation: u16::MAX, ..A };
        ring.receive(last, last_tenant, BufferSize::Small, ENDLESS);
        ring.cancel_receive(Token { generation: 0, ..A });
        peer.write_all(b"last").unwrap();
        assert_eq!(gather(&mut ring, last, last_tenant, 4), b"last");
    });
}

#[test]
fn a_ring_that_is_dropped_in_the_middle_frees_nothing_under_the_kernel() {
    on_every_kernel(|features| {
        for round in 0..10 {
            let mut ring = plain(features);
            let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
            let (listener, address) = ring.listen(loopback, &SocketOptions::default()).unwrap();
            ring.accept(listener, A);
            let (receiving, mut peer) = pair(&mut ring);
            let (sending, stuck) = pair_with(&mut ring, Some(4096));
            peer.write_all(b"held").unwrap();
            ring.receive(receiving, A, BufferSize::Small, ENDLESS);
            let Outcome::Received { chunk, .. } = next(&mut ring).outcome else { panic!() };
            ring.send(sending, B, [Chunk::from(vec![1; 300_000]), chunk.clone()].into_iter());
            if round % 2 == 0 {
                assert_quiet(&mut ring);
            }
            // Queued and not submitted yet.
            ring.connect(address, None, &SocketOptions::default(), B).unwrap();
            drop(ring);
            // The memory of the next ring may lie where the last one's was; the held buffer stays.
            let _ = peer.write_all(&[9; 1000]);
            let mut another = plain(features);
            assert_quiet(&mut another);
            assert_eq!(&chunk[..], b"held");
            drop(stuck);
        }
    });
}

/// Takes every descriptor that the process may still have.
fn take_all_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn without_descriptors_an_accept_and_a_connect_say_so_and_succeed_later() {
    in_a_process_of_its_own(
        "without_descriptors_an_accept_and_a_connect_say_so_and_succeed_later",
        128,
        || {
            on_every_kernel(|features| {
                let mut ring = plain(features);
                let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
                let (listener, address) = ring.listen(loopback, &SocketOptions::default()).unwrap();
                let waiting = [(); 2].map(|()| TcpStream::connect(address).unwrap());
                let mut descriptors = take_all_descriptors();
                ring.accept(listener, A);
                let is_emfile =
                    |end: &Completion| matches!(end.outcome, Outcome::AcceptEnded(Errno(libc::EMFILE)));
                assert!(is_emfile(&next(&mut ring)));
                let error = ring.connect(address, None, &SocketOptions::default(), B).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                assert_quiet(&mut ring);
                // Room for one: it is served, and the accept ends for want of another, until it has gone.
                drop(descriptors.pop());
                for mut client in waiting {
                    ring.accept(listener, A);
                    let Outcome::Accepted(socket) = next(&mut ring).outcome else { panic!() };
                    ring.send(socket, B, one(b"served"));
                    let mut is_sent = false;
                    while !is_sent {
                        let completion = next(&mut ring);
                        is_sent = matches!(completion.outcome, Outcome::Sent);
                        assert!(is_sent || is_emfile(&completion), "{completion:?}");
                    }
                    ring.close(socket);
                    ring.wait_until(Instant::ZERO).unwrap();
                    let mut got = Vec::new();
                    client.read_to_end(&mut got).unwrap();
                    assert_eq!(got, b"served");
                    descriptors.push(File::open("/dev/null").expect("the client's, or the ring's"));
                }
                drop(descriptors);
                ring.accept(listener, A);
                let connected = ring.connect(address, None, &SocketOptions::default(), B).unwrap();
                let mut outcomes = [next(&mut ring), next(&mut ring)];
                outcomes.sort_by_key(|completion| completion.token.role);
                let [Completion { outcome: Outcome::Accepted(accepted), .. }, connect] = outcomes else {
                    panic!()
                };
                assert!(matches!(connect.outcome, Outcome::Connected));
                ring.cancel_all(listener);
                next(&mut ring);
                [listener, accepted, connected].into_iter().for_each(|socket| ring.close(socket));
                ring.wait_until(Instant::ZERO).unwrap();
            });
        },
    );
}

#[test]
fn what_is_to_come_is_known_ahead() {
    on_every_kernel(|features| {
        let mut ring = plain(features);
        let mut pairs: Vec<_> = (0..40).map(|_| pair(&mut ring)).collect();
        for (slot, (socket, peer)) in pairs.iter_mut().enumerate() {
            ring.receive(
                *socket,
                Token { role: 1, slot: slot as u32, generation: 7 },
                BufferSize::Small,
                ENDLESS,
            );
            peer.write_all(b"x").unwrap();
        }
        let (mut seen, mut known) = (Vec::new(), 0);
        while seen.len() < pairs.len() {
            let ahead = [ring.upcoming(0), ring.upcoming(1)];
            let first = next(&mut ring);
            // Before anything is taken out of the queue nothing is known of it.
            if let [Some(one), two] = ahead {
                assert_eq!(one, Upcoming { token: first.token, brings_bytes: true });
                assert!(two.is_none() || ring.upcoming(0) == two);
                known += 1;
            }
            seen.push(first.token.slot);
        }
        assert!(known > 0, "40 completions come in groups");
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>(), "each once");
        assert_quiet(&mut ring);
        assert_eq!(ring.upcoming(0), None);
    });
}
