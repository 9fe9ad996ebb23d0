//! One thread, one ring, THE loop: sends what is due, reads what comes, records what became of it.
//!
//! The loop reads the clock once a turn, allocates nothing and takes no lock. A request is *sent* in the turn
//! that queues its send; the kernel gets it when the turn ends, so `service` includes the few microseconds that
//! the kernel needs for the sends of the same turn before it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{
    BufferSize, Chunk, Completion, Errno, Outcome, ReceiveEnd, Ring, SLOT_LIMIT, Socket, SocketOptions, Token,
};
use fracas_dataplane::timers::Timers;

use super::connection::{
    Connection, EADDRNOTAVAIL, EMFILE, ENFILE, Reader, Request, State, kind_of_connect_errno, kind_of_errno,
    kind_of_invalid,
};
use super::opener::Opener;
use super::sleep::Sleep;
use super::virtual_user::VirtualUsers;
use crate::arrival::{Schedule, Shard};
use crate::measure::{Counts, DropReason, ErrorKind, Outcome as Ended, Recorder, Sample, Timeline};
use crate::protocol::{Progress, Reply, http, tcp};
use crate::scenario::{LatePolicy, Plan, Target};

/// Requests that wait for a connection outside the schedule. Beyond it they stay in the schedule, from which
/// they are taken as these are sent: none is lost, only the live figure of planned requests falls behind.
pub const WAITING_MAX: usize = 65_536;
/// Connects that begin in one turn, so that a storm of them does not hold up what is due.
const CONNECTS_PER_TURN_MAX: u32 = 16;
/// A receive ends after about so many bytes and is armed again: in effect never, replies are read at once.
const CREDIT_BYTES: u32 = u32::MAX;
/// How long a connection of one request waits for the target to close first, which leaves the port in
/// TIME_WAIT (RFC 9293 §3.3.2) on the target's side and not on this one.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(100);
/// Failed connects after which a target without a single connection counts as not there.
const FAILURES_BEFORE_GIVING_UP: u64 = 3;

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The whole plan, validated.
    pub plan: Plan,
    /// This worker's part of it.
    pub shard: Shard,
    /// The target's address, looked up.
    pub target: SocketAddr,
    /// Options of every socket.
    pub options: SocketOptions,
}

/// How far the opening of the connections has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Connections to open before the start; 0 when each request opens its own.
    pub asked: u64,
    /// Open now.
    pub open: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// The error of the last one.
    pub last_error: Option<Errno>,
    /// Nothing is to be waited for any more: all are open, or the target is not there.
    pub is_settled: bool,
}

/// Failures that the machine of the generator is to blame for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortages {
    /// Connects for which no local port was left (`EADDRNOTAVAIL`).
    pub ports: u64,
    /// Connects for which no file descriptor was left (`EMFILE`, `ENFILE`).
    pub descriptors: u64,
}

/// Generates one shard of a plan's load on one ring. Drive it by [`Worker::turn`].
pub struct Worker<R: Ring> {
    ring: R,
    settings: WorkerSettings,
    /// Read once a turn.
    now: Instant,
    start: Option<Instant>,
    schedule: Schedule,
    /// Arrivals at or after this, from the start, are not made.
    cut: Duration,
    users: VirtualUsers,
    waiting: VecDeque<Waiting>,
    /// How many of the first in `waiting` found no free connection when they were due.
    blocked: usize,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    /// Open connections without a request; the last used is used next, its memory is warm.
    idle: Vec<u32>,
    /// Connections that are connecting or open.
    live: usize,
    wanted: usize,
    open: u64,
    opener: Opener,
    timers: Timers<Timer>,
    starved: Vec<(u32, u16)>,
    request: Rc<[u8]>,
    reader: Reader,
    recorder: Recorder,
    sent_bytes: u64,
    received_bytes: u64,
    in_flight: u64,
    connects: u64,
    lost: u64,
    readiness: Readiness,
    shortages: Shortages,
    next_source: usize,
    sleep: Sleep,
    /// When the last request had been made, once it has.
    issued_at: Option<Instant>,
    ended_at: Option<Instant>,
    woken: bool,
    /// Time spent on anything but waiting, where the CPU time does not tell (a precise ring spins).
    busy: Duration,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u16,
    connection: Option<Connection>,
}

