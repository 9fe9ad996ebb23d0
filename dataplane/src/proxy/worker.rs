//! One thread, one ring, THE loop: tells the connections what happened and asks the kernel for the rest.

mod accepting;
mod shortage;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use self::accepting::{Parting, listener_token};
use super::connection::{Connection, DOWNSTREAM, Sources, UPSTREAM};
use super::event::{Detail, EVENT_DELAY, Event, EventBuffer, EventKind};
use super::figures::{ProxyFigures, Rules, WorkerFigures, figures_of};
use super::patience::Patience;
use super::room::Room;
use super::stats::{Counters, RuleStats};
use crate::behavior::{Direction, RuleSet};
use crate::clock::Instant;
use crate::ring::{Errno, Outcome, Ring, Socket, SocketOptions, Token, Upcoming, prefetch};
use crate::timers::Timers;

/// The role of a listener in its tokens; its slot is the proxy's number.
const LISTENER: u8 = 0;
/// How long a worker that stops, or closes what is idle in a drain, waits for peers to take their last bytes and the
/// FIN, in place of their proxies' limits.
pub(super) const STOP_LINGER: Duration = Duration::from_millis(250);
/// How often a worker that drains looks for connections that have become idle.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// What a worker must know of a proxy to open it.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its number, the same on every worker, never given twice.
    pub id: u32,
    /// Its name.
    pub name: Arc<str>,
    /// Where to listen; none while it is switched off.
    pub listen: Option<SocketAddr>,
    /// Where to connect: the first that answers.
    pub upstream: Vec<SocketAddr>,
    /// Addresses to connect from, in turn; the system's choice when empty.
    pub source_addresses: Vec<IpAddr>,
    /// How long an upstream connect may take.
    pub connect_timeout: Duration,
    /// How long it waits for peers that say nothing.
    pub patience: Patience,
    /// Bytes that one direction of one connection may hold for a delay.
    pub held_bytes_max: usize,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// Numbers the proxy's connections, over all workers.
    pub ordinals: Arc<AtomicU64>,
}

/// A proxy as one worker has it.
pub(super) struct ProxyState {
    pub name: Arc<str>,
    pub upstream: Vec<SocketAddr>,
    pub sources: Sources,
    pub connect_timeout: Duration,
    pub patience: Patience,
    /// Options of its sockets.
    pub options: SocketOptions,
    pub held_bytes_max: usize,
    pub rules: Arc<RuleSet>,
    pub counters: Counters,
    /// What each of its rules has done, in the rules' order.
    pub rules_done: Rules,
    /// Where others read all that; `counters` are published there once a turn.
    pub figures: Arc<ProxyFigures>,
    /// Its counters may have changed since they were published.
    is_touched: bool,
    listener: Option<Socket>,
    /// Which listener of this proxy that is: one that was shut may still have something to say.
    listening: u16,
    accepting: bool,
    /// Its accept was cancelled for want of descriptors, and has not ended yet.
    resting: bool,
    /// Accepting has paused since the last connection, and that has been told.
    pause_told: bool,
    /// That it turns connections away is told again then.
    limit_told_until: Instant,
    ordinals: Arc<AtomicU64>,
    open: usize,
    removed: bool,
}

/// What connections share on one worker.
pub(super) struct Context<R> {
    pub ring: R,
    pub timers: Timers<Timer>,
    /// Read once a turn.
    pub now: Instant,
    /// Bytes in all queues, and how many there may be.
    pub held_bytes: usize,
    pub held_bytes_max: usize,
    /// Of those, the bytes of each proxy, by its number.
    pub held_by_proxy: Vec<usize>,
    /// Times a receive found no buffer.
    pub no_buffers: u64,
    /// Connections that wait for a descriptor for their upstream, the oldest first.
    pub short: VecDeque<(u32, u16)>,
    /// What the last of them was told.
    pub shortage: Errno,
    /// Receives that found no buffer.
    pub starved: Vec<(u32, u16, Direction)>,
    pub events: EventBuffer,
    pub figures: Arc<WorkerFigures>,
}

/// Whose time has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    pub slot: u32,
    pub generation: u16,
    pub what: What,
}

