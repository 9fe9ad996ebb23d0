//! One load thread, from both sides: a handle with commands in and figures out, and the worker's loop within.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{
    Features, KernelRing, Ring, RingError, RingSettings, SPIN, ThreadClock, ThreadRuns, Waker,
    ask_for_short_slices, thread_cpu_ns,
};

use super::handle::{Progress, RunError};
use super::worker::{Readiness, Worker, WorkerSettings};
use crate::measure::{Counts, Shortages, Timeline, WorkerUse};

/// How long closing the connections may take at the end.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// How often a thread asks the kernel how long it had to wait for a core.
const RUNS_EVERY: Duration = Duration::from_millis(100);
/// Of a shorter time, the share in which a worker was busy is chance.
const BUSY_KNOWN_FROM: Duration = Duration::from_millis(100);
/// File descriptors of a thread beside its connections: its ring, its waker, its run delay.
pub(super) const FILES_PER_THREAD: u64 = 3;

/// What a thread is told.
pub(super) enum Command {
    Start(Instant),
    Take(Sender<Timeline>),
    Stop,
    Abort,
    /// Close everything and end; nothing more will be asked.
    Leave,
}

/// What a thread leaves behind.
pub(super) struct Left {
    pub(super) usage: WorkerUse,
    pub(super) shortages: Shortages,
    pub(super) ran_for: Duration,
    /// Until the last request had been made, if it had.
    pub(super) issued_for: Option<Duration>,
}

/// A ring that cannot go on.
pub(super) struct Broken {
    pub(super) error: io::Error,
    /// What nobody had taken yet; every request has an outcome.
    pub(super) rest: Timeline,
}

/// Figures that a thread publishes after each turn; each has one writer.
#[derive(Debug, Default)]
pub(super) struct Figures {
    values: [AtomicU64; 8],
    pub(super) finished: AtomicBool,
}

impl Figures {
    fn write(&self, (measured, warm_up): (Counts, Counts), waiting: u64, connections: u64) {
        let both = |of: fn(&Counts) -> u64| of(&measured) + of(&warm_up);
        let values = [
            both(|c| c.planned),
            both(|c| c.sent),
            both(|c| c.ok),
            both(|c| c.error),
            both(|c| c.timeout),
            both(|c| c.dropped),
            waiting,
            connections,
        ];
        for (cell, value) in self.values.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> Progress {
        let [planned, sent, ok, error, timeout, dropped, waiting, connections] =
            std::array::from_fn(|i| self.values[i].load(Ordering::Relaxed));
        Progress { planned, sent, ok, error, timeout, dropped, waiting, connections }
    }
}

#[derive(Debug)]
pub(super) struct Thread {
    commands: Sender<Command>,
    waker: Waker,
    pub(super) figures: Arc<Figures>,
    /// One message when the run has finished.
    pub(super) ended: Mutex<Receiver<()>>,
    pub(super) join: Option<JoinHandle<Result<Left, Broken>>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Command")
    }
}

type Ready = Receiver<Result<Readiness, RingError>>;

impl Thread {
    pub(super) fn spawn(
        index: u32,
        settings: WorkerSettings,
        features: Features,
    ) -> Result<(Thread, Ready), RunError> {
        let (commands, inbox) = mpsc::channel();
        let (hello, made) = mpsc::channel();
        let (ready, answer) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        let figures = Arc::new(Figures::default());
        let shared = Arc::clone(&figures);
        let main = move || {
            ask_for_short_slices();
            let spin = settings.plan.precise.then_some(SPIN);
            let ring = match KernelRing::new(&RingSettings { spin, ..RingSettings::default() }, features) {
                Ok(ring) => ring,
                Err(error) => {
                    let _ = hello.send(Err(error));
                    return Ok(Left::nothing());
                }
            };
            if hello.send(Ok(ring.waker())).is_err() {
                return Ok(Left::nothing());
            }
            drop(hello);
            let worker = Worker::new(ring, settings);
            ThreadMain { worker, inbox, figures: shared, ready: Some(ready), ending }.run()
        };
        let join = std::thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(main)
            .map_err(RunError::Thread)?;
        let waker = made.recv().map_err(|_| {
            RunError::Thread(io::Error::other("the worker thread ended before it had begun"))
        })??;
        let thread = Thread { commands, waker, figures, ended: Mutex::new(ended), join: Some(join) };
        Ok((thread, answer))
    }

    pub(super) fn tell(&self, command: Command) {
        // A thread that is gone is noticed by `ended`.
        let _ = self.commands.send(command);
        self.waker.wake();
    }

    pub(super) fn ask_for_delta(&self) -> Option<Receiver<Timeline>> {
        let (answer, receiver) = mpsc::channel();
        self.commands.send(Command::Take(answer)).ok()?;
        self.waker.wake();
        Some(receiver)
    }
}

