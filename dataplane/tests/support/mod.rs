//! Real servers and clients on loopback for the tests of the proxy on the kernel ring.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; a failed unwrap is a failed test"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use fracas_dataplane::behavior::{Rule, RuleSet, mix};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{
    Dataplane, DataplaneSettings, Handle, Opening, Patience, ProxySpec, RulesChange, Worker, WorkerSettings,
    WorkerSnapshot,
};
use fracas_dataplane::ring::{Features, KernelRing, RingSettings, SocketOptions, Waker};

/// Sends back what it gets, and a FIN for a FIN.
pub struct EchoServer {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub bytes: Arc<AtomicUsize>,
}

impl EchoServer {
    pub fn start() -> EchoServer {
        let (connections, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&bytes);
        let address = serve(Arc::clone(&connections), move |mut stream| {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                counted.fetch_add(length, Ordering::SeqCst);
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
        EchoServer { address, connections, bytes }
    }
}

/// Answers every request with 200 and a fixed body; keeps the connection.
pub struct HttpServer {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
}

impl HttpServer {
    pub fn start(body: &'static str) -> HttpServer {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let address = serve(Arc::default(), move |mut stream| {
            let mut pending = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                pending.extend_from_slice(&buffer[..length]);
                while let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head = String::from_utf8(pending.drain(..end + 4).collect()).unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    let reply = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Path: {path}\r\n\r\n{body}",
                        body.len()
                    );
                    if stream.write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
            }
        });
        HttpServer { address, requests }
    }
}

/// Serves each connection on a thread of its own, for as long as the test runs.
pub fn serve(connections: Arc<AtomicUsize>, talk: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let talk = Arc::new(talk);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            connections.fetch_add(1, Ordering::SeqCst);
            let talk = Arc::clone(&talk);
            std::thread::spawn(move || talk(stream));
        }
    });
    address
}

/// One proxy in front of a server.
pub struct Proxy {
    pub dataplane: Dataplane,
    pub address: SocketAddr,
}

pub fn options(
    pairs: &[(&str, &str, &str)],
) -> std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>> {
    let mut all = std::collections::BTreeMap::<String, std::collections::BTreeMap<String, String>>::new();
    for (behavior, option, value) in pairs {
        all.entry((*behavior).into()).or_default().insert((*option).into(), (*value).into());
    }
    all
}

pub fn rules(text: &str, pairs: &[(&str, &str, &str)]) -> Vec<Rule> {
    if text.is_empty() { Vec::new() } else { mix::parse(text, &options(pairs)).unwrap() }
}

impl Proxy {
    pub fn start(upstream: SocketAddr, protocol: Protocol, rules: Vec<Rule>) -> Proxy {
        Proxy::with(
            DataplaneSettings { threads: 2, seed: 42, ..Default::default() },
            upstream,
            protocol,
            rules,
        )
    }

    pub fn with(
        settings: DataplaneSettings,
        upstream: SocketAddr,
        protocol: Protocol,
        rules: Vec<Rule>,
    ) -> Proxy {
        let dataplane = Dataplane::start(settings).expect("tests need io_uring");
        let address = create(&dataplane.handle(), "test", upstream, protocol, rules);
        Proxy { dataplane, address }
    }

    /// As [`Proxy::start`], with its settings as `settle` leaves them.
    pub fn settled(
        upstream: SocketAddr,
        protocol: Protocol,
        rules: Vec<Rule>,
        settle: impl FnOnce(&mut ProxySpec),
    ) -> Proxy {
        let settings = DataplaneSettings { threads: 2, seed: 42, ..Default::default() };
        let dataplane = Dataplane::start(settings).expect("tests need io_uring");
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut spec = ProxySpec { protocol, rules, ..ProxySpec::new("test", listen, upstream) };
        settle(&mut spec);
        let address = dataplane.handle().create(spec).unwrap().spec.listen;
        Proxy { dataplane, address }
    }

    pub fn handle(&self) -> Handle {
        self.dataplane.handle()
    }

    pub fn apply(&self, rules: Vec<Rule>) {
        let change = RulesChange { proxy: "test".into(), rules, expected_generation: None };
        self.handle().apply(vec![change]).unwrap();
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        // A test that would hang fails instead.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub fn injected(&self, behavior: &str) -> u64 {
        let stats = self.handle().stats().unwrap();
        let proxy = &stats.proxies["test"];
        proxy
            .rules
            .iter()
            .chain(&proxy.retired)
            .filter(|rule| rule.behavior == behavior)
            .map(|rule| rule.injected)
            .sum()
    }
}

