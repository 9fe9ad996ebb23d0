//! A worker's thread: carries commands from the handle to the worker between its turns.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use super::dataplane::DataplaneSettings;
use super::event::Event;
use super::figures::WorkerFigures;
use super::room::Room;
use super::stats::RuleStats;
use super::worker::{Opening, STOP_LINGER, Worker, WorkerSettings};
use crate::behavior::RuleSet;
use crate::clock::Instant;
use crate::ring::{Features, KernelRing, RingError, RingSettings, SPIN, Waker, ask_for_short_slices};

/// What new rules met on one worker, for each proxy by its number.
pub(super) struct RulesMet {
    pub(super) at: Instant,
    pub(super) proxies: Vec<ProxyMet>,
}

/// What new rules met on one proxy.
pub(super) struct ProxyMet {
    pub(super) id: u32,
    pub(super) connections: usize,
    /// The rules that are gone, with what they did.
    pub(super) gone: Vec<RuleStats>,
}

pub(super) struct Link {
    pub(super) commands: Sender<Command>,
    pub(super) waker: Waker,
    /// What it has counted, to be read without asking it.
    pub(super) figures: Arc<WorkerFigures>,
}

pub(super) enum Command {
    /// Answers for each where it listens.
    Open(Vec<Opening>, Sender<Vec<io::Result<Option<SocketAddr>>>>),
    Listen(u32, SocketAddr, Sender<io::Result<Option<SocketAddr>>>),
    Shut(u32, Sender<()>),
    /// Answers how many connections it closes, and what its rules have done.
    Remove(u32, u64, Sender<ProxyMet>),
    SetRules(Arc<[(u32, Arc<RuleSet>)]>, Sender<RulesMet>),
    SetUpstream(u32, Vec<SocketAddr>, Duration, u64, Sender<()>),
    /// Give memory back that is not used any more, a part between every two turns.
    Tidy,
    /// Give proxies other settings than rules, for what begins from now on.
    Settle(Arc<[Opening]>, Sender<()>),
    /// The name of its upstream was not found, for this reason.
    NotResolved(u32, Arc<str>),
    Drain(Sender<()>),
    /// Close everything now.
    Cut,
    Stop,
}

/// What a worker is reached by, once it runs.
pub(super) type Started = (Waker, Arc<WorkerFigures>);

impl Link {
    pub(super) fn tell(&self, command: Command) {
        // A worker that is gone answers nothing, and its caller hears that.
        let _ = self.commands.send(command);
        self.waker.wake();
    }

    pub(super) fn ask<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Receiver<T> {
        let (reply, answer) = mpsc::channel();
        self.tell(command(reply));
        answer
    }
}

pub(super) fn run_worker(
    index: usize,
    settings: &DataplaneSettings,
    features: Features,
    events: Sender<Vec<Event>>,
    inbox: &Receiver<Command>,
    ready: &Sender<Result<Started, RingError>>,
    room: Arc<Room>,
) {
    ask_for_short_slices();
    let ring = RingSettings { spin: settings.precise.then_some(SPIN), ..settings.ring };
    let ring = match KernelRing::new(&ring, features) {
        Ok(ring) => ring,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let waker = ring.waker();
    let worker = WorkerSettings {
        index,
        held_bytes_max: settings.worker_held_bytes_max,
        options: settings.options.clone(),
        room,
    };
    let mut worker = Worker::new(ring, worker, events);
    let _ = ready.send(Ok((waker.clone(), worker.figures())));
    let mut drained: Option<Sender<()>> = None;
    let mut tidying = false;
    loop {
        worker.turn().expect("the ring goes on");
        if tidying {
            tidying = worker.tidy();
            // The rest needs a turn of its own, though nothing else may happen.
            tidying.then(|| waker.wake());
        }
        if worker.take_woken() {
            for command in inbox.try_iter() {
                match command {
                    Command::Open(openings, reply) => {
                        let opened = openings.iter().map(|opening| worker.open(opening)).collect();
                        answer(&mut worker, &reply, opened);
                    }
                    Command::Listen(id, address, reply) => {
                        let listens = worker.listen(id, address);
                        answer(&mut worker, &reply, listens);
                    }
                    Command::Shut(id, reply) => {
                        worker.shut(id, true);
                        answer(&mut worker, &reply, ());
                    }
                    Command::Remove(id, generation, reply) => {
                        let connections = worker.connections_of(id);
                        let gone = worker.set_rules(id, &Arc::new(RuleSet::empty(generation)));
                        worker.remove(id);
                        worker.applies(generation);
                        answer(&mut worker, &reply, ProxyMet { id, connections, gone });
                    }
                    Command::SetRules(changes, reply) => {
                        let set = changes.iter().map(|(id, rules)| {
                            let connections = worker.connections_of(*id);
                            ProxyMet { id: *id, connections, gone: worker.set_rules(*id, rules) }
                        });
                        let proxies = set.collect();
                        answer(&mut worker, &reply, RulesMet { at: Instant::now(), proxies });
                    }
                    Command::SetUpstream(id, upstream, timeout, generation, reply) => {
                        worker.set_upstream(id, upstream, timeout);
                        worker.applies(generation);
                        answer(&mut worker, &reply, ());
                    }
                    Command::Tidy => {
                        tidying = true;
                        waker.wake();
                    }
                    Command::Settle(openings, reply) => {
                        openings.iter().for_each(|opening| worker.settle(opening));
                        answer(&mut worker, &reply, ());
                    }
                    Command::NotResolved(id, why) => worker.not_resolved(id, why),
                    Command::Drain(reply) => {
                        worker.drain();
                        drained = Some(reply);
                    }
                    Command::Cut => worker.cut(STOP_LINGER),
                    Command::Stop => return stop(worker),
                }
            }
        }
        if worker.open_connections() == 0
            && let Some(reply) = drained.take()
        {
            answer(&mut worker, &reply, ());
        }
    }
}

/// Answers a call; who reads figures after it finds what it did.
fn answer<T>(worker: &mut Worker<KernelRing>, reply: &Sender<T>, answer: T) {
    worker.publish();
    // Who asked may have given up.
    let _ = reply.send(answer);
}

/// Turns after that; each cancelled operation ends within one.
const STOP_TURNS_MAX: usize = 10_000;

/// Cuts what is left, and lets the ring close it.
fn stop(mut worker: Worker<KernelRing>) {
    worker.cut(STOP_LINGER);
    let over = Instant::now() + STOP_LINGER;
    let mut turns_left = STOP_TURNS_MAX;
    while !worker.is_empty() && turns_left > 0 {
        worker.turn().expect("the ring goes on");
        turns_left -= usize::from(Instant::now() >= over);
    }
    worker.hand_over_events();
}