/// A request that is due.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: Instant,
    warm_up: bool,
    of_user: bool,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// A connection's deadline may have come.
    Connection { slot: u32, generation: u16 },
    /// A user has thought.
    User,
}

impl<R: Ring> Worker<R> {
    /// A worker that begins to open its connections with its first turn and sends nothing before
    /// [`Worker::start`].
    pub fn new(ring: R, settings: WorkerSettings) -> Worker<R> {
        let WorkerSettings { plan, shard, .. } = &settings;
        let now = ring.now();
        let schedule = Schedule::new(plan, *shard);
        let users = VirtualUsers::new(plan, schedule.spans());
        let wanted = shard.share(u64::from(plan.connections)).min(u64::from(SLOT_LIMIT / 2)) as usize;
        let request: Rc<[u8]> = match plan.target {
            Target::Http { .. } => http::request_bytes(plan).into(),
            Target::Tcp { .. } => tcp::payload(plan.payload_bytes).into(),
        };
        // The rate is the run's: every worker has its part of it.
        let gap = Duration::from_secs_f64((f64::from(shard.of()) / plan.connect_rate.as_f64()).min(60.0));
        let asked = if plan.keep_alive { wanted as u64 } else { 0 };
        Worker {
            now,
            start: None,
            cut: Duration::MAX,
            waiting: VecDeque::with_capacity(WAITING_MAX.min(1 << 12)),
            blocked: 0,
            slots: Vec::with_capacity(wanted),
            free_slots: Vec::with_capacity(wanted),
            idle: Vec::with_capacity(wanted),
            live: 0,
            wanted,
            open: 0,
            opener: Opener::new(gap),
            timers: Timers::new(now),
            starved: Vec::with_capacity(64),
            reader: Reader::new(plan),
            // Connections that open before the start belong to its first second.
            recorder: Recorder::new(Instant::FAR_FUTURE),
            sent_bytes: 0,
            received_bytes: 0,
            in_flight: 0,
            connects: 0,
            lost: 0,
            readiness: Readiness { asked, is_settled: asked == 0, ..Readiness::default() },
            shortages: Shortages::default(),
            next_source: shard.index() as usize,
            sleep: Sleep::default(),
            issued_at: None,
            ended_at: None,
            woken: false,
            busy: Duration::ZERO,
            ring,
            schedule,
            users,
            request,
            settings,
        }
    }

    /// Waits for something to come or to be due, and does what follows.
    ///
    /// # Errors
    /// Only what the ring cannot go on from.
    pub fn turn(&mut self) -> io::Result<()> {
        let due = self.next_due();
        if self.settings.plan.precise {
            // What was asked for is handed over first, so that only the wait itself is not work.
            let before = self.now;
            self.ring.wait_until(before)?;
            self.busy += self.ring.now().since(before);
            self.ring.wait_until(due)?;
        } else {
            let deadline = self.sleep.deadline(due, self.now);
            self.ring.wait_until(deadline)?;
        }
        self.now = self.ring.now();
        // What is due goes first: it is what the turn was for, and `now` is truest now.
        self.take_due();
        self.dispatch();
        let mut any = false;
        while let Some(completion) = self.ring.next_completion() {
            any = true;
            self.on_completion(completion);
        }
        if !any {
            self.sleep.on_woken_by_deadline(self.now);
        }
        while let Some((due, timer)) = self.timers.pop_due(self.now) {
            self.on_timer(due, timer);
        }
        self.feed_starved();
        self.dispatch();
        self.open_connections();
        if self.sent_bytes + self.received_bytes > 0 {
            let (sent, received) =
                (std::mem::take(&mut self.sent_bytes), std::mem::take(&mut self.received_bytes));
            self.recorder.bytes(self.now, sent, received);
        }
        self.end_if_over();
        Ok(())
    }