/// What is due.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// The front of a queue may go.
    Pipe(Direction),
    ConnectTimeout,
    /// End a connection.
    End,
    /// Look whether a connection has been silent for too long.
    Patience,
    /// Something that the messages of a connection wait for has not come.
    Exchange,
    /// Try accepting again; the slot is a proxy's number.
    Accept,
    /// Look again for a descriptor.
    Shortage,
    /// Close what has become idle while the worker drains.
    Drain,
    /// Hand over the events.
    Events,
}

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Its number.
    pub index: usize,
    /// Bytes it may hold in all queues together before it reads no further.
    pub held_bytes_max: usize,
    /// Options of every socket it opens.
    pub options: SocketOptions,
    /// The descriptors that it shares with the other workers.
    pub room: Arc<Room>,
}

/// Proxies on one ring. Drive it by [`Worker::turn`].
pub struct Worker<R: Ring> {
    cx: Context<R>,
    settings: WorkerSettings,
    proxies: Vec<Option<ProxyState>>,
    /// Boxed, so that growing moves no connection.
    connections: Vec<Option<Box<Connection>>>,
    generations: Vec<u16>,
    free: Vec<u32>,
    /// Listeners that are shut, until their accept has ended.
    parting: Vec<Parting>,
    turns: u64,
    /// Completions that were not wake-ups.
    completions: u64,
    generation: u64,
    /// Proxies whose counters may have changed since they were published.
    touched: Vec<u32>,
    /// A timer will look for descriptors; it, or a connection that closed, says that it is time to.
    look_due: bool,
    look_again: bool,
    /// The turn in which those that wait for one were thinned out last.
    thinned_in: u64,
    draining: bool,
    events_due: bool,
    events: mpsc::Sender<Vec<Event>>,
    woken: bool,
}

impl<R: Ring> Worker<R> {
    /// A worker without proxies, whose events go to `events`.
    pub fn new(ring: R, settings: WorkerSettings, events: mpsc::Sender<Vec<Event>>) -> Worker<R> {
        let now = ring.now();
        Worker {
            cx: Context {
                ring,
                timers: Timers::new(now),
                now,
                held_bytes: 0,
                held_bytes_max: settings.held_bytes_max,
                held_by_proxy: Vec::new(),
                no_buffers: 0,
                short: VecDeque::new(),
                shortage: Errno(libc::EMFILE),
                starved: Vec::new(),
                events: EventBuffer::new(),
                figures: Arc::new(WorkerFigures::new(settings.index)),
            },
            settings,
            proxies: Vec::new(),
            connections: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            parting: Vec::new(),
            turns: 0,
            completions: 0,
            generation: 0,
            touched: Vec::new(),
            look_due: false,
            look_again: false,
            thinned_in: 0,
            draining: false,
            events_due: false,
            events,
            woken: false,
        }
    }

    /// Waits for something to happen or to be due, and does what follows.
    ///
    /// # Errors
    /// Only what the ring cannot go on from.
    pub fn turn(&mut self) -> io::Result<()> {
        // What a command has dropped since the last turn may be what they wait for.
        if !self.cx.starved.is_empty() {
            self.feed_starved();
        }
        // A command may have done something to a connection on which nothing else happens.
        self.plan_events();
        // Before what this turn sends leaves: who reads a reply finds it counted.
        self.publish();
        let deadline = self.cx.timers.next_due();
        self.cx.ring.wait_until(deadline)?;
        self.cx.now = self.cx.ring.now();
        self.turns += 1;
        while let Some(completion) = self.cx.ring.next_completion() {
            self.fetch_ahead();
            self.on_completion(completion.token, completion.outcome);
        }
        while let Some((_, timer)) = self.cx.timers.pop_due(self.cx.now) {
            self.on_timer(timer);
        }
        if !self.cx.starved.is_empty() {
            self.feed_starved();
        }
        if !self.cx.short.is_empty() && (self.look_again || !self.look_due) {
            self.look_again = false;
            self.relieve_shortage();
        }
        self.plan_events();
        Ok(())
    }

    /// Sees to it that what there is to tell is handed over soon.
    fn plan_events(&mut self) {
        if !self.events_due && !self.cx.events.events.is_empty() {
            self.events_due = true;
            let timer = Timer { slot: 0, generation: 0, what: What::Events };
            self.cx.timers.insert(self.cx.now + EVENT_DELAY, timer);
        }
    }

