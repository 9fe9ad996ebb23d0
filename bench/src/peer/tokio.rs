//! tokio on epoll, one thread, `copy_bidirectional` with its default buffers.

use std::net::SocketAddr;
use std::path::Path;

use tokio::net::{TcpListener, TcpStream};

use super::{Peer, own_part, start};
use crate::process::Server;

/// The forwarder that a Rust programmer writes first.
pub struct Tokio;

impl Peer for Tokio {
    fn name(&self) -> &'static str {
        "tokio"
    }

    fn version(&self) -> Result<String, String> {
        Ok("tokio 1, current_thread, copy_bidirectional".to_owned())
    }

    fn start(&self, listen: SocketAddr, upstream: SocketAddr, _: &Path) -> anyhow::Result<Server> {
        start(&mut own_part(&["tokio", &listen.to_string(), &upstream.to_string()])?)
    }
}

/// Serves `listen` for ever.
pub fn run(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(nonblocking(listen)?)?;
        loop {
            let (mut downstream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(upstream).await?;
                upstream.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await
            });
        }
    })
}

fn nonblocking(listen: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = crate::socket::listen(listen)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