    /// When something is due next.
    pub fn next_due(&mut self) -> Instant {
        let mut due = self.timers.next_due();
        if self.ended_at.is_some() {
            return due;
        }
        if self.wants_connections() {
            due = due.min(self.opener.next_at());
        }
        let Some(start) = self.start else { return due };
        if let Some(arrival) = self.schedule.peek().filter(|arrival| arrival.due < self.cut)
            && self.waiting.len() < WAITING_MAX
        {
            due = due.min(start + arrival.due);
        }
        if let Some(beginning) = self.users.next_beginning() {
            due = due.min(start + beginning);
        }
        if let Some(end) = self.planned_end() {
            due = due.min(if self.issued_at.is_none() { end } else { Instant::FAR_FUTURE });
        }
        if let Some(issued_at) = self.issued_at {
            due = due.min(issued_at + self.settings.plan.drain);
        }
        due
    }

    /// Starts the run at `at`; what was due before `now` is sent late and charged.
    pub fn start(&mut self, at: Instant) {
        self.start = Some(at);
        self.recorder.set_start(at);
    }

    /// Makes no more requests from now on; what is in flight or waits is drained as at the end of the plan.
    pub fn stop(&mut self) {
        let Some(start) = self.start else {
            self.ended_at = Some(self.now);
            return self.close_all();
        };
        self.now = self.ring.now();
        self.cut = self.cut.min(self.now.since(start));
        self.users.stop(self.cut);
    }

    /// Ends the drain, too: what is in flight is censored, what waits is dropped.
    pub fn abort(&mut self) {
        self.stop();
        if self.ended_at.is_none() {
            self.take_due();
            self.end();
        }
    }

    /// Whether every request has its outcome.
    pub fn is_finished(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Whether, besides, every connection is closed.
    pub fn is_closed(&self) -> bool {
        self.is_finished() && self.open == 0
    }

    /// When the last request had its outcome.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// Hands over what was recorded since the last call.
    pub fn take(&mut self) -> Timeline {
        self.recorder.take()
    }

    /// Counts so far: measured, and of the warm-up.
    pub fn totals(&self) -> (Counts, Counts) {
        self.recorder.totals()
    }

    /// How far the opening of the connections has come.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }

    /// What the generator's machine ran out of.
    pub fn shortages(&self) -> Shortages {
        self.shortages
    }

    /// Connections that can carry requests now.
    pub fn live_connections(&self) -> usize {
        self.live
    }

    /// Requests that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Time not spent waiting; only kept when the plan is precise.
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// Whether the plan spins towards due times.
    pub fn is_precise(&self) -> bool {
        self.settings.plan.precise
    }

    /// The instant of this turn.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// When the run starts, once it is known.
    pub fn started_at(&self) -> Option<Instant> {
        self.start
    }

    /// How long opening the connections may take at the asked pace.
    pub fn opening_max(&self) -> Duration {
        let connects = u32::try_from(self.readiness.asked).unwrap_or(u32::MAX);
        self.opener.gap().saturating_mul(connects) + self.settings.plan.connect_timeout
    }

    /// Whether another thread has called since this was last asked.
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// The ring.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    fn elapsed(&self) -> Duration {
        self.start.map_or(Duration::ZERO, |start| self.now.since(start))
    }

    fn planned_end(&self) -> Option<Instant> {
        let end = self.schedule.end().map_or(self.cut, |end| end.min(self.cut));
        (end != Duration::MAX).then_some(self.start? + end)
    }

    /// Moves what is due from the schedule and the users into the line.
    fn take_due(&mut self) {
        let Some(start) = self.start.filter(|start| *start <= self.now && self.ended_at.is_none()) else {
            return;
        };
        let elapsed = self.now.since(start);
        while let Some(beginning) = self.users.begin(elapsed) {
            for _ in 0..beginning {
                // Nothing was due before: in the closed model a late start delays, it does not pile up.
                self.user_turn(self.now);
            }
        }
        while let Some(arrival) = self.schedule.peek()
            && arrival.due <= elapsed
            && arrival.due < self.cut
            && self.waiting.len() < WAITING_MAX
        {
            self.schedule.next();
            let due = start + arrival.due;
            self.recorder.planned(due, arrival.warm_up);
            self.waiting.push_back(Waiting { due, warm_up: arrival.warm_up, of_user: false });
        }
    }

