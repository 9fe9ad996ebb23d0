//! The load from outside: threads that are prepared, started at one instant, watched, stopped and waited for.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{
    Errno, Features, RingError, SLOT_LIMIT, SocketOptions, open_files, raise_open_files_limit,
};

use super::facts::environment;
use super::thread::{Broken, Command, FILES_PER_THREAD, Thread, Threads};
use super::worker::{Readiness, WorkerSettings};
use crate::arrival::Shard;
use crate::measure::{Environment, Shortages, Timeline, WorkerUse};
use crate::report::plural;
use crate::scenario::{Plan, PlanError};

/// How long one call for figures waits for a thread; what it owes then comes with a later one.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Descriptors that stay free for what is opened while a load runs: its report, and connections that still close while
/// others take their place.
const FILES_SPARE: u64 = 32;

/// Why a run cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan is not one.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target's name has no address.
    #[error("cannot look up `{host}`: {reason}; check the name, or write an address")]
    Lookup {
        /// As in the plan.
        host: String,
        /// What the resolver said.
        reason: io::Error,
    },
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// No thread.
    #[error("cannot start a worker thread: {0}; use fewer threads with -t")]
    Thread(#[source] io::Error),
    /// More connections than this process may have.
    #[error(
        "{connections} connections on {} need {needed} file descriptors, and this process may have {limit} (RLIMIT_NOFILE); lower -c, or raise the limit with `ulimit -Hn` or LimitNOFILE=",
        plural(*threads, "thread")
    )]
    Descriptors {
        /// Of this node.
        connections: u64,
        /// Of this node.
        threads: u64,
        /// With what is open already.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// More connections than a ring can tell apart.
    #[error("{connections} connections on {} are too many, at most {max} a thread; raise -t", plural(*threads, "thread"))]
    Connections {
        /// Of this node.
        connections: u64,
        /// Of this node.
        threads: u64,
        /// On one thread.
        max: u64,
    },
    /// Not one connection was made.
    #[error("cannot connect to {target} ({address}): {reason}; {remedy}")]
    Connect {
        /// As in the plan.
        target: String,
        /// As it was looked up.
        address: SocketAddr,
        /// What the kernel said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// What the opening of the connections came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Connections asked for on this node; 0 when each request opens its own.
    pub asked: u64,
    /// Open.
    pub open: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Connections that the target closed before anything was sent on them.
    pub hung_up: u64,
    /// What the last failed one said.
    pub last_error: Option<String>,
    /// Worker threads.
    pub threads: usize,
}

/// Counts so far, warm-up included; of all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests that were due.
    pub planned: u64,
    /// Handed to the kernel.
    pub sent: u64,
    /// Complete replies.
    pub ok: u64,
    /// Failures.
    pub error: u64,
    /// No reply in time.
    pub timeout: u64,
    /// Never sent.
    pub dropped: u64,
    /// Waiting for a connection now.
    pub waiting: u64,
    /// Connections that can carry requests now.
    pub connections: u64,
}

/// A finished run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Everything measured, from the first second on, whatever was taken before.
    pub timeline: Timeline,
    /// The threads.
    pub workers: Vec<WorkerUse>,
    /// What the opening of the connections came to.
    pub opened: Opened,
    /// What this machine ran out of.
    pub shortages: Shortages,
    /// Why the run stopped before its plan did.
    pub ended_early: Option<String>,
    /// From the start to the last request that could be made: where the plan or a stop ended it.
    pub issued_for: Option<Duration>,
    /// From the start to the last reply.
    pub ran_for: Duration,
    /// When it started, for people: milliseconds of the Unix epoch.
    pub started_at_unix_ms: u64,
    /// How much later than asked the threads heard of the start; zero when in time.
    pub started_late: Duration,
    /// This machine.
    pub environment: Environment,
}

impl Outcome {
    /// What a person should know beside the figures, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.opened.open < self.opened.asked {
            let Opened { asked, open, .. } = self.opened;
            let hung_up = "the target closed the others at once";
            let unsaid = if self.opened.hung_up > 0 { hung_up } else { "no answer in time" };
            let reason = self.opened.last_error.as_deref().unwrap_or(unsaid);
            notes.push(format!("only {open} of {asked} connections were open at the start: {reason}"));
        }
        if !self.started_late.is_zero() {
            notes.push(format!("the start was {:?} late", self.started_late));
        }
        notes
    }
}

/// All connections are open; nothing is sent before [`Prepared::start`]. Dropping it closes them.
#[derive(Debug)]
pub struct Prepared {
    threads: Threads,
    opened: Opened,
}

/// A run that goes on. Dropping it ends it at once; [`RunningLoad::wait`] lets it come to its end.
#[derive(Debug)]
pub struct RunningLoad {
    threads: Threads,
    opened: Opened,
    started_at_unix_ms: u64,
    started_late: Duration,
    stopped: AtomicBool,
    books: Mutex<Books>,
}

