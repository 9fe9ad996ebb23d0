//! What is measured side by side: one file per peer, each a process of its own between the driver and the echo server.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use fracas_dataplane::clock::Instant;

use crate::process::{SUBJECT_CORE, Server};
use crate::socket;

pub mod floor;
pub mod fracas;
pub mod haproxy;
pub mod nginx;
pub mod tokio;
pub mod tokio_uring;
pub mod toxiproxy;

const READY_WITHIN: Duration = Duration::from_secs(5);

/// A proxy that can stand between two addresses.
pub trait Peer {
    /// Its name in every row and table.
    fn name(&self) -> &'static str;

    /// What exactly is measured, or why it cannot be: a missing peer is named and skipped.
    fn version(&self) -> Result<String, String>;

    /// Starts it from `listen` to `upstream`; its files go to `scratch`, which is empty.
    fn start(&self, listen: SocketAddr, upstream: SocketAddr, scratch: &Path) -> anyhow::Result<Server>;

    /// Ends it and what it started.
    fn stop(&self, server: Server) {
        drop(server);
    }
}

/// Every peer of the proxy bench, the floor first.
pub fn all(fracas: &Path) -> Vec<Box<dyn Peer>> {
    let fracas = |rules| Box::new(fracas::Fracas { binary: fracas.to_owned(), rules }) as Box<dyn Peer>;
    vec![
        Box::new(floor::Floor),
        Box::new(tokio_uring::TokioUring { is_cooperative: false }),
        Box::new(tokio_uring::TokioUring { is_cooperative: true }),
        Box::new(tokio::Tokio),
        Box::new(haproxy::Haproxy),
        Box::new(nginx::Nginx),
        Box::new(toxiproxy::Toxiproxy { latency: None }),
        fracas(fracas::Rules::None),
        fracas(fracas::Rules::Unmatched),
        fracas(fracas::Rules::HttpPlain),
        fracas(fracas::Rules::HttpDelay),
    ]
}

/// A peer that runs and accepts connections.
pub struct Running<'a> {
    /// The peer itself.
    pub peer: &'a dyn Peer,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its process.
    pub server: Option<Server>,
    _scratch: tempfile::TempDir,
}

impl<'a> Running<'a> {
    /// Starts `peer` in front of `upstream` and waits until it accepts.
    ///
    /// # Errors
    /// It ends, or accepts nothing within five seconds.
    pub fn start(peer: &'a dyn Peer, upstream: SocketAddr) -> anyhow::Result<Running<'a>> {
        let scratch = tempfile::tempdir()?;
        let listen = socket::free_address()?;
        let mut server = peer.start(listen, upstream, scratch.path())?;
        wait_until_it_accepts(peer.name(), listen, &mut server)?;
        Ok(Running { peer, listen, server: Some(server), _scratch: scratch })
    }

    /// The process.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("a running peer has a process until it is dropped")
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.peer.stop(server);
        }
    }
}

/// Waits until `server` accepts on `listen`.
pub fn wait_until_it_accepts(name: &str, listen: SocketAddr, server: &mut Server) -> anyhow::Result<()> {
    let gives_up_at = Instant::now() + READY_WITHIN;
    while TcpStream::connect(listen).is_err() {
        if !server.is_alive() {
            bail!("{name} ended at once; start it by hand to see why");
        }
        if Instant::now() >= gives_up_at {
            bail!("{name} accepts nothing within {READY_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A hidden part of this very binary: `fracas-bench peer …`.
pub fn own_part(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("peer").args(arguments);
    Ok(command)
}

fn start(command: &mut Command) -> anyhow::Result<Server> {
    Ok(Server::start(command, SUBJECT_CORE)?)
}