    /// A user sends its next request, unless its phase is over.
    fn user_turn(&mut self, due: Instant) {
        let Some(start) = self.start else { return };
        if let Some(warm_up) = self.users.take_turn(due.since(start)) {
            self.recorder.planned(due, warm_up);
            self.waiting.push_back(Waiting { due, warm_up, of_user: true });
        }
    }

    /// Sends what waits for as long as there is a connection for it.
    fn dispatch(&mut self) {
        while let Some(waiting) = self.waiting.front().copied() {
            if let LatePolicy::DropAfter(limit) = self.settings.plan.late
                && !waiting.of_user
                && self.now.since(waiting.due) > limit
            {
                self.pop_waiting();
                self.recorder.dropped(waiting.due, self.now, DropReason::Late, waiting.warm_up);
                continue;
            }
            let slot = if self.settings.plan.keep_alive {
                match self.idle.last() {
                    Some(slot) => Some(*slot),
                    None => break,
                }
            } else if self.live < self.wanted {
                None
            } else {
                break;
            };
            let was_blocked = self.pop_waiting();
            let Waiting { due, warm_up, of_user } = waiting;
            let ready = if was_blocked { self.now.max(due) } else { due };
            self.recorder.sent(due, warm_up);
            self.in_flight += 1;
            let request = Request { due, ready, sent: self.now, warm_up, of_user };
            match slot {
                Some(slot) => self.send(slot, request),
                None => self.connect_for(request),
            }
        }
        self.blocked = self.waiting.len();
    }

    /// Takes the first in the line; whether it had to wait for a connection.
    fn pop_waiting(&mut self) -> bool {
        self.waiting.pop_front();
        let was_blocked = self.blocked > 0;
        self.blocked = self.blocked.saturating_sub(1);
        was_blocked
    }

    fn send(&mut self, slot: u32, request: Request) {
        self.leave_idle(slot);
        let deadline = request.sent + self.settings.plan.response_timeout;
        let (connection, token) = self.at(slot);
        (connection.request, connection.deadline) = (Some(request), deadline);
        self.send_request(slot, token);
    }

    /// Queues the bytes of the connection's request.
    fn send_request(&mut self, slot: u32, token: Token) {
        let bytes = Chunk::from(Rc::clone(&self.request));
        self.sent_bytes += bytes.len() as u64;
        let (connection, _) = self.at(slot);
        connection.in_flight.send = true;
        let socket = connection.socket;
        self.watch(slot);
        self.ring.send(socket, token, std::iter::once(bytes));
    }

    /// Sees to it that a timer looks at the connection's deadline. One that is due before it will move itself,
    /// so that a request costs no timer.
    fn watch(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let Some(connection) = &mut entry.connection else { return };
        match connection.timer {
            Some((due, _)) if due <= connection.deadline => return,
            Some((_, id)) => {
                self.timers.cancel(id);
            }
            None => {}
        }
        let timer = Timer::Connection { slot, generation: entry.generation };
        connection.timer = Some((connection.deadline, self.timers.insert(connection.deadline, timer)));
    }

    fn on_completion(&mut self, completion: Completion) {
        let Completion { token, outcome } = completion;
        if matches!(outcome, Outcome::Woken) {
            self.woken = true;
            return;
        }
        let slot = token.slot;
        let of_this = self.slots.get_mut(slot as usize).filter(|entry| entry.generation == token.generation);
        // Without a connection it is a late word about an earlier tenant of the slot.
        let Some(connection) = of_this.and_then(|entry| entry.connection.as_mut()) else { return };
        match outcome {
            Outcome::Received { chunk, armed } => {
                connection.in_flight.receive = armed;
                self.received_bytes += chunk.len() as u64;
                self.on_bytes(slot, &chunk);
                drop(chunk);
                self.receive_again(slot, token.generation);
            }
            Outcome::Sent => {
                connection.in_flight.send = false;
                self.rest(slot);
            }
            Outcome::ReceiveEnded(end) => {
                connection.in_flight.receive = false;
                match end {
                    ReceiveEnd::NoBuffers if connection.state == State::Open => {
                        self.starved.push((slot, token.generation));
                    }
                    ReceiveEnd::NoBuffers => {}
                    ReceiveEnd::Stopped => self.receive_again(slot, token.generation),
                    ReceiveEnd::Eof => self.on_eof(slot),
                    ReceiveEnd::Failed(Errno(errno)) => self.fail(slot, kind_of_errno(errno)),
                }
            }
            Outcome::SendFailed(Errno(errno)) => {
                connection.in_flight.send = false;
                self.fail(slot, kind_of_errno(errno));
            }
            Outcome::Connected => {
                connection.in_flight.connect = false;
                self.on_connected(slot);
            }
            Outcome::ConnectFailed(errno) => {
                connection.in_flight.connect = false;
                if connection.state == State::Connecting {
                    self.on_connect_failed(slot, errno);
                }
            }
            Outcome::Accepted(_) | Outcome::AcceptEnded(_) | Outcome::Woken => {}
        }
        self.free_if_closed(slot, token.generation);
    }

