//! The built-in test server, on the same ring as the proxy: fixed replies, echo, delays, freezes.
//!
//! A path may ask for something: `/delay/50ms`, `/status/503`, `/bytes/100000`, `/freeze/1.4s` (the whole
//! origin answers nothing for that long). Everything else gets the plain reply.

mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use worker::{OriginWorker, Shared};

use crate::clock::Instant;
use crate::proxy::check_free;
use crate::ring::{
    Features, KernelRing, RingError, RingSettings, SPIN, SocketOptions, Waker, raise_open_files_limit,
};

/// How the origin answers.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Threads, each with its ring.
    pub threads: usize,
    /// Meet delays by spinning.
    pub precise: bool,
    /// Send back what comes instead of HTTP.
    pub echo: bool,
    /// Bytes in the body of the plain reply.
    pub body_bytes: usize,
    /// How long every reply waits.
    pub delay: Duration,
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
    /// When this machine gives no ring or thread, or the address is taken.
    pub fn start(mut settings: OriginSettings) -> Result<Origin, OriginError> {
        let _ = raise_open_files_limit();
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
        self.shared.answered()
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

type Ready = mpsc::Sender<Result<(SocketAddr, Waker), OriginError>>;

fn run(
    settings: OriginSettings,
    features: Features,
    shared: Arc<Shared>,
    stopped: &AtomicBool,
    ready: &Ready,
) {
    let listen = settings.listen;
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