/// The threads of a run; dropping them ends them.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) all: Vec<Thread>,
}

impl Threads {
    pub(super) fn tell(&self, command: impl Fn() -> Command) {
        self.all.iter().for_each(|thread| thread.tell(command()));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.tell(|| Command::Abort);
        self.tell(|| Command::Leave);
        for thread in &mut self.all {
            if let Some(join) = thread.join.take() {
                let _ = join.join();
            }
        }
    }
}

/// The inside of a thread.
struct ThreadMain<R: Ring> {
    worker: Worker<R>,
    inbox: Receiver<Command>,
    figures: Arc<Figures>,
    ready: Option<Sender<Result<Readiness, RingError>>>,
    ending: Sender<()>,
}

/// However a thread leaves, nobody may wait for it any longer: a ring that fails is an end, too.
struct FinishedOnDrop(Arc<Figures>);

impl Drop for FinishedOnDrop {
    fn drop(&mut self) {
        self.0.finished.store(true, Ordering::Release);
    }
}

impl<R: Ring> ThreadMain<R> {
    fn run(mut self) -> Result<Left, Broken> {
        let _finished = FinishedOnDrop(Arc::clone(&self.figures));
        let ready_by = Instant::now() + self.worker.opening_max();
        let mut usage = Usage::default();
        let mut runs = Runs::new(self.worker.now());
        let mut leaving = None;
        // A worker without connections to open is ready before its first turn, which may be a long one.
        self.tell_if_ready(self.worker.now(), ready_by);
        loop {
            if let Err(error) = self.worker.turn() {
                self.worker.break_off();
                return Err(Broken { error, rest: self.worker.take() });
            }
            let now = self.worker.now();
            runs.on_turn(&mut self.worker, now);
            self.tell_if_ready(now, ready_by);
            if self.worker.take_woken() {
                while let Ok(command) = self.inbox.try_recv() {
                    match command {
                        Command::Start(at) => self.worker.start(at),
                        Command::Stop => self.worker.stop(),
                        Command::Abort => self.worker.abort(),
                        Command::Take(answer) => {
                            runs.tell(&mut self.worker, now);
                            drop(answer.send(self.worker.take()));
                        }
                        Command::Leave => leaving = Some(now),
                    }
                }
            }
            usage.on_turn(&self.worker, now);
            self.figures.write(
                self.worker.totals(),
                self.worker.waiting() as u64,
                self.worker.live_connections() as u64,
            );
            if self.worker.is_finished() && !self.figures.finished.swap(true, Ordering::Release) {
                let _ = self.ending.send(());
            }
            if let Some(since) = leaving
                && (self.worker.is_closed() || now.since(since) > CLOSE_MAX)
            {
                return Ok(usage.left(&self.worker));
            }
        }
    }

    fn tell_if_ready(&mut self, now: Instant, ready_by: Instant) {
        if self.ready.is_none() {
            return;
        }
        let readiness = self.worker.readiness();
        if (readiness.is_settled || now >= ready_by)
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(Ok(readiness));
        }
    }
}

/// How long this thread had to wait for a core, in pieces.
struct Runs {
    clock: ThreadClock,
    told: ThreadRuns,
    next_at: Instant,
}

impl Runs {
    fn new(now: Instant) -> Runs {
        let clock = ThreadClock::open();
        Runs { told: clock.read(), clock, next_at: now }
    }

    fn on_turn<R: Ring>(&mut self, worker: &mut Worker<R>, now: Instant) {
        if now >= self.next_at {
            self.tell(worker, now);
        }
    }

    fn tell<R: Ring>(&mut self, worker: &mut Worker<R>, now: Instant) {
        let ThreadRuns { run_delay_ns, runs, preemptions } = self.clock.read();
        worker.ran(
            run_delay_ns.saturating_sub(self.told.run_delay_ns),
            runs.saturating_sub(self.told.runs),
            preemptions.saturating_sub(self.told.preemptions),
        );
        self.told = ThreadRuns { run_delay_ns, runs, preemptions };
        self.next_at = now + RUNS_EVERY;
    }
}

/// CPU time over the measured part: the warm-up is not in it, and a drain, in which a worker waits, would dilute it.
#[derive(Debug, Default)]
struct Usage {
    begun: Option<(Instant, u64, Duration)>,
    usage: Option<WorkerUse>,
}

impl Usage {
    fn on_turn<R: Ring>(&mut self, worker: &Worker<R>, now: Instant) {
        if self.begun.is_none() && worker.measured_from().is_some_and(|from| from <= now) {
            self.begun = Some((now, thread_cpu_ns(), worker.busy()));
        }
        if worker.is_finished()
            || worker.issued_at().is_some_and(|issued_at| issued_at <= now) && worker.has_planned_end()
        {
            self.usage.get_or_insert_with(|| usage_since(self.begun, worker, now));
        }
    }