    fn on_connected(&mut self, slot: u32) {
        let (connection, token) = self.at(slot);
        if connection.state != State::Connecting {
            return;
        }
        connection.state = State::Open;
        connection.deadline = Instant::FAR_FUTURE;
        connection.in_flight.receive = true;
        let Connection { socket, asked_at, again, .. } = *connection;
        let request = connection.request;
        self.recorder.connected(asked_at, self.now, again);
        self.readiness.open += 1;
        if self.readiness.open >= self.readiness.asked {
            self.readiness.is_settled = true;
        }
        self.ring.receive(socket, token, BufferSize::Small, CREDIT_BYTES);
        match request {
            Some(request) => {
                self.opener.on_success();
                self.at(slot).0.deadline = request.sent + self.settings.plan.response_timeout;
                self.send_request(slot, token);
            }
            None => self.rest(slot),
        }
    }

    fn on_connect_failed(&mut self, slot: u32, errno: Errno) {
        let (connection, _) = self.at(slot);
        let (asked_at, request) = (connection.asked_at, connection.request.take());
        self.close(slot);
        self.note_connect_failure(asked_at, errno, request);
    }

    fn note_connect_failure(&mut self, asked_at: Instant, Errno(errno): Errno, request: Option<Request>) {
        self.recorder.connect_failed(self.now);
        self.readiness.failures += 1;
        self.readiness.last_error = Some(Errno(errno));
        if self.readiness.open == 0 && self.readiness.failures >= FAILURES_BEFORE_GIVING_UP {
            self.readiness.is_settled = true;
        }
        self.shortages.ports += u64::from(errno == EADDRNOTAVAIL);
        self.shortages.descriptors += u64::from(errno == EMFILE || errno == ENFILE);
        self.opener.on_failure(self.now);
        let kind = kind_of_connect_errno(errno);
        if let Some(request) = request {
            self.end_request(request, Ended::Error(kind));
        } else if self.live == 0 {
            self.fail_waiting(asked_at, kind);
        }
    }

    /// Nothing is connected and a connect has just failed: those who waited for it have failed with it.
    fn fail_waiting(&mut self, asked_at: Instant, kind: ErrorKind) {
        for _ in 0..self.waiting.len() {
            let Some(Waiting { due, warm_up, of_user }) = self.waiting.pop_front() else { break };
            let sent = asked_at.max(due);
            self.recorder.sent(due, warm_up);
            self.in_flight += 1;
            let request = Request { due, ready: sent, sent, warm_up, of_user };
            self.end_request(request, Ended::Error(kind));
        }
        self.blocked = self.waiting.len();
    }

    fn on_bytes(&mut self, slot: u32, bytes: &[u8]) {
        let request = Rc::clone(&self.request);
        let (connection, _) = self.at(slot);
        if connection.state != State::Open {
            return;
        }
        if connection.request.is_none() {
            // Nobody asked: whatever it is, the next reply could not be told from it.
            return self.lose(slot);
        }
        match connection.reader.advance(&request, bytes) {
            Progress::NeedMore => {}
            Progress::Done(reply) => self.on_reply(slot, reply, bytes.len()),
            Progress::Invalid(reply) => self.fail(slot, kind_of_invalid(reply)),
        }
    }

