//! One thread, one ring, THE loop: sends what is due, reads what comes, records what became of it.
//!
//! The loop reads the clock once a turn, allocates nothing and takes no lock. A request is *sent* in the turn
//! that queues its send; the kernel gets it when the turn ends, so `service` includes the few microseconds that
//! the kernel needs for the sends of the same turn before it.

mod connections;
mod dispatch;
mod ending;
mod events;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{Errno, Ring, SLOT_LIMIT, SocketOptions, Token};
use fracas_dataplane::timers::Timers;

use super::connection::{Connection, Reader};
use super::fastest::Fastest;
use super::idle::IdleList;
use super::late_turns::LateTurns;
use super::opener::Opener;
use super::sleep::Sleep;
use super::virtual_user::VirtualUsers;
use crate::arrival::{Schedule, Shard};
use crate::measure::{Counts, Recorder, Shortages, Timeline};
use crate::protocol::{http, tcp};
use crate::scenario::{Plan, Target};

/// Requests that wait for a connection outside the schedule. Beyond it they stay in the schedule, from which
/// they are taken as these are sent: none is lost, only the live figure of planned requests falls behind.
pub const WAITING_MAX: usize = 65_536;
/// A receive ends after about so many bytes and is armed again: in effect never, replies are read at once.
const CREDIT_BYTES: u32 = u32::MAX;
/// No wait is longer than twice this: by how much a turn comes late tells what the generator missed, whatever it
/// waited for. It costs an idle thread about half a per cent of a core.
const HEARTBEAT: Duration = Duration::from_millis(1);

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
    /// Connections that the target closed before anything was sent on them.
    pub hung_up: u64,
    /// The error of the last one.
    pub last_error: Option<Errno>,
    /// Nothing is to be waited for any more: all are open, or the target is not there.
    pub is_settled: bool,
}

