//! Real sockets on loopback. Nothing here is timed: what must end does, what must not is asked afterwards.

use axum::routing::get;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;

use super::*;
use crate::wire::tls;

const NEVER: Duration = Duration::from_secs(3_600);

struct Served {
    address: SocketAddr,
    trust: tokio_rustls::TlsConnector,
    figures: Arc<Figures>,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<()>,
    _files: tempfile::TempDir,
}

async fn served(limits: Limits, is_tls: bool) -> Served {
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let acceptor = tls::acceptor(&certificate, &key, &[tls::HTTP_2, tls::HTTP_1]).unwrap();
    let trust = tls::connector(Some(&certificate)).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let guard = Guard { tls: is_tls.then_some(acceptor), limits, ..Guard::default() };
    // `/wait` is under way for as long as its client stays, and `/watch` has begun to answer and says nothing more.
    let watch = || async {
        let said = tokio_stream::once(Ok::<_, Infallible>("here\n"));
        Body::from_stream(said.chain(tokio_stream::pending()))
    };
    // More than any client takes.
    let flood = || async {
        let piece = Bytes::from(vec![0; 1 << 16]);
        Body::from_stream(tokio_stream::iter(std::iter::repeat_with(move || {
            Ok::<_, Infallible>(piece.clone())
        })))
    };
    let router = Router::new()
        .route("/flood", get(flood))
        .route("/", get(|| async { "here\n" }))
        .route("/wait", get(std::future::pending::<()>))
        .route("/watch", get(watch));
    let figures = Arc::new(Figures::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let server =
        tokio::spawn(serve(listener, guard, Calls::default(), router, figures.clone(), async move {
            let _ = stopped.await;
        }));
    Served { address, trust, figures, stop: Some(stop), server, _files: files }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn ended(&self, reason: &str) -> u64 {
        let mark = format!("fracas_api_connections_ended_total{{reason=\"{reason}\"}} ");
        let text = self.figures.prometheus();
        text.lines().find_map(|line| line.strip_prefix(&mark)).unwrap().parse().unwrap()
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Asks once and reads the answer to its last byte; the connection stays.
async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> String {
    stream.write_all(GET).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"here\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

/// Reads to the end, however that comes.
async fn end_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    rest
}

/// One that says nothing, one that sends the head of a TLS record of 512 bytes that never come, and one that stops in
/// the middle of a head.
async fn stalled(served: &Served) -> [TcpStream; 3] {
    let silent = served.connect().await;
    let mut halfway = served.connect().await;
    halfway.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    let mut head = served.connect().await;
    head.write_all(b"GET / HTTP/1.1\r\nhost: loc").await.unwrap();
    [silent, halfway, head]
}

#[tokio::test]
async fn whoever_says_nothing_is_cut_and_counted() {
    for is_tls in [false, true] {
        let limits =
            Limits { connections: 9, first_call: Duration::from_millis(50), idle: NEVER, unread: NEVER };
        let served = served(limits, is_tls).await;
        for mut stream in stalled(&served).await {
            end_of(&mut stream).await;
        }
        // Under TLS the two that speak something else may be told so at once.
        assert!(served.ended("silent") >= 1 && served.ended("silent") + served.ended("handshake") <= 3);
    }
}

#[tokio::test]
async fn a_crowd_that_says_nothing_crowds_out_itself() {
    let limits = Limits { connections: 4, first_call: NEVER, idle: NEVER, unread: NEVER };
    let served = served(limits, true).await;
    let mut crowd = Vec::new();
    for _ in 0..12 {
        crowd.push(served.connect().await);
    }
    let tcp = served.connect().await;
    let mut tls = served.trust.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    assert!(ask(&mut tls).await.starts_with("HTTP/1.1 200 "));
    for oldest in &mut crowd[..9] {
        assert_eq!(end_of(oldest).await, b"", "the oldest were cut");
    }
    assert_eq!(served.ended("crowded_out"), 9);
    assert!(ask(&mut tls).await.starts_with("HTTP/1.1 200 "), "it keeps its place");
}

#[tokio::test]
async fn an_idle_client_makes_room_and_a_busy_one_does_not() {
    let limits = Limits { connections: 2, first_call: NEVER, idle: NEVER, unread: NEVER };
    let served = served(limits, false).await;
    let mut busy = served.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut idle = served.connect().await;
    ask(&mut idle).await;
    let mut late = served.connect().await;
    ask(&mut late).await;
    assert_eq!(end_of(&mut idle).await, b"");
    late.write_all(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // Until both calls have been seen, a new one may still get a place.
    while served.ended("full") == 0 {
        drop(served.connect().await);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_without_a_call_for_long_is_sent_away() {
    let limits = Limits { connections: 9, first_call: NEVER, idle: Duration::from_millis(50), unread: NEVER };
    let served = served(limits, false).await;
    let mut idle = served.connect().await;
    ask(&mut idle).await;
    assert_eq!(end_of(&mut idle).await, b"");
    assert_eq!(served.ended("idle"), 1);
}

/// Asks by HTTP/2 with room for no byte of the answer (RFC 9113 §6.9), and reads as far as its head.
async fn ask_and_take_nothing(served: &Served) -> TcpStream {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    };
    // GET, http and / of the static table, and :authority (RFC 7541, appendix A).
    let head = [&[0x82, 0x86, 0x84, 0x41, 9][..], b"localhost"].concat();
    let mut stream = served.connect().await;
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE: 0. END_STREAM and END_HEADERS.
    said.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    said.extend(frame(HEADERS, 5, 1, &head));
    stream.write_all(&said).await.unwrap();
    loop {
        let mut front = [0; 9];
        stream.read_exact(&mut front).await.unwrap();
        let length = usize::from(front[1]) << 8 | usize::from(front[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if front[3] == HEADERS {
            return stream;
        }
    }
}

#[tokio::test]
async fn whoever_does_not_take_its_answer_is_as_idle_as_one_without_a_call() {
    let limits = Limits { connections: 9, first_call: NEVER, idle: Duration::from_millis(50), unread: NEVER };
    let impatient = served(limits, false).await;
    let mut unread = ask_and_take_nothing(&impatient).await;
    end_of(&mut unread).await;
    assert_eq!(impatient.ended("idle"), 1);

    let limits = Limits { connections: 2, first_call: NEVER, idle: NEVER, unread: NEVER };
    let crowded = served(limits, false).await;
    let mut watching = crowded.connect().await;
    watching.write_all(b"GET /watch HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    while !said.windows(5).any(|five| five == b"here\n") {
        assert!(watching.read_buf(&mut said).await.unwrap() > 0);
    }
    let mut unread = ask_and_take_nothing(&crowded).await;
    let mut late = crowded.connect().await;
    ask(&mut late).await;
    end_of(&mut unread).await;
    let mut later = crowded.connect().await;
    ask(&mut later).await;
    assert_eq!(end_of(&mut late).await, b"", "who has taken all and waits for more keeps its place");
    assert_eq!((crowded.ended("crowded_out"), crowded.ended("full")), (2, 0));
}

#[tokio::test]
async fn whoever_leaves_an_answer_unread_is_cut_though_another_call_is_under_way() {
    let unread = Duration::from_millis(50);
    let limits = Limits { connections: 9, first_call: NEVER, idle: NEVER, unread };
    let served = served(limits, false).await;
    let mut stuck = ask_and_take_nothing(&served).await;
    // Waits for the service, not for the client: HEADERS of `/wait` on stream 3, with its path as a literal.
    let path = [&[0x82, 0x86, 0x04, 5][..], b"/wait", &[0x41, 9], b"localhost"].concat();
    let mut head = vec![0, 0, u8::try_from(path.len()).unwrap(), 1, 5, 0, 0, 0, 3];
    head.extend_from_slice(&path);
    stuck.write_all(&head).await.unwrap();
    end_of(&mut stuck).await;
    assert_eq!((served.ended("unread"), served.ended("idle")), (1, 0));

    let mut flooded = served.connect().await;
    flooded.write_all(b"GET /flood HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    while served.ended("unread") < 2 {
        tokio::task::yield_now().await;
    }
    end_of(&mut flooded).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_refused() {
    let served = served(Limits::default(), false).await;
    let mut stream = served.connect().await;
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ").await;
    let _ = stream.write_all(&vec![b'x'; 2 * HEAD_BYTES_MAX as usize]).await;
    let answer = end_of(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn one_who_speaks_no_tls_gets_an_alert() {
    let served = served(Limits::default(), true).await;
    let mut plain = served.connect().await;
    plain.write_all(GET).await.unwrap();
    // It may be reset after the alert, for the bytes that were not read.
    let answer = end_of(&mut plain).await;
    assert_eq!(answer.first(), Some(&crate::wire::dial::TLS_ALERT), "{answer:?}");
}

#[tokio::test]
async fn a_server_that_stops_closes_its_listener_and_its_connections() {
    let mut served = served(Limits::default(), false).await;
    let mut busy = served.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut idle = served.connect().await;
    ask(&mut idle).await;
    served.stop.take().unwrap().send(()).unwrap();
    end_of(&mut idle).await;
    end_of(&mut busy).await;
    served.server.await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[test]
fn descriptors_are_set_aside_and_given_one_by_one() {
    let mut aside = Aside::default();
    aside.fill();
    assert_eq!(aside.0.len(), DESCRIPTORS_ASIDE);
    let none_left = io::Error::from_raw_os_error(24);
    assert!(aside.give(&none_left));
    assert_eq!(aside.0.len(), DESCRIPTORS_ASIDE - 1);
    assert!(!aside.give(&io::Error::from_raw_os_error(12)), "no memory is another want");
    aside.0.clear();
    assert!(!aside.give(&none_left));
}
