//! The running data plane: its worker threads, how they start, drain and stop.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::handle::{Handle, Shared};
use super::resolver::{Resolver, Upstreams};
use super::room::Room;
use super::thread::{Command, Link, run_worker};
use crate::clock::Instant;
use crate::ring::{Features, RingError, RingSettings, SocketOptions, raise_open_files_limit};

/// The most worker threads, each with its ring.
pub const THREADS_MAX: usize = 1024;

/// How the data plane runs.
#[derive(Clone, Debug)]
pub struct DataplaneSettings {
    /// Worker threads, each with its ring.
    pub threads: usize,
    /// Wake early and spin, so that delays end within microseconds, at the cost of a core a worker.
    pub precise: bool,
    /// What every draw comes from.
    pub seed: u64,
    /// Bytes one worker may hold in all queues before it reads no further.
    pub worker_held_bytes_max: usize,
    /// The shape of each ring.
    pub ring: RingSettings,
    /// Options of every socket.
    pub options: SocketOptions,
    /// How often buffers are looked at: those unused since the look before go back to the system.
    pub tidy_every: Duration,
    /// How the names of upstreams become addresses, and which may be connected to.
    pub upstreams: Upstreams,
}

/// How often memory is looked at that a peak has left behind.
const TIDY_EVERY_DEFAULT: Duration = Duration::from_secs(10);

impl Default for DataplaneSettings {
    fn default() -> DataplaneSettings {
        DataplaneSettings {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            precise: false,
            seed: 0,
            worker_held_bytes_max: 256 << 20,
            ring: RingSettings::default(),
            options: SocketOptions::default(),
            tidy_every: TIDY_EVERY_DEFAULT,
            upstreams: Upstreams::default(),
        }
    }
}

/// Why the data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// No thread.
    #[error("cannot start a worker thread: {0}; use fewer with --threads")]
    Thread(#[source] io::Error),
    /// More threads than any machine gains by.
    #[error("{0} worker threads are too many: at most {THREADS_MAX}, and one per core is enough")]
    Threads(usize),
}

/// The running data plane. Dropping it stops it at once; [`Dataplane::drain`] stops it gently.
pub struct Dataplane {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the limit, and were cut.
    pub cut: usize,
}

impl Dataplane {
    /// Starts the workers.
    ///
    /// # Errors
    /// When this machine gives no ring, with cause and remedy, or no thread.
    pub fn start(settings: DataplaneSettings) -> Result<Dataplane, StartError> {
        if settings.threads > THREADS_MAX {
            return Err(StartError::Threads(settings.threads));
        }
        // Best effort: the limit in force is reported when it is met.
        let limit = raise_open_files_limit();
        let workers_count = settings.threads.max(1);
        let room = Arc::new(limit.map_or_else(|_| Room::default(), |limit| Room::new(limit, workers_count)));
        let features = Features::probe()?;
        let (keeper, told) = mpsc::channel();
        let mut threads = Vec::new();
        let mut workers = Vec::new();
        for index in 0..workers_count {
            let (commands, inbox) = mpsc::channel();
            let (ready, is_ready) = mpsc::channel();
            let (settings, events, room) = (settings.clone(), keeper.clone(), Arc::clone(&room));
            let thread = std::thread::Builder::new()
                .name(format!("fracas-proxy-{index}"))
                .spawn(move || run_worker(index, &settings, features, events, &inbox, &ready, room))
                .map_err(StartError::Thread)?;
            threads.push(thread);
            let (waker, figures) =
                is_ready.recv().unwrap_or_else(|_| Err(RingError::Other(io::ErrorKind::Other.into())))?;
            workers.push(Link { commands, waker, figures });
        }
        let shared = Shared {
            settings,
            features,
            workers,
            book: Mutex::default(),
            watchers: Mutex::default(),
            keeper,
            stopped: AtomicBool::new(false),
            resolver: Resolver::default(),
            cut: AtomicUsize::new(0),
        };
        let handle = Handle(Arc::new(shared));
        let keeper = {
            let handle = handle.clone();
            let thread = std::thread::Builder::new().name("fracas-keeper".into());
            thread.spawn(move || handle.keep(&told)).map_err(StartError::Thread)?
        };
        Ok(Dataplane { handle, threads, keeper: Some(keeper) })
    }

    /// A way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops accepting, closes idle connections, lets the others finish for `limit`, then cuts what is left and stops.
    /// [`Handle::close_all`] ends it sooner.
    pub fn drain(self, limit: Duration) -> Drained {
        let deadline = Instant::now() + limit;
        let done: Vec<Receiver<()>> = self.handle.ask_all(Command::Drain);
        for worker in done {
            let _ = worker.recv_timeout(deadline - Instant::now());
        }
        let open = |worker: &Link| worker.figures.read_worker().connections;
        let left: usize = self.handle.0.workers.iter().map(open).sum();
        let cut = left.max(self.handle.0.cut.load(Ordering::Relaxed));
        Drained { cut }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.handle.0.stopped.store(true, Ordering::Release);
        self.handle.0.resolver.stop();
        self.handle.0.workers.iter().for_each(|worker| worker.tell(Command::Stop));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = self.handle.0.keeper.send(Vec::new());
        self.keeper.take().map(JoinHandle::join);
        self.handle.forget_watchers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_can_help_are_refused_before_the_first_is_made() {
        for threads in [THREADS_MAX + 1, 9_999, usize::MAX] {
            let refused = Dataplane::start(DataplaneSettings { threads, ..DataplaneSettings::default() });
            let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(
                error.contains(&format!("{threads} worker threads are too many: at most 1024")),
                "{error}"
            );
        }
    }
}
