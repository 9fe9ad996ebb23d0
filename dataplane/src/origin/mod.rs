//! The built-in test server, on the same ring as the proxy: fixed replies, echo, delays, freezes.
//!
//! A path may ask for something: `/delay/50ms`, `/status/503`, `/bytes/100000`, `/freeze/1.4s` (the whole
//! origin answers nothing for that long). Everything else gets the plain reply.
//!
//! What one connection costs is bounded, whatever its client does: replies that wait are a few words each and
//! at most [`REPLIES_MAX`], the next requests stay unread but for about 64 KiB, bodies are windows on one buffer,
//! and [`Limits`] say how long a client may be silent or not read.

mod connection;
mod limits;
mod reply;
mod service;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use limits::{Closed, Counts, DESCRIPTORS_SET_ASIDE, Limits, REPLIES_MAX};
pub use reply::BODY_BYTES_MAX;
pub use service::ServiceSettings;
/// One worker and what all of them share, to be run by hand on a simulated ring.
#[cfg(feature = "simulated")]
pub use {limits::Shared, worker::OriginWorker};
#[cfg(not(feature = "simulated"))]
use {limits::Shared, worker::OriginWorker};

use crate::clock::Instant;
use crate::proxy::check_free;
use crate::ring::{
    Features, KernelRing, RingError, RingSettings, SPIN, SocketOptions, Waker, ask_for_short_slices,
    raise_open_files_limit,
};

/// How the origin answers.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Threads, each with its ring; one when a service is simulated, whose queue they would have to share.
    pub threads: usize,
    /// Meet delays by spinning.
    pub precise: bool,
    /// Send back what comes instead of HTTP.
    pub echo: bool,
    /// Bytes in the body of the plain reply.
    pub body_bytes: u64,
    /// How long every reply waits, from the request on or, with `service`, after it was served.
    pub delay: Duration,
    /// A limited number of workers that serve the requests of all connections; as many as come when absent.
    pub service: Option<ServiceSettings>,
    /// What connections may do, and for how long.
    pub limits: Limits,
    /// Options of every socket.
    pub options: SocketOptions,
}

impl Default for OriginSettings {
    fn default() -> OriginSettings {
        OriginSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: 1,
            precise: false,
            echo: false,
            body_bytes: 14,
            delay: Duration::ZERO,
            service: None,
            limits: Limits::default(),
            options: SocketOptions::default(),
        }
    }
}

/// Why the origin did not start.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// More connections were asked for than this process may have.
    #[error(
        "{asked} connections are more than the {possible} that the limit of {limit} open files allows; \
         raise it with ulimit -n, or ask for fewer"
    )]
    Connections {
        /// What [`Limits::connections_max`] said.
        asked: usize,
        /// What is possible.
        possible: usize,
        /// RLIMIT_NOFILE.
        limit: u64,
    },
}

/// A running origin; dropping it stops it.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
    threads: Vec<(JoinHandle<()>, Waker)>,
}

impl Origin {
    /// Starts its threads.
    ///
    /// # Errors
    /// When this machine gives no ring or thread, the address is taken, or `connections_max` is more than the
    /// open-files limit allows beside [`DESCRIPTORS_SET_ASIDE`].
    pub fn start(mut settings: OriginSettings) -> Result<Origin, OriginError> {
        if settings.service.is_some() {
            settings.threads = 1;
        }
        if let Ok(limit) = raise_open_files_limit() {
            let possible = connections_possible(limit);
            match settings.limits.connections_max {
                Some(asked) if asked > possible => {
                    return Err(OriginError::Connections { asked, possible, limit });
                }
                Some(_) => {}
                None => settings.limits.connections_max = Some(possible),
            }
        }
        let features = Features::probe()?;
        let listen = settings.listen;
        check_free(listen).map_err(|source| OriginError::Listen { listen, source })?;
        let (shared, stopped) = (Arc::new(Shared::default()), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for index in 0..settings.threads.max(1) {
            let (ready, is_ready) = mpsc::channel();
            let (settings_here, shared, stopped) =
                (settings.clone(), Arc::clone(&shared), Arc::clone(&stopped));
            let thread = std::thread::Builder::new()
                .name(format!("fracas-origin-{index}"))
                .spawn(move || run(settings_here, features, shared, &stopped, &ready))
                .map_err(OriginError::Thread)?;
            let gone = || Err(OriginError::Ring(RingError::Other(io::ErrorKind::Other.into())));
            let (address, waker) = is_ready.recv().unwrap_or_else(|_| gone())?;
            settings.listen = address;
            threads.push((thread, waker));
        }
        Ok(Origin { address: settings.listen, shared, stopped, threads })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers nothing for `length` from now.
    pub fn freeze(&self, length: Duration) {
        self.shared.freeze(Instant::now(), length);
    }

    /// Requests answered so far; with echo, chunks.
    pub fn answered(&self) -> u64 {
        self.counts().answered
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        for (thread, waker) in self.threads.drain(..) {
            waker.wake();
            let _ = thread.join();
        }
    }
}

/// Connections that an open-files limit allows: half of a very small one, else all but what is set aside.
fn connections_possible(limit: u64) -> usize {
    let possible = limit.saturating_sub(DESCRIPTORS_SET_ASIDE).max(limit / 2);
    usize::try_from(possible).unwrap_or(usize::MAX)
}

type Ready = mpsc::Sender<Result<(SocketAddr, Waker), OriginError>>;

fn run(
    settings: OriginSettings,
    features: Features,
    shared: Arc<Shared>,
    stopped: &AtomicBool,
    ready: &Ready,
) {
    let listen = settings.listen;
    ask_for_short_slices();
    let ring = RingSettings { spin: settings.precise.then_some(SPIN), ..RingSettings::default() };
    let opened = KernelRing::new(&ring, features).map_err(OriginError::Ring).and_then(|ring| {
        let waker = ring.waker();
        let opened = OriginWorker::open(ring, settings, shared);
        let (worker, address) = opened.map_err(|source| OriginError::Listen { listen, source })?;
        Ok((worker, address, waker))
    });
    let mut worker = match opened {
        Ok((worker, address, waker)) => {
            let _ = ready.send(Ok((address, waker)));
            worker
        }
        Err(error) => return drop(ready.send(Err(error))),
    };
    while !(worker.take_woken() && stopped.load(Ordering::Acquire)) {
        worker.turn().expect("the ring goes on");
    }
    worker.cut();
    for _ in 0..STOP_TURNS_MAX {
        if worker.open_connections() == 0 {
            break;
        }
        worker.turn().expect("the ring goes on");
    }
}

/// Turns after a cut; each cancelled operation ends within one.
const STOP_TURNS_MAX: usize = 10_000;
