//! [`Simulation`]: gives each actor its turns and moves the clock when nobody has anything to do.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::network::{Network, RingId};
use crate::clock::Instant;
use crate::rng::Rng;

/// Something with a ring of its own and a loop, of which one turn is made at a time.
pub trait Actor {
    /// One turn: wait (which does not block here), take out the completions, fire what is due.
    ///
    /// # Errors
    /// Those that end the loop.
    fn turn(&mut self) -> io::Result<()>;

    /// Until when the loop would wait now if nothing came; [`Instant::FAR_FUTURE`] if for ever.
    fn next_due(&mut self) -> Instant;
}

impl<A: Actor + ?Sized> Actor for Rc<RefCell<A>> {
    fn turn(&mut self) -> io::Result<()> {
        self.borrow_mut().turn()
    }
    fn next_due(&mut self) -> Instant {
        self.borrow_mut().next_due()
    }
}

/// The loop around all loops of a simulation.
pub struct Simulation {
    network: Network,
    actors: Vec<(RingId, Box<dyn Actor>)>,
    rng: Rng,
    turns_without_progress: u32,
}

/// Turns at one instant after which somebody is taken to spin.
const TURNS_AT_ONE_INSTANT_MAX: u32 = 100_000;

impl Simulation {
    /// A simulation of the actors to be added.
    pub fn new(network: &Network) -> Simulation {
        let rng = Rng::stream(network.seed(), &[1]);
        Simulation { network: network.clone(), actors: Vec::new(), rng, turns_without_progress: 0 }
    }

    /// Adds the actor that owns the ring `ring`. Keep a clone of an `Rc<RefCell<_>>` to look at it later.
    pub fn add(&mut self, ring: RingId, actor: impl Actor + 'static) {
        self.actors.push((ring, Box::new(actor)));
    }

    /// Lets everything happen up to `instant`, where the clock stands afterwards.
    ///
    /// # Panics
    /// When an actor's turn fails, or somebody spins without time going on.
    pub fn run_until(&mut self, instant: Instant) {
        while self.step(instant) {}
        self.network.advance_to(instant);
    }

    /// Lets everything happen until nothing more would by itself before `limit`; returns when that was.
    ///
    /// # Panics
    /// As [`Simulation::run_until`].
    pub fn run_until_idle(&mut self, limit: Instant) -> Instant {
        while self.step(limit) {}
        self.network.now()
    }

    /// Runs while `goes_on`, but not beyond `limit`; false when the limit ended it.
    ///
    /// # Panics
    /// As [`Simulation::run_until`].
    pub fn run_while(&mut self, limit: Instant, mut goes_on: impl FnMut() -> bool) -> bool {
        while goes_on() {
            if !self.step(limit) {
                return !goes_on();
            }
        }
        true
    }

    /// One round of turns, or one step of the clock; false when nothing happens up to `limit`.
    fn step(&mut self, limit: Instant) -> bool {
        let now = self.network.now();
        let count = self.actors.len();
        let first = self.rng.below(count as u64) as usize;
        let mut any = false;
        for index in (0..count).map(|index| (first + index) % count) {
            let (ring, actor) = &mut self.actors[index];
            let spurious = self.network.spurious_turn();
            if spurious || self.network.is_runnable(*ring) || actor.next_due() <= now {
                if let Err(error) = actor.turn() {
                    panic!("the loop of ring {} ended: {error} (seed {})", ring.0, self.network.seed());
                }
                any = true;
            }
        }
        if any {
            self.turns_without_progress += 1;
            assert!(
                self.turns_without_progress < TURNS_AT_ONE_INSTANT_MAX,
                "somebody spins: {TURNS_AT_ONE_INSTANT_MAX} rounds at {now:?} (seed {})",
                self.network.seed()
            );
            return true;
        }
        self.turns_without_progress = 0;
        let due = self.actors.iter_mut().map(|(_, actor)| actor.next_due()).min();
        let next =
            [due, self.network.next_event()].into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE);
        if next > limit || next == Instant::FAR_FUTURE {
            return false;
        }
        self.network.advance_to(next);
        true
    }
}