/// What the threads have handed over.
#[derive(Debug, Default)]
struct Books {
    /// Everything taken so far.
    total: Timeline,
    /// Asked for, and not answered yet: nothing that a thread hands over may be lost.
    owed: Vec<mpsc::Receiver<Timeline>>,
}

/// Looks up the target, starts this node's threads and opens its connections; returns when all are open, or
/// when the connect timeout has ended the wait for the rest.
///
/// `shard` is this node's part of the plan: [`Shard::WHOLE`], or part `i` of `n` nodes.
///
/// # Errors
/// When the plan is not valid, the target unknown, io_uring missing, or not one connection could be made.
pub fn prepare(plan: &Plan, shard: Shard) -> Result<Prepared, RunError> {
    plan.validate()?;
    let target = look_up(plan)?;
    let features = Features::probe()?;
    let count = thread_count(plan, shard);
    check_room(shard.share(u64::from(plan.connections)), u64::from(count))?;
    let mut threads = Threads { all: Vec::with_capacity(count as usize) };
    let mut ready = Vec::with_capacity(count as usize);
    for index in 0..count {
        let Some(shard) = shard.split(index, count) else { break };
        let options = SocketOptions::default();
        let settings = WorkerSettings { plan: plan.clone(), shard, target, options };
        let (thread, answer) = Thread::spawn(index, settings, features)?;
        threads.all.push(thread);
        ready.push(answer);
    }
    let mut opened = Opened { threads: ready.len(), ..Opened::default() };
    let mut last_error = None;
    for answer in ready {
        // A thread answers when its own deadline for the connects has come, at the latest.
        let readiness = match answer.recv() {
            Ok(readiness) => readiness?,
            Err(_) => Readiness { is_settled: true, ..Readiness::default() },
        };
        opened.asked += readiness.asked;
        opened.open += readiness.open;
        opened.failures += readiness.failures;
        opened.hung_up += readiness.hung_up;
        last_error = readiness.last_error.or(last_error);
    }
    opened.last_error = last_error.map(|errno| errno.to_string());
    if opened.asked > 0 && opened.open == 0 {
        let (reason, remedy) = explain(last_error, opened.hung_up, !plan.source_addresses.is_empty());
        return Err(RunError::Connect { target: plan.target.to_string(), address: target, reason, remedy });
    }
    Ok(Prepared { threads, opened })
}

impl Prepared {
    /// What the opening of the connections came to.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Starts all threads at `at`, an instant of this machine's monotonic clock, best one in the future. A run that
    /// is started late is charged for it: what was due is sent at once, and [`Outcome::started_late`] says so.
    pub fn start(self, at: Instant) -> RunningLoad {
        let now = Instant::now();
        self.threads.tell(|| Command::Start(at));
        RunningLoad {
            threads: self.threads,
            opened: self.opened,
            started_at_unix_ms: unix_ms()
                .saturating_add(millis(at.since(now)))
                .saturating_sub(millis(now.since(at))),
            started_late: now.since(at),
            stopped: AtomicBool::new(false),
            books: Mutex::default(),
        }
    }
}

impl RunningLoad {
    /// Counts so far; costs the threads nothing.
    pub fn progress(&self) -> Progress {
        let mut sum = Progress::default();
        for thread in &self.threads.all {
            let Progress { planned, sent, ok, error, timeout, dropped, waiting, connections } =
                thread.figures.read();
            sum.planned += planned;
            sum.sent += sent;
            sum.ok += ok;
            sum.error += error;
            sum.timeout += timeout;
            sum.dropped += dropped;
            sum.waiting += waiting;
            sum.connections += connections;
        }
        sum
    }

    /// What all threads have recorded since the last call, merged. What a thread does not answer within ten seconds comes
    /// with a later call.
    pub fn take(&self) -> Timeline {
        self.take_until(Instant::now() + ANSWER_MAX)
    }

    fn take_until(&self, deadline: Instant) -> Timeline {
        let mut books = self.books();
        books.owed.extend(self.threads.all.iter().filter_map(Thread::ask_for_delta));
        let mut delta = Timeline::default();
        // A thread that has ended drops what it was asked: it owes nothing more.
        books.owed.retain(|answer| match answer.recv_timeout(deadline.since(Instant::now())) {
            Ok(part) => {
                delta.merge(&part);
                false
            }
            Err(mpsc::RecvTimeoutError::Timeout) => true,
            Err(mpsc::RecvTimeoutError::Disconnected) => false,
        });
        books.total.merge(&delta);
        delta
    }

