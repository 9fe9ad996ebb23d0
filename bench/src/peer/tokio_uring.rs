//! tokio-uring 0.5: one task per direction, owned 16 KiB buffers; as it comes, and with COOP_TASKRUN.

use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::rc::Rc;

use tokio_uring::net::{TcpListener, TcpStream};

use super::{Peer, own_part, start};
use crate::process::Server;

const BUFFER_BYTES: usize = 16 * 1024;

/// The io_uring runtime that a Rust programmer finds first.
pub struct TokioUring {
    /// Whether the ring is made with COOP_TASKRUN.
    pub is_cooperative: bool,
}

impl Peer for TokioUring {
    fn name(&self) -> &'static str {
        if self.is_cooperative { "tokio-uring-coop" } else { "tokio-uring" }
    }

    fn version(&self) -> Result<String, String> {
        let flags = if self.is_cooperative { "COOP_TASKRUN" } else { "default flags" };
        Ok(format!("tokio-uring 0.5, {flags}"))
    }

    fn start(&self, listen: SocketAddr, upstream: SocketAddr, _: &Path) -> anyhow::Result<Server> {
        start(&mut own_part(&[self.name(), &listen.to_string(), &upstream.to_string()])?)
    }
}

/// Serves `listen` for ever.
pub fn run(listen: SocketAddr, upstream: SocketAddr, is_cooperative: bool) -> anyhow::Result<()> {
    let mut ring = tokio_uring::uring_builder();
    if is_cooperative {
        ring.setup_coop_taskrun().setup_taskrun_flag();
    }
    tokio_uring::builder().entries(4096).uring_builder(&ring).start(async {
        let listener = TcpListener::from_std(crate::socket::listen(listen)?);
        loop {
            let (downstream, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                let Ok(upstream) = TcpStream::connect(upstream).await else { return };
                let _ = upstream.set_nodelay(true);
                let (downstream, upstream) = (Rc::new(downstream), Rc::new(upstream));
                tokio_uring::spawn(copy(downstream.clone(), upstream.clone()));
                copy(upstream, downstream).await;
            });
        }
    })
}

async fn copy(from: Rc<TcpStream>, to: Rc<TcpStream>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (received, filled) = from.read(buffer).await;
        let received = match received {
            Ok(received @ 1..) => received,
            _ => break,
        };
        let (sent, slice) = to.write_all(tokio_uring::buf::BoundedBuf::slice(filled, ..received)).await;
        buffer = slice.into_inner();
        if sent.is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