    fn on_reply(&mut self, slot: u32, reply: Reply, given_bytes: usize) {
        let (connection, _) = self.at(slot);
        let Some(request) = connection.request.take() else { return };
        connection.has_replied = true;
        let outcome = match reply.status {
            400..500 => Ended::Error(ErrorKind::Status4xx),
            500..600 => Ended::Error(ErrorKind::Status5xx),
            _ => Ended::Ok,
        };
        if !self.settings.plan.keep_alive {
            self.close_gently(slot);
        } else if !reply.keep_alive || reply.consumed_bytes < given_bytes {
            self.lose(slot);
        } else {
            self.rest(slot);
        }
        self.opener.on_success();
        self.end_request(request, outcome);
    }

    fn on_eof(&mut self, slot: u32) {
        let (connection, _) = self.at(slot);
        if connection.state != State::Open {
            return;
        }
        if connection.request.is_none() {
            return self.lose(slot);
        }
        match connection.reader.on_end() {
            Progress::Done(reply) => self.on_reply(slot, Reply { keep_alive: false, ..reply }, 0),
            Progress::Invalid(reply) => self.fail(slot, kind_of_invalid(reply)),
            Progress::NeedMore => self.fail(slot, ErrorKind::EndedEarly),
        }
    }

    /// The connection is of no more use, and its request, if any, has failed.
    fn fail(&mut self, slot: u32, kind: ErrorKind) {
        let (connection, _) = self.at(slot);
        if connection.state == State::Closing {
            return;
        }
        let request = connection.request.take();
        self.lose(slot);
        if let Some(request) = request {
            self.end_request(request, Ended::Error(kind));
        }
    }

    /// The connection ended and another has to be opened in its place.
    fn lose(&mut self, slot: u32) {
        if !self.at(slot).0.has_replied {
            // A target that hangs up on everybody must not be called again at once.
            self.opener.on_failure(self.now);
        }
        self.lost += 1;
        self.close(slot);
    }

    fn end_request(&mut self, request: Request, outcome: Ended) {
        let Request { due, ready, sent, warm_up, of_user } = request;
        self.in_flight -= 1;
        self.recorder.record(&Sample { due, ready, sent, done: self.now, outcome, warm_up });
        if !of_user {
            return;
        }
        let mut pause = self.users.think_time();
        if !self.settings.plan.keep_alive && outcome != Ended::Ok {
            // With a connection each, nothing else keeps the users off a target that is not there.
            pause = pause.max(self.opener.pause());
        }
        if pause.is_zero() {
            self.user_turn(self.now);
        } else {
            self.timers.insert(self.now + pause, Timer::User);
        }
    }

    fn on_timer(&mut self, due: Instant, timer: Timer) {
        match timer {
            Timer::User if self.ended_at.is_none() => self.user_turn(due),
            Timer::User => {}
            Timer::Connection { slot, generation } => {
                let entry = &mut self.slots[slot as usize];
                if entry.generation != generation {
                    return;
                }
                let Some(connection) = &mut entry.connection else { return };
                connection.timer = None;
                if connection.deadline > self.now {
                    // The deadline has moved on since the timer was set.
                    if connection.request.is_some() || connection.state != State::Open {
                        self.watch(slot);
                    }
                    return;
                }
                self.on_deadline(slot);
                self.free_if_closed(slot, generation);
            }
        }
    }

    fn on_deadline(&mut self, slot: u32) {
        let (connection, _) = self.at(slot);
        match connection.state {
            State::Connecting => {
                const ETIMEDOUT: Errno = Errno(110);
                self.on_connect_failed(slot, ETIMEDOUT);
            }
            State::Open => {
                if let Some(request) = connection.request.take() {
                    // It is busy, not gone: the target is not left alone for it.
                    connection.has_replied = true;
                    self.lose(slot);
                    self.end_request(request, Ended::Timeout);
                }
            }
            State::Closing => {
                let socket = connection.socket;
                self.ring.cancel_all(socket);
            }
        }
    }

    /// An open connection without a request can take the next one.
    fn rest(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if let Some(connection) = entry.connection.as_mut().filter(|c| c.is_idle() && c.idle_at.is_none()) {
            connection.idle_at = Some(self.idle.len() as u32);
            self.idle.push(slot);
        }
    }