    /// Makes no more requests; what is in flight or waits is drained as at the end of the plan.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.threads.tell(|| Command::Stop);
    }

    /// Ends the drain, too: what is in flight is censored, what waits is dropped.
    pub fn abort(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.threads.tell(|| Command::Abort);
    }

    /// Whether every request has its outcome.
    pub fn is_finished(&self) -> bool {
        self.threads.all.iter().all(|thread| thread.figures.finished.load(Ordering::Acquire))
    }

    /// Waits until the run has finished, but not longer than `timeout`; whether it has.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        for thread in &self.threads.all {
            let left = deadline.since(Instant::now());
            let ended = thread.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if thread.figures.finished.load(Ordering::Acquire) {
                continue;
            }
            // A message, or the end of the channel: both mean that it has ended.
            if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(left) {
                return false;
            }
        }
        true
    }

    /// Waits for the end of the run and returns all of it.
    pub fn wait(mut self) -> Outcome {
        while !self.wait_timeout(Duration::from_secs(3600)) {}
        self.take_until(Instant::FAR_FUTURE);
        let mut outcome = Outcome {
            opened: std::mem::take(&mut self.opened),
            started_at_unix_ms: self.started_at_unix_ms,
            started_late: self.started_late,
            environment: environment(),
            ended_early: self.stopped.load(Ordering::Relaxed).then(|| "it was stopped".to_owned()),
            ..Outcome::default()
        };
        self.threads.tell(|| Command::Leave);
        for mut thread in self.threads.all.drain(..) {
            let Some(join) = thread.join.take() else { continue };
            match join.join() {
                Ok(Ok(left)) => {
                    outcome.workers.push(left.usage);
                    outcome.shortages.merge(left.shortages);
                    outcome.ran_for = outcome.ran_for.max(left.ran_for);
                    outcome.issued_for = outcome.issued_for.max(left.issued_for);
                }
                Ok(Err(Broken { error, rest })) => {
                    outcome.ended_early = Some(format!("a worker's ring failed: {error}"));
                    outcome.timeline.merge(&rest);
                }
                Err(_) => outcome.ended_early = Some("a worker thread panicked".to_owned()),
            }
        }
        outcome.timeline.merge(&self.books().total);
        outcome
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses more connections than this process can hold. Where it cannot know, a failed connect will say `EMFILE`.
fn check_room(connections: u64, threads: u64) -> Result<(), RunError> {
    let max = u64::from(SLOT_LIMIT / 2);
    if connections.div_ceil(threads) > max {
        return Err(RunError::Connections { connections, threads, max });
    }
    let Ok(limit) = raise_open_files_limit() else { return Ok(()) };
    let needed = open_files() + connections + threads * FILES_PER_THREAD + FILES_SPARE;
    if needed <= limit { Ok(()) } else { Err(RunError::Descriptors { connections, threads, needed, limit }) }
}

/// As many threads as asked for, but none without a connection.
fn thread_count(plan: &Plan, shard: Shard) -> u32 {
    let asked = match plan.threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        threads => threads,
    };
    let connections = shard.share(u64::from(plan.connections)).clamp(1, u64::from(u32::MAX));
    u64::from(asked).min(connections) as u32
}

/// The address of the target. When a name has several, the first that accepts a connection, as the first may
/// well be the one of the other protocol family.
fn look_up(plan: &Plan) -> Result<SocketAddr, RunError> {
    let host = plan.target.host();
    let failed = |reason| RunError::Lookup { host: host.to_owned(), reason };
    let mut addresses: Vec<_> = (host, plan.target.port()).to_socket_addrs().map_err(failed)?.collect();
    addresses.dedup();
    let first = *addresses.first().ok_or_else(|| failed(io::Error::other("it has no address")))?;
    if addresses.len() == 1 {
        return Ok(first);
    }
    let accepts = |address: &&SocketAddr| TcpStream::connect_timeout(address, plan.connect_timeout).is_ok();
    Ok(*addresses.iter().find(accepts).unwrap_or(&first))
}

/// What a failed connect means and what to do about it.
fn explain(error: Option<Errno>, hung_up: u64, from_given_addresses: bool) -> (String, &'static str) {
    if hung_up > 0 {
        let remedy = "is it a proxy with a fault on, or without its backend?";
        return ("it accepts connections and closes them at once".to_owned(), remedy);
    }
    let Some(errno) = error else {
        return ("no answer within the connect timeout".to_owned(), "check the address and the firewall");
    };
    let remedy = match io::Error::from(errno).kind() {
        io::ErrorKind::ConnectionRefused => "is the target running?",
        io::ErrorKind::TimedOut => "check the address and the firewall",
        io::ErrorKind::AddrNotAvailable if from_given_addresses => {
            "is every source address one of this machine's, with a port left?"
        }
        io::ErrorKind::AddrNotAvailable => "no local port is left; add source addresses, or wait a minute",
        _ => "check the address and the network",
    };
    (errno.to_string(), remedy)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "only labels the report")]
fn unix_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, millis)
}
