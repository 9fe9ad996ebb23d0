//! Moves bytes and breaks them on purpose: client → listener → connection → pipe → behaviors → upstream.
//!
//! A test of your own embeds it: [`Proxy`] is one proxy before one server, in the test's process, and every change has
//! reached open connections when its call returns. It needs Linux 6.1 or newer, and neither a runtime nor a container.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//! use std::time::Duration;
//!
//! use fracas_dataplane::{Proxy, protocol::Protocol};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A server that sends back what it gets.
//! let server = TcpListener::bind("127.0.0.1:0")?;
//! let upstream = server.local_addr()?;
//! std::thread::spawn(move || {
//!     for stream in server.incoming().flatten() {
//!         std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
//!     }
//! });
//!
//! let proxy = Proxy::start(upstream, Protocol::Tcp)?;
//! let mut client = TcpStream::connect(proxy.address())?;
//! let mut reply = [0; 4];
//! client.write_all(b"ping")?;
//! client.read_exact(&mut reply)?;
//! assert_eq!(&reply, b"ping");
//!
//! // The server is gone, for the open connection too.
//! proxy.set_behavior("blackout", &[])?;
//! assert_eq!(client.read(&mut reply)?, 0, "the end of the stream");
//! assert_eq!(proxy.injected("blackout")?, 1);
//!
//! // It is back, and slow.
//! proxy.set_behavior("100:delay", &[("delay", "time", "20ms")])?;
//! client = TcpStream::connect(proxy.address())?;
//! client.write_all(b"ping")?;
//! client.read_exact(&mut reply)?;
//! assert_eq!(proxy.injected("delay")?, 1);
//!
//! // And well again.
//! proxy.reset_behavior()?;
//! client.write_all(b"pong")?;
//! client.read_exact(&mut reply)?;
//! assert_eq!(proxy.injected("delay")?, 1, "no more than before");
//!
//! drop(client);
//! let drained = proxy.drain(Duration::from_secs(10));
//! assert_eq!(drained.cut, 0, "no connection had to be cut");
//! # Ok(())
//! # }
//! ```
//!
//! `examples/retries.rs` tests a client with retries so; `examples/flip.rs` changes rules while traffic flows, and prints
//! events and figures. `README.md` beside this crate is the manual of the behaviors and of the config.

pub mod address;
pub mod behavior;
pub mod clock;
pub mod config;
pub mod destination;
mod embed;
pub mod nearest;
pub mod origin;
pub mod protocol;
pub mod proxy;
pub mod ring;
pub mod rng;
mod short_queue;
pub mod timers;
pub mod units;

pub use embed::{EmbedError, Proxy};
