//! The bare raw-ring forwarder: what this machine allows without any feature.

use std::net::SocketAddr;
use std::path::Path;

use super::{Peer, own_part, start};
use crate::process::Server;

/// See [`crate::forwarder`].
pub struct Floor;

impl Peer for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn version(&self) -> Result<String, String> {
        Ok("raw io_uring: multishot, buffer ring, DEFER_TASKRUN; no features".to_owned())
    }

    fn start(&self, listen: SocketAddr, upstream: SocketAddr, _: &Path) -> anyhow::Result<Server> {
        start(&mut own_part(&["floor", &listen.to_string(), &upstream.to_string()])?)
    }
}
