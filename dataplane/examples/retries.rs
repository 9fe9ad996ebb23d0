//! A client with retries, put to the test: does it ride out errors, give up when it should, and recover?
//!
//! `cargo run -p fracas-dataplane --example retries` prints what it saw; `cargo test` runs the tests at the end.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use fracas_dataplane::Proxy;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{DataplaneSettings, ProxySpec};

/// The code under test: asks over one connection, and asks again when the server fails.
struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    tries_max: u32,
    tries: u64,
}

impl Client {
    fn new(address: SocketAddr, tries_max: u32) -> Client {
        Client { address, connection: None, tries_max, tries: 0 }
    }

    /// The body of a good reply; otherwise the status or the failure of the last try.
    fn get(&mut self, path: &str) -> Result<String, String> {
        let mut last = String::new();
        for _ in 0..self.tries_max {
            self.tries += 1;
            last = match self.try_once(path) {
                Ok((200, body)) => return Ok(body),
                Ok((status, _)) => format!("status {status}"),
                Err(error) => {
                    // What is left on a broken connection is of no use.
                    self.connection = None;
                    format!("{:?}", error.kind())
                }
            };
        }
        Err(last)
    }

    fn try_once(&mut self, path: &str) -> std::io::Result<(u16, String)> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(BufReader::new(TcpStream::connect(self.address)?)),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes())?;
        read_reply(connection)
    }
}

/// Reads one reply that has a Content-Length.
fn read_reply(connection: &mut BufReader<TcpStream>) -> std::io::Result<(u16, String)> {
    let (mut status, mut length, mut line) = (0, 0, String::new());
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.trim_end().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        } else if let Some(rest) = lower.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
        } else if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A server that answers every GET with `hello`.
fn serve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line)? > 0 {
                    if line == "\r\n" {
                        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")?;
                    }
                    line.clear();
                }
                Ok(())
            });
        }
    });
    Ok(address)
}

/// What the client met in one run.
#[derive(Debug, PartialEq, Eq)]
struct Met {
    /// Tries that each request took.
    tries: Vec<u64>,
    /// Faults that the proxy did.
    injected: u64,
}

/// So many requests through a proxy that does `behavior` with this seed.
fn run(seed: u64, behavior: &str, requests: usize) -> Result<Met, Box<dyn Error>> {
    let settings = DataplaneSettings { threads: 1, seed, ..DataplaneSettings::default() };
    let listen = "127.0.0.1:0".parse()?;
    let spec = ProxySpec { protocol: Protocol::Http, ..ProxySpec::new("shop", listen, serve()?) };
    let proxy = Proxy::start_with(settings, spec)?;
    proxy.set_behavior(behavior, &[("error", "codes", "503")])?;
    let mut client = Client::new(proxy.address(), 20);
    let mut tries = Vec::with_capacity(requests);
    for _ in 0..requests {
        let before = client.tries;
        client.get("/basket")?;
        tries.push(client.tries - before);
    }
    Ok(Met { tries, injected: proxy.injected("error")? })
}

/// A fifth of all requests fails, and the client rides it out.
fn errors_are_ridden_out() -> Result<(), Box<dyn Error>> {
    let met = run(7, "20:error", 500)?;
    let tries: u64 = met.tries.iter().sum();
    assert_eq!(tries, 500 + met.injected, "it asks again after each error, and at no other time");
    assert!((70..=180).contains(&met.injected), "about a fifth of them: {}", met.injected);
    assert_eq!(run(7, "20:error", 500)?, met, "the same seed, the same errors at the same requests");
    assert_ne!(run(8, "20:error", 500)?.tries, met.tries);
    println!("500 requests took {tries} tries; {} were answered with 503", met.injected);
    Ok(())
}

/// The server resets whoever asks: the client gives up after its last try, and is well when the server is.
fn an_outage_is_given_up_and_recovered_from() -> Result<(), Box<dyn Error>> {
    let proxy = Proxy::start(serve()?, Protocol::Http)?;
    let mut client = Client::new(proxy.address(), 3);
    assert_eq!(client.get("/")?, "hello");

    proxy.set_behavior("reset", &[])?;
    let gave_up = client.get("/").expect_err("the server is not there");
    assert_eq!((gave_up.as_str(), client.tries), ("ConnectionReset", 1 + 3));
    println!("after {} resets it gave up: {gave_up}", proxy.injected("reset")?);

    proxy.reset_behavior()?;
    assert_eq!(client.get("/")?, "hello");
    assert_eq!(client.tries, 1 + 3 + 1);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    errors_are_ridden_out()?;
    an_outage_is_given_up_and_recovered_from()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_retries_rides_out_errors() -> Result<(), Box<dyn Error>> {
        errors_are_ridden_out()
    }

    #[test]
    fn a_client_with_retries_gives_up_in_an_outage_and_recovers() -> Result<(), Box<dyn Error>> {
        an_outage_is_given_up_and_recovered_from()
    }
}
