//! [`Network`]: the handle on a simulation's clock, links and faults.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::super::SocketOptions;
use super::super::buffers::Pool;
use super::faults::Faults;
use super::operations::RingState;
use super::peer::{Peer, Server};
use super::state::{Entry, State};
use super::{SimulatedRing, SimulatedSettings};
use crate::clock::Instant;

/// What the bytes of one direction travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// From one end to the other.
    pub delay: Duration,
    /// Without limit when absent.
    pub bytes_per_second: Option<u64>,
}

impl Default for Link {
    /// About a loopback: 20 µs, no limit.
    fn default() -> Link {
        Link { delay: Duration::from_micros(20), bytes_per_second: None }
    }
}

impl Link {
    pub(super) fn time_on_wire(&self, bytes: usize) -> Duration {
        match self.bytes_per_second {
            Some(rate) => {
                Duration::from_nanos((bytes as u128 * 1_000_000_000 / u128::from(rate.max(1))) as u64)
            }
            None => Duration::ZERO,
        }
    }
}

/// Names one ring of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingId(pub(super) usize);

/// A network in virtual time, with any number of rings and peers on it. Clones are the same network.
///
/// Given the same seed and the same calls, the same happens. When a test panics, its seed is printed.
#[derive(Clone)]
pub struct Network {
    pub(super) state: Rc<RefCell<State>>,
}

impl Network {
    /// What the clock reads at first: as on a machine that has been up for eleven days.
    pub const START: Instant = Instant::from_nanos(1_000_000_000_000_000);

    /// An empty network without faults.
    pub fn new(seed: u64) -> Network {
        Network { state: Rc::new(RefCell::new(State::new(seed))) }
    }

    /// The seed of everything random here.
    pub fn seed(&self) -> u64 {
        self.state.borrow().seed
    }

    /// What the clock reads.
    pub fn now(&self) -> Instant {
        self.state.borrow().now
    }

