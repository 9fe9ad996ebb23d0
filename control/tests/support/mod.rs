//! Real `fracas` processes on loopback for tests of the API.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; a failed unwrap is a failed test"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_proto::v1::proxy_service_client::ProxyServiceClient;
use tonic::transport::Channel;

pub const FRACAS: &str = env!("CARGO_BIN_EXE_fracas");

pub type Client = ProxyServiceClient<Channel>;

/// A child that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `fracas proxy` called `default`, for HTTP, in front of an origin in this process.
pub struct Proxy {
    pub listen: String,
    pub api: String,
    origin: Origin,
    process: Process,
    /// Kept open: a process that cannot print would end.
    stdout: BufReader<ChildStdout>,
}

impl Proxy {
    pub fn start() -> Proxy {
        Proxy::start_with(&[])
    }

    /// With these flags as well.
    pub fn start_with(flags: &[&str]) -> Proxy {
        let origin = Origin::start(OriginSettings::default()).unwrap();
        let upstream = origin.local_addr().to_string();
        let mut command = Command::new(FRACAS);
        command
            .args([
                "proxy",
                "--listen",
                "127.0.0.1:0",
                "--api",
                "127.0.0.1:0",
                "--threads",
                "1",
                "--seed",
                "42",
            ])
            .args(["--protocol", "http", "--upstream", &upstream])
            .args(flags)
            .env_remove("FRACAS_TOKEN");
        let mut process = Process(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut stdout = BufReader::new(process.0.stdout.take().unwrap());
        let mut word_after = |mark: &str| loop {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the proxy ended");
            if let Some((_, rest)) = line.split_once(mark) {
                break rest.split([' ', ',', '\n']).next().unwrap().to_owned();
            }
        };
        let listen = word_after("listens on ");
        let api = word_after("API ");
        Proxy { listen, api, origin, process, stdout }
    }

    pub async fn client(&self) -> Client {
        Client::connect(format!("http://{}", self.api)).await.unwrap()
    }
}

/// A `fracas controller` on a free port.
pub struct Controller {
    pub api: String,
    _process: Process,
    _out: tempfile::TempDir,
}

impl Controller {
    pub fn start_with(flags: &[&str]) -> Controller {
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(FRACAS);
        command.args(["controller", "--api", "127.0.0.1:0", "--out"]).arg(out.path()).args(flags);
        command.env_remove("FRACAS_TOKEN");
        let mut process = Process(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let api = line.trim().strip_prefix("controller listens on ").unwrap().split(' ').next().unwrap();
        Controller { api: api.to_owned(), _process: process, _out: out }
    }
}

/// Sends `bytes` on a connection of their own, and reads until it is closed.
pub fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of one request on a connection of its own; 0 if the connection ends without a reply.
pub fn get(address: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    let head = String::from_utf8_lossy(&reply).into_owned();
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
