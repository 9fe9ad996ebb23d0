//! A server of the control side: takes connections within named limits, shakes hands, and lets calls through.
//!
//! ```text
//! TcpListener ─▶ accept ─▶ crowd (who may hold a place) ─▶ a task: handshake ─▶ HTTP ─▶ visitor ─▶ token ─▶ services
//!                   ▲                                        └─ cut when it has made no call in time
//!                   └─ descriptors set aside
//! ```
//!
//! Every API is served by this, so that none lacks a limit. What a limit has ended is counted in [`Figures`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use fracas_dataplane::clock::Instant;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::Guard;
use super::calls::{Calls, Reception};
use super::crowd::{Admission, Crowd, Id, Terms};
use super::figures::{Ending, Figures};
use super::stream::Stream;
use super::visitor::Arrival;

/// A connection on which nothing is heard for this long is asked whether it lives (HTTP/2 PING).
const PING_AFTER: Duration = Duration::from_secs(10);
/// It has this long to answer.
const PING_WITHIN: Duration = Duration::from_secs(20);
/// Calls at a time on one connection; more wait at the client (SETTINGS_MAX_CONCURRENT_STREAMS).
pub const CALLS_PER_CONNECTION: u32 = 128;
/// The head of a request, as HPACK counts it or as it stands in HTTP/1.1.
pub const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// A message of gRPC, either way.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that one connection may have sent and no service has read yet, and one of its calls; and bytes of answers that
/// wait for it.
const UNREAD_BYTES_MAX: u32 = 1024 * 1024;
const UNREAD_CALL_BYTES_MAX: u32 = 256 * 1024;
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Streams that a client has reset and that are still remembered; more end the connection (CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 64;
/// Descriptors that are set aside: when the process has no other left, so many clients are still heard.
const DESCRIPTORS_ASIDE: usize = 8;
/// After an accept that failed for want of descriptors or memory: somebody has to close something first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is told to end may take.
const FAREWELL: Duration = Duration::from_millis(500);
/// What is under way when the server stops is cut after this.
const STOP_WITHIN: Duration = Duration::from_millis(200);

/// What a listener's clients may take.
pub type Limits = Terms;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            first_call: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            unread: Duration::from_secs(45),
        }
    }
}

/// Everything that the connections of one listener share.
struct Shared {
    guard: Guard,
    calls: Calls,
    router: Router,
    figures: Arc<Figures>,
    book: Mutex<Book>,
}

/// The places, and how to close those who hold them.
struct Book {
    crowd: Crowd,
    tasks: HashMap<Id, AbortHandle>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic under the lock is a bug that was reported where it happened; the others go on.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; dropping it gives it back.
pub(super) struct Place {
    shared: Arc<Shared>,
    id: Id,
}

impl Place {
    /// A call on it was let in.
    pub(super) fn let_in(&self) {
        self.shared.book().crowd.let_in(self.id);
    }

    pub(super) fn call_began(&self) {
        self.shared.book().crowd.call_began(self.id);
    }

    pub(super) fn call_ended(&self) {
        self.shared.book().crowd.call_ended(self.id, Instant::now());
    }

    /// Something of the answer of this call is there for the client.
    pub(super) fn awaits_client(&self, call: u64) {
        self.shared.book().crowd.awaits_client(self.id, call, Instant::now());
    }

    /// The client has taken all that there was, or the call is over.
    pub(super) fn was_taken(&self, call: u64) {
        self.shared.book().crowd.was_taken(self.id, call);
    }

    fn leaves_unread(&self) -> bool {
        self.shared.book().crowd.leaves_unread(self.id, Instant::now())
    }

    fn is_known(&self) -> bool {
        self.shared.book().crowd.is_known(self.id)
    }

    fn patience(&self) -> Option<Instant> {
        self.shared.book().crowd.patience(self.id, Instant::now())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.shared.book();
        book.crowd.left(self.id);
        book.tasks.remove(&self.id);
        self.shared.figures.set_open(book.crowd.len());
    }
}

/// Serves `router`, whose calls are `calls`, on `listener` behind `guard` until `stop` is done. Calls under way then
/// have a moment.
pub async fn serve(
    listener: TcpListener,
    guard: Guard,
    calls: Calls,
    router: Router,
    figures: Arc<Figures>,
    stop: impl Future<Output = ()>,
) {
    let crowd = Crowd::new(guard.limits);
    figures.set_limit(guard.limits.connections);
    let book = Mutex::new(Book { crowd, tasks: HashMap::new() });
    let shared = Arc::new(Shared { guard, calls, router, figures, book });
    let (ending, ended) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut aside = Aside::default();
    aside.fill();
    // Whether the last accept failed, and a descriptor was given up for the next.
    let mut given = false;
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => {
                aside.fill();
                continue;
            }
            () = &mut stop => break,
        };
        match accepted {
            Ok((tcp, peer)) => {
                given = false;
                aside.fill();
                admit(&shared, tcp, peer, &mut tasks, &ended);
            }
            Err(why) if is_of_one_connection(&why) => {}
            Err(why) => {
                if given {
                    // Whoever else wants descriptors was faster; others come free in a moment.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    aside.fill();
                }
                given = aside.give(&why);
                if !given {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    aside.fill();
                }
            }
        }
    }
    drop(listener);
    ending.send_replace(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    // What is left is cut when the tasks are dropped.
    let _ = tokio::time::timeout(STOP_WITHIN, all).await;
}