    /// Shows what has been counted to whoever reads figures.
    pub(super) fn publish(&mut self) {
        for id in self.touched.drain(..) {
            if let Some(proxy) = &mut self.proxies[id as usize] {
                proxy.is_touched = false;
                proxy.figures.counters.publish(&proxy.counters);
                proxy.figures.held_bytes.set(self.cx.held_by_proxy[id as usize] as u64);
            }
        }
        let figures = &self.cx.figures;
        figures.connections.set((self.connections.len() - self.free.len()) as u64);
        figures.held_bytes.set(self.cx.held_bytes as u64);
        figures.turns.set(self.turns);
        figures.completions.set(self.completions);
        figures.no_buffers.set(self.cx.no_buffers);
        figures.generation.set(self.generation);
        figures.overflows.set(self.cx.ring.overflows());
        figures.events_lost.set(self.cx.events.lost);
    }

    /// Notes that something may be counted of a proxy.
    fn touch(&mut self, id: u32) {
        if let Some(Some(proxy)) = self.proxies.get_mut(id as usize)
            && !std::mem::replace(&mut proxy.is_touched, true)
        {
            self.touched.push(id);
        }
    }

    /// Gives memory back that was not used since the last round; returns whether the round goes on.
    pub(super) fn tidy(&mut self) -> bool {
        self.cx.ring.give_back_memory()
    }

    /// Where its figures can be read by any thread, at any time.
    pub(super) fn figures(&self) -> Arc<WorkerFigures> {
        Arc::clone(&self.cx.figures)
    }

    /// When something is due next.
    #[cfg(feature = "simulated")]
    pub fn next_due(&mut self) -> Instant {
        self.cx.timers.next_due()
    }