    fn leave_idle(&mut self, slot: u32) {
        let Some(place) = self.at(slot).0.idle_at.take() else { return };
        self.idle.swap_remove(place as usize);
        if let Some(moved) = self.idle.get(place as usize).copied() {
            self.at(moved).0.idle_at = Some(place);
        }
    }

    fn receive_again(&mut self, slot: u32, generation: u16) {
        let entry = &mut self.slots[slot as usize];
        if entry.generation != generation {
            return;
        }
        let Some(connection) = &mut entry.connection else { return };
        if connection.state == State::Open && !connection.in_flight.receive {
            connection.in_flight.receive = true;
            let token = Token { role: 0, slot, generation };
            self.ring.receive(connection.socket, token, BufferSize::Small, CREDIT_BYTES);
        }
    }

    /// Arms the receives that found no buffer: all of them are free again at the end of a turn.
    fn feed_starved(&mut self) {
        while self.ring.has_buffers(BufferSize::Small)
            && let Some((slot, generation)) = self.starved.pop()
        {
            self.receive_again(slot, generation);
        }
    }

    fn wants_connections(&self) -> bool {
        self.settings.plan.keep_alive
            && self.live < self.wanted
            && self.ended_at.is_none()
            && (self.issued_at.is_none() || !self.waiting.is_empty())
    }

    fn open_connections(&mut self) {
        for _ in 0..CONNECTS_PER_TURN_MAX {
            if !self.wants_connections() || self.opener.next_at() > self.now {
                return;
            }
            self.opener.on_begun(self.now);
            self.connect(None);
        }
    }

    /// Opens a connection for one request alone.
    fn connect_for(&mut self, request: Request) {
        self.connect(Some(request));
    }

    fn connect(&mut self, request: Option<Request>) {
        let Some(slot) = self.free_slot() else {
            return self.note_connect_failure(self.now, Errno(EMFILE), request);
        };
        let generation = self.slots[slot as usize].generation;
        let token = Token { role: 0, slot, generation };
        let source = self.source_address();
        let again = self.lost > 0 && request.is_none();
        match self.ring.connect(self.settings.target, source, &self.settings.options, token) {
            Ok(socket) => self.on_connecting(slot, socket, request, again),
            Err(error) => {
                self.free_slots.push(slot);
                let errno = Errno(error.raw_os_error().unwrap_or_default());
                self.note_connect_failure(self.now, errno, request);
            }
        }
    }

    /// A place for one more connection; none when the connections that close already fill the ring's numbers.
    fn free_slot(&mut self) -> Option<u32> {
        if self.free_slots.is_empty() && self.slots.len() < SLOT_LIMIT as usize {
            self.slots.push(Slot::default());
            return Some(self.slots.len() as u32 - 1);
        }
        self.free_slots.pop()
    }

    fn on_connecting(&mut self, slot: u32, socket: Socket, request: Option<Request>, again: bool) {
        self.lost -= u64::from(again);
        self.connects += 1;
        self.live += 1;
        self.open += 1;
        let mut connection = Connection::new(socket, self.reader.clone(), self.now, again);
        connection.request = request;
        connection.deadline = self.now + self.settings.plan.connect_timeout;
        self.slots[slot as usize].connection = Some(connection);
        self.watch(slot);
    }

    fn source_address(&mut self) -> Option<IpAddr> {
        let pool = &self.settings.plan.source_addresses;
        let address = pool.get(self.next_source % pool.len().max(1)).copied();
        self.next_source = self.next_source.wrapping_add(1);
        address
    }

    /// Begins to close: at once if nothing is in flight, else when that has ended.
    fn close(&mut self, slot: u32) {
        self.detach(slot);
        let (connection, token) = self.at(slot);
        if connection.in_flight != Default::default() {
            let socket = connection.socket;
            self.ring.cancel_all(socket);
        }
        self.free_if_closed(slot, token.generation);
    }

    /// Begins to close, leaving the first FIN to the target.
    fn close_gently(&mut self, slot: u32) {
        self.detach(slot);
        let deadline = self.now + CLOSE_WAIT_MAX;
        self.at(slot).0.deadline = deadline;
        self.watch(slot);
    }

