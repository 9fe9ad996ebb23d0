//! Takes connections and shakes hands, each handshake beside the others, so that a slow one stops nobody.
//!
//! ```text
//! TcpListener ─▶ accept ─┬─ in the clear ────────────────────────────▶ ready ─▶ the server
//!                        └─ handshake (a task with a time limit) ─────▶
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::stream::Stream;
use super::tls::Acceptor;

/// What handshakes may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A handshake that takes longer is cut.
    pub handshake_time: Duration,
    /// Handshakes at a time. One more cuts the oldest: an honest one is done within two round trips, so that whoever
    /// opens connections and says nothing only crowds out the likes of him.
    pub handshakes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { handshake_time: Duration::from_secs(10), handshakes: 256 }
    }
}

/// Connections that the server has yet to look at; handshakes and accepts then wait for it.
const READY_MAX: usize = 64;
/// After an accept that failed for want of descriptors or memory: somebody has to close something first.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Connections that are ready to serve; dropping it closes the listener.
pub struct Incoming {
    ready: mpsc::Receiver<(Stream, SocketAddr)>,
    local: SocketAddr,
}

impl Incoming {
    /// Takes connections from `listener`; under TLS if there is an acceptor.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn new(listener: TcpListener, tls: Option<Acceptor>, limits: Limits) -> io::Result<Incoming> {
        let local = listener.local_addr()?;
        let (hand_over, ready) = mpsc::channel(READY_MAX);
        tokio::spawn(accept(listener, tls, limits, hand_over));
        Ok(Incoming { ready, local })
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<Acceptor>,
    limits: Limits,
    ready: mpsc::Sender<(Stream, SocketAddr)>,
) {
    let mut handshakes = Handshakes::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(why) if is_of_one_connection(&why) => continue,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A socket that cannot be told so works as well, a little slower.
        let _ = tcp.set_nodelay(true);
        match &tls {
            None => {
                if ready.send((Stream::Clear(tcp), peer)).await.is_err() {
                    return;
                }
            }
            Some(tls) => {
                handshakes.make_room(limits.handshakes);
                handshakes.begin(handshake(tls.clone(), tcp, peer, limits.handshake_time, ready.clone()));
            }
        }
    }
}

async fn handshake(
    tls: Acceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    within: Duration,
    ready: mpsc::Sender<(Stream, SocketAddr)>,
) {
    // One that breaks or takes too long is the peer's affair: TLS has sent it an alert where it could.
    if let Ok(Ok(session)) = tokio::time::timeout(within, tls.accept(tcp)).await {
        let stream = Stream::Tls(Box::new(session.into()));
        // Nobody takes connections any more when the server stops.
        let _ = ready.send((stream, peer)).await;
    }
}

/// Handshakes under way, the oldest first; dropping it cuts them.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Handshakes {
    /// Forgets those that are done, and cuts the oldest until one more is within `max`.
    fn make_room(&mut self, max: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|handshake| !handshake.is_finished());
        while self.oldest_first.len() >= max {
            let Some(oldest) = self.oldest_first.pop_front() else { return };
            oldest.abort();
        }
    }

    fn begin(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        self.oldest_first.push_back(self.tasks.spawn(handshake));
    }
}

/// Errors of `accept` that belong to the connection, not to the listener: `accept(2)`, “Error handling”.
fn is_of_one_connection(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// For tonic's server.
impl tokio_stream::Stream for Incoming {
    type Item = io::Result<Stream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Stream>>> {
        self.ready.poll_recv(cx).map(|ready| ready.map(|(stream, _)| Ok(stream)))
    }
}

/// For axum's server.
impl axum::serve::Listener for Incoming {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The task above ends only with us or with the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

#[cfg(test)]
mod tests {
    use axum::serve::Listener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::wire::tls;

    struct Served {
        incoming: Incoming,
        address: SocketAddr,
        trust: tokio_rustls::TlsConnector,
        _files: tempfile::TempDir,
    }

    async fn served(limits: Limits) -> Served {
        let files = tempfile::tempdir().unwrap();
        let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, pair.cert.pem()).unwrap();
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        let acceptor = tls::acceptor(&certificate, &key, &[tls::HTTP_2]).unwrap();
        let trust = tls::connector(Some(&certificate)).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let incoming = Incoming::new(listener, Some(acceptor), limits).unwrap();
        let address = incoming.local_addr().unwrap();
        Served { incoming, address, trust, _files: files }
    }

    impl Served {
        /// A client that shakes hands, says `word`, and is accepted.
        async fn is_reached(&mut self, word: &[u8]) {
            let tcp = TcpStream::connect(self.address).await.unwrap();
            let client = async {
                let mut tls = self.trust.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
                tls.write_all(word).await.unwrap();
                tls.flush().await.unwrap();
                tls
            };
            let server = async {
                let (mut stream, _) = self.incoming.accept().await;
                let mut heard = vec![0; word.len()];
                stream.read_exact(&mut heard).await.unwrap();
                heard
            };
            let (_client, heard) = tokio::join!(client, server);
            assert_eq!(heard, word);
        }
    }

    /// One that says nothing, and one that sends the head of a record of 512 bytes that never come.
    async fn stalled(address: SocketAddr) -> [TcpStream; 2] {
        let silent = TcpStream::connect(address).await.unwrap();
        let mut halfway = TcpStream::connect(address).await.unwrap();
        halfway.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        [silent, halfway]
    }

    #[tokio::test]
    async fn a_handshake_that_stalls_stops_nobody() {
        let limits = Limits { handshake_time: Duration::from_secs(3600), handshakes: 256 };
        let mut served = served(limits).await;
        let _stalled = stalled(served.address).await;
        served.is_reached(b"after two that stall").await;
    }

    #[tokio::test]
    async fn a_handshake_that_stalls_is_cut() {
        let limits = Limits { handshake_time: Duration::from_millis(50), handshakes: 256 };
        let served = served(limits).await;
        let [mut silent, mut halfway] = stalled(served.address).await;
        assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0, "it was closed");
        assert_eq!(halfway.read(&mut [0; 64]).await.unwrap_or(0), 0, "it was closed");
    }

    #[tokio::test]
    async fn a_crowd_that_says_nothing_crowds_out_itself() {
        let limits = Limits { handshake_time: Duration::from_secs(3600), handshakes: 4 };
        let mut served = served(limits).await;
        let mut crowd = Vec::new();
        for _ in 0..12 {
            crowd.push(TcpStream::connect(served.address).await.unwrap());
        }
        served.is_reached(b"after the crowd").await;
        for oldest in &mut crowd[..8] {
            assert_eq!(oldest.read(&mut [0; 1]).await.unwrap_or(0), 0, "the oldest were cut");
        }
    }

    #[tokio::test]
    async fn one_who_speaks_no_tls_gets_an_alert() {
        let served = served(Limits::default()).await;
        let mut plain = TcpStream::connect(served.address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // It may be reset after the alert, for the bytes that were not read.
        let _ = plain.read_to_end(&mut answer).await;
        assert_eq!(answer.first(), Some(&super::super::dial::TLS_ALERT), "{answer:?}");
    }

    #[tokio::test]
    async fn a_server_that_stops_closes_its_listener() {
        let served = served(Limits::default()).await;
        let address = served.address;
        drop(served);
        // The task that accepts sees it at its next turn.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