/// Generates one shard of a plan's load on one ring. Drive it by [`Worker::turn`].
pub struct Worker<R: Ring> {
    ring: R,
    settings: WorkerSettings,
    /// Read once a turn.
    now: Instant,
    /// By how much this turn came late.
    late: Duration,
    late_turns: LateTurns,
    start: Option<Instant>,
    schedule: Schedule,
    /// Arrivals at or after this, from the start, are not made.
    cut: Duration,
    users: VirtualUsers,
    waiting: VecDeque<Waiting>,
    /// Those that no connection can save any more, until their timeout; each with what of its wait was the generator's.
    passed_by: VecDeque<(Waiting, Duration)>,
    fastest: Fastest,
    /// Arrivals due until then stayed in the schedule because the line was full.
    full_until: Instant,
    /// Since when the line waits for the connect rate and for nothing else.
    paced_since: Option<Instant>,
    /// How long it has waited so before.
    paced_before: Duration,
    /// The same, when the target last held all connections: what came before that cost nobody anything.
    paced_at_block: Duration,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    /// Open connections without a request.
    idle: IdleList,
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
    /// The first slot whose connection is still to be closed, after the end.
    closing_from: u32,
    readiness: Readiness,
    shortages: Shortages,
    next_source: usize,
    sleep: Sleep,
    /// When the last request had been made, once it has.
    issued_at: Option<Instant>,
    ended_at: Option<Instant>,
    woken: bool,
    /// Until when the kernel's figures of this thread are told.
    ran_until: Instant,
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
    /// When the loop took it in, and how late that was of the loop.
    seen: Instant,
    seen_late: Duration,
    /// [`Worker::paced_for`] at that time.
    paced: Duration,
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
            late: Duration::ZERO,
            late_turns: LateTurns::default(),
            start: None,
            cut: Duration::MAX,
            waiting: VecDeque::with_capacity(WAITING_MAX.min(1 << 12)),
            passed_by: VecDeque::with_capacity(WAITING_MAX.min(1 << 12)),
            fastest: Fastest::default(),
            full_until: Instant::ZERO,
            paced_since: None,
            paced_before: Duration::ZERO,
            paced_at_block: Duration::ZERO,
            slots: Vec::with_capacity(wanted),
            free_slots: Vec::with_capacity(wanted),
            idle: IdleList::with_capacity(wanted),
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
            closing_from: 0,
            readiness: Readiness { asked, is_settled: asked == 0, ..Readiness::default() },
            shortages: Shortages::default(),
            next_source: shard.index() as usize,
            sleep: Sleep::default(),
            issued_at: None,
            ended_at: None,
            woken: false,
            ran_until: now,
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
        let (due, is_beat) = self.next_turn();
        let before = self.now;
        if self.settings.plan.precise {
            // What was asked for is handed over first, so that only the wait itself is not work.
            self.ring.wait_until(before)?;
            self.busy += self.ring.now().since(before);
            self.ring.wait_until(due)?;
        } else {
            let deadline = if is_beat { self.sleep.beat(due) } else { self.sleep.deadline(due, before) };
            self.ring.wait_until(deadline)?;
        }
        self.now = self.ring.now();
        self.note_lateness(due.max(before));
        self.late_turns.turn(before, self.late);
        let mut any = self.late >= LateTurns::FROM && self.take_in_all()?;
        // What is due goes first: it is what the turn was for, and `now` is truest now.
        self.take_due();
        self.dispatch();
        any |= self.take_in() > 0;
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
        self.close_some();
        Ok(())
    }

    /// Does what follows from the completions that the ring has; says how many these were.
    fn take_in(&mut self) -> u64 {
        let mut count = 0;
        while let Some(completion) = self.ring.next_completion() {
            count += 1;
            self.on_completion(completion);
        }
        count
    }

    /// Takes in all that came while the thread stood still. The kernel tells of it in pieces (a wait that a signal ended
    /// of nothing, one that was woken of its wake alone, any other of some 20), and what is left for the next turn would
    /// seem to have come in time. Nothing new becomes due meanwhile, so it ends; a target that streams is bounded.
    fn take_in_all(&mut self) -> io::Result<bool> {
        let max = 4 * (self.open + 64);
        let mut all = 0;
        loop {
            self.ring.wait_until(self.now)?;
            let count = self.take_in();
            all += count;
            if count == 0 || all >= max {
                return Ok(all > 0);
            }
            self.feed_starved();
        }
    }

    /// The turn should have come at `asked`. What happened since then may have had to wait for it.
    fn note_lateness(&mut self, asked: Instant) {
        let Some(start) = self.start.filter(|_| self.ended_at.is_none()) else {
            self.late = Duration::ZERO;
            return;
        };
        let from = asked.max(start);
        self.late = self.now.since(from);
        if !self.late.is_zero() {
            self.recorder.late_turn(from, self.late);
        }
    }

    /// When the loop is to turn next.
    pub fn next_due(&mut self) -> Instant {
        self.next_turn().0
    }

    /// The same, and whether nothing is due then.
    fn next_turn(&mut self) -> (Instant, bool) {
        let due = self.work_due();
        let beat = self.now + HEARTBEAT;
        let is_beat = due > beat + HEARTBEAT && self.start.is_some() && self.ended_at.is_none();
        (if is_beat { beat } else { due }, is_beat)
    }

    /// When something is due next.
    fn work_due(&mut self) -> Instant {
        let mut due = self.timers.next_due();
        if self.ended_at.is_some() {
            return if self.is_closing() { self.now } else { due };
        }
        if self.wants_connections() {
            due = due.min(self.opener.unasked_at(self.start.is_some()));
        }
        if let Some(waiting) = self.waiting.front() {
            due = due.min(waiting.due + self.settings.plan.response_timeout);
            due = due.min(if self.paced_since.is_some() { self.opener.paced_at() } else { due });
        }
        if let Some((waiting, _)) = self.passed_by.front() {
            due = due.min(waiting.due + self.settings.plan.response_timeout);
        }
        let Some(start) = self.start else { return due };
        if let Some(arrival) = self.schedule.peek().filter(|arrival| arrival.due < self.cut)
            && self.waiting() < WAITING_MAX
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
        self.recorder.set_end(self.planned_end().unwrap_or(Instant::FAR_FUTURE));
    }

    /// What the kernel says of this worker's thread since the last time: how long it waited for a core, how often it was
    /// given one, and how often it was taken away. What of it lies in the warm-up or the drain is not recorded: the shares
    /// that are made of it are of the measured time.
    pub fn ran(&mut self, run_delay_ns: u64, runs: u64, preemptions: u64) {
        let told = std::mem::replace(&mut self.ran_until, self.now);
        let Some(from) = self.measured_from() else { return };
        let end = self.planned_end().unwrap_or(Instant::FAR_FUTURE).min(self.ended_at.unwrap_or(self.now));
        let until = self.now.min(end);
        let (measured, whole) = (until.since(told.max(from)), self.now.since(told));
        if measured.is_zero() {
            return;
        }
        // Of a time that lies in the measured part in part, its share; no thread waits longer than the time is.
        let share = |count: u64| {
            u64::try_from(u128::from(count) * measured.as_nanos() / whole.as_nanos()).unwrap_or(u64::MAX)
        };
        let delay_ns = run_delay_ns.min(u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX));
        self.recorder.ran(until, share(delay_ns), share(runs), share(preemptions));
    }

    /// Makes no more requests from now on; what is in flight or waits is drained as at the end of the plan.
    pub fn stop(&mut self) {
        let Some(start) = self.start else {
            self.ended_at.get_or_insert(self.now);
            return;
        };
        self.now = self.ring.now();
        self.cut = self.cut.min(self.now.since(start));
        self.users.stop(self.cut);
        self.recorder.set_end(self.planned_end().unwrap_or(Instant::FAR_FUTURE));
    }

    /// Ends the drain, too: what is in flight is censored, what waits is dropped.
    pub fn abort(&mut self) {
        self.stop();
        if self.ended_at.is_none() {
            self.take_due();
            self.end();
        }
    }

    /// Gives every request an outcome without the ring, which has failed. To be followed by nothing but [`Worker::take`].
    pub fn break_off(&mut self) {
        if self.ended_at.is_none() {
            self.stop();
            if self.ended_at.is_none() {
                self.end();
            }
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

    /// Of these, those without a request.
    pub fn idle_connections(&self) -> usize {
        self.idle.len()
    }

    /// Requests that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.passed_by.len()
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

    /// When the measured part starts, once it is known: after the warm-up.
    pub fn measured_from(&self) -> Option<Instant> {
        let measured = self.schedule.spans().iter().find(|span| !span.warm_up);
        Some(self.start? + measured.map_or(Duration::ZERO, |span| span.start))
    }

    /// When the last request had been made, once it has; what follows is the drain.
    pub fn issued_at(&self) -> Option<Instant> {
        self.issued_at
    }

    /// Whether the plan says when the last request is made; else the replies do.
    pub fn has_planned_end(&self) -> bool {
        self.planned_end().is_some()
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