    /// Takes the connection out of use.
    fn detach(&mut self, slot: u32) {
        self.leave_idle(slot);
        let (connection, _) = self.at(slot);
        debug_assert_ne!(connection.state, State::Closing, "a connection is closed once");
        if connection.state == State::Open {
            self.readiness.open = self.readiness.open.saturating_sub(1);
        }
        let (connection, _) = self.at(slot);
        connection.state = State::Closing;
        if let Some((_, id)) = connection.timer.take() {
            self.timers.cancel(id);
        }
        self.live -= 1;
    }

    fn free_if_closed(&mut self, slot: u32, generation: u16) {
        let entry = &mut self.slots[slot as usize];
        if entry.generation != generation {
            return;
        }
        let is_over = entry.connection.as_ref().is_some_and(|connection| {
            connection.state == State::Closing && connection.in_flight == Default::default()
        });
        if !is_over {
            return;
        }
        if let Some(connection) = entry.connection.take() {
            entry.generation = entry.generation.wrapping_add(1);
            if let Some((_, id)) = connection.timer {
                self.timers.cancel(id);
            }
            self.ring.close(connection.socket);
            self.free_slots.push(slot);
            self.open -= 1;
        }
    }

    /// Notices that the last request was made, that the last has ended, or that the drain is over.
    fn end_if_over(&mut self) {
        let (Some(start), None) = (self.start, self.ended_at) else { return };
        if self.now < start {
            return;
        }
        let none_left = self.schedule.peek().is_none_or(|arrival| arrival.due >= self.cut);
        if self.issued_at.is_none() && none_left && self.users.are_done(self.elapsed()) {
            // The drain is counted from the end of the plan, not from the last request before it.
            self.issued_at = Some(self.planned_end().unwrap_or(self.now));
        }
        // A plan whose end is passed drains, even if the schedule could not be taken in.
        if self.issued_at.is_none() && self.planned_end().is_some_and(|end| end <= self.now) {
            self.issued_at = self.planned_end();
        }
        let Some(issued_at) = self.issued_at else { return };
        let is_drained = none_left && self.waiting.is_empty() && self.in_flight == 0;
        if is_drained || self.now >= issued_at + self.settings.plan.drain {
            self.end();
        }
    }

    /// Gives every request that has no outcome one, and begins to close all connections.
    fn end(&mut self) {
        self.ended_at = Some(self.now);
        for slot in 0..self.slots.len() as u32 {
            let connection = self.slots[slot as usize].connection.as_mut();
            if let Some(request) = connection.and_then(|connection| connection.request.take()) {
                self.in_flight -= 1;
                let Request { due, ready, sent, warm_up, .. } = request;
                let outcome = Ended::Censored;
                self.recorder.record(&Sample { due, ready, sent, done: self.now, outcome, warm_up });
            }
        }
        debug_assert_eq!(self.in_flight, 0, "every request in flight belongs to a connection");
        while let Some(Waiting { due, warm_up, .. }) = self.waiting.pop_front() {
            self.recorder.dropped(due, self.now, DropReason::Unsent, warm_up);
        }
        // What the line had no room for.
        while let Some(arrival) = self.schedule.peek().filter(|arrival| arrival.due < self.cut) {
            self.schedule.next();
            let due = self.start.unwrap_or(self.now) + arrival.due;
            self.recorder.planned(due, arrival.warm_up);
            self.recorder.dropped(due, self.now, DropReason::Unsent, arrival.warm_up);
        }
        self.close_all();
    }

    fn close_all(&mut self) {
        for slot in 0..self.slots.len() as u32 {
            let Slot { connection, .. } = &self.slots[slot as usize];
            match connection.as_ref().map(|connection| (connection.state, connection.socket)) {
                Some((State::Closing, socket)) => self.ring.cancel_all(socket),
                Some(_) => self.close(slot),
                None => {}
            }
        }
    }

    /// The connection at `slot` with the token of its operations.
    ///
    /// # Panics
    /// When there is none, which is a bug: callers have just found it.
    fn at(&mut self, slot: u32) -> (&mut Connection, Token) {
        let Slot { generation, connection } = &mut self.slots[slot as usize];
        let token = Token { role: 0, slot, generation: *generation };
        (connection.as_mut().expect("the caller has just found a connection in the slot"), token)
    }
}