    fn left<R: Ring>(self, worker: &Worker<R>) -> Left {
        let ran_for = match (worker.started_at(), worker.ended_at()) {
            (Some(start), Some(end)) => end.since(start),
            _ => Duration::ZERO,
        };
        let issued_for = worker
            .started_at()
            .zip(worker.issued_at().or(worker.ended_at()))
            .map(|(start, end)| end.since(start));
        let cq_overflows = worker.ring().overflows();
        let usage = WorkerUse { cq_overflows, ..self.usage.unwrap_or_default() };
        Left { usage, shortages: worker.shortages(), ran_for, issued_for }
    }
}

fn usage_since<R: Ring>(
    begun: Option<(Instant, u64, Duration)>,
    worker: &Worker<R>,
    now: Instant,
) -> WorkerUse {
    let Some((since, cpu_ns, busy)) = begun else { return WorkerUse::default() };
    if now.since(since) < BUSY_KNOWN_FROM {
        return WorkerUse::default();
    }
    let wall = now.since(since).as_secs_f64();
    let cpu_ratio = (thread_cpu_ns().saturating_sub(cpu_ns) as f64 / 1e9 / wall).min(1.0);
    let busy_ratio = match worker.is_precise() {
        true => ((worker.busy() - busy).as_secs_f64() / wall).min(1.0),
        false => cpu_ratio,
    };
    WorkerUse { busy_ratio, cpu_ratio, cq_overflows: 0 }
}

impl Left {
    fn nothing() -> Left {
        let (usage, shortages) = (WorkerUse::default(), Shortages::default());
        Left { usage, shortages, ran_for: Duration::ZERO, issued_for: None }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use fracas_dataplane::ring::{BufferSize, Chunk, Completion, Socket, SocketOptions, Token};

    use super::*;
    use crate::arrival::Shard;
    use crate::scenario::Plan;

    /// A ring whose first wait fails.
    struct Broken;

    impl Ring for Broken {
        fn now(&self) -> Instant {
            Instant::from_nanos(1)
        }

        fn wait_until(&mut self, _: Instant) -> io::Result<()> {
            Err(io::Error::other("the ring is gone"))
        }

        fn failure(&mut self, _: Socket) -> Option<fracas_dataplane::ring::Errno> {
            unreachable!()
        }
        fn is_over(&mut self, _: Socket) -> bool {
            unreachable!()
        }

        fn listen(&mut self, _: SocketAddr, _: &SocketOptions) -> io::Result<(Socket, SocketAddr)> {
            unreachable!()
        }

        fn connect(
            &mut self,
            _: SocketAddr,
            _: Option<IpAddr>,
            _: &SocketOptions,
            _: Token,
        ) -> io::Result<Socket> {
            unreachable!()
        }

        fn peer_address(&self, _: Socket) -> io::Result<SocketAddr> {
            unreachable!()
        }

        fn local_address(&self, _: Socket) -> io::Result<SocketAddr> {
            unreachable!()
        }

        fn send<I: Iterator<Item = Chunk>>(&mut self, _: Socket, _: Token, _: I) {}

        fn counts_credit(&self) -> bool {
            true
        }

        fn has_buffers(&self, _: BufferSize) -> bool {
            true
        }

        fn next_completion(&mut self) -> Option<Completion> {
            None
        }

        fn overflows(&self) -> u64 {
            0
        }

        fn accept(&mut self, _: Socket, _: Token) {}
        fn receive(&mut self, _: Socket, _: Token, _: BufferSize, _: u32) {}
        fn cancel_receive(&mut self, _: Token) {}
        fn shutdown_write(&mut self, _: Socket) {}
        fn reset(&mut self, _: Socket) {}
        fn cancel_all(&mut self, _: Socket) {}
        fn close(&mut self, _: Socket) {}
    }

    #[test]
    fn a_thread_whose_ring_fails_has_finished() {
        let plan = Plan::for_target("http://127.0.0.1:1/".parse().unwrap());
        let target = "127.0.0.1:1".parse().unwrap();
        let settings =
            WorkerSettings { plan, shard: Shard::WHOLE, target, options: SocketOptions::default() };
        let (_commands, inbox) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        let figures = Arc::new(Figures::default());
        let worker = Worker::new(Broken, settings);
        let main = ThreadMain { worker, inbox, figures: Arc::clone(&figures), ready: None, ending };
        assert!(main.run().is_err());
        assert!(figures.finished.load(Ordering::Acquire));
        assert_eq!(ended.recv(), Err(mpsc::RecvError), "nobody waits");
    }
}