    /// Whether another thread has called since this was last asked.
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Opens a proxy; returns where it listens.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2); nothing is left behind.
    pub fn open(&mut self, opening: &Opening) -> io::Result<Option<SocketAddr>> {
        let place = opening.id as usize;
        if self.proxies.len() <= place {
            self.proxies.resize_with(place + 1, || None);
            self.cx.held_by_proxy.resize(place + 1, 0);
        }
        self.applies(opening.rules.generation);
        let rules_done = figures_of(opening.id, &opening.rules, &opening.rules, &[]).0;
        let mut proxy = ProxyState {
            name: opening.name.clone(),
            upstream: opening.upstream.clone(),
            sources: Sources::new(&opening.source_addresses),
            connect_timeout: opening.connect_timeout,
            patience: opening.patience,
            options: SocketOptions { keepalive: opening.patience.keepalive, ..self.settings.options.clone() },
            held_bytes_max: opening.held_bytes_max,
            rules: Arc::clone(&opening.rules),
            counters: Counters::default(),
            figures: Arc::new(ProxyFigures::new(Arc::clone(&rules_done))),
            rules_done,
            is_touched: false,
            listener: None,
            listening: 0,
            accepting: false,
            resting: false,
            pause_told: false,
            limit_told_until: Instant::ZERO,
            ordinals: Arc::clone(&opening.ordinals),
            open: 0,
            removed: false,
        };
        let address = match opening.listen {
            Some(address) => {
                let (socket, address) = self.cx.ring.listen(address, &proxy.options)?;
                self.settings.room.listens();
                self.cx.ring.accept(socket, listener_token(opening.id, 0));
                (proxy.listener, proxy.accepting) = (Some(socket), true);
                Some(address)
            }
            None => None,
        };
        self.cx.figures.show(opening.id, Some(Arc::clone(&proxy.figures)));
        self.proxies[place] = Some(proxy);
        Ok(address)
    }

    /// Forgets a proxy, once its last connection is closed.
    pub fn remove(&mut self, id: u32) {
        self.shut(id, true);
        if let Some(proxy) = proxy_of(&mut self.proxies, id) {
            proxy.removed = true;
            if proxy.open == 0 {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: u32) {
        self.proxies[id as usize] = None;
        self.cx.figures.show(id, None);
    }

    /// Puts new rules in force, on live connections too; returns what the rules that are gone have done.
    pub fn set_rules(&mut self, id: u32, rules: &Arc<RuleSet>) -> Vec<RuleStats> {
        self.cx.now = self.cx.ring.now();
        self.applies(rules.generation);
        let Some(proxy) = proxy_of(&mut self.proxies, id) else { return Vec::new() };
        let (done, gone) = figures_of(id, rules, &proxy.rules, &proxy.rules_done);
        proxy.rules_done = Arc::clone(&done);
        let previous = std::mem::replace(&mut proxy.rules, Arc::clone(rules));
        if proxy.open > 0 {
            self.each_connection(id, |connection, cx, proxy| {
                connection.on_rules_changed(cx, proxy, &previous)
            });
        }
        // The change may have made them act once more: who hangs is closed.
        let gone: Vec<RuleStats> = gone.iter().map(|rule| rule.retire()).collect();
        if let Some(proxy) = proxy_of(&mut self.proxies, id) {
            proxy.figures.replace(done, &gone);
        }
        gone
    }

    /// Notes the generation that a change made, which may be about another thing than rules.
    pub fn applies(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Connections of one proxy that are not closed yet.
    pub fn connections_of(&self, id: u32) -> usize {
        self.proxies.get(id as usize).and_then(Option::as_ref).map_or(0, |proxy| proxy.open)
    }

    /// Sends new connections elsewhere.
    pub fn set_upstream(&mut self, id: u32, upstream: Vec<SocketAddr>, connect_timeout: Duration) {
        if let Some(proxy) = proxy_of(&mut self.proxies, id) {
            (proxy.upstream, proxy.connect_timeout) = (upstream, connect_timeout);
        }
    }

    /// Gives a proxy other settings, for the connections that begin from now on; limits on silence hold for open ones, too.
    /// Rules are set apart.
    pub fn settle(&mut self, opening: &Opening) {
        self.cx.now = self.cx.ring.now();
        let options = self.options_of(opening);
        if let Some(proxy) = proxy_of(&mut self.proxies, opening.id) {
            proxy.upstream = opening.upstream.clone();
            proxy.sources = Sources::new(&opening.source_addresses);
            proxy.connect_timeout = opening.connect_timeout;
            let before = std::mem::replace(&mut proxy.patience, opening.patience);
            proxy.options = options;
            proxy.held_bytes_max = opening.held_bytes_max;
            if proxy.open > 0 && before != opening.patience {
                self.each_connection(opening.id, |connection, cx, proxy| {
                    connection.on_patience_changed(cx, proxy);
                });
            }
        }
    }

    /// Options of the sockets of a proxy.
    fn options_of(&self, opening: &Opening) -> SocketOptions {
        SocketOptions { keepalive: opening.patience.keepalive, ..self.settings.options.clone() }
    }

    /// Counts that the name of a proxy's upstream was not found, and tells why.
    pub(super) fn not_resolved(&mut self, id: u32, why: Arc<str>) {
        self.touch(id);
        if let Some(proxy) = proxy_of(&mut self.proxies, id) {
            proxy.counters.resolve_failures += 1;
            let event = proxy.event(EventKind::NaturalFailure, self.cx.now);
            self.cx.events.push(Event { detail: Detail::Text(why), ..event });
        }
    }

    /// What there is to tell, up to now.
    #[cfg(feature = "simulated")]
    pub fn snapshot(&mut self) -> super::stats::WorkerSnapshot {
        (0..self.proxies.len() as u32).for_each(|id| self.touch(id));
        self.publish();
        self.cx.figures.read()
    }

    /// Connections that are not closed yet.
    pub fn open_connections(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    /// Whether every connection and every listener that was shut is closed.
    pub fn is_empty(&self) -> bool {
        self.open_connections() == 0 && self.parting.is_empty()
    }

    /// Stops listening everywhere and closes the connections that are idle, now and whenever one becomes so; others go
    /// on.
    pub fn drain(&mut self) {
        for id in 0..self.proxies.len() as u32 {
            self.shut(id, false);
        }
        if !std::mem::replace(&mut self.draining, true) {
            self.close_idle();
        }
    }

    /// Closes the connections that are idle, and looks again soon as long as any is left.
    fn close_idle(&mut self) {
        for slot in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[slot] else { continue };
            if connection.is_idle(self.cx.now) {
                // Nothing is due to it: who keeps its end open does not hold up the drain.
                connection.close_within(STOP_LINGER, &mut self.cx);
                self.free_if_closed(slot as u32);
            }
        }
        if !self.is_empty() {
            let timer = Timer { slot: 0, generation: 0, what: What::Drain };
            self.cx.timers.insert(self.cx.now + DRAIN_LOOK, timer);
        }
    }

    /// Stops listening everywhere and closes every connection, waiting for no peer longer than `limit`.
    pub fn cut(&mut self, limit: Duration) {
        self.cx.now = self.cx.ring.now();
        for id in 0..self.proxies.len() as u32 {
            self.shut(id, true);
            self.each_connection(id, |connection, cx, _| connection.close_within(limit, cx));
        }
    }

    /// Hands over the events that wait.
    pub fn hand_over_events(&mut self) {
        self.events_due = false;
        if !self.cx.events.events.is_empty() {
            let events = self.cx.events.take(self.cx.now);
            // Nobody listens any more: the events have been counted.
            let _ = self.events.send(events);
        }
    }

    /// Fetches what the next completions are about while this one is seen to: with more connections than the cache holds,
    /// that wait would be the most of it.
    fn fetch_ahead(&self) {
        let connection = |ahead| {
            let Upcoming { token, brings_bytes } = self.cx.ring.upcoming(ahead)?;
            let slot = Some(token.slot).filter(|_| token.role != LISTENER)?;
            Some((self.connections.get(slot as usize)?.as_deref()?, brings_bytes))
        };
        if let Some((connection, _)) = connection(5) {
            prefetch(connection);
        }
        if let Some((connection, true)) = connection(2)
            && let Some(exchanges) = connection.exchanges.as_deref()
        {
            prefetch(exchanges);
        }
    }

    fn on_completion(&mut self, token: Token, outcome: Outcome) {
        if matches!(outcome, Outcome::Woken) {
            self.woken = true;
            return;
        }
        self.completions += 1;
        match token.role {
            LISTENER => self.on_listener(token, outcome),
            role => self.on_connection(role, token, outcome),
        }
    }

    fn on_connection(&mut self, role: u8, token: Token, outcome: Outcome) {
        debug_assert!(role == DOWNSTREAM || role == UPSTREAM);
        if self.generations.get(token.slot as usize) != Some(&token.generation) {
            // A late word about an earlier tenant of the slot.
            return;
        }
        let Some(id) = self.connections[token.slot as usize].as_ref().map(|it| it.proxy) else { return };
        self.touch(id);
        let Some(connection) = &mut self.connections[token.slot as usize] else { return };
        let proxy =
            self.proxies[connection.proxy as usize].as_mut().expect("a proxy outlives its connections");
        let cx = &mut self.cx;
        // What comes in from a side goes into the pipe that it is the source of; what was sent to it left
        // the pipe that it is the sink of.
        let (incoming, outgoing) = match role {
            DOWNSTREAM => (Direction::Request, Direction::Reply),
            _ => (Direction::Reply, Direction::Request),
        };
        match outcome {
            Outcome::Received { chunk, armed } => connection.on_received(incoming, chunk, armed, cx, proxy),
            Outcome::Sent => connection.on_sent(outgoing, cx, proxy),
            Outcome::ReceiveEnded(end) => connection.on_receive_ended(incoming, end, cx, proxy),
            Outcome::SendFailed(errno) => connection.on_send_failed(outgoing, errno, cx, proxy),
            Outcome::Connected => connection.on_connected(cx, proxy),
            Outcome::ConnectFailed(errno) => connection.on_connect_failed(errno, cx, proxy),
            other => unreachable!("not a connection's: {other:?}"),
        }
        self.free_if_closed(token.slot);
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer.what {
            What::Events => return self.hand_over_events(),
            What::Drain => return self.close_idle(),
            What::Shortage => {
                (self.look_due, self.look_again) = (false, true);
                return;
            }
            What::Accept => return self.accept_again(timer),
            _ => {}
        }
        if self.generations.get(timer.slot as usize) != Some(&timer.generation) {
            return;
        }
        let Some(id) = self.connections[timer.slot as usize].as_ref().map(|it| it.proxy) else { return };
        self.touch(id);
        let Some(connection) = &mut self.connections[timer.slot as usize] else { return };
        let proxy =
            self.proxies[connection.proxy as usize].as_mut().expect("a proxy outlives its connections");
        match timer.what {
            What::Pipe(direction) => connection.on_pipe_timer(direction, &mut self.cx, proxy),
            What::ConnectTimeout => connection.on_connect_timeout(&mut self.cx, proxy),
            What::End => connection.on_end_due(&mut self.cx, proxy),
            What::Patience => connection.on_patience(&mut self.cx, proxy),
            What::Exchange => connection.on_exchange_timer(&mut self.cx, proxy),
            What::Accept | What::Shortage | What::Drain | What::Events => unreachable!("handled above"),
        }
        self.free_if_closed(timer.slot);
    }

    fn feed_starved(&mut self) {
        let starved = std::mem::take(&mut self.cx.starved);
        for (slot, generation, direction) in starved {
            if self.generations[slot as usize] != generation {
                continue;
            }
            let Some(id) = self.connections[slot as usize].as_ref().map(|it| it.proxy) else { continue };
            self.touch(id);
            let Some(connection) = &mut self.connections[slot as usize] else { continue };
            if !self.cx.ring.has_buffers(connection.pipe(direction).size.buffers()) {
                self.cx.starved.push((slot, generation, direction));
                continue;
            }
            let proxy =
                self.proxies[connection.proxy as usize].as_mut().expect("a proxy outlives its connections");
            connection.on_buffers(direction, &mut self.cx, proxy);
        }
    }

    fn each_connection(
        &mut self,
        id: u32,
        mut call: impl FnMut(&mut Connection, &mut Context<R>, &mut ProxyState),
    ) {
        self.touch(id);
        // Of thousands of proxies most have none.
        let mut left = self.connections_of(id);
        for slot in 0..self.connections.len() {
            if left == 0 {
                return;
            }
            if let Some(connection) = &mut self.connections[slot]
                && connection.proxy == id
                && let Some(proxy) = &mut self.proxies[id as usize]
            {
                left -= 1;
                call(connection, &mut self.cx, proxy);
                self.free_if_closed(slot as u32);
            }
        }
    }

    fn free_if_closed(&mut self, slot: u32) {
        let place = &mut self.connections[slot as usize];
        let Some(connection) = place.take_if(|connection| connection.is_closed()) else { return };
        self.generations[slot as usize] = connection.generation.wrapping_add(1);
        self.free.push(slot);
        // Its descriptors may be what others wait for.
        self.look_again = true;
        self.settings.room.give_back();
        self.touch(connection.proxy);
        let entry = &mut self.proxies[connection.proxy as usize];
        let proxy = entry.as_mut().expect("a proxy outlives its connections");
        proxy.open -= 1;
        proxy.counters.connections_closed += 1;
        if proxy.removed && proxy.open == 0 {
            self.forget(connection.proxy);
        }
    }
}

impl<R> Context<R> {
    /// Counts bytes that wait in a queue of a proxy's connection.
    pub fn hold(&mut self, proxy: u32, bytes: usize) {
        self.held_bytes += bytes;
        self.held_by_proxy[proxy as usize] += bytes;
    }

    /// Counts bytes that have left the queue.
    pub fn let_go(&mut self, proxy: u32, bytes: usize) {
        self.held_bytes -= bytes;
        self.held_by_proxy[proxy as usize] -= bytes;
    }
}

impl ProxyState {
    /// An event about this proxy.
    pub(super) fn event(&self, kind: EventKind, at: Instant) -> Event {
        Event::about(Arc::clone(&self.name), self.rules.generation, kind, at)
    }
}

fn proxy_of(proxies: &mut [Option<ProxyState>], id: u32) -> Option<&mut ProxyState> {
    proxies.get_mut(id as usize)?.as_mut().filter(|proxy| !proxy.removed)
}

/// Whether the machine, or this process, has run out of something.
pub(super) fn is_shortage(Errno(errno): Errno) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
}