/// Gives a connection a place and a task, or turns it away.
fn admit(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    peer: SocketAddr,
    tasks: &mut JoinSet<()>,
    ended: &watch::Receiver<bool>,
) {
    shared.figures.accepted();
    let mut book = shared.book();
    let id = match book.crowd.admit(Instant::now()) {
        Admission::Free(id) => id,
        Admission::InPlaceOf(id, victim) => {
            shared.figures.ended(Ending::CrowdedOut);
            if let Some(task) = book.tasks.remove(&victim) {
                task.abort();
            }
            id
        }
        Admission::Full => return shared.figures.ended(Ending::Full),
    };
    shared.figures.set_open(book.crowd.len());
    let place = Arc::new(Place { shared: shared.clone(), id });
    let task = tasks.spawn(connection(shared.clone(), place, tcp, peer, ended.clone()));
    book.tasks.insert(id, task);
}

/// One connection, from its handshake to its end.
async fn connection(
    shared: Arc<Shared>,
    place: Arc<Place>,
    tcp: TcpStream,
    peer: SocketAddr,
    mut ended: watch::Receiver<bool>,
) {
    let Ok(local) = tcp.local_addr() else { return };
    // A socket that cannot be told so works as well, a little slower.
    let _ = tcp.set_nodelay(true);
    let stream = tokio::select! {
        stream = handshake(&shared.guard, tcp) => stream,
        () = out_of_patience(&place) => return shared.figures.ended(Ending::Silent),
    };
    let Some(stream) = stream else { return shared.figures.ended(Ending::Handshake) };
    let arrival = Arrival { local, is_tls: shared.guard.tls.is_some() };
    let reception = Arc::new(Reception {
        guard: shared.guard.clone(),
        calls: shared.calls.clone(),
        router: shared.router.clone(),
        figures: shared.figures.clone(),
        place: place.clone(),
        calls_begun: AtomicU64::new(0),
        arrival,
        peer,
    });
    let service = tower::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let reception = reception.clone();
        async move { Ok::<_, Infallible>(reception.receive(request.map(Body::new)).await) }
    });
    let builder = http(shared.guard.limits);
    let mut served =
        std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    tokio::select! {
        // One that breaks is the peer's affair.
        _ = served.as_mut() => return,
        () = out_of_patience(&place) => {
            let known = place.is_known();
            let unread = place.leaves_unread();
            shared.figures.ended(match (known, unread) {
                (false, _) => Ending::Silent,
                (true, true) => Ending::Unread,
                (true, false) => Ending::Idle,
            });
            if !known || unread {
                return;
            }
        }
        _ = ended.wait_for(|ended| *ended) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(FAREWELL, served).await;
}

/// The stream, under TLS if that is served; `None` when no handshake came about.
async fn handshake(guard: &Guard, tcp: TcpStream) -> Option<Stream> {
    match &guard.tls {
        None => Some(Stream::Clear(tcp)),
        // TLS has sent the peer an alert where it could.
        Some(tls) => Some(Stream::Tls(Box::new(tls.accept(tcp).await.ok()?.into()))),
    }
}

async fn out_of_patience(place: &Place) {
    while let Some(until) = place.patience() {
        tokio::time::sleep(until - Instant::now()).await;
    }
}

fn http(limits: Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.first_call.max(limits.idle))
        .max_buf_size(HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_WITHIN)
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_connection_window_size(UNREAD_BYTES_MAX)
        .initial_stream_window_size(UNREAD_CALL_BYTES_MAX)
        .max_send_buf_size(UNSENT_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX);
    builder
}

/// Errors of `accept` that belong to the connection, not to the listener: `accept(2)`, “Error handling”.
fn is_of_one_connection(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Descriptors that are held so that nobody else takes them.
#[derive(Default)]
struct Aside(Vec<File>);

impl Aside {
    /// Takes as many as are to be held, if they can be had.
    fn fill(&mut self) {
        while self.0.len() < DESCRIPTORS_ASIDE {
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }

    /// Gives one up for the connection that could not be accepted for want of it; `false` when that does not help.
    fn give(&mut self, why: &io::Error) -> bool {
        // EMFILE: the process has as many descriptors as it may have (accept(2)).
        const EMFILE: i32 = 24;
        why.raw_os_error() == Some(EMFILE) && self.0.pop().is_some()
    }
}

#[cfg(test)]
mod tests;