    /// Sets how often what goes wrong, from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.borrow_mut().faults = faults;
    }

    /// Sets what new connections travel on; see [`Peer::set_link`] for existing ones.
    pub fn set_link(&self, link: Link) {
        self.state.borrow_mut().link = link;
    }

    /// Sets the buffers of new sockets that do not ask for a size of their own.
    pub fn set_socket_buffers(&self, send_bytes: usize, receive_bytes: usize) {
        assert!(send_bytes > 0 && receive_bytes > 0, "a socket without a buffer moves nothing");
        let mut state = self.state.borrow_mut();
        (state.send_buffer_bytes, state.receive_buffer_bytes) = (send_bytes, receive_bytes);
    }

    /// Loses every SYN to `address` from now on: a connect to it never ends.
    pub fn make_unreachable(&self, address: IpAddr) {
        self.state.borrow_mut().unreachable.push(address);
    }

    /// Lets the SYNs that are sent to `address` from now on arrive again.
    pub fn make_reachable(&self, address: IpAddr) {
        self.state.borrow_mut().unreachable.retain(|other| *other != address);
    }

    /// A new ring on this network.
    pub fn ring(&self, settings: &SimulatedSettings) -> SimulatedRing {
        let mut state = self.state.borrow_mut();
        let pool = |settings: &super::super::PoolSettings| Pool::new(settings.buffers, settings.buffer_bytes);
        state.rings.push(RingState {
            small: pool(&settings.small),
            large: pool(&settings.large),
            counts_credit: settings.counts_credit,
            cq_entries: settings.cq_entries as usize,
            ready_per_wait: settings.ready_per_wait,
            overflows: 0,
            clock_reads: 0,
            work: 0,
            submissions: Default::default(),
            ready: Default::default(),
            completions: Default::default(),
            receives: Default::default(),
            woken: false,
            deadline: Instant::ZERO,
            stopped: false,
        });
        let id = RingId(state.rings.len() - 1);
        SimulatedRing { network: self.clone(), id }
    }

    /// Connects a peer that has no ring; what it writes before it is connected leaves then.
    pub fn dial(&self, address: SocketAddr) -> Peer {
        self.dial_from(None, address)
    }

    /// As [`Network::dial`], from an address of the caller's choice.
    pub fn dial_from(&self, source: Option<IpAddr>, address: SocketAddr) -> Peer {
        let mut state = self.state.borrow_mut();
        let id = state.open_stream(None, address, source, &SocketOptions::default());
        let at = state.now + state.stream(id).link.delay;
        state.schedule(at, super::state::Event::Syn { client: id, attempt: 0 });
        drop(state);
        Peer::new(self.clone(), id)
    }

    /// Listens with a server that has no ring; port 0 takes a free one.
    ///
    /// # Panics
    /// Never on a fresh address: there is nothing that could fail.
    pub fn serve(&self, address: SocketAddr) -> Server {
        let listened = self.state.borrow_mut().listen(None, address, &SocketOptions::default());
        let (id, address) = listened.expect("a simulated listen without a ring cannot fail");
        Server::new(self.clone(), id, address)
    }

    /// When the next thing happens by itself.
    pub fn next_event(&self) -> Option<Instant> {
        self.state.borrow().next_event()
    }

    /// Moves the clock to `instant`; everything that is due on the way happens. Never moves it back.
    pub fn advance_to(&self, instant: Instant) {
        self.state.borrow_mut().advance_to(instant);
    }

    /// Whether a turn of the ring would find something.
    pub fn is_runnable(&self, ring: RingId) -> bool {
        let state = self.state.borrow();
        !state.rings[ring.0].stopped && state.is_runnable(ring.0)
    }

    /// Stops a ring's thread, as SIGSTOP does, or lets it go on. Its actor must not call it due meanwhile.
    pub fn set_stopped(&self, ring: RingId, stopped: bool) {
        self.state.borrow_mut().rings[ring.0].stopped = stopped;
    }

    /// Whether a ring wakes for no reason now.
    pub(super) fn spurious_turn(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let probability = state.faults.spurious_wake;
        state.chance(probability)
    }

    /// Until when the ring last said it would wait.
    pub fn deadline(&self, ring: RingId) -> Instant {
        self.state.borrow().rings[ring.0].deadline
    }

    /// What a ring has cost so far: one for each turn, operation, completion and system call, and for a cancel of all
    /// operations on a socket, as the kernel does it, one for each receive in flight on the ring.
    pub fn work(&self, ring: RingId) -> u64 {
        self.state.borrow().rings[ring.0].work
    }

    /// How often the ring was asked what time it is.
    pub fn clock_reads(&self, ring: RingId) -> u64 {
        self.state.borrow().rings[ring.0].clock_reads
    }

    /// Makes the ring's next turn find [`super::super::Outcome::Woken`].
    pub fn wake(&self, ring: RingId) {
        self.state.borrow_mut().rings[ring.0].woken = true;
    }

    /// Sockets that the ring has not closed, listeners among them.
    pub fn open_sockets(&self, ring: RingId) -> usize {
        let state = self.state.borrow();
        let open = |entry: &&Entry| match entry {
            Entry::Listener(listener) => listener.open && listener.ring == Some(ring.0),
            Entry::Stream(stream) => stream.open && stream.ring == Some(ring.0),
        };
        state.sockets.iter().filter(open).count()
    }

    /// Panics unless every ring has closed its connections, has nothing in flight but accepts, and every
    /// buffer is back in its pool.
    pub fn assert_quiescent(&self) {
        let state = self.state.borrow();
        let seed = state.seed;
        for (id, entry) in state.sockets.iter().enumerate() {
            let Entry::Stream(stream) = entry else { continue };
            if let (Some(ring), true) = (stream.ring, stream.open) {
                panic!(
                    "ring {ring} left socket {id} open: {} → {}, {:?}, in flight {:?} (seed {seed})",
                    stream.local, stream.remote, stream.phase, stream.in_flight
                );
            }
        }
        for (id, ring) in state.rings.iter().enumerate() {
            assert!(ring.completions.is_empty(), "ring {id} left completions unread (seed {seed})");
            assert!(ring.receives.is_empty(), "ring {id} has receives in flight (seed {seed})");
            for (name, pool) in [("small", &ring.small), ("large", &ring.large)] {
                let (free, all) = (pool.free_buffers(), pool.buffers());
                assert_eq!(free, all, "ring {id} leaked {name} buffers (seed {seed})");
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(mut state) = self.state.try_borrow_mut()
            && !std::mem::replace(&mut state.told_seed, true)
        {
            eprintln!("simulation failed; to run it again: SEED={} cargo test simulation", state.seed);
        }
    }
}