pub fn create(
    handle: &Handle,
    name: &str,
    upstream: SocketAddr,
    protocol: Protocol,
    rules: Vec<Rule>,
) -> SocketAddr {
    let listen = "127.0.0.1:0".parse().unwrap();
    let spec = ProxySpec { protocol, rules, ..ProxySpec::new(name, listen, upstream) };
    handle.create(spec).unwrap().spec.listen
}

/// What a [`WorkerThread`] runs on and serves.
pub struct WorkerPlan {
    pub ring: RingSettings,
    pub features: Features,
    pub options: SocketOptions,
    pub upstream: SocketAddr,
    pub protocol: Protocol,
    pub rules: Vec<Rule>,
}

impl WorkerPlan {
    pub fn new(upstream: SocketAddr, protocol: Protocol, rules: Vec<Rule>) -> WorkerPlan {
        let features = Features::probe().expect("tests need io_uring");
        let (ring, options) = (RingSettings::default(), SocketOptions::default());
        WorkerPlan { ring, features, options, upstream, protocol, rules }
    }
}

/// One worker of a proxy, on the kernel's ring or on an older kernel's, turned by the test.
pub struct WorkerThread {
    pub address: SocketAddr,
    waker: Waker,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<WorkerSnapshot>,
}

impl WorkerThread {
    pub fn start(plan: WorkerPlan) -> WorkerThread {
        WorkerThread::turned_by(plan, |worker| worker.turn().unwrap())
    }

    /// `turn` makes each of the worker's turns.
    pub fn turned_by(
        plan: WorkerPlan,
        mut turn: impl FnMut(&mut Worker<KernelRing>) + Send + 'static,
    ) -> WorkerThread {
        let (ready, is_ready) = mpsc::channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            let ring = KernelRing::new(&plan.ring, plan.features).expect("tests need io_uring");
            let waker = ring.waker();
            let settings = WorkerSettings {
                index: 0,
                held_bytes_max: 64 << 20,
                options: plan.options,
                room: Arc::default(),
            };
            let mut worker = Worker::new(ring, settings, mpsc::channel().0);
            let opening = Opening {
                id: 0,
                name: "test".into(),
                listen: Some("127.0.0.1:0".parse().unwrap()),
                upstream: vec![plan.upstream],
                source_addresses: Vec::new(),
                connect_timeout: Duration::from_secs(30),
                patience: Patience::default(),
                held_bytes_max: 1 << 20,
                rules: Arc::new(RuleSet::compile(plan.rules, plan.protocol, 42, 1).unwrap()),
                ordinals: Arc::new(AtomicU64::new(0)),
            };
            let address = worker.open(&opening).unwrap().unwrap();
            ready.send((address, waker)).unwrap();
            while !is_stopped.load(Ordering::SeqCst) {
                turn(&mut worker);
            }
            worker.drain();
            while !worker.is_empty() {
                worker.turn().unwrap();
            }
            worker.snapshot()
        });
        let (address, waker) = is_ready.recv().unwrap();
        WorkerThread { address, waker, stopped, thread }
    }

    /// Lets the last connections finish; returns what was counted.
    pub fn finish(self) -> WorkerSnapshot {
        self.stopped.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.thread.join().unwrap()
    }
}

/// Ends a connection with a RST.
pub fn break_off(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Runs the body of the test `name` in a process that may have `open_files` descriptors, so that the tests
/// beside it keep theirs.
pub fn in_a_process_of_its_own(name: &str, open_files: u32, body: impl FnOnce()) {
    const INSIDE: &str = "FRACAS_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        return body();
    }
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -n {open_files} && exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// One reply: status and body, by Content-Length.
pub fn read_reply(stream: &mut TcpStream) -> std::io::Result<(u16, String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")
                .map(|value| value.trim().parse().unwrap())
        })
        .unwrap_or(0usize);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, head, body))
}

pub fn get(stream: &mut TcpStream, path: &str) -> std::io::Result<(u16, String, Vec<u8>)> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
    read_reply(stream)
}
